"""Both releases, in the order in which each says what the next needs: lists, tables and archives, images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

from configs.mimic_cxr_config import DataConfig
from data.checksums import NAME
from data.download.needed import export_of, home_of, needed_images, needed_of_jpg, needed_of_qba
from data.download.release import Mirror, Outcome
from data.download.space import require_space
from data.download.transfer import Count, Site
from data.published import VIEWS
from data.release.locate import find_jpg, find_qba
from data.release.reader import open_release
from utils.errors import DataError
from utils.privacy import warn_if_open
from utils.run_lock import run_lock

IMAGE_BYTES = 1_600_000
"""Mean of MIMIC-CXR-JPG: 570.3 GiB / 377,110 (https://physionet.org/content/mimic-cxr-jpg/2.1.0/)"""
TABLE_BYTES = 32_000_000
LISTING_BYTES = 52_000_000
ARCHIVE_BYTES = {"exports/A_frontal/": 3_000_000_000, "exports/B_frontal/": 9_400_000_000, "": 10_300_000_000}
"""Of the whole export, at most; https://physionet.org/content/mimic-ext-cxr-qba/1.0.0/"""

Progress = Callable[[str, int], AbstractContextManager[Count]]
"""Given what is downloaded and how many files: the function that is told of bytes"""


@dataclass(frozen=True)
class Step:
    """One line of the plan."""

    what: str
    files: int
    size: int
    """bytes, about"""
    folder: Path
    there: int
    """of these bytes"""


def plan(data: DataConfig) -> list[Step]:
    """What a download with these settings fetches, by published numbers; the network is not asked."""
    jpg, qba, home = Path(data.mimic_cxr_path), Path(data.mimic_qa_path), export_of(data)
    images = VIEWS[data.view_filter]
    what = f"images ({data.view_filter}; at most: only those of studies with questions)"
    archives = [qba_root(data.mimic_qa_path) / folder for folder in {home, ""}]
    lists = [jpg_root(data.mimic_cxr_path) / NAME, qba_root(data.mimic_qa_path) / NAME]
    there = sum(1 for _ in (jpg_root(data.mimic_cxr_path) / "files").rglob("*.jpg"))
    return [
        Step("lists of files with checksums", 2, LISTING_BYTES, jpg, _bytes(lists)),
        Step("tables of MIMIC-CXR-JPG", 5, TABLE_BYTES, jpg, _bytes(jpg_root(data.mimic_cxr_path).glob("*.csv*"))),
        Step(
            f"questions and scene graphs ({home or 'the whole release'}; at most)",
            5,
            ARCHIVE_BYTES[home],
            qba,
            _bytes(path for folder in archives for path in folder.glob("*.zip")),
        ),
        Step(what, images, images * IMAGE_BYTES, jpg, min(there, images) * IMAGE_BYTES),
    ]


def _bytes(files: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in files if path.is_file())


def fetch(
    data: DataConfig, jpg_site: Site, qba_site: Site, progress: Progress, accepted: Mapping[str, str], connections: int
) -> Outcome:
    """Download what is missing into the two folders of the settings.

    Raises:
        LoginError: no access. DataError: no space, a list or table that cannot be used, or another download is at work.
    """
    jpg = Mirror(jpg_site, jpg_root(data.mimic_cxr_path), connections, accepted)
    qba = Mirror(qba_site, qba_root(data.mimic_qa_path), connections, accepted)
    for mirror in (jpg, qba):
        warn_if_open(mirror.folder)
    with ExitStack() as locks:
        for mirror in (jpg, qba):
            locks.enter_context(run_lock(mirror.folder, "name another folder", DataError))
        return _fetch(data, jpg, qba, progress)


def _fetch(data: DataConfig, jpg: Mirror, qba: Mirror, progress: Progress) -> Outcome:
    total = Outcome()
    for mirror, what, choose in (
        (jpg, "tables of MIMIC-CXR-JPG", needed_of_jpg),
        (qba, "questions and scene graphs", lambda listing: needed_of_qba(listing, data)),
    ):
        listing = mirror.listing()
        _get(mirror, what, choose(listing), listing, progress, total)
    if not total.is_complete:  # which images are needed stands in what is missing
        return total
    home = home_of(qba.listing(), data)
    images = needed_images(open_release(jpg.folder, qba.folder / home), data)
    listing = jpg.listing()
    absent = [path for path in images if path not in listing]
    total.failed |= dict.fromkeys(absent, "the tables name it, the release's list of files does not")
    images = [path for path in images if path in listing]
    require_space(jpg.folder, sum(IMAGE_BYTES for path in images if not (jpg.folder / path).exists()))
    _get(jpg, "images", images, listing, progress, total)
    return total


def _get(
    mirror: Mirror, what: str, paths: list[str], listing: Mapping[str, str], progress: Progress, total: Outcome
) -> None:
    with progress(what, len(paths)) as count:
        total.add(mirror.get(paths, listing, count))


def jpg_root(folder: str) -> Path:
    """Where a copy of MIMIC-CXR-JPG that is there already begins, such as one of wget; else the folder itself."""
    try:
        found = find_jpg(folder)
    except DataError:
        return Path(folder)
    if not found.image_prefix:
        raise DataError(f"{found.root} has its images in p10/ ... p19/: move these into {found.root / 'files'} first")
    return found.root


def qba_root(folder: str) -> Path:
    """The same for MIMIC-Ext-CXR-QBA: the folder of the release, not of an export."""
    try:
        root = find_qba(folder).root
    except DataError:
        return Path(folder)
    return root.parent.parent if root.parent.name == "exports" else root
