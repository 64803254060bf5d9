"""`sampled` tells files apart by what they hold, whatever their times say."""

import os

import pytest

from data.checksums import SAMPLE, sampled


@pytest.mark.parametrize("size", [1, 100, SAMPLE, SAMPLE + 1, 2 * SAMPLE, 5 * SAMPLE])
def test_a_byte_at_either_end_and_the_size_make_another_file(tmp_path, size):
    path, content = tmp_path / "film.jpg", bytearray(range(256)) * (size // 256 + 1)
    seen = set()
    for place in (None, 0, min(size, SAMPLE) - 1, max(0, size - SAMPLE), size - 1):
        changed = content[:size]
        if place is not None:
            changed[place] ^= 1
        path.write_bytes(changed)
        seen.add(sampled(path))
    path.write_bytes(content[: size - 1])
    seen.add(sampled(path))
    assert len(seen) == 2 + len({0, min(size, SAMPLE) - 1, max(0, size - SAMPLE), size - 1})


def test_times_do_not_matter_and_a_missing_file_has_no_state(tmp_path):
    path = tmp_path / "film.jpg"
    path.write_bytes(b"pixels")
    before = sampled(path)
    os.utime(path, (0, 0))
    assert sampled(path) == before == (6, before[1])
    assert sampled(tmp_path / "nothing.jpg") is None
