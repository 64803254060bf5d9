"""Tar archives, plain or gzipped: their entries and contents. Both are found by reading the file once from its beginning.

`tarfile` ends without a word at a damaged header, and where a file is cut between two entries; so the end is looked for here.
Its own filter `data` judges each entry too; beside it stand the rules of `data.archives.entries`.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from data.archives.entries import CHUNK, MAX_RATIO, RATIO_FREE_BYTES, Entry
from utils.errors import DataError

MAX_HEADER_BYTES = 2**20
"""Names and other properties of an entry that are longer are refused: `tarfile` would read them into memory."""
TAR_ERRORS = (tarfile.TarError, zlib.error, EOFError, OSError, ValueError, OverflowError)
"""What `tarfile` and `gzip` raise for a broken or truncated archive."""
_BLOCK = 512


class _Forward:
    """A stream that `tarfile` reads from its beginning to its end, without large headers and bombs.

    A gzip stream that is sought backwards begins anew, which would make each entry cost as much as all before it.
    """

    def __init__(self, file: BinaryIO, packed: int):
        self._file = file
        self._most = max(RATIO_FREE_BYTES, MAX_RATIO * packed)
        self._at = 0
        self.last = b""

    def tell(self) -> int:
        return self._at

    def read(self, size: int) -> bytes:
        if size > max(CHUNK, MAX_HEADER_BYTES):
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        data = self._file.read(size)
        self._at += len(data)
        if self._at > self._most:
            raise tarfile.ReadError(f"unpacks to more than {MAX_RATIO} times its size")
        self.last = data
        return data

    def seek(self, place: int) -> int:
        if place < self._at:
            raise tarfile.ReadError("entries overlap")
        while self._at < place and self.read(min(CHUNK, place - self._at)):
            pass
        return self._at

    def finish(self) -> None:
        """ReadError where the mark of the end was not the last that was read; gzip's checksum is compared."""
        if self.last != bytes(_BLOCK):
            raise tarfile.ReadError("a damaged header, or no end")
        while self.read(CHUNK):
            pass


@contextmanager
def _opened(path: Path) -> Iterator[tuple[tarfile.TarFile, _Forward]]:
    """DataError for what is broken while it is open."""
    try:
        with open(path, "rb") as raw:
            gzipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            source = _Forward(gzip.GzipFile(fileobj=raw) if gzipped else raw, path.stat().st_size)
            with tarfile.open(fileobj=source, mode="r:") as archive:
                yield archive, source
    except TAR_ERRORS as error:
        raise DataError(f"{path} is not a complete tar file ({error}): download it again") from error


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := archive.next()) is not None:
        archive.members.clear()  # half a gigabyte at full size
        if not (member.isdir() and member.name in (".", "")):  # the folder that was packed
            yield member


def tar_entries(path: Path) -> Iterator[Entry]:
    """All entries, each before its content is passed over."""
    empty = True
    with _opened(path) as (archive, source):
        for member in _members(archive):
            empty = False
            yield Entry(member.name, member.size, f"{member.mtime}", member.isdir(), _refusal(member))
        source.finish()
    if empty:
        raise DataError(f"{path} is an empty tar file: download it again")


def _refusal(member: tarfile.TarInfo) -> str:
    if member.issym() or member.islnk() or member.isdev():
        return "is a link or a device, not a file"
    if member.issparse() or not (member.isreg() or member.isdir()):
        return "is of an unusual kind"
    if member.size < 0:
        return "has a negative size"
    try:
        tarfile.data_filter(member, str(Path("target").absolute()))
    except tarfile.FilterError as error:
        return str(error)
    return ""


def tar_contents(path: Path) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Name and content of each file, in the order of `tar_entries`; each is to be read before the next is asked for."""
    with _opened(path) as (archive, source):
        for member in _members(archive):
            if member.isreg():
                yield member.name, _chunks(archive, member, path)
        source.finish()


def _chunks(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> Iterator[bytes]:
    left = member.size
    try:
        with archive.extractfile(member) as content:
            while chunk := content.read(CHUNK):
                left -= len(chunk)
                yield chunk
        if left:
            raise EOFError(f"{left:,} bytes too short")
    except TAR_ERRORS as error:
        raise DataError(f"{path}: entry {member.name!r} is damaged ({error}): download it again") from error
