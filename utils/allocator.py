"""What the C library does with main memory that is freed. Both functions do nothing where it is not GNU's."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Numbers of malloc.h"""


def keep_freed_memory() -> None:
    """Keep it for the next allocation, from now on.

    A training step on a CPU frees and asks for the same gigabytes as the one before. By default large pieces go back to the
    system, which clears each page anew: with large batches a fifth of the time of a step.
    """
    if mallopt := _function("mallopt"):
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)


def give_back_freed_memory() -> None:
    """Give it back to the system, once."""
    if trim := _function("malloc_trim"):
        trim(0)


def _function(name: str):
    return getattr(ctypes.CDLL(None), name, None)
