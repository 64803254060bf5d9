"""torchrun that ends as its workers ended: `python -m utils.torchrun [options of torchrun] SCRIPT [its options]`.

    0   all workers finished
    75  they wrote a checkpoint and left because of a signal: start again to go on (EX_TEMPFAIL of sysexits.h)
    2-7 the error of the first worker that failed (utils/errors.py); 1 if it failed otherwise or was killed

torchrun itself ends with 1 after every failure and with a traceback of some screens. Here SIGTERM, SIGINT, SIGHUP, SIGQUIT
and SIGUSR1 reach each worker once, and only the worker, not its loader processes; workers have --shutdown_timeout
seconds (120) to leave. A worker that is ended by SIGTERM or SIGUSR1 itself had not begun to train: that counts as 75.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time

from utils import cli
from utils.errors import ConfigError
from utils.interruption import TRY_AGAIN

PATIENCE = 120.0
"""Seconds for a checkpoint, between a signal, or the first worker that leaves with 75, and SIGKILL."""
GRACE = 30.0
"""Seconds that the others have after one worker failed: they wait for it in vain and save nothing."""
SETTLE = 2.0
"""Seconds before they are told so: the one that knows the cause may need longer to end than those that lost it."""
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)


class Leave(Exception):
    """Workers left and shall not be started again."""


def exit_code(codes: list[int], received: int = 0) -> int:
    """One code for all workers from theirs, the earliest failures first; `received`: the signal that was handed on."""
    preempted = {TRY_AGAIN, *(-number for number in (signal.SIGTERM, signal.SIGUSR1) if number == received)}
    failures = [code for code in codes if code not in {0, *preempted}]
    if not failures:
        return TRY_AGAIN if preempted & set(codes) else 0
    if received and set(failures) == {-received}:
        return 128 + received
    return next((code for code in failures if code > 1), 1)


class Watch:
    """The workers of this node: hands signals on to them, waits for them, and knows how they ended."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self.patience = patience
        self.context = None  # torch's SubprocessContext, once workers run
        self.received = 0
        self.deadline = float("inf")
        self.stopped: set[int] = set()
        self._lock = threading.Lock()

    # Signals

    def listen(self) -> None:
        """A thread receives the signals: the main thread may be deep in C++, waiting for other nodes."""
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        self._sockets = reader, writer
        self.keep_handlers()
        threading.Thread(target=self._serve, args=(reader,), daemon=True).start()

    def keep_handlers(self) -> None:
        for number in FORWARDED:
            signal.signal(number, lambda *_: None)  # what is to be done is done by the thread

    def _serve(self, reader: socket.socket) -> None:
        while True:
            for number in reader.recv(16):
                if number in FORWARDED:
                    self._receive(number)

    def _receive(self, number: int) -> None:
        with self._lock:
            if not self.received:
                self.received, self.deadline = number, time.monotonic() + self.patience
                for process in self.running().values():
                    process.send_signal(number)
        if not self.running():  # waiting for other nodes: the main thread might notice in a quarter of an hour
            os._exit(self.code())

    # What replaces methods of torch's SubprocessContext

    def start(self, context, original) -> None:
        with self._lock:
            if self.received:
                raise Leave
            self.keep_handlers()  # torch has just put its own there, which would raise an exception anywhere
            original(context)
            self.context = context

    def poll(self, context, original):
        if time.monotonic() > self.deadline:
            self.close()
        result = original(context)
        if result is not None and (self.received or self.code() == TRY_AGAIN):
            raise Leave  # and no restart, whatever --max_restarts says
        return result

    def close(self) -> None:
        """Wait for the workers that still run, if they can be expected to leave by themselves, and end the rest."""
        failed = self.code() not in (0, TRY_AGAIN)
        if self.received:
            left = self.deadline - time.monotonic()
            self._wait(min(left, GRACE) if failed else left)
        else:
            self._wait(SETTLE if failed else self.patience)
        running = self.running()
        self.stopped |= set(running)
        if not self.received:
            for process in running.values():
                process.terminate()
            self._wait(GRACE)
        for process in self.running().values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its loader processes too
            process.wait()

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while self.running() and time.monotonic() < end:
            time.sleep(0.05)

    # How they are

    def _processes(self) -> dict:
        if self.context is None:
            return {}
        handlers = self.context.subprocess_handlers
        return {int(self.context.envs[local]["RANK"]): handler.proc for local, handler in handlers.items()}

    def running(self) -> dict:
        """Rank -> process."""
        return {rank: process for rank, process in self._processes().items() if process.poll() is None}

    def code(self) -> int:
        """The exit code for those that have ended; what the launcher ended counts only where nothing else failed."""
        ended = {rank: code for rank, process in self._processes().items() if (code := process.poll()) is not None}
        if not ended and self.received:  # before any worker ran: nothing was lost
            return exit_code([-self.received], self.received)
        alone = exit_code([code for rank, code in ended.items() if rank not in self.stopped], self.received)
        return exit_code(list(ended.values()), self.received) if alone in (0, TRY_AGAIN) else alone

    def report(self) -> list[str]:
        """One line for each rank that did not end with 0."""
        return [
            f"rank {rank}: {_describe(code)}{', ended by the launcher' if rank in self.stopped else ''}"
            for rank, process in sorted(self._processes().items())
            if (code := process.poll()) not in (0, None)
        ]


