"""Building an index: one parallel pass over a release; can be interrupted and continued; appears whole or not at all."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from tqdm import tqdm

from configs.data_sets import external_setting
from configs.mimic_cxr_config import Config, DataConfig
from data import label_space
from data.index.assemble import assemble
from data.index.origin import CACHE, keep_fingerprint, known_fingerprint
from data.index.part import ImageJob, PartForm, StudyJob, build_part
from data.index.quarantine import bad_samples, check_share, is_finished, read_problems, stop_at_first, too_many
from data.index.reuse import Earlier, find_earlier, input_key
from data.index.store import FORMAT, META, PROBLEMS, SOURCES, SPLITS, Index, open_index, require_free
from data.label_space import CHEXPERT
from data.release import Release, find_release, wanted_views
from data.vocabulary import Vocabulary
from utils.errors import ConfigError, DataError
from utils.privacy import private_directory, warn_if_open
from utils.run_lock import LOCK, run_lock
from utils.utils import atomic_directory, clean_leftovers, get_logger, write_json, writing_to
from utils.workers import leave_with_parent

STUDIES_PER_PART = 100
PLAN = "plan.json"
"""File of a folder of finished parts: which index they are for."""
NO_IMAGE = {"frontal_only": "no_frontal_image", "lateral_only": "no_lateral_image", "all": "no_image"}
"""Fate of the questions of a study none of whose images `data.view_filter` lets through."""

log = get_logger(__name__)


def ensure_index(config: Config, workers: int | None = None) -> Index:
    """Open the index of the configured release, building it first when there is none.

    Raises:
        DataError: no release, an unusable one, or an index in `data.index_dir` that belongs to another release or settings.
    """
    release, identity = configured_release(config.data)
    path = index_path(config.data, identity)
    if not os.path.exists(path / META):  # unlike pathlib's, no error where a folder must not be looked into
        release.load()
        return build_index(release, config.data, path, workers)
    index = open_index(path)
    if index.is_credentialed:
        warn_if_open(path)
    if index.fingerprint != identity["fingerprint"]:
        different = [k for k in identity if k != "fingerprint" and identity[k] != index.meta.get("identity", {}).get(k)]
        raise DataError(
            f"the index in {path} was built from other data or settings ({', '.join(different)} differ); "
            "delete that folder or name another one with data.index_dir"
        )
    if config.data.on_bad_sample == "error":
        stop_at_first(index.problems(), f"mend that file and delete the index {path}")
    # it may have been built by somebody who allowed more
    if too_many(index.meta["problems"], index.planned, config.data.max_bad_fraction):
        check_share(index.problems(), index.planned, config.data.max_bad_fraction, "run setup_data.py")
    if known_fingerprint(release, config.data) is None:
        keep_fingerprint(release, path)
    return index


def configured_release(data: DataConfig) -> tuple[Release, dict[str, str | int]]:
    """The release of a configuration and what an index of it must be. It is read, unless an index knows it already.

    DataError as `open_release`. ConfigError where another set is named, which has no release behind it.
    """
    if name := external_setting(data):
        raise ConfigError(
            f"data.{name} names a set that is no release, and only releases are prepared and analysed here: leave it empty, "
            "or check the set with train_mimic_cxr.py --dry_run"
        )
    release = find_release(data.mimic_cxr_path, data.mimic_qa_path)
    known = known_fingerprint(release, data)
    if known is None:
        release.load()
    return release, index_identity(known or release.fingerprint(), data)


def index_identity(release: str, data: DataConfig) -> dict[str, str | int]:
    """Everything that decides what is in the index, and `fingerprint`, a hash of it; `release` is that of the release."""
    identity: dict[str, str | int] = {
        "format": FORMAT,
        "release": release,
        "image_store": data.image_store,
        "image_store_size": data.image_store_size or data.image_size,
        "view_filter": data.view_filter,
        "label_space": label_space.checksum(),
    }
    identity["fingerprint"] = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    return identity


def index_path(data: DataConfig, identity: dict) -> Path:
    """Folder of the index: `data.index_dir`, or `./data_cache/<fingerprint>`."""
    return Path(data.index_dir) if data.index_dir else CACHE / str(identity["fingerprint"])


def build_index(
    release: Release, data: DataConfig, path: Path, workers: int | None = None, replace: bool = False
) -> Index:
    """Build the index of a release into the folder `path`, with what an earlier index has of it.

    Args:
        workers: processes; all cores when None.
        replace: there may be an index in `path`. It stays until the new one is whole.
    Raises:
        DataError: more than `data.max_bad_fraction` of the images or studies cannot be read, or, where
            `data.on_bad_sample` is `error`, one: always the first in the order of the index. Or another process builds it.
    """
    if not release.studies():
        raise DataError(f"no study with questions found in {data.mimic_qa_path}")
    advice = "free space (finished parts are kept), or name another folder with --set data.index_dir=..."
    with writing_to(path, advice):
        if not replace:
            require_free(path)
        with build_lock(path):
            _build(release, data, path, workers or os.cpu_count() or 1)
    return open_index(path)


def _build(release: Release, data: DataConfig, path: Path, workers: int) -> None:
    identity = index_identity(release.fingerprint(), data)
    vocabulary = Vocabulary(tuple(release.entities), tuple(release.region_names))
    made = _make_parts(release, data, path, identity, vocabulary, workers)
    with atomic_directory(path) as folder:
        copied = assemble(made.folders, folder, identity, release, vocabulary, made.problems, made.planned)
        keep_fingerprint(release, folder)
    if made.earlier:
        unchanged = f"{copied:,} of {made.planned['study']:,} studies are unchanged"
        log.info("%s and were copied from %s", unchanged, made.earlier.index.path)
    remove_work_folder(work_folder(path))


@dataclass(frozen=True)
class _Made:
    """The finished parts. What was planned is gone with the function that made them: at full size half a gigabyte."""

    folders: list[Path]
    problems: list[dict]
    planned: dict[str, int]
    """images and studies"""
    earlier: Earlier | None


def _make_parts(
    release: Release, data: DataConfig, path: Path, identity: dict, vocabulary: Vocabulary, workers: int
) -> _Made:
    jobs = plan_studies(release, data.view_filter)
    parts = [jobs[i : i + STUDIES_PER_PART] for i in range(0, len(jobs), STUDIES_PER_PART)]
    work = work_folder(path)
    _open_work_folder(work, identity)
    clean_leftovers(path.parent, path.name)
    log.info("building the index of %s studies in %s", f"{len(jobs):,}", path)
    folders = [work / f"part-{i:06d}" for i in range(len(parts))]
    earlier = find_earlier(path, identity, vocabulary, jobs)
    form = replace(part_form(vocabulary, identity), earlier=earlier)
    problems: list[dict] = []
    with (
        closing(_build_parts(release, parts, form, folders, workers)) as done,
        tqdm(total=len(jobs), unit="study", desc="index", disable=None) as bar,
    ):
        for i in done:
            bar.update(len(parts[i]))
            found = read_problems(folders[i])
            if data.on_bad_sample == "error":
                stop_at_first(found)
            problems += found
    planned = {"image": sum(len(j.images) for j in jobs), "study": len(jobs)}
    check_share(problems, planned, data.max_bad_fraction)
    if bad := bad_samples(problems):
        log.warning("%s bad file(s) are left out; %s names each with its reason", f"{len(bad):,}", path / PROBLEMS)
    return _Made(folders, problems, planned, earlier)


def part_form(vocabulary: Vocabulary, identity: dict) -> PartForm:
    return PartForm(vocabulary.entity_index, int(identity["image_store_size"]), str(identity["image_store"]))


def plan_studies(release: Release, view_filter: str) -> list[StudyJob]:
    """All studies that have questions, in index order (split, patient, study), each with its usable images."""
    images = release.images
    rank = images["view"].map({"PA": 0, "AP": 1}).fillna(2)
    images = images.assign(area=images["rows"].astype("int64") * images["columns"], rank=rank)
    images = images.sort_values(["study_id", "rank", "area", "dicom_id"], ascending=[True, True, False, True])
    split_of = dict(zip(zip(images["subject_id"], images["study_id"]), images["split"].astype(str)))
    wanted = wanted_views(images, view_filter)
    unwanted = images.drop(wanted.index)
    others: dict[int, list[str]] = {}
    for study, image_id in zip(unwanted["study_id"].tolist(), unwanted["dicom_id"]):
        others.setdefault(study, []).append(image_id)
    chosen: dict[int, list[ImageJob]] = {}
    for row in wanted.itertuples(index=False):
        job = ImageJob(row.dicom_id, str(row.view), str(release.image_path(row)), int(row.columns), int(row.rows))
        chosen.setdefault(int(row.study_id), []).append(job)
    labels = dict(zip(release.chexpert.index.tolist(), release.chexpert.to_numpy()))
    blank = np.full(len(CHEXPERT), np.nan)
    jobs = []
    for subject_id, study_id in release.studies():
        known = (subject_id, study_id) in split_of  # not the study alone: it would bring its images to another patient
        split = split_of[subject_id, study_id] if known else "unknown"
        images_of = tuple(chosen.get(study_id, ())) if split in SPLITS else ()
        reason = "" if images_of else (NO_IMAGE[view_filter] if known else "study_not_in_image_tables")
        unused = tuple(others.get(study_id, ()))
        jobs.append(StudyJob(subject_id, study_id, split, images_of, labels.get(study_id, blank), reason, unused))
    order = {name: i for i, name in enumerate(SPLITS)}
    return sorted(jobs, key=lambda j: (order.get(j.split, len(order)), j.subject_id, j.study_id))


def work_folder(path: Path) -> Path:
    """Where the finished parts of an index wait."""
    return path.with_name(path.name + ".partial")


@contextmanager
def build_lock(path: Path) -> Iterator[None]:
    """Only one process at a time builds the index `path`: two would remove each other's parts. DataError names the other."""
    advice = "name another folder with --set data.index_dir=..."
    with run_lock(private_directory(work_folder(path)), advice, DataError):
        yield


