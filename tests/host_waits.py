"""Finds on a CPU what would make the host wait for a GPU: values that Python wants to know, and copies that block."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = str(Path(__file__).resolve().parent.parent)

ASKING = {"_local_scalar_dense", "is_nonzero", "equal", "item"}
"""Operators whose result is a number for Python"""
SIZED_BY_VALUES = {"nonzero", "masked_select", "_unique2", "unique_consecutive", "unique_dim", "bincount"}
"""Operators whose result has a shape that only the values tell"""
METHODS = {"tolist", "item", "numpy", "cpu", "__array__", "__bool__", "__int__", "__float__", "__index__", "nonzero"}
ONLY_ON_CPUS = ('device.type == "cpu"', "if read_back")
"""In a line that asks for a value where that costs nothing; `read_back` is the argument of `ImageGroups.of`"""


class HostWait(AssertionError):
    """Something would have waited."""


def _check(waits: bool, what: str) -> None:
    if not waits:
        return
    frame = sys._getframe(2)
    while frame and not _of_project(frame):
        frame = frame.f_back
    place = f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else "a backward pass"
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno) if frame else ""
    if any(text in line for text in ONLY_ON_CPUS):
        return
    raise HostWait(f"{what} would make the host wait for a GPU ({place.removeprefix(ROOT + '/')})")


def _of_project(frame) -> bool:
    name = frame.f_code.co_filename
    return name.startswith(ROOT) and name != __file__ and "site-packages" not in name


class _Operators(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        _check(name in ASKING | SIZED_BY_VALUES, name)
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            by_mask = any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
            filling = name != "index" and args[2].numel() == 1  # becomes masked_fill
            _check(by_mask and not filling, "indexing with a mask")
        _check(name == "repeat_interleave" and not (kwargs or {}).get("output_size"), name)
        return func(*args, **(kwargs or {}))


class _Calls(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if not torch.compiler.is_compiling():
            _check(name in METHODS, name)
            _check(func in (torch.tensor, torch.as_tensor) and "device" in kwargs, f"{name} with a device")
            # inside libraries a tensor is mostly sent to where it is already
            moving = name == "to" and any(isinstance(a, (str, torch.device)) for a in (*args[1:], kwargs.get("device")))
            blocking = moving and _of_project(sys._getframe(1)) and not kwargs.get("non_blocking")
            _check(blocking, "a copy that is not non_blocking")
        return func(*args, **kwargs)


@contextmanager
def forbidden() -> Iterator[None]:
    """HostWait for what would wait inside the block."""
    with _Calls(), _Operators():
        yield


@contextmanager
def allowed() -> Iterator[None]:
    """Inside `forbidden`: as if it were not."""
    with torch.utils._python_dispatch._disable_current_modes(), torch._C.DisableTorchFunction():
        yield
