"""The tensors that travel from data to model, loss and metrics.

Letters in shapes: B images of the batch, S image side, Q questions, U distinct question strings, T word pieces,
R = 26 canonical regions, E entities of the vocabulary (including padding 0 and unknown 1), K at-least-one statements.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor


class TensorGroup:
    """A dataclass of tensors (or of such dataclasses, or None) that can move together."""

    def _map(self, function):
        values = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, TensorGroup):
                values[f.name] = value._map(function)
            else:
                values[f.name] = function(value) if isinstance(value, Tensor) else value
        return type(self)(**values)

    def to(self, device: torch.device | str, non_blocking: bool = True):
        return self._map(lambda t: t.to(device, non_blocking=non_blocking))

    def pin_memory(self):
        return self._map(lambda t: t.pin_memory())


@dataclass
class TokenBatch(TensorGroup):
    """U distinct questions, padded to the longest of them."""

    input_ids: Tensor
    """(U, T) int64"""
    attention_mask: Tensor
    """(U, T) int64, 1 where a word piece is real"""


@dataclass
class SceneGraph(TensorGroup):
    """A scene graph as the model reads it: always the same 26 nodes. One form for predicted and report's graphs."""

    boxes: Tensor
    """(B, R, 4) float, x1 y1 x2 y2 in [0, 1] of the letter-boxed image"""
    entity_probs: Tensor
    """(B, R, E) float in [0, 1]: probability that the entity is present in the region"""
    exists: Tensor
    """(B,) bool; False: this image's questions are answered with the learned no-graph token"""


@dataclass
class SceneGraphTargets(TensorGroup):
    """What the report's graph says about an image: supervision in training, and the source of the oracle graph."""

    boxes: Tensor
    """(B, R, 4) float, as in `SceneGraph`; zeros where `box_mask` is False"""
    box_mask: Tensor
    """(B, R) bool; False: no box, or a fallback box"""
    present: Tensor
    """(B, R, E) float, 1 where the entity is stated present in the region"""
    weight: Tensor
    """(B, R, E) float, weight of that cell in the loss; 0: says nothing (also padding and unknown entities)"""
    union_image: Tensor
    """(K,) int64 row of the batch: "entity present in at least one of these regions" statements"""
    union_entity: Tensor
    """(K,) int64"""
    union_regions: Tensor
    """(K, R) bool"""
    union_weight: Tensor
    """(K,) float"""


@dataclass
class Targets(TensorGroup):
    """Answers. A question has exactly one of the four; the others are masked."""

    binary: Tensor
    """(Q,) int64, 0 no, 1 yes; -1 where the question belongs to another head"""
    category: Tensor
    """(Q, 14) float multi-hot; zeros where `Batch.head` is another"""
    region: Tensor
    """(Q, 26) float multi-hot; zeros where `Batch.head` is another"""
    severity: Tensor
    """(Q,) int64 in 0..3; -1 where the question belongs to another head"""


@dataclass
class Ids(TensorGroup):
    """Row numbers back into the index, for predictions and reports."""

    question: Tensor
    """(Q,) int64 row of the index's question table"""
    image: Tensor
    """(B,) int64 row of the index's image table"""


@dataclass
class Batch(TensorGroup):
    """B images and Q questions about them."""

    images: Tensor
    """(B, 1, S, S) uint8, letter-boxed; normalised on the device"""
    questions: TokenBatch
    question_of: Tensor
    """(Q,) int64 index into the U distinct questions"""
    image_of: Tensor
    """(Q,) int64 index into the B images"""
    head: Tensor
    """(Q,) int64, `label_space.HEAD_INDEX` of the answering head"""
    type: Tensor
    """(Q,) int64, `label_space.TYPE_INDEX`"""
    targets: Targets
    graph: SceneGraphTargets | None
    chexpert: Tensor
    """(B, 14) float: 1 present, 0 absent, -1 uncertain, nan not mentioned"""
    ids: Ids
    graph_draw: Tensor | None = None
    """(B,) float in [0, 1), a function of (seed, epoch, visit): decides the graph dropout of an image in training"""
    padding: bool = False
    """True: other processes have one batch more in this step. Goes through the model like any other and counts nothing"""

    def head_mask(self, index: int) -> Tensor:
        """(Q,) bool: questions of the head with this index."""
        return self.head == index
