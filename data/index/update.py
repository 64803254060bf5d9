"""Bringing an index up to date: an index that is there is compared with all files of its release, not only opened."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from configs.mimic_cxr_config import Config, DataConfig
from data.index.build import (
    build_index,
    build_lock,
    configured_release,
    ensure_index,
    index_path,
    plan_studies,
    remove_work_folder,
    work_folder,
)
from data.index.quarantine import bad_samples, is_mended
from data.index.reuse import Earlier, changed_studies, open_earlier
from data.index.store import META, Index, open_index
from data.release import Release
from utils.errors import DataError
from utils.utils import clean_leftovers, get_logger

log = get_logger(__name__)


def prepare_index(config: Config, workers: int | None = None) -> Index:
    """The index of the configured release: built, or brought up to date where files are new, other or gone.

    Errors as `ensure_index`. An index in `data.index_dir` of other settings or of another release is refused, as there.
    """
    data = config.data
    release, identity = configured_release(data)
    path = index_path(data, identity)
    if (path / META).exists():
        changed = outdated(release, identity, data)
        if changed:
            log.info("%s studies are new, changed, mended or gone since %s was built", f"{changed:,}", path)
            return build_index(release, data, path, workers, replace=True)
        if open_index(path).fingerprint == identity["fingerprint"]:
            clear(path)
    return ensure_index(config, workers)


def clear(path: Path) -> None:
    """Remove what a build leaves that was killed after its index was whole."""
    with suppress(OSError, DataError):  # a disk that may only be read; another process that is at work
        if work_folder(path).exists():
            with build_lock(path):
                remove_work_folder(work_folder(path))
        clean_leftovers(path.parent, path.name)


def outdated(release: Release, identity: dict, data: DataConfig) -> int:
    """How many studies differ between the release and the index that is there for it; 0 where it is none of this release."""
    path = index_path(data, identity)
    earlier = open_earlier(path)
    if earlier is None:
        open_index(path)  # an error, or an index that does not say what it was made of
        log.info("%s does not say which files it was made of: delete it to have it built again", path)
        return 0
    if not _is_of(earlier.index.meta.get("identity", {}), identity):
        return 0
    release.load()
    jobs = plan_studies(release, data.view_filter)
    if not _is_mostly(earlier, jobs) or release.is_synthetic != earlier.index.is_synthetic:
        return 0
    bad = [problem for problem in bad_samples(earlier.index.problems()) if "path" in problem]
    return changed_studies(earlier, release, jobs, {problem["study"] for problem in bad if is_mended(problem)})


def _is_of(own: dict, identity: dict) -> bool:
    """Was an index made with the same settings, of this release or of what it was before?"""
    return all(own.get(name) == value for name, value in identity.items() if name not in ("release", "fingerprint"))


def _is_mostly(earlier: Earlier, jobs: list) -> bool:
    """Does the release have most of the index's studies? Another release must not take the place of its index."""
    return 2 * earlier.has(job.study_id for job in jobs) > len(earlier)
