"""A disk that refuses its n-th operation."""

from __future__ import annotations

import builtins
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from models import model_folder
from training import checkpoint
from utils import utils

SEAMS = [
    *((os, name) for name in ("fsync", "rename", "replace", "unlink", "mkdir")),
    *((module, "save_file") for module in (checkpoint, model_folder)),
    (shutil, "rmtree"),
]


class Disk:
    """Counts operations, and answers number `nth` (from 1; 0: none) with an error."""

    def __init__(self, nth: int, number: int):
        self.nth, self.number, self.count = nth, number, 0

    def _guarded(self, function: Callable) -> Callable:
        def guarded(*args, **kwargs):
            self.count += 1
            if self.count == self.nth:
                raise OSError(self.number, os.strerror(self.number))
            return function(*args, **kwargs)

        return guarded

    def _open(self, path, mode="r", **kwargs):
        """Half of what is written arrives before the error."""
        file = builtins.open(path, mode, **kwargs)  # noqa: SIM115 (the caller closes it)
        if "w" not in mode:
            return file
        write = file.write

        def half(content):
            self.count += 1
            if self.count == self.nth:
                write(content[: len(content) // 2])
                file.close()
                raise OSError(self.number, os.strerror(self.number))
            return write(content)

        return _File(file, half)

    @contextmanager
    def failing(self) -> Iterator[None]:
        real = [(module, name, getattr(module, name)) for module, name in SEAMS]
        for module, name, function in real:
            setattr(module, name, self._guarded(function))
        utils.open = self._open
        try:
            yield
        finally:
            del utils.open
            for module, name, function in real:
                setattr(module, name, function)


class _File:
    def __init__(self, file, write: Callable):
        self._file, self.write = file, write

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def __getattr__(self, name):
        return getattr(self._file, name)
