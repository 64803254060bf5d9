"""`torch.compile` for batches whose sizes change: compilation happens in the first passes of a training and never again."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

WARM_UP = 8
"""Passes in which parts may be compiled. The first compiles them; sizes that were equal in it by chance are told apart in the
next ones."""


class Compiled:
    """The parts of a model that `torch.compile` has taken over, for training.

    After the warm-up a call that compiled code does not fit runs without it: the smaller batch at the end of an epoch, a
    batch of one image or question. That takes as long as it does without compilation, once in a while; compiling takes
    minutes. Evaluation always runs without it.
    """

    def __init__(self, same_size: Iterable[nn.Module], any_size: Iterable[nn.Module], **options):
        """`same_size`: parts whose inputs have the same sizes in nearly all batches. `options`: of `torch.compile`."""
        self._passes, self._stance = 0, "default"
        for part in same_size:
            self._take_over(part, **options)
        for part in any_size:
            self._take_over(part, dynamic=True, **options)

    def before_pass(self, sizes: Iterable[int]) -> None:
        """To be called before each pass in training, with all sizes in it that may change."""
        if self._passes == WARM_UP:
            self._stance = "eager_on_recompile"
        elif min(sizes) > 1:
            self._stance = "default"
            self._passes += 1
        else:  # a size of one would be compiled as a constant
            self._stance = "force_eager"

    def _take_over(self, part: nn.Module, **options) -> None:
        part.compile(**options)
        compiled = part._compiled_call_impl

        def call(*args, **kwargs):
            # not once for each pass: with gradient checkpointing parts are called in the backward pass too
            with torch.compiler.set_stance(self._stance if part.training else "force_eager"):
                return compiled(*args, **kwargs)

        part._compiled_call_impl = call
