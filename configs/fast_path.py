"""The ideas that make a step fast, each of which can be switched off to see what it brings.

They change no result: with all of them off the model computes the same numbers, up to rounding and what dropout draws, in
the same shapes, from the same weights.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class FastPath:
    """Switches of the model. `training.fast_path_off` names those that are off."""

    shared_images: bool = True
    """Each image goes through the image encoder and the region predictor once. Off: once for every question about it."""
    shared_questions: bool = True
    """Each distinct question text is encoded once. Off: every question by itself."""
    packed_tokens: bool = True
    """Only real word pieces are computed. Off: questions are padded to the longest of the batch. Text encoders other than
    BERT compute padding in any case."""
    short_padding: bool = True
    """Padding, where there is any, ends with the longest question of the batch. Off: it goes on to
    `model.max_question_length`; this implies `packed_tokens` off."""
    length_parts: bool = True
    """On a CPU, questions are answered in the order of their length, and read their tokens in a few parts, each padded to its
    own longest. Off: padded to the longest of the batch."""
    late_nodes: bool = True
    """Nodes, their RoI features and their first projections are computed for each image and then handed to its questions.
    Off: for each question."""
    grouped_attention: bool = True
    """The questions of an image read one copy of its keys and values. Off: a copy for each question."""
    roi_matrix: bool = True
    """RoI features are one matrix product. Off: `torchvision.ops.roi_align`."""
    fused_attention: bool = True
    """`scaled_dot_product_attention`, in both encoders too. Off: the softmax of a matrix product, times the values."""
    channels_last: bool = True
    """The colour channels of a pixel lie side by side in memory. Off: each channel by itself."""
    one_channel_stem: bool = True
    """The first convolution reads one grey channel. Off: three equal ones, with a third of its kernel for each."""

    quick_dropout: bool = True
    """On a CPU, dropout takes 16 random bits for each number instead of a whole draw. Off: PyTorch's. Without dropout in
    training the same; with it, other random numbers of the same distribution."""

    @staticmethod
    def without(names: Iterable[str]) -> FastPath:
        """The switches with these off, and with those that they imply."""
        off = set(names)
        if "short_padding" in off:
            off.add("packed_tokens")
        return FastPath(**dict.fromkeys(off, False))


ALL_ON = FastPath()

FAST_PATH = tuple(f.name for f in fields(FastPath))
"""The names of the switches."""
