"""The list of a release's files with their checksums, as PhysioNet has it: SHA256SUMS.txt."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from utils.errors import DataError
from utils.utils import sha256_of

SAMPLE = 2**16
"""Bytes at either end of a file that `sampled` looks at"""
NAME = "SHA256SUMS.txt"
LINE = re.compile(r"(?P<sha256>[0-9a-fA-F]{64}) [ *]?(?P<path>\S.*)")


def read_listing(path: Path) -> dict[str, str]:
    """path in the release -> SHA-256 in small letters.

    DataError: the file is missing, a line is none of a list, a path leaves the release, or two lines of a path differ.
    """
    found: dict[str, str] = {}
    for number, line in _lines(path):
        match = LINE.fullmatch(line)
        if not match:
            raise DataError(f"{path}, line {number}: not a checksum and a path; delete it, and it is downloaded again")
        name, sha256 = match["path"].removeprefix("./"), match["sha256"].lower()
        if not is_inside(name):
            raise DataError(f"{path}, line {number}: {name!r} does not lie in the release")
        if found.setdefault(name, sha256) != sha256:
            raise DataError(f"{path}, line {number}: another checksum of {name} stands above")
    if not found:
        raise DataError(f"{path} lists no file; delete it, and it is downloaded again")
    return found


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line := line.rstrip("\r\n"):
                    yield number, line
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error})") from error


def is_inside(name: str) -> bool:
    """Is it a relative path without steps upwards, drives or backslashes?"""
    parts = name.split("/")
    return "\\" not in name and "\0" not in name and ":" not in parts[0] and not ({"", ".", ".."} & set(parts))


def write_listing(folder: Path, known: Mapping[str, str] | None = None) -> None:
    """SHA256SUMS.txt of all files in `folder`; `known`: path -> SHA-256 of those that were hashed when they were written."""
    sums = dict(known or {})
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in sums:
            sums[name] = sha256_of(path)
    (folder / NAME).write_text("".join(f"{sums[name]} {name}\n" for name in sorted(sums)), encoding="utf-8")


def sampled(path: Path | str) -> tuple[int, int] | None:
    """Size of a file and the CRC-32 of its first and last 64 KiB; None where it cannot be read.

    It tells files apart whatever their times say, which a copy to another disk changes, and reads little of large ones.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            found = zlib.crc32(file.read(SAMPLE))
            if size > SAMPLE:
                file.seek(max(SAMPLE, size - SAMPLE))
                found = zlib.crc32(file.read(SAMPLE), found)
    except OSError:
        return None
    return size, found
