"""What may leave this process, and who may read what it writes. Every rule about patient data stands here.

- Trackers get numbers with listed names (`remote_values`, `remote_config`); nothing else is ever handed to them.
- Consoles get no ids: `shown` puts hashes in their place and keeps the sentence in a private file.
- Folders are made with mode 0700 and files with 0600, whatever the umask (`private_directory`, `open_private`).
- What was made from credentialed data stays credentialed; where nothing is recorded, it counts as such (`is_credentialed`).
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import IO

from utils.errors import ConfigError

log = logging.getLogger("ssgvqa.utils.privacy")  # not `get_logger`: utils.utils is built on this module

# Trackers

REMOTE_PREFIXES = ("train/", "val/", "system/")
"""The only names that leave the machine."""
_REMOTE_NAME = re.compile(f"(?:{'|'.join(REMOTE_PREFIXES)})[a-z][a-z0-9_]{{0,63}}")
REMOTE_SECTIONS = ("model", "training")
"""Sections of the configuration whose numbers may leave the machine."""


def remote_values(values: Mapping[str, float]) -> dict[str, float]:
    """What may leave the machine. ValueError for any value that is not a number: no text, ever, and in names no id."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"{shown(name)} is not a number: trackers get numbers only")
    return {
        name: float(value) for name, value in values.items() if _REMOTE_NAME.fullmatch(name) and not _ID.search(name)
    }


def remote_config(config: object) -> dict[str, float]:
    """The numbers and switches of `REMOTE_SECTIONS` of a configuration; no names and no paths."""
    return {
        f"{section}.{name}": value
        for section in REMOTE_SECTIONS
        for name, value in vars(getattr(config, section)).items()
        if isinstance(value, (int, float))
    }


# Uploads

_WORD = re.compile(r"[A-Za-z_][\w.]{0,39}", re.ASCII)
"""A text inside a list or mapping of settings, such as a layer's name."""


def shareable_values(section: str, values: Mapping[str, object], words: Mapping[str, Collection[object]]) -> dict:
    """What of a section of settings may be uploaded: numbers, switches, listed words, and lists and mappings of these.

    Args:
        words: `section.name` -> the texts that this setting may have; every other text stays here.
    """
    kept = {}
    for name, value in values.items():
        listed = value in words.get(f"{section}.{name}", ()) if isinstance(value, str) else _is_plain(value)
        if listed:
            kept[name] = value
    return kept


def _is_plain(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(key) and _is_plain(inner) for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, str):
        return _WORD.fullmatch(value) is not None and without_ids(value) == value
    return value is None or isinstance(value, (bool, int, float))


# Ids

LOCAL_NAMES = Path("data_cache") / "names.log"
"""Private file, in the working folder, of the sentences whose ids were hashed on the console."""
_ID = re.compile(
    r"(?<![0-9A-Za-z])[0-9a-f]{8}(?:-[0-9a-f]{8}){4}(?![0-9A-Za-z])"  # an image
    r"|(?<![0-9A-Za-z])(?<!\d\.)[ps]?[15]\d{7}(?![0-9A-Za-z]| bytes)"  # a patient or a study
)
"""Ids as MIMIC-CXR has them, with or without the p and s of its folders."""
_salt = secrets.token_hex(8)


def new_salt() -> str:
    """For the ids of one report; nobody keeps it."""
    return secrets.token_hex(8)


def hashed_id(value: object, salt: str) -> str:
    """Twelve hex digits that name an id within one report; without the salt, which no one keeps, they do not lead to it."""
    return hashlib.sha256(f"{salt}{value}".encode()).hexdigest()[:12]


def without_ids(text: str) -> str:
    """`text` with a hash in the place of each id; the same id has the same hash as long as the process lives."""
    return _ID.sub(lambda found: "#" + hashed_id(found[0].lstrip("ps"), _salt), text)


def shown(text: str) -> str:
    """`text` as a console, and whoever collects its output, may have it: without ids.

    Where there were some, the sentence itself is added to `LOCAL_NAMES` for the person who has to find the file.
    """
    hidden = without_ids(text)
    if hidden == text:
        return text
    try:
        private_directory(LOCAL_NAMES.parent)
        with open_private(LOCAL_NAMES, "a") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {os.getpid()} {text}\n")
    except OSError as error:
        return f"{hidden} (ids are hashed; {LOCAL_NAMES} cannot be written: {error.strerror})"
    return f"{hidden} (ids are hashed; {LOCAL_NAMES} has them)"