def _describe(code: int) -> str:
    if code == TRY_AGAIN:
        return "left to be started again (exit code 75)"
    if code >= 0:
        return f"exit code {code}"
    names = {number.value: number.name for number in signal.Signals}
    hint = " (the kernel does this when memory runs out)" if code == -signal.SIGKILL else ""
    return f"killed by {names.get(-code, f'signal {-code}')}{hint}"


def _take_over(watch: Watch) -> None:
    """Put the methods of `watch` in the place of those of torch's agent that start, poll and end the workers."""
    from torch.distributed.elastic.multiprocessing.api import SubprocessContext

    start, poll = SubprocessContext._start, SubprocessContext._poll
    SubprocessContext._start = lambda context: watch.start(context, start)
    SubprocessContext._poll = lambda context: watch.poll(context, poll)
    SubprocessContext._close = lambda *_, **__: watch.close()
    if "LOGLEVEL" not in os.environ:  # our own lines say the same
        for name in ("multiprocessing.api", "agent.server.api"):
            logging.getLogger(f"torch.distributed.elastic.{name}").setLevel(logging.CRITICAL)


def _run(argv: list[str], watch: Watch) -> None:
    from torch.distributed import DistNetworkError, DistStoreError, run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    parser = run.get_args_parser()
    parser.allow_abbrev = False  # or an option of the script such as --start would be an ambiguous one of torchrun
    args = parser.parse_args(argv)
    if (seconds := getattr(args, "shutdown_timeout", None)) is not None:
        watch.patience = float(seconds)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torchrun's default too, which it tells in seven lines
    _take_over(watch)
    with contextlib.suppress(ChildFailedError, Leave):
        try:
            run.run(args)
        except (DistNetworkError, DistStoreError) as error:
            where = f"{args.master_addr}:{args.master_port or 29500}"
            reason = str(error).splitlines()[0]
            raise ConfigError(
                f"the nodes did not meet at {where} ({reason}): check that --master_addr is node 0, that the port is free "
                "and open, and that each node got --nnodes and its own --node_rank"
            ) from None


def main(argv: list[str]) -> int:
    watch = Watch()
    watch.listen()
    _run(argv, watch)
    code = watch.code()
    for line in watch.report():
        print(line, file=sys.stderr)
    if code == TRY_AGAIN:
        print("the run was interrupted and can go on: start it again with the same options", file=sys.stderr)
    return code


if __name__ == "__main__":
    cli.run(main)
