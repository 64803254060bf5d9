"""Zip archives: their entries and contents."""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from data.archives.entries import CHUNK, MAX_RATIO, RATIO_FREE_BYTES, Entry
from utils.errors import DataError

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


def zip_entries(path: Path) -> Iterator[Entry]:
    """All entries, by the archive's directory."""
    with open_zip(path) as archive:
        for info in archive.infolist():
            # `filename` is cut at a NUL
            yield Entry(info.orig_filename, info.file_size, f"{info.CRC:08x}", info.is_dir(), _refusal(info))


def _refusal(info: zipfile.ZipInfo) -> str:
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device, not a file"
    if info.flag_bits & 0x1:
        return "is encrypted"
    if info.file_size > RATIO_FREE_BYTES and info.file_size > MAX_RATIO * max(1, info.compress_size):
        return f"unpacks to more than {MAX_RATIO} times its size"
    return ""


def zip_contents(path: Path) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Name and content of each file, in the order of `zip_entries`."""
    with open_zip(path) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                yield info.orig_filename, _chunks(archive, info, path)


def _chunks(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> Iterator[bytes]:
    """`zipfile` checks the CRC and that a content is not longer than declared, but not shorter."""
    left = info.file_size
    try:
        with archive.open(info) as source:
            while chunk := source.read(CHUNK):
                left -= len(chunk)
                yield chunk
        if left:
            raise EOFError(f"{left:,} bytes too short")
    except ZIP_ERRORS as error:
        raise DataError(f"{path}: entry {info.filename!r} is damaged ({error}): download it again") from error
