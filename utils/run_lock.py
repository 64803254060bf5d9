"""One process at a time in a folder: a training in its output, a download, an unpacking."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from utils.errors import CheckpointError, UserError
from utils.privacy import open_private, private_directory
from utils.utils import get_logger

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

log = get_logger(__name__)

LOCK = ".lock"


@contextmanager
def run_lock(
    folder: str | Path,
    advice: str = "choose another training.output_dir",
    kind: type[UserError] = CheckpointError,
    name: str = LOCK,
) -> Iterator[None]:
    """Hold `<folder>/<name>`; the system lets go of it when this process ends, however it ends.

    An error of this `kind`, with the `advice`, that names the owner when another process holds it.
    """
    folder = Path(folder)
    try:
        private_directory(folder)
        file = open_private(folder / name, "a+")
    except OSError as error:
        raise kind(f"{folder} cannot be written ({error.strerror}); {advice}") from error
    with file:
        if not _hold(file, folder):
            file.seek(0)
            owner = file.read().strip() or "another process"
            raise kind(f"{folder} is in use by {owner}: wait for it, end it, or {advice}")
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        file.flush()
        yield


def _hold(file: IO[str], folder: Path) -> bool:
    """Whether nobody else holds the file. One that its owner has removed since it was opened is no lock any more."""
    try:
        if fcntl:
            # not flock: loader processes inherit that, and may outlive a killed training by seconds
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:  # some network file systems cannot lock
        log.warning("%s cannot be locked (%s): start nothing else there", folder, error.strerror)
    return os.fstat(file.fileno()).st_nlink > 0
