"""`torch.compile` for batches whose sizes change: compilation happens in the first passes of a training and never again."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

WARM_UP = 8
"""Passes in which parts may be compiled. The first compiles them; sizes that were equal in it by chance are told apart in the
next ones."""


class Compiled:
    """The parts of a model that `torch.compile` has taken over.

    After the warm-up a call that compiled code does not fit runs without it: the smaller batch at the end of an epoch, a
    batch of one image or question, evaluation. That takes as long as it does without compilation, once in a while;
    compiling takes minutes. The rule is PyTorch's own and holds for the whole process (`torch.compiler.set_stance`).
    """

    def __init__(self, same_size: Iterable[nn.Module], any_size: Iterable[nn.Module], **options):
        """`same_size`: parts whose inputs have the same sizes in nearly all batches. `options`: of `torch.compile`."""
        for part in same_size:
            part.compile(**options)
        for part in any_size:
            part.compile(dynamic=True, **options)
        self._passes = 0
        torch.compiler.set_stance("default")

    def before_pass(self, sizes: Iterable[int]) -> None:
        """To be called before each pass in training, with all sizes in it that may change."""
        if self._passes > WARM_UP:
            return
        if self._passes == WARM_UP:
            self._passes += 1
            torch.compiler.set_stance("eager_on_recompile")
        elif min(sizes) > 1:
            self._passes += 1
            torch.compiler.set_stance("default")
        else:  # a size of one is compiled as a constant
            torch.compiler.set_stance("force_eager")
