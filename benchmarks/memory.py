"""Memory of processes as the system sees it: what only they have, and what a whole tree of them takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from training.probe.memory import watched

SAMPLE_SECONDS = 0.02


def private_bytes(pid: int) -> int:
    """Memory of a process that nobody shares and no file backs: what it costs to have one process more.

    On Linux the private dirty pages of /proc/<pid>/smaps_rollup; elsewhere psutil's unique set size, which also counts
    pages of memory-mapped files that no other process looks at.
    """
    rollup = Path(f"/proc/{pid}/smaps_rollup")
    if not rollup.exists():
        return psutil.Process(pid).memory_full_info().uss
    lines = (line.split() for line in rollup.read_text().splitlines())
    return next(1024 * int(words[1]) for words in lines if words[0] == "Private_Dirty:")


@dataclass
class TreePeak:
    """Highest sum of the resident sizes of this process and its descendants; what they share counts for each."""

    highest: int = 0
    before: int = 0

    @property
    def growth(self) -> int:
        """Bytes above what there was at the beginning."""
        return max(0, self.highest - self.before)


@contextmanager
def tree_peak() -> Iterator[TreePeak]:
    """Filled in while the block runs, by a second thread."""
    peak = TreePeak(before=tree_bytes())
    with watched(tree_bytes, SAMPLE_SECONDS) as found:
        yield peak
    peak.highest = found.highest


def tree_bytes() -> int:
    """Resident bytes of this process and its descendants."""
    parent, total = psutil.Process(), 0
    for process in [parent, *parent.children(recursive=True)]:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:  # it has ended meanwhile
            continue
    return total
