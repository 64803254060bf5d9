"""Ends a process that hangs, with the stacks of all its threads in a file."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from utils.privacy import open_private, private_directory

HUNG = 6
"""Exit code of a process that its watchdog ended."""


class Watchdog:
    """Wants to hear `beat` at least every `seconds`.

    A thread looks after the program; should the program keep that thread from running too (a C function that holds the
    interpreter), a timer of `faulthandler` in C does the same a little later.
    """

    def __init__(self, path: Path | str, seconds: float, name: str = "process 0"):
        self.path, self.seconds, self.name = Path(path), seconds, name
        self._doing, self._last, self._allowed = "starting", time.monotonic(), seconds
        self._stop = threading.Event()
        self._file = self._thread = None

    def start(self) -> None:
        """Begin to watch; with `seconds` 0 nothing is watched."""
        if not self.seconds:
            return
        private_directory(self.path.parent)
        self._file = open_private(self.path, "a")
        self.beat(self._doing)
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def beat(self, doing: str) -> None:
        """The program moves; `doing` is what the report will say if this was the last sign of life."""
        self._doing, self._last = doing, time.monotonic()

    @contextlib.contextmanager
    def patient(self, doing: str, factor: float = 5.0) -> Iterator[None]:
        """Inside, allow `factor` times as long: for what is slow with right, such as a full disk cache."""
        before, self._allowed = self._allowed, factor * self.seconds
        self.beat(doing)
        try:
            yield
        finally:
            self._allowed = before
            self.beat("after " + doing)

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()  # it may be about to start the timer once more
            faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        pause = min(1.0, self.seconds / 4)
        while not self._stop.wait(pause):
            silent = time.monotonic() - self._last
            if silent > self._allowed:
                self._report(silent)
                os._exit(HUNG)
            faulthandler.dump_traceback_later(1.25 * self._allowed + 4 * pause, exit=True, file=self._file)

    def _report(self, silent: float) -> None:
        message = f"{self.name} hangs: no progress for {silent:.0f} s since {self._doing}"
        with tempfile.TemporaryFile("w+", encoding="utf-8") as stacks:
            faulthandler.dump_traceback(file=stacks, all_threads=True)
            stacks.seek(0)
            text = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}; its threads:\n{stacks.read()}\n"
        # in one piece: other processes of the run may hang too and write to the same file
        os.write(self._file.fileno(), text.encode())
        with contextlib.suppress(OSError):
            print(f"{message}; the stacks of its threads are in {self.path}", file=sys.stderr, flush=True)
