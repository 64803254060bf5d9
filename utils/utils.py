"""Seeds, logging, durations and files that are either complete or absent."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import os
import random
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.errors import DataError, UserError
from utils.privacy import make_private, open_private, private_directory, shown

LOGGER_ROOT = "ssgvqa"
TEMPORARY = ".tmp-"
REPLACED = ".old-"

WRITE_REFUSALS = {
    getattr(errno, name, 0)
    for name in """
        ENOSPC EDQUOT EFBIG EROFS EACCES EPERM EIO ESTALE ENOTDIR EISDIR EEXIST ENOTEMPTY ENAMETOOLONG ELOOP
    """.split()
}
"""What a full, read-only, protected or failing disk, or a name that cannot be used, answers to a write"""


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and PyTorch (all devices)."""
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed % 2**32)  # noqa: NPY002 (libraries draw from the global generator)
    torch.manual_seed(seed)


# Logging


def get_logger(name: str) -> logging.Logger:
    """A logger below the project's own root, so that `setup_logging` does not touch the loggers of libraries."""
    return logging.getLogger(f"{LOGGER_ROOT}.{name}")


def setup_logging(logfile: str | Path | None = None, level: int = logging.INFO, rank: int = 0) -> None:
    """Send the project's messages to stderr (bare, without ids) and, with a date, to the end of the private `logfile`.

    May be called again.
    Of several processes (`rank` > 0) all but the first say only what is wrong, with their number.
    """
    root = logging.getLogger(LOGGER_ROOT)
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    root.setLevel(max(level, logging.WARNING) if rank else level)
    console = logging.StreamHandler(sys.stderr)
    console.setFormatter(_ConsoleFormatter(f"[process {rank}] %(message)s" if rank else "%(message)s"))
    root.addHandler(console)
    if logfile is not None:
        private_directory(Path(logfile).parent)
        open_private(logfile, "a").close()
        file = logging.FileHandler(logfile, encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        root.addHandler(file)
    for handler in root.handlers:  # a full disk or a closed terminal is no reason for a traceback at every line
        handler.handleError = lambda record: None


class _ConsoleFormatter(logging.Formatter):
    """For what others may collect; a log file of ours is private, and keeps the ids."""

    def format(self, record: logging.LogRecord) -> str:
        return shown(super().format(record))


def format_duration(seconds: float) -> str:
    """`42 s`, `3 min 05 s`, `2 h 07 min` or `3 d 04 h`; `unknown` for what is not a finite number."""
    if not math.isfinite(seconds):
        return "unknown"
    total = max(0, round(seconds))
    days, hours, minutes = total // 86400, total // 3600 % 24, total // 60 % 60
    if days:
        return f"{days} d {hours:02d} h"
    if hours:
        return f"{hours} h {minutes:02d} min"
    if minutes:
        return f"{minutes} min {total % 60:02d} s"
    return f"{total} s"


# Files


@contextmanager
def writing_to(place: str | Path, advice: str, kind: type[UserError] = DataError) -> Iterator[None]:
    """Around everything that writes to `place`: a write that the system refuses becomes one line with the `advice`.

    Raises:
        UserError: of this `kind`, for an OSError of `WRITE_REFUSALS`; other errors pass as they are.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in WRITE_REFUSALS:
            raise
        raise kind(f"cannot write to {place} ({os.strerror(error.errno)}); {advice}") from error


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file's bytes, hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomic(path: str | Path, data: bytes | str) -> None:
    """Write a private file so that readers, and a crash at any moment, find the old content or the new, never a part."""
    path = Path(path)
    private_directory(path.parent)
    temporary = _sibling(path, TEMPORARY)
    content = data.encode("utf-8") if isinstance(data, str) else data
    try:
        with open_private(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _fsync_directory(path.parent)


def write_json(path: str | Path, obj: object) -> None:
    """`write_atomic` of `obj` as indented JSON. NaN and infinities become null; NumPy values are numbers and lists."""
    write_atomic(path, json.dumps(_jsonable(obj), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def atomic_directory(final: str | Path) -> Iterator[Path]:
    """Yield an empty folder beside `final`; on success its files reach the disk and it takes the place of `final`, private.

    On any exception the folder is removed and `final` is as it was. A killed process can leave hidden folders behind:
    `clean_leftovers` removes them.
    """
    final = Path(final)
    private_directory(final.parent)
    temporary = private_directory(_sibling(final, TEMPORARY))
    try:
        yield temporary
        make_private(temporary)
        _fsync_tree(temporary)
        _take_place(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _fsync_directory(final.parent)


def clean_leftovers(parent: str | Path, only: str | None = None) -> list[str]:
    """Mend a folder after a kill: restore what was being replaced, delete what was half written; return the names.

    Only for a folder that no other process is writing to.

    Args:
        only: the name of a file or folder; what belongs to others stays as it is.
    """
    mended = []
    for entry in sorted(Path(parent).iterdir()):
        name, replaced, _ = entry.name[1:].rpartition(REPLACED)
        if not entry.name.startswith("."):
            continue
        if only is not None and not entry.name.startswith((f".{only}{TEMPORARY}", f".{only}{REPLACED}")):
            continue
        if replaced and TEMPORARY not in name and not (entry.parent / name).exists():
            os.rename(entry, entry.parent / name)
        elif replaced or TEMPORARY in entry.name:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        else:
            continue
        mended.append(entry.name)
    return mended


def _sibling(path: Path, kind: str) -> Path:
    return path.parent / f".{path.name}{kind}{secrets.token_hex(4)}"


def _take_place(temporary: Path, final: Path) -> None:
    """Rename `temporary` to `final`. A folder with files cannot be renamed over, so an old one steps aside first."""
    if not final.exists():
        os.rename(temporary, final)
        return
    old = _sibling(final, REPLACED)
    os.rename(final, old)
    try:
        os.rename(temporary, final)
    except BaseException:
        os.rename(old, final)
        raise
    # first: after a power cut `final` must not still be the old folder, but without its files
    _fsync_directory(final.parent)
    shutil.rmtree(old)


def _fsync_tree(folder: Path) -> None:
    for directory, _, files in os.walk(folder):
        for name in files:
            with open(os.path.join(directory, name), "rb") as file:
                os.fsync(file.fileno())
        _fsync_directory(directory)


def _fsync_directory(folder: str | Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder; its renames are durable by themselves
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _jsonable(obj: object) -> object:
    """`obj` with strict JSON values only; TypeError for what has no such form."""
    if isinstance(obj, float):
        return obj if math.isfinite(obj) else None
    if obj is None or isinstance(obj, (str, int)):
        return obj
    if isinstance(obj, dict):
        return {_json_key(key): _jsonable(value) for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [_jsonable(value) for value in obj]
    if isinstance(obj, Path):
        return str(obj)
    if hasattr(obj, "tolist"):  # NumPy and PyTorch
        return _jsonable(obj.tolist())
    raise TypeError(f"no JSON form for {type(obj).__name__}")


def _json_key(key: object) -> str:
    if isinstance(key, str):
        return key
    number = _jsonable(key)
    if isinstance(number, int) and not isinstance(number, bool):
        return str(number)
    raise TypeError(f"a JSON key must be a string or a whole number, not {type(key).__name__}")
