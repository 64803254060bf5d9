"""Numbers of a step that arrive late: the host does not wait for a device that is still computing them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class StepOutcome:
    """What became of the gradients of one window."""

    applied: bool
    """False: the gradient was not finite and the weights are unchanged"""
    grad_norm: float
    """before clipping"""
    lr: float
    """of the layers that start from random weights"""
    overflow: bool = False
    """not applied because the loss scale of fp16 was too large; it is smaller now"""


class Readout:
    """A small tensor on its way to the host. It sets off behind the work that the device has been given so far."""

    def __init__(self, values: Tensor):
        self._arrived = None
        if values.device.type == "cuda":
            # only a copy into pinned memory leaves the host free to go on
            host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values = host.copy_(values.detach(), non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()
        else:
            self._values = values.detach()

    def read(self) -> list[float]:
        """The numbers; waits until they are there, but not for anything that the device was given later."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._values.tolist()


class PendingOutcome:
    """The outcome of a step that the device may still be computing."""

    def __init__(self, read: Callable[[], StepOutcome]):
        self._read = read
        self._outcome: StepOutcome | None = None

    def settle(self) -> StepOutcome:
        """The outcome; the first call waits until the device has finished the step."""
        if self._outcome is None:
            self._outcome = self._read()
        return self._outcome
