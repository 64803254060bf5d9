"""Memory that the process keeps or gives back."""

import subprocess
import sys

import pytest

PROGRAM = """
import psutil
from utils.allocator import give_back_freed_memory, keep_freed_memory

def megabytes():
    info = psutil.Process().memory_info()
    return (info.rss - info.shared) / 2**20

{first}
before = megabytes()
block = bytearray(b"x") * 2**28
del block
kept = megabytes() - before
give_back_freed_memory()
print(kept, megabytes() - before)
"""


def kept_and_left(first: str) -> list[float]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(first=first)], capture_output=True, text=True, check=True
    )
    return [float(word) for word in done.stdout.split()]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the C library of Linux")
def test_freed_memory_is_kept_until_it_is_given_back():
    kept, left = kept_and_left("keep_freed_memory()")
    assert kept > 200
    assert left < 50
    kept, left = kept_and_left("")
    assert kept < 50
    assert left < 50
