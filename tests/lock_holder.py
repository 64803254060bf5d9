"""Another process that holds the lock of a folder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CODE = "import sys; from utils.run_lock import run_lock\nwith run_lock(sys.argv[1]): print(flush=True), input()"


@contextmanager
def held_by_another(folder: Path | str) -> Iterator[int]:
    """Its process number."""
    root = Path(__file__).parent.parent
    words = [sys.executable, "-c", CODE, str(folder)]
    with subprocess.Popen(words, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        try:
            yield other.pid
        finally:
            other.communicate(b"\n")
