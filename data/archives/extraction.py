"""Extract an archive into a folder that is complete or absent."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from data.archives.entries import MAX_TOTAL_BYTES, Entry, Progress, checked_files, listing_hash
from data.archives.tars import tar_contents, tar_entries
from data.archives.zips import zip_contents, zip_entries
from utils.errors import DataError
from utils.privacy import open_private, private_directory
from utils.run_lock import LOCK, run_lock

STAMP = ".extracted.json"
"""File in an extracted folder that says which archive it is a complete copy of."""
TAR_ENDINGS = (".tar", ".tar.gz", ".tgz")


def is_tar(path: Path) -> bool:
    """By its name: what is broken is to be named as what it was meant to be."""
    return path.name.endswith(TAR_ENDINGS)


def content_bytes(archive: Path, max_total_bytes: int = MAX_TOTAL_BYTES) -> tuple[int, int]:
    """How many files an archive holds and their bytes when unpacked; DataError where it is broken or not safe."""
    files = checked_files(_entries(archive), archive, max_total_bytes)
    return len(files), sum(entry.size for entry in files.values())


def _entries(archive: Path) -> Iterator[Entry]:
    return tar_entries(archive) if is_tar(archive) else zip_entries(archive)


def contents_of(archive: Path) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Name and content of each file of an archive; each content is to be read before the next is asked for."""
    return tar_contents(archive) if is_tar(archive) else zip_contents(archive)


def safe_extract(
    archive: Path,
    target: Path,
    progress: Progress | None = None,
    *,
    strip_top: str | None = None,
    max_total_bytes: int = MAX_TOTAL_BYTES,
) -> bool:
    """Extract a zip or tar archive so that `target` holds its files; True when it did, False when `target` already does.

    Entries that would leave the target, links, devices, encrypted entries, names that collide, archives over
    `max_total_bytes` or `MAX_ENTRIES` and decompression bombs are refused (DataError naming the entry) before anything is
    written. Files go to a private sibling folder that is renamed at the end, so a `target` is complete or absent.

    Args:
        progress: called with (bytes done, bytes in all).
        strip_top: a top folder that is left out of the paths when all entries lie in it.
    """
    archive, target = Path(archive), Path(target)
    files = checked_files(_entries(archive), archive, max_total_bytes)
    stamp = {"archive_bytes": archive.stat().st_size, "listing": listing_hash(files.values())}
    files = _without_top(files, strip_top)
    if target.exists():
        _require_same(files, stamp, archive, target)
        return False
    _extract_new(files, stamp, archive, target, progress)
    return True


def _without_top(files: dict[PurePosixPath, Entry], top: str | None) -> dict[PurePosixPath, Entry]:
    if top is None or any(len(path.parts) < 2 or path.parts[0] != top for path in files):
        return files
    return {path.relative_to(top): entry for path, entry in files.items()}


def _require_same(files: dict[PurePosixPath, Entry], stamp: dict, archive: Path, target: Path) -> None:
    """Return when `target` is a complete copy, by its stamp or else by the size of every file; DataError otherwise."""
    try:
        if json.loads((target / STAMP).read_text(encoding="utf-8")) == stamp:
            return
    except (OSError, ValueError):
        pass  # no stamp, or not one of ours: compare the files themselves
    complete = sum(_has_size(target / path, entry.size) for path, entry in files.items())
    if complete < len(files):
        raise DataError(
            f"{target} exists and holds only {complete:,} of the {len(files):,} files of {archive}: "
            "delete or rename that folder and run the command again"
        )


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def _extract_new(
    files: dict[PurePosixPath, Entry], stamp: dict, archive: Path, target: Path, progress: Progress | None
) -> None:
    total = sum(entry.size for entry in files.values())
    partial = target.with_name(f".{target.name}.partial")  # fixed name: what a killed run left is found and removed
    with run_lock(partial, "unpack a copy in another folder", DataError):  # two at once would remove each other's files
        try:
            _clear(partial)
            free = shutil.disk_usage(partial).free
            if free < total:
                raise DataError(
                    f"{archive} needs {total:,} bytes in {target.parent}, which has {free:,} free: make room"
                )
            _write_all(files, archive, partial, progress, total)
            with open_private(partial / STAMP, "w") as file:
                file.write(json.dumps(stamp))
            partial.rename(target)
            (target / LOCK).unlink()
        except OSError as error:
            reason = error.strerror or error
            raise DataError(
                f"cannot extract {archive} to {target} ({reason}): check its permissions and space"
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)  # after the rename there is nothing left to remove


def _clear(partial: Path) -> None:
    """Remove what a killed run left."""
    for path in partial.iterdir():
        if path.name != LOCK:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _write_all(
    files: dict[PurePosixPath, Entry], archive: Path, folder: Path, progress: Progress | None, total: int
) -> None:
    done = 0
    made: set[Path] = set()
    contents = contents_of(archive)
    for path, entry in files.items():
        name, chunks = next(contents, ("", iter(())))
        if name != entry.name:
            raise _other(archive)
        out = folder / path
        if out.parent not in made:
            private_directory(out.parent)
            made.add(out.parent)
        _write(out, chunks, entry.size, archive)
        done += entry.size
        if progress:
            progress(done, total)
    if next(contents, None) is not None:
        raise _other(archive)


def _write(out: Path, chunks: Iterator[bytes], size: int, archive: Path) -> None:
    with open_private(out, "xb") as sink:
        for chunk in chunks:
            size -= len(chunk)
            if size < 0:
                raise _other(archive)
            sink.write(chunk)
    if size:
        raise _other(archive)


def _other(archive: Path) -> DataError:
    """Its names and sizes are not those that were judged."""
    return DataError(f"{archive} changed while it was read: run the command again")
