"""What each step of `setup_data.py` would read and write, how large and how long, against the free disk: for `--dry_run`.

A plan writes nothing but small samples into the system's temporary folder, which are removed again. Its times come from
such samples on this machine; where there is nothing to measure with, it says so.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from configs.mimic_cxr_config import DataConfig
from data.download.space import existing_part, format_bytes
from utils.errors import DataError
from utils.utils import format_duration

NOT_ESTIMATED = "not estimated"
LINES = (5e6, 50e6)
"""Bytes a second of a slow and a fast line"""
HASH_SAMPLE = 2**26
UNPACK_SECONDS = 0.5
IMAGES_SAMPLED = 12
STUDIES_DRAWN = 6


@dataclass(frozen=True)
class Step:
    """One step of a plan."""

    what: str
    reads: str
    folder: Path | None = None
    """where it writes; None: it writes nothing"""
    size: int = 0
    """bytes that stay, about"""
    peak: int = 0
    """bytes while it works, where these are more"""
    seconds: float | None = None
    by: str = ""
    """how the time was found, or why there is none"""


def plan_lines(steps: list[Step]) -> list[str]:
    """For people; the free disk at the end."""
    lines = []
    for step in steps:
        lines += [step.what, f"  reads:  {step.reads}", f"  writes: {_writes(step)}", f"  time:   {_time(step)}"]
    for folder in sorted({step.folder for step in steps if step.folder}):
        lines.append(f"free in {folder}: {format_bytes(_free(folder))}")
    return lines


def _writes(step: Step) -> str:
    if step.folder is None or not step.size:
        return "nothing"
    more = f", {format_bytes(step.peak)} while it works" if step.peak > step.size else ""
    return f"{step.folder}: about {format_bytes(step.size)}{more}"


def _time(step: Step) -> str:
    found = NOT_ESTIMATED if step.seconds is None else f"about {format_duration(step.seconds)}"
    return f"{found} ({step.by})" if step.by else found


def require_space(steps: Iterable[Step]) -> None:
    """DataError where a disk has less than the steps take, one after the other."""
    kept: dict[int, int] = {}
    for step in steps:
        if step.folder is None:
            continue
        disk = existing_part(step.folder).stat().st_dev
        needed = kept.get(disk, 0) + max(step.size, step.peak)
        if needed > _free(step.folder):
            raise DataError(
                f"this will not fit: {step.what} needs about {format_bytes(needed)} in {step.folder} with what comes before it, "
                f"{format_bytes(_free(step.folder))} are free; make room, or name a folder on a larger disk"
            )
        kept[disk] = kept.get(disk, 0) + step.size


def _free(folder: Path) -> int:
    return shutil.disk_usage(existing_part(folder)).free


# The steps


def download_steps(data: DataConfig) -> list[Step]:
    """By published numbers; the network is not asked."""
    from data.download.command import require_folders
    from data.download.fetch import plan

    require_folders(data)
    steps = []
    for part in plan(data):
        left = max(0, part.size - part.there)
        times = " or ".join(f"{format_duration(left / rate)} at {rate / 1e6:g} MB/s" for rate in LINES)
        already = f", {format_bytes(part.there)} of it are there" if part.there else ""
        what = f"download {part.what}: {part.files:,} files, {format_bytes(part.size)}{already}"
        steps.append(Step(what, "the release's site", part.folder, left, by=f"the line is not known: {times}"))
    return steps


def extract_steps(qa_path: str) -> list[Step]:
    """One for each archive. DataError where one is broken or not safe: each is judged here as before unpacking."""
    from data.archives import content_bytes
    from data.release.extract import find_archives

    steps = []
    for archive, target in find_archives(qa_path):
        files, size = content_bytes(archive)
        reads = f"{archive}, {format_bytes(archive.stat().st_size)}"
        if target.exists():
            steps.append(Step(f"{target} is there: it is compared with {archive.name}", reads))
            continue
        speed, sample = _unpacking_speed(archive)
        by = f"by unpacking {format_bytes(sample)} in memory; a slow disk takes longer"
        steps.append(Step(f"unpack {archive.name}: {files:,} files", reads, target, size, seconds=size / speed, by=by))
    return steps


def _unpacking_speed(archive: Path) -> tuple[float, int]:
    """Bytes a second, and how many were unpacked to know."""
    from data.archives.extraction import contents_of

    started, done = time.perf_counter(), 0
    for _, chunks in contents_of(archive):
        done += sum(map(len, chunks))
        if time.perf_counter() - started > UNPACK_SECONDS:
            break
    return max(1, done) / (time.perf_counter() - started), done


def verify_steps(data: DataConfig, workers: int) -> list[Step]:
    from data.images import decode
    from data.release import open_release
    from data.release.verify import files_of, image_files, roots_of

    release = open_release(data.mimic_cxr_path, data.mimic_qa_path)
    sizes = {path: path.stat().st_size for root in roots_of(release) for path in files_of(root)}
    images = [release.jpg.root / name for name in image_files(release)]
    sample = images[:: max(1, len(images) // IMAGES_SAMPLED)][:IMAGES_SAMPLED]
    seconds = sum(sizes.values()) / _hashing_speed(max(sizes, key=sizes.get))
    if sample:
        started = time.perf_counter()
        for path in sample:
            with suppress(DataError):  # the step itself names it
                decode(path)
        seconds += (time.perf_counter() - started) / len(sample) * len(images)
    reads = f"{len(sizes):,} files, {format_bytes(sum(sizes.values()))}, of them {len(images):,} images twice"
    by = f"{workers} processes, by {len(sample)} images and the checksum of a part of a file"
    return [Step("compare all files with their checksums, decode all images", reads, seconds=seconds / workers, by=by)]


def _hashing_speed(path: Path) -> float:
    """Bytes a second from this disk."""
    import hashlib

    started = time.perf_counter()
    with open(path, "rb") as file:
        data = file.read(HASH_SAMPLE)
    hashlib.sha256(data).digest()
    return max(1, len(data)) / (time.perf_counter() - started)


def prepare_steps(data: DataConfig, workers: int) -> list[Step]:
    """One: the index of the configured release. DataError as when it is built."""
    from data.index.estimate import estimate

    found = estimate(data)
    reads = f"{found.reads}; {found.images:,} images"
    if not found.to_read and not found.to_copy:
        return [Step(f"the index in {found.path} is up to date", reads, by="nothing to do", seconds=0)]
    what = f"index of {found.to_read + found.to_copy:,} studies"
    if found.to_copy:
        what += f", {found.to_copy:,} of them copied from {found.copied_from}"
    by = f"{workers} processes, by {found.sampled} studies built in {found.sample_seconds:.1f} s"
    return [Step(what, reads, found.path, found.size, 2 * found.size, found.seconds / workers, by)]


def subset_steps(data: DataConfig, folder: Path, patients: int, seed: int) -> list[Step]:
    from data.release import open_release
    from data.release.subset import subset_size

    release = open_release(data.mimic_cxr_path, data.mimic_qa_path)
    found = subset_size(release, folder, patients, seed)
    reads = f"the tables and archives of {release.jpg.root} and {release.qba.root}"
    how = "linked" if found.linked else "copied"
    what = f"subset of {patients:,} patients: {found.studies:,} studies, {found.images:,} images, {how}"
    return [Step(what, reads, folder, found.size)]


def synthetic_steps(folder: Path, studies: int, seed: int, zipped: bool, workers: int) -> list[Step]:
    """By the difference between two samples: of each much is the same at any size."""
    from data.synthetic import write_release

    sizes, times = [], []
    with tempfile.TemporaryDirectory() as place:
        for number in (1, 1, 1 + STUDIES_DRAWN):  # the first loads what all need
            target, started = Path(place, str(len(times))), time.perf_counter()
            write_release(target, number, seed, zipped=zipped, workers=1, progress=False)
            times.append(time.perf_counter() - started)
            sizes.append(sum(p.stat().st_size for p in target.rglob("*") if p.is_file()))
    size, seconds = (v[1] + (v[2] - v[1]) / STUDIES_DRAWN * (studies - 1) for v in (sizes, times))
    by = f"{workers} processes, by {STUDIES_DRAWN} studies"
    what = f"look-alike release of {studies:,} studies"
    return [Step(what, "nothing", folder, round(size), seconds=seconds / workers, by=by)]


def all_steps(data: DataConfig, workers: int) -> list[Step]:
    """Of `--all`: what is missing is downloaded, else the archives are compared with their checksums; then the index."""
    from data.download.needed import what_is_missing
    from data.index.estimate import published_size
    from data.index.origin import CACHE
    from data.release import open_release
    from data.release.verify import used_files

    if not what_is_missing(data):
        release = open_release(data.mimic_cxr_path, data.mimic_qa_path)
        files = used_files(release)
        size = sum(path.stat().st_size for path in files)
        speed = _hashing_speed(max(files, key=os.path.getsize))
        reads = f"{len(files)} files, {format_bytes(size)}"
        check = Step("compare tables and archives with their checksums", reads, seconds=size / speed, by="by a sample")
        return [check, *prepare_steps(data, workers)]
    size, folder = published_size(data), Path(data.index_dir) if data.index_dir else CACHE
    by = "there are no images yet to measure with"
    return [*download_steps(data), Step("index, by published numbers", "what came", folder, size, 2 * size, None, by)]
