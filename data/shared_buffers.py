"""Batches of loader processes, each in one buffer of shared memory that is used again and again.

PyTorch sends each tensor in new shared memory of its own: the system makes and clears its pages, and both processes map
them, which takes longer than making the batch. Here buffers stay mapped in both processes. A loader process writes to one
again when no tensor of the main process lies in it any more, and makes a new one when there is none, so that as many exist
as batches were in use at the same time.
"""

from __future__ import annotations

import itertools
import mmap
import os
import weakref
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.tensor_group import ALIGNMENT, FlatLayout, TensorGroup, copy_to_buffer, flat_layout, in_buffer

HEADER = ALIGNMENT
"""bytes at the beginning of a buffer; the first is 1 while the main process may read the buffer"""
SPARE = 1.25
"""A new buffer is so many times as large as needed, for later batches; the system makes its pages when they are written"""

_numbers = itertools.count()
_receivers: weakref.WeakValueDictionary[int, Receiver] = weakref.WeakValueDictionary()


class Receiver:
    """The buffers of a loader's processes as the main process knows them; must live as long as the loader is read from."""

    def __init__(self):
        self.number = next(_numbers)
        self.buffers: dict[tuple[int, int], np.ndarray] = {}
        _receivers[self.number] = self


class Sender:
    """The buffers of one loader process.

    Args:
        receiver: number of the main process's `Receiver`.
        worker: number of this process among those of the loader.
    """

    def __init__(self, receiver: int, worker: int):
        self.receiver, self.worker = receiver, worker
        self._buffers: list[Tensor] = []
        self._flags: list[np.ndarray] = []

    def pack(self, group: TensorGroup) -> SharedGroup:
        """Write a group to a free buffer."""
        layout, size = flat_layout(group)
        number, new = self._free(HEADER + size)
        buffer = self._buffers[number]
        copy_to_buffer(group, layout, buffer[HEADER:])
        self._flags[number][0] = 1
        return SharedGroup(self.receiver, self.worker, number, buffer if new else None, layout, size)

    def _free(self, size: int) -> tuple[int, bool]:
        """Number of a buffer that nobody reads, and whether it is new."""
        free = [number for number, flag in enumerate(self._flags) if not flag[0]]
        for number in free:
            if self._buffers[number].nbytes >= size:
                return number, False
        number = free[0] if free else len(self._buffers)
        storage = torch.UntypedStorage._new_shared(int(size * SPARE), device="cpu")
        buffer = torch.empty(0, dtype=torch.uint8).set_(storage)
        self._buffers[number : number + 1] = [buffer]
        self._flags[number : number + 1] = [buffer[:1].numpy()]
        return number, True


@dataclass
class SharedGroup:
    """A group on its way from a loader process to the main process. Opened once."""

    receiver: int
    worker: int
    number: int
    """of the buffer in its process"""
    buffer: Tensor | None
    """when it comes for the first time, or in the place of one that was too small"""
    layout: FlatLayout
    size: int
    """bytes"""

    def open(self) -> TensorGroup:
        """The group in shared memory, which stays its own as long as one of its tensors is in use."""
        buffers, key = _receivers[self.receiver].buffers, (self.worker, self.number)
        if self.buffer is not None:
            buffers[key] = self.buffer.numpy()
            # all pages are mapped now: the system counts those that only one process has mapped as that one's own memory
            buffers[key][:: mmap.PAGESIZE].max()
        whole = buffers[key]
        own = whole[HEADER : HEADER + self.size]
        # PyTorch keeps this array for as long as a tensor has its memory
        weakref.finalize(own, _release, whole, os.getpid()).atexit = False
        return in_buffer(self.layout, torch.from_numpy(own))

    def pin_memory(self) -> TensorGroup:
        """The group in pinned memory, for PyTorch's loader; the buffer is free again."""
        return self.open().pin_memory()


def _release(buffer: np.ndarray, process: int) -> None:
    if os.getpid() == process:  # not in its children, which have copies of everything
        buffer[0] = 0
