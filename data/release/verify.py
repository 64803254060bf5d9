"""Is a release whole? Every file against its checksum, every image decoded to its last pixel, tables against files both ways."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

from data.checksums import NAME, read_listing
from data.images import decode
from data.release.reader import Release, wanted_views
from utils.errors import DataError
from utils.utils import sha256_of
from utils.workers import leave_with_parent

IGNORED_FOLDERS = {"quarantine"}
"""What a download sets aside"""
IGNORED_FILES = {NAME, "index.html", "robots.txt"}
"""The list itself, and what wget leaves behind"""
IMAGES_AT_A_TIME = 16

Progress = Callable[[str, int], Callable[[int], None]]
"""Given what is looked at and how many: the function that is told of each"""


@dataclass
class Verified:
    """What was found; paths are relative to their release."""

    checksums: int = 0
    """files whose checksum is right"""
    images: int = 0
    """images that could be decoded"""
    mismatched: list[str] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)
    """files that the release's list does not have"""
    unreadable: dict[str, str] = field(default_factory=dict)
    """image -> why it cannot be decoded"""
    absent: list[str] = field(default_factory=list)
    """images that the tables have and the disk has not, of those that the view filter lets through"""
    without_row: list[str] = field(default_factory=list)
    """images on disk that the tables do not have"""
    unlisted_releases: list[str] = field(default_factory=list)
    """folders without SHA256SUMS.txt: their files cannot be compared"""
    not_there: list[str] = field(default_factory=list)
    """files of the release's list that the disk has not, images apart: not all of them are needed"""

    @property
    def is_whole(self) -> bool:
        return not (self.mismatched or self.unreadable or self.absent)


def verify(release: Release, view_filter: str, workers: int, progress: Progress) -> Verified:
    """Look at every file of both releases that is there.

    DataError: a list of checksums cannot be read.
    """
    found = Verified()
    for root in roots_of(release):
        _checksums(root, list(files_of(root)), found, workers, progress)
        if (root / NAME).is_file():
            others = (name for name in read_listing(root / NAME) if not name.endswith(".jpg"))
            found.not_there += sorted(name for name in others if not (root / name).exists())
    _compare_images(release, view_filter, found)
    _decode_all(release, found, workers, progress)
    return found


def verify_used(release: Release, workers: int, progress: Progress) -> Verified:
    """Compare the tables and archives that an index is made of; the images, which are most of the bytes, are not read."""
    found = Verified()
    used = used_files(release)
    for root in roots_of(release):
        _checksums(root, [path for path in used if path.is_relative_to(root)], found, workers, progress)
    return found


def used_files(release: Release) -> list[Path]:
    """The tables and archives of both releases that are read."""
    qba = release.qba
    own = [path for path in (qba.info, qba.qa_zip, qba.scene_zip) if path]
    return sorted({*release.jpg.tables.values(), *own})  # links as they are: a list has the names


def roots_of(release: Release) -> list[Path]:
    """The folders whose files stand in a list of checksums."""
    return sorted({release.jpg.root, _whole(release.qba.root)})


def _whole(root: Path) -> Path:
    """The release that an export belongs to, if it has a list of its own."""
    above = root.parent.parent
    return above if root.parent.name == "exports" and (above / NAME).is_file() else root


def _checksums(root: Path, files: list[Path], found: Verified, workers: int, progress: Progress) -> None:
    if not (root / NAME).is_file():
        found.unlisted_releases.append(str(root))
        return
    listing = read_listing(root / NAME)
    names = [str(path.relative_to(root)) for path in files]
    found.unlisted += [name for name in names if name not in listing]
    listed = [name for name in names if name in listing]
    tick = progress(f"checksums of {root.name}", len(listed))

    def is_right(name: str) -> bool:
        try:
            return sha256_of(root / name) == listing[name]
        except OSError:
            return False

    with ThreadPoolExecutor(workers) as pool:  # hashing leaves the interpreter to others
        for name, right in zip(listed, pool.map(is_right, listed), strict=True):
            if right:
                found.checksums += 1
            else:
                found.mismatched.append(name)
            tick(1)


