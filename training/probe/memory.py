"""How much memory a piece of code needs at its peak, how much there is, and what a line through two peaks says of a third."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import torch

from utils.allocator import give_back_freed_memory

CPU_SHARE = 0.8
"""Of the main memory that is free, what training may take: the system kills a program that takes all."""

SAMPLE_SECONDS = 0.002


@dataclass
class Peak:
    """Bytes of this process, without memory-mapped files, or on the GPU."""

    highest: int = 0


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Filled in when the block ends. What earlier work has freed is given back first: it would hide the growth."""
    gc.collect()
    give_back_freed_memory()
    watch = _gpu_peak(device) if device.type == "cuda" else watched(private_bytes)
    with watch as peak:
        yield peak


@contextmanager
def _gpu_peak(device: torch.device) -> Iterator[Peak]:
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    peak = Peak()
    try:
        yield peak
        torch.cuda.synchronize(device)
    finally:
        peak.highest = torch.cuda.max_memory_allocated(device)


@contextmanager
def watched(in_use: Callable[[], int], every: float = SAMPLE_SECONDS) -> Iterator[Peak]:
    """The highest of what `in_use` says, asked every so many seconds from a second thread: PyTorch keeps no books of main
    memory, and the system's own peak never falls again."""
    peak, stop = Peak(), threading.Event()

    def look() -> None:
        while not stop.wait(every):
            peak.highest = max(peak.highest, in_use())

    watcher = threading.Thread(target=look, name="peak memory", daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        stop.set()
        watcher.join()
        peak.highest = max(peak.highest, in_use())


def memory_in_use(device: torch.device) -> int:
    """Bytes that this process has now."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else private_bytes()


def private_bytes() -> int:
    """Main memory of this process; pages of the index's files, which the system may drop, do not count."""
    info = psutil.Process().memory_info()
    return info.rss - getattr(info, "shared", 0)


def memory_limit(device: torch.device, machine_bytes: float) -> int:
    """Bytes that this process may come to: all of a GPU; on a CPU what it has and `CPU_SHARE` of what is free.

    Args:
        machine_bytes: main memory that this process may use, from `utils.hardware_utils`: a container has less than
            the machine.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device)
    have = private_bytes()
    free = min(psutil.virtual_memory().available, machine_bytes - have)
    return have + max(0, int(CPU_SHARE * free))


def line(peaks: Mapping[int, int]) -> tuple[float, float]:
    """(bytes without any image visit, bytes a visit) of the line through the two largest of visits -> peak bytes."""
    if len(peaks) == 1:
        return next(iter(peaks.values())), 0.0
    few, many = sorted(peaks)[-2:]
    slope = max(0.0, (peaks[many] - peaks[few]) / (many - few))
    return peaks[many] - slope * many, slope


def expected_peak(peaks: Mapping[int, int], visits: int) -> float:
    """Bytes that a micro-batch of `visits` image visits will need."""
    base, slope = line(peaks)
    return base + slope * visits


def most_visits(peaks: Mapping[int, int], limit: int, most: int) -> int:
    """The largest micro-batch that `limit` bytes hold by the line, at most `most`."""
    base, slope = line(peaks)
    if base + slope * most <= limit:
        return most
    return max(0, int((limit - base) // slope)) if slope else 0
