"""Signals that ask a program to save its work and leave: SIGTERM, SIGUSR1, SIGHUP and ctrl-C.

Before and after the part of a program that has something to save, a signal ends it at once, like ctrl-C. Inside
`interruption.deferred()` the first one only leaves a mark, which the program looks at where it can stop; the second one
ends it without further ado, unless it comes together with the first.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

TRY_AGAIN = 75
"""EX_TEMPFAIL of sysexits.h: schedulers may start the same command again, and it goes on."""

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name)]


ONE_EVENT = 0.5
"""Seconds in which further signals belong to the first: a service manager sends SIGTERM and SIGHUP together, a launcher
hands on what its workers were sent directly too."""


class Interrupted(BaseException):
    """A signal asked the program to leave. Like KeyboardInterrupt no Exception, so that no handler of errors takes it."""

    def __init__(self, signum: int, saved: str = ""):
        self.signum = signum
        self.saved = saved
        name = "ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name
        super().__init__(f"stopped by {name}{': ' + saved if saved else ''}")

    @property
    def exit_code(self) -> int:
        return 130 if self.signum == signal.SIGINT else TRY_AGAIN


class Interruption:
    """What signals have asked for so far."""

    def __init__(self):
        self.signum: int | None = None
        """the first signal, if one came"""
        self._since = 0.0
        self._deferred = self._waiting = self._nothing_to_lose = False

    def install(self) -> None:
        """From here on signals come here. Only the main thread can do this; elsewhere it does nothing."""
        if threading.current_thread() is threading.main_thread():
            for signum in SIGNALS:
                signal.signal(signum, self._on_signal)

    @property
    def asked(self) -> bool:
        return self.signum is not None

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, the first signal waits until the program looks at `asked`."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Inside a deferred part: nothing is half done here, so a signal ends the block at once with Interrupted."""
        self._waiting = True
        try:
            if self._deferred and self.asked:
                raise Interrupted(self.signum)
            yield
        finally:
            self._waiting = False

    def all_saved(self) -> None:
        """Nothing can be lost any more: further signals no longer change how the program ends."""
        self._nothing_to_lose = True

    def forget(self) -> None:
        """As if no signal had come."""
        self.signum = None
        self._nothing_to_lose = False

    def _on_signal(self, signum, frame) -> None:
        if self._nothing_to_lose and self.asked:
            return
        if self.asked and time.monotonic() - self._since < ONE_EVENT:
            return
        if self.asked:  # the second one: no cleaning up, a half-written checkpoint is removed by the next run
            os._exit(128 + signum)
        self.signum, self._since = signum, time.monotonic()
        if not self._deferred:
            raise Interrupted(signum)
        _say(f"{signal.Signals(signum).name}: saving a checkpoint, then leaving (once more: leaving at once)\n")
        if self._waiting:
            raise Interrupted(signum)


def _say(text: str) -> None:
    """Straight to the file: a signal may have come in the middle of another message, and the terminal may be gone."""
    with suppress(OSError, ValueError, AttributeError):
        os.write(sys.stderr.fileno(), text.encode())


interruption = Interruption()
"""Of this process."""
