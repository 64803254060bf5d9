"""One program at a time in a folder."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from utils.errors import CheckpointError, DataError, UserError
from utils.privacy import open_private, private_directory
from utils.utils import get_logger

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

log = get_logger(__name__)

LOCK = ".lock"


@contextmanager
def run_lock(folder: str | Path) -> Iterator[None]:
    """Hold `<folder>/.lock` while a training writes there; the system lets go of it when this process ends, however it ends.

    CheckpointError that names the owner when another process holds it.
    """
    folder = Path(folder)
    with _locked(folder / LOCK, folder, "training.output_dir", CheckpointError):
        yield


@contextmanager
def build_lock(folder: str | Path) -> Iterator[None]:
    """Hold `.<folder's name>.lock` beside a folder that is being built, and remove it. DataError as `run_lock`."""
    folder = Path(folder)
    lock = folder.with_name(f".{folder.name}{LOCK}")
    with _locked(lock, folder, "data.index_dir", DataError):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


@contextmanager
def _locked(lock: Path, folder: Path, setting: str, error_class: type[UserError]) -> Iterator[None]:
    try:
        private_directory(lock.parent)
        file = open_private(lock, "a+")
    except OSError as error:
        raise error_class(f"{folder} cannot be written ({error.strerror}); choose another {setting}") from error
    with file:
        if not _hold(file, folder):
            file.seek(0)
            owner = file.read().strip() or "another process"
            raise error_class(
                f"{folder} is in use by {owner}: wait for it, end it, or choose another {setting}"
            ) from None
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        file.flush()
        yield


def _hold(file: IO[str], folder: Path) -> bool:
    """Whether nobody else holds the file. One that its owner has removed since it was opened is no lock any more."""
    try:
        if fcntl:
            # not flock: processes that are forked inherit that, and may outlive a killed program by seconds
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:  # some network file systems cannot lock
        log.warning("%s cannot be locked (%s): start nothing else that writes there", folder, error.strerror)
    return os.fstat(file.fileno()).st_nlink > 0