# Modes

SHARED_GROUP = "SSGVQA_SHARED_GROUP"
"""Environment: 1 lets the group read what is written (0750 and 0640); never anybody else, and nobody may write."""
_warned: set[str] = set()


def shared_group() -> bool:
    """Whether the group may read. ConfigError for a value of `SSGVQA_SHARED_GROUP` that is neither 0 nor 1."""
    value = os.environ.get(SHARED_GROUP, "")
    if value not in ("", "0", "1"):
        raise ConfigError(f"{SHARED_GROUP}={value}: must be 1 (the group may read what is written) or 0")
    return value == "1"


def private_directory(path: str | Path) -> Path:
    """Make a folder, and those above it that are missing, for the owner alone. One that exists stays as it is.

    OSError as of `Path.mkdir`.
    """
    path = Path(path)
    try:
        _make(path)
    except FileNotFoundError:
        if path.parent == path:
            raise
        private_directory(path.parent)
        _make(path)
    return path


def _make(path: Path) -> None:
    """Nothing where it is there already: another thread or process may have been first."""
    try:
        os.mkdir(path, 0o700)
    except FileNotFoundError:
        raise
    except OSError:
        if not path.is_dir():
            raise
        return
    if shared_group():
        _set_mode(path, 0o750)


def open_private(path: str | Path, mode: str) -> IO:
    """`open` for writing; a file that is made by it is the owner's alone. Text is UTF-8."""
    path = Path(path)
    is_new = "r" not in mode and not path.exists()
    file = open(path, mode, encoding=None if "b" in mode else "utf-8", opener=_opener)  # noqa: SIM115
    if is_new and shared_group():
        _set_mode(path, 0o640)
    return file


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def make_private(folder: str | Path) -> None:
    """Give everything in a folder that this process made, and the folder, the modes of a private one.

    Files with several names (`os.link`) belong to somebody else too, and stay as they are.
    """
    for directory, _, files in os.walk(folder):
        _set_mode(Path(directory), 0o750 if shared_group() else 0o700)
        for name in files:
            _set_mode(Path(directory, name), 0o640 if shared_group() else 0o600)


def _set_mode(path: Path, mode: int) -> None:
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) and (found.st_nlink > 1 or stat.S_ISLNK(found.st_mode)):
        return
    kept = found.st_mode & stat.S_ISGID  # how a shared folder hands its group on
    if stat.S_IMODE(found.st_mode) != kept | mode:
        try:
            os.chmod(path, kept | mode)
        except OSError as error:
            _warn_once(
                str(path.parent), f"{path}: this file system sets no modes ({error.strerror}); who else can read it?"
            )


def warn_if_open(folder: str | Path) -> None:
    """Say, once, that others on this machine can read a folder that credentialed data are in or go to.

    Its mode is the user's and stays. A folder that is not there yet will be made private.
    """
    folder = Path(folder).absolute()
    if os.name == "nt" or not folder.is_dir() or not _is_open(folder):
        return
    mode = stat.S_IMODE(folder.stat().st_mode)
    _warn_once(str(folder), f"{folder} holds credentialed data and others can read it (mode {mode:04o}): chmod 700 it")


def _is_open(folder: Path) -> bool:
    """Whether anybody but the owner, and the group where that is wanted, can get at what is in a folder."""
    forbidden = 0o007 if shared_group() else 0o077
    within_reach = all(above.stat().st_mode & 0o011 for above in folder.resolve().parents)
    return within_reach and bool(folder.stat().st_mode & forbidden)


def _warn_once(key: str, message: str) -> None:
    if key not in _warned:
        _warned.add(key)
        log.warning("%s", message)


# Lineage


def is_credentialed(recorded: object) -> bool:
    """What an index, a model folder or a predictions file says of itself: only a plain "no" makes it public."""
    return recorded not in (False, "false")


LINEAGE_NOTICE = {
    "data": "Made from credentialed data: keep this file where the data are, and do not share it.",
    "model": "The data are public, but the model, or the answers, are of credentialed or unrecorded lineage: keep this file "
    "where those are, and do not share it.",
}


def lineage_notice(provenance: Mapping[str, object]) -> str:
    """What the reader of a report must know of where it comes from; empty where all of it is public."""
    if not provenance.get("credentialed"):
        return ""
    return LINEAGE_NOTICE["data" if provenance.get("credentialed_data", True) else "model"]