def files_of(root: Path) -> Iterator[Path]:
    """All files of a release, also behind links, without what a download sets aside or has not finished."""
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and name not in IGNORED_FOLDERS and not _leads_back(folder, name)
        )
        for name in sorted(names):
            if not name.startswith(".") and name not in IGNORED_FILES and not name.endswith((".part", ".part.json")):
                yield Path(folder, name)


def _leads_back(folder: str, name: str) -> bool:
    """Is it a link to a folder that it lies in?"""
    path = os.path.join(folder, name)
    return os.path.islink(path) and Path(folder).resolve().is_relative_to(Path(path).resolve())


def _compare_images(release: Release, view_filter: str, found: Verified) -> None:
    known = set(release.images["path"])
    there = set(image_files(release))
    found.without_row += sorted(there - known)
    asked = {study for _, study in release.studies()}
    wanted = wanted_views(release.images, view_filter)
    wanted = wanted[wanted["study_id"].isin(asked)]
    found.absent += [path for path in wanted["path"] if path not in there]


def image_files(release: Release) -> list[str]:
    root = release.jpg.root
    start = root / release.jpg.image_prefix if release.jpg.image_prefix else root
    return [str(path.relative_to(root)) for path in files_of(start) if path.suffix.lower() == ".jpg"]


def _decode_all(release: Release, found: Verified, workers: int, progress: Progress) -> None:
    paths = image_files(release)
    tick = progress("images decoded", len(paths))
    look = partial(_reasons, release.jpg.root)
    with ProcessPoolExecutor(workers, initializer=leave_with_parent) as pool:
        for batch in pool.map(look, _batches(paths, IMAGES_AT_A_TIME)):
            for path, reason in batch:
                if reason:
                    found.unreadable[path] = reason
                else:
                    found.images += 1
            tick(len(batch))


def _reasons(root: Path, paths: list[str]) -> list[tuple[str, str]]:
    """path -> why it cannot be decoded, or nothing."""
    return [(path, _reason(root / path)) for path in paths]


def _reason(path: Path) -> str:
    try:
        decode(path)
    except DataError as error:
        return str(error).removeprefix(f"image {path}: ")
    return ""


def _batches(values: Iterable[str], size: int) -> Iterator[list[str]]:
    values = iter(values)
    while batch := list(islice(values, size)):
        yield batch


def used_lines(found: Verified) -> list[str]:
    """For people, of `verify_used`."""
    lines = [f"{found.checksums:,} tables and archives have the checksums of the release's list (all files: --verify)"]
    if found.mismatched:
        lines.append(f"another checksum: {', '.join(found.mismatched)}; delete them, and --all downloads them again")
    if found.unlisted_releases:
        lines.append(f"not compared, there is no {NAME}: {', '.join(found.unlisted_releases)}")
    return lines


def verified_lines(found: Verified, shown: int = 5) -> list[str]:
    """For people."""
    lines = [f"{found.checksums:,} checksums are right, {found.images:,} images can be read to their end"]
    for what, names, mend in (
        ("files have another checksum than the release's list", found.mismatched, "delete them and download again"),
        ("images cannot be read", [f"{p} ({why})" for p, why in found.unreadable.items()], "delete and download again"),
        ("images of the tables are not there", found.absent, "setup_data.py --download gets them"),
        ("images are in no table", found.without_row, "they are not used"),
        ("files are not in the release's list", found.unlisted, "they are not used, or of another version"),
        ("files of the release's list are not there", found.not_there, "--download gets what is needed of them"),
        ("folders have no SHA256SUMS.txt", found.unlisted_releases, "download it from the release's page to compare"),
    ):
        if names:
            examples = ", ".join(names[:shown]) + (", ..." if len(names) > shown else "")
            lines.append(f"{len(names):,} {what}: {examples}; {mend}")
    lines.append("whole" if found.is_whole else "not whole")
    return lines
