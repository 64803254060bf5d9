"""How large an index will be and how long it takes, by building a few studies of it in a temporary folder."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from configs.mimic_cxr_config import DataConfig
from data.index.build import configured_release, index_path, part_form, plan_studies
from data.index.part import PartForm, StudyJob, build_part
from data.index.reuse import find_earlier, input_key
from data.index.store import META
from data.index.update import outdated
from data.published import VIEWS
from data.release import Release
from data.vocabulary import Vocabulary
from utils.errors import DataError

SAMPLED = 24
LONGER = 1.2
"""Longer side / shorter side of a film of 3056 x 2544 pixels."""
QUESTIONS = {"A": 7_532_281, "B": 31_230_906, "": 42_172_827}
"""Of the two exports, else of the whole release: https://physionet.org/content/mimic-ext-cxr-qba/1.0.0/"""
QUESTION_BYTES = 32
JPEG_SHARE = 6
"""A raw image store is so many times larger."""


@dataclass(frozen=True)
class Estimate:
    """Of one index."""

    path: Path
    reads: str
    images: int
    to_read: int = 0
    """studies that are read; 0 of both: it is up to date"""
    to_copy: int = 0
    """studies that an earlier index has"""
    copied_from: Path | None = None
    size: int = 0
    """bytes"""
    seconds: float = 0.0
    """of one process, of what is read"""
    sampled: int = 0
    sample_seconds: float = 0.0


def estimate(data: DataConfig) -> Estimate:
    """For the configured release. DataError where it cannot be read, or `data.index_dir` is of another."""
    release, identity = configured_release(data)
    path = index_path(data, identity)
    release.load()
    jobs = plan_studies(release, data.view_filter)
    if not jobs:
        raise DataError(f"no study with questions found in {data.mimic_qa_path}")
    known = Estimate(path, " and ".join(str(p) for p in release.places), sum(len(job.images) for job in jobs))
    if (path / META).exists() and not outdated(release, identity, data):
        return known
    vocabulary = Vocabulary(tuple(release.entities), tuple(release.region_names))
    earlier = find_earlier(path, identity, vocabulary, jobs)
    same = [job for job in jobs if earlier and earlier.usable(job.study_id, input_key(release, job)) is not None]
    sample = jobs[:: max(1, len(jobs) // SAMPLED)][:SAMPLED]
    seconds, size = _measured(release, sample, part_form(vocabulary, identity))
    return Estimate(
        path,
        known.reads,
        known.images,
        to_read=len(jobs) - len(same),
        to_copy=len(same),
        copied_from=earlier.index.path if earlier else None,
        size=round(size / len(sample) * len(jobs)),
        seconds=seconds / len(sample) * (len(jobs) - len(same)),
        sampled=len(sample),
        sample_seconds=seconds,
    )


def _measured(release: Release, sample: list[StudyJob], form: PartForm) -> tuple[float, int]:
    """Seconds and bytes of a part of these studies."""
    with tempfile.TemporaryDirectory() as folder:
        build_part(release, sample[:1], form, Path(folder, "first"))  # loads what all need
        started = time.perf_counter()
        build_part(release, sample, form, Path(folder, "sample"))
        seconds = time.perf_counter() - started
        return seconds, sum(path.stat().st_size for path in Path(folder, "sample").iterdir())


def published_size(data: DataConfig) -> int:
    """Bytes of an index of the published release, before anything of it is there."""
    from data.download.needed import export_of

    side = data.image_store_size or data.image_size
    pixels = VIEWS[data.view_filter] * side * side * LONGER
    export = export_of(data)
    questions = QUESTIONS[export.removeprefix("exports/")[:1]]
    return round(pixels / (JPEG_SHARE if data.image_store == "jpeg" else 1) + questions * QUESTION_BYTES)
