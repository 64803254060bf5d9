"""Zip archives that come from outside: open them with clear errors, and extract them without trusting them.

Nothing is written before every entry has been judged; nothing appears under its final name before all of it is there.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from utils.errors import DataError
from utils.privacy import open_private, private_directory

ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)
"""What `zipfile` raises for a broken, truncated, encrypted or unsupported archive."""

STAMP = ".extracted.json"
"""File in an extracted folder that says which archive it is a complete copy of."""

MAX_TOTAL_BYTES = 400 * 2**30
MAX_RATIO = 200
RATIO_FREE_BYTES = 2**20
"""Entries smaller than this may have any compression ratio; larger ones at most `MAX_RATIO`."""
_CHUNK = 2**20

Progress = Callable[[int, int], None]
"""Called with (bytes written so far, bytes in all)."""


def open_zip(path: Path) -> zipfile.ZipFile:
    """The archive, opened for reading and with at least one entry; DataError naming it when it is broken or empty."""
    try:
        archive = zipfile.ZipFile(path)
    except ZIP_ERRORS as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"{path} is not a complete zip file ({reason}): download it again") from error
    if not archive.infolist():
        archive.close()
        raise DataError(f"{path} is an empty zip file: download it again")
    return archive


def listing_hash(entries: Iterable[zipfile.ZipInfo]) -> str:
    """SHA-256 (hex) over the sorted names, CRCs and sizes of the entries: changes whenever some content does."""
    lines = sorted(f"{e.filename}\t{e.CRC:08x}\t{e.file_size}" for e in entries if not e.is_dir())
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def safe_extract(
    zip_path: Path,
    target: Path,
    progress: Progress | None = None,
    *,
    strip_top: str | None = None,
    max_total_bytes: int = MAX_TOTAL_BYTES,
) -> bool:
    """Extract `zip_path` so that `target` holds its files; True when it did, False when `target` already does.

    Entries that would leave the target, links, encrypted entries, names that collide, archives over
    `max_total_bytes` and decompression bombs are refused (DataError naming the entry) before anything is written.
    Files go to a private sibling folder that is renamed at the end, so a `target` is complete or absent.

    Args:
        progress: called with (bytes done, bytes in all).
        strip_top: a top folder that is left out of the paths when all entries lie in it.
    """
    zip_path, target = Path(zip_path), Path(target)
    with open_zip(zip_path) as archive:
        files = checked_entries(archive, zip_path, max_total_bytes)
        files = _without_top(files, strip_top)
        if target.exists():
            _require_same(files, archive, zip_path, target)
            return False
        _extract_new(files, archive, zip_path, target, progress)
    return True


def checked_entries(
    archive: zipfile.ZipFile, zip_path: Path, max_total_bytes: int = MAX_TOTAL_BYTES
) -> dict[PurePosixPath, zipfile.ZipInfo]:
    """Relative path -> entry for every file of the archive; DataError for the first entry that is not safe."""
    files: dict[PurePosixPath, zipfile.ZipInfo] = {}
    folded: set[str] = set()
    total = 0
    for entry in archive.infolist():
        reason = _refusal(entry)
        path = PurePosixPath(entry.filename)
        if not reason and not entry.is_dir():
            key = _fold(path)
            total += entry.file_size
            if key in folded:
                reason = "its name is there twice (upper and lower case count as equal)"
            elif total > max_total_bytes:
                reason = f"the files before and with it take more than {max_total_bytes:,} bytes"
            folded.add(key)
            files[path] = entry
        if reason:
            raise DataError(f"{zip_path} is not safe to extract: entry {entry.orig_filename!r}: {reason}")
    for path in files:
        if any(_fold(parent) in folded for parent in path.parents):
            raise DataError(f"{zip_path} is not safe to extract: entry {str(path)!r}: lies inside another file")
    return files


def _refusal(entry: zipfile.ZipInfo) -> str:
    """Why an entry must not be extracted; empty when it may."""
    name = entry.orig_filename  # `filename` is cut at a NUL
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if any(ord(c) < 32 for c in name):
        return "control character in the name"
    if "\\" in name:
        return "backslash in the name"
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return "absolute path"
    if ".." in name.split("/"):
        return "leaves the target folder"
    if not PurePosixPath(name).parts:
        return "empty name"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device, not a file"
    if entry.flag_bits & 0x1:
        return "is encrypted"
    if entry.file_size > RATIO_FREE_BYTES and entry.file_size > MAX_RATIO * max(1, entry.compress_size):
        return f"unpacks to more than {MAX_RATIO} times its size"
    return ""


def _fold(path: PurePosixPath) -> str:
    return unicodedata.normalize("NFC", str(path)).casefold()


def _without_top(files: dict[PurePosixPath, zipfile.ZipInfo], top: str | None) -> dict[PurePosixPath, zipfile.ZipInfo]:
    if top is None or any(len(path.parts) < 2 or path.parts[0] != top for path in files):
        return files
    return {path.relative_to(top): entry for path, entry in files.items()}


def _stamp(archive: zipfile.ZipFile, zip_path: Path) -> dict:
    return {"archive_bytes": zip_path.stat().st_size, "listing": listing_hash(archive.infolist())}


def _require_same(files: dict, archive: zipfile.ZipFile, zip_path: Path, target: Path) -> None:
    """Return when `target` is a complete copy, by its stamp or else by the size of every file; DataError otherwise."""
    try:
        if json.loads((target / STAMP).read_text(encoding="utf-8")) == _stamp(archive, zip_path):
            return
    except (OSError, ValueError):
        pass  # no stamp, or not one of ours: compare the files themselves
    complete = sum(_has_size(target / path, entry.file_size) for path, entry in files.items())
    if complete < len(files):
        raise DataError(
            f"{target} exists and holds only {complete:,} of the {len(files):,} files of {zip_path}: "
            "delete or rename that folder and run the command again"
        )


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def _extract_new(
    files: dict[PurePosixPath, zipfile.ZipInfo],
    archive: zipfile.ZipFile,
    zip_path: Path,
    target: Path,
    progress: Progress | None,
) -> None:
    total = sum(entry.file_size for entry in files.values())
    partial = target.with_name(f".{target.name}.partial")  # fixed name: what a killed run left is found and removed
    try:
        private_directory(target.parent)
        free = shutil.disk_usage(target.parent).free
        if free < total:
            raise DataError(f"{zip_path} needs {total:,} bytes in {target.parent}, which has {free:,} free: make room")
        if partial.exists():
            shutil.rmtree(partial)
        private_directory(partial)
        _write_all(files, archive, zip_path, partial, progress, total)
        with open_private(partial / STAMP, "w") as file:
            file.write(json.dumps(_stamp(archive, zip_path)))
        partial.rename(target)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"cannot extract {zip_path} to {target} ({reason}): check its permissions and space") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # after the rename there is nothing left to remove


def _write_all(
    files: dict, archive: zipfile.ZipFile, zip_path: Path, folder: Path, progress: Progress | None, total: int
) -> None:
    done = 0
    made: set[Path] = set()
    for path, entry in files.items():
        out = folder / path
        if out.parent not in made:
            private_directory(out.parent)
            made.add(out.parent)
        with open_private(out, "xb") as sink:
            for chunk in _chunks(archive, entry, zip_path):
                sink.write(chunk)
                done += len(chunk)
        if progress:
            progress(done, total)


def _chunks(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, zip_path: Path) -> Iterable[bytes]:
    """The content of an entry. `zipfile` checks its CRC and that it is not longer than declared, but not shorter."""
    left = entry.file_size
    try:
        with archive.open(entry) as source:
            while chunk := source.read(_CHUNK):
                left -= len(chunk)
                yield chunk
        if left:
            raise EOFError(f"{left:,} bytes too short")
    except ZIP_ERRORS as error:
        raise DataError(f"{zip_path}: entry {entry.filename!r} is damaged ({error}): download it again") from error
