"""Dataclasses of tensors that move together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

ALIGNMENT = 64
"""bytes; of tensors in a buffer: a cache line, and more than any vector instruction asks for"""


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

    def _tensors(self) -> Iterator[Tensor]:
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, TensorGroup):
                yield from value._tensors()
            elif isinstance(value, Tensor):
                yield value

    def to(self, device: torch.device | str, non_blocking: bool = True):
        """On a device. Tensors that lie in one buffer are copied at once, as one, and lie in one buffer there."""
        return self._moved(lambda t: t.to(device, non_blocking=non_blocking))

    def pin_memory(self):
        """In memory that a GPU reads by itself; tensors in one buffer as in `to`."""
        return self._moved(lambda t: t.pin_memory())

    def _moved(self, move: Callable[[Tensor], Tensor]):
        buffers = {place: (whole, move(whole)) for place, whole in _common_buffers(self._tensors()).items()}

        def moved(tensor: Tensor) -> Tensor:
            whole, there = buffers.get(_memory_of(tensor), (None, None))
            if whole is there:  # alone, or where it shall be already
                return move(tensor)
            empty = torch.empty(0, dtype=tensor.dtype, device=there.device)
            return empty.set_(there.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())

        return self._map(moved)


def _memory_of(tensor: Tensor) -> tuple[torch.device, int]:
    """Two tensors have their storage in common exactly if this is the same; 0: nothing can be said."""
    if tensor.requires_grad or tensor.device.type not in ("cpu", "cuda"):
        return tensor.device, 0
    return tensor.device, tensor.untyped_storage().data_ptr()


def _common_buffers(tensors: Iterator[Tensor]) -> dict[tuple[torch.device, int], Tensor]:
    """Storages, as bytes, that several of the tensors have in common and fill by at least a half."""
    users = defaultdict(list)
    for tensor in tensors:
        users[_memory_of(tensor)].append(tensor)
    found = {}
    for memory, some in users.items():
        if not memory[1] or len(some) == 1:
            continue
        storage = some[0].untyped_storage()
        if 2 * sum(tensor.nbytes for tensor in some) >= storage.nbytes():
            found[memory] = torch.empty(0, dtype=torch.uint8, device=memory[0]).set_(storage)
    return found


class Place(NamedTuple):
    """A tensor in a buffer."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    """bytes from the buffer's beginning"""


class FlatLayout(NamedTuple):
    """How a group lies in a buffer; small, and can be pickled."""

    kind: type[TensorGroup]
    fields: tuple[Any, ...]
    """in the order of the class: a `Place`, the layout of a group, or the value itself where it is neither"""


def flat_layout(group: TensorGroup, start: int = 0) -> tuple[FlatLayout, int]:
    """Where the tensors of a group lie in a buffer, from byte `start` on, and where they end."""
    entries = []
    for f in fields(group):
        value = getattr(group, f.name)
        if isinstance(value, TensorGroup):
            value, start = flat_layout(value, start)
        elif isinstance(value, Tensor):
            value, start = (
                Place(value.dtype, tuple(value.shape), start),
                start + -(-value.nbytes // ALIGNMENT) * ALIGNMENT,
            )
        entries.append(value)
    return FlatLayout(type(group), tuple(entries)), start


def in_buffer(layout: FlatLayout, buffer: Tensor) -> TensorGroup:
    """The group whose tensors are views of a buffer (bytes,) uint8; nothing is copied."""

    def read(entry: Any) -> Any:
        if isinstance(entry, FlatLayout):
            return in_buffer(entry, buffer)
        if not isinstance(entry, Place):
            return entry
        count = entry.dtype.itemsize
        for side in entry.shape:
            count *= side
        return buffer[entry.start : entry.start + count].view(entry.dtype).view(entry.shape)

    names = (f.name for f in fields(layout.kind))
    return layout.kind(**dict(zip(names, map(read, layout.fields), strict=True)))


def copy_to_buffer(group: TensorGroup, layout: FlatLayout, buffer: Tensor) -> None:
    """Write a group's tensors to where its layout has them."""
    for place, tensor in zip(in_buffer(layout, buffer)._tensors(), group._tensors(), strict=True):
        place.copy_(tensor)
