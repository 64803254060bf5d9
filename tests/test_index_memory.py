"""An index of any size is built in little memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pyarrow as pa
import pytest

from data.index import build
from data.index.assemble import assemble
from data.index.part import build_part
from data.release import open_release
from data.vocabulary import Vocabulary
from tests.small_release import write_release


@pytest.fixture
def arrow_memory():
    """Arrow's own, which Python does not see."""
    before = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(before)
    pa.set_memory_pool(pool)
    yield pool
    pa.set_memory_pool(before)


def multiply_questions(path, times: int) -> None:
    """Repeat each row of a part's table of questions: it is by far the largest of a real index."""
    with np.load(path) as columns:
        parts = {k: np.repeat(v, times) if k.startswith("questions.") else v for k, v in columns.items()}
    np.savez(path, **parts)


def test_joining_parts_holds_their_rows_once(tmp_path, arrow_memory):
    data = write_release(tmp_path)
    release = open_release(data.mimic_cxr_path, data.mimic_qa_path)
    identity = build.index_identity(release.fingerprint(), data)
    vocabulary = Vocabulary(tuple(release.entities), tuple(release.region_names))
    jobs = build.plan_studies(release, data.view_filter)
    build_part(release, jobs, build.part_form(vocabulary, identity), tmp_path / "part")
    multiply_questions(tmp_path / "part" / "columns.npz", 5_000)
    folders, target = [tmp_path / "part"] * 20, tmp_path / "index"
    target.mkdir()
    tracemalloc.start()
    try:
        assemble(folders, target, identity, release, vocabulary, [], {"image": 0, "study": 0})
        peak = tracemalloc.get_traced_memory()[1] + arrow_memory.max_memory()
    finally:
        tracemalloc.stop()
    size = sum(path.stat().st_size for path in target.glob("**/*.arrow"))
    assert size > 10_000_000
    assert peak < 1.5 * size, (peak, size)