def remove_work_folder(work: Path) -> None:
    (work / PLAN).unlink(missing_ok=True)  # first: what is half removed is no folder of finished parts
    shutil.rmtree(work)


def _open_work_folder(work: Path, identity: dict) -> None:
    """Reuse the locked folder of finished parts; parts of another release or of other settings are thrown away."""
    plan = work / PLAN
    with suppress(OSError, ValueError):
        if json.loads(plan.read_text()) == identity:
            return
    plan.unlink(missing_ok=True)  # first, as above
    for left in work.iterdir():
        if left.name != LOCK:
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    write_json(plan, identity)


def _build_parts(release: Release, parts: list, form: PartForm, folders: list[Path], workers: int) -> Iterator[int]:
    """Build what is not finished; the numbers of the parts in order, each when its folder is there."""
    todo = {i for i, folder in enumerate(folders) if not _is_current(folder, release, parts[i])}
    if len(todo) < len(parts):
        log.info("continuing: %d of %d parts are there already", len(parts) - len(todo), len(parts))
    if workers == 1 or len(todo) <= 1:
        for i, folder in enumerate(folders):
            if i in todo:
                build_part(release, parts[i], form, folder)
            yield i
        return
    # spawn: the parent may hold threads (pyarrow) that do not survive a fork
    with ProcessPoolExecutor(min(workers, len(todo)), get_context("spawn"), _start_worker, (release, form)) as pool:
        futures = {i: pool.submit(_build_in_worker, parts[i], folders[i]) for i in sorted(todo)}
        try:
            for i in range(len(parts)):
                if i in futures:
                    futures[i].result()
                yield i
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _is_current(folder: Path, release: Release, jobs: list[StudyJob]) -> bool:
    """Is a part finished, and made of what its files are now? One that a disk has damaged is not."""
    try:
        if not is_finished(folder):
            return False
        with np.load(folder / "columns.npz", allow_pickle=False) as columns:
            keys = columns[f"{SOURCES}.key"].tolist()
    except (OSError, ValueError, LookupError, zipfile.BadZipFile):
        return False
    return keys == [input_key(release, job) for job in jobs]


_worker: tuple = ()
"""What all jobs of a worker process share: the release is large, so it travels once a process, not once a job."""


def _start_worker(*shared: object) -> None:
    global _worker
    _worker = shared
    leave_with_parent()
    # parsed JSON is many small objects without cycles: looking for some took a tenth of the time
    gc.set_threshold(200_000, 20, 20)


def _build_in_worker(jobs: list[StudyJob], target: Path) -> None:
    release, form = _worker
    build_part(release, jobs, form, target)
