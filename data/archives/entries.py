"""What an archive says that it holds, and the judgement on it: before anything is written."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from utils.errors import DataError

MAX_TOTAL_BYTES = 400 * 2**30
MAX_ENTRIES = 4_000_000
"""The largest archive of a release has about 0.6 million files and folders."""
MAX_RATIO = 200
RATIO_FREE_BYTES = 2**20
"""What is smaller than this may have any compression ratio; what is larger at most `MAX_RATIO`, and so all together."""
CHUNK = 2**20

Progress = Callable[[int, int], None]
"""Called with (bytes written so far, bytes in all)."""

_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode categories of what a name does not show: control and format characters, halves of pairs, line ends."""


@dataclass(frozen=True)
class Entry:
    """A file or folder in an archive."""

    name: str
    """as the archive has it"""
    size: int
    """bytes when unpacked"""
    version: str
    """a checksum or a time: other when the content is another"""
    is_folder: bool = False
    refusal: str = ""
    """why it must not be extracted, for a reason of this kind of archive"""


def listing_hash(entries: Iterable[Entry]) -> str:
    """SHA-256 (hex) over the sorted names, sizes and versions of the files: changes whenever some content does."""
    lines = sorted(f"{e.name}\t{e.version}\t{e.size}" for e in entries if not e.is_folder)
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def checked_files(entries: Iterable[Entry], archive: Path, max_total_bytes: int) -> dict[PurePosixPath, Entry]:
    """Relative path -> entry for every file, in their order; DataError for the first entry that is not safe.

    Entries are taken one by one: what is refused is not read on.
    """
    most = max(RATIO_FREE_BYTES, MAX_RATIO * archive.stat().st_size)
    files: dict[PurePosixPath, Entry] = {}
    folded: set[str] = set()
    total = 0
    for number, entry in enumerate(entries, 1):
        reason = name_refusal(entry.name) or entry.refusal
        path = PurePosixPath(entry.name)
        if not reason and number > MAX_ENTRIES:
            reason = f"there are more than {MAX_ENTRIES:,} files and folders"
        if not reason and not entry.is_folder:
            key = _fold(path)
            total += entry.size
            if key in folded:
                reason = "its name is there twice (upper and lower case count as equal)"
            elif total > max_total_bytes:
                reason = f"the files before and with it take more than {max_total_bytes:,} bytes"
            elif total > most:
                reason = f"the archive unpacks to more than {MAX_RATIO} times its size"
            folded.add(key)
            files[path] = entry
        if reason:
            raise _unsafe(archive, entry.name, reason)
    for path in files:
        if any(_fold(parent) in folded for parent in path.parents):
            raise _unsafe(archive, str(path), "lies inside another file")
    return files


def _unsafe(archive: Path, name: str, reason: str) -> DataError:
    return DataError(f"{archive} is not safe to extract: entry {name!a}: {reason}")


def name_refusal(name: str) -> str:
    """Why nothing may be extracted under this name; empty when it may."""
    plain = unicodedata.normalize("NFKC", name)  # some systems take full-width dots and slashes for plain ones
    if any(unicodedata.category(c) in _HIDDEN for c in name):
        return "control character in the name"
    if "\\" in plain:
        return "backslash in the name"
    if plain.startswith("/") or re.match(r"[A-Za-z]:", plain):
        return "absolute path"
    if ".." in plain.split("/"):
        return "leaves the target folder"
    if not PurePosixPath(name).parts:
        return "empty name"
    return ""


def _fold(path: PurePosixPath) -> str:
    return unicodedata.normalize("NFC", str(path)).casefold()
