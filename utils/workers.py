"""Worker processes that do not outlive the process that started them."""

from __future__ import annotations

import os
import threading
from multiprocessing import parent_process


def leave_with_parent() -> None:
    """In a worker process: end when the parent does, however it does.

    A worker of a pool whose parent was killed would wait for its next job for ever.
    """
    threading.Thread(target=_leave, daemon=True).start()


def _leave() -> None:
    parent_process().join()
    os._exit(1)
