"""Starts small trainings of one or several processes on this machine and collects what they say."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass
class Ended:
    """All processes of a run after their end, in the order of ranks."""

    codes: list[int]
    reports: list[dict | None]
    stderr: list[str]

    @property
    def losses(self) -> dict[str, float]:
        return self.reports[0]["losses"]


class Group:
    """The running processes of one training."""

    def __init__(self, pids: list[int], outs: list[str]):
        self.pids, self._outs = pids, outs

    def kill(self, rank: int, signum: int = signal.SIGKILL) -> None:
        os.kill(self.pids[rank], signum)

    def end(self, timeout: float = 90) -> Ended:
        """Wait for all; processes that outlive the time-out are killed and fail the test."""
        deadline = time.monotonic() + timeout
        files = [Path(f"{out}.code") for out in self._outs]
        while not all(file.exists() for file in files):
            if time.monotonic() > deadline:
                for pid, file in zip(self.pids, files, strict=True):
                    if not file.exists():
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                raise TimeoutError("\n".join(Path(f"{out}.stderr").read_text()[-2000:] for out in self._outs))
            time.sleep(0.02)
        codes = [int(file.read_text()) for file in files]
        reports = []
        for out in self._outs:
            lines = [line for line in Path(f"{out}.stdout").read_text().splitlines() if line.startswith("REPORT ")]
            reports.append(json.loads(lines[-1].removeprefix("REPORT ")) if lines else None)
        return Ended(codes, reports, [Path(f"{out}.stderr").read_text() for out in self._outs])


class Launcher:
    """See `tests.fault.server`."""

    def __init__(self):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        self._folder = tempfile.TemporaryDirectory()
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.fault.server"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        while self._server.stdout.readline().strip() != "ready":  # libraries may say something first
            assert self._server.poll() is None
        self._started = 0

    def start(self, job: dict, processes: int = 1) -> Group:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        pids, outs = [], []
        for rank in range(processes):
            environment = {}
            if processes > 1:
                environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
                environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            out = f"{self._folder.name}/{self._started}-{rank}"
            self._server.stdin.write(json.dumps({"environ": environment, "job": job, "out": out}) + "\n")
            self._server.stdin.flush()
            pids.append(int(self._server.stdout.readline()))
            outs.append(out)
        self._started += 1
        return Group(pids, outs)

    def run(self, job: dict, processes: int = 1, timeout: float = 90) -> Ended:
        return self.start(job, processes).end(timeout)

    def close(self) -> None:
        self._server.stdin.close()
        self._server.wait(10)
        self._folder.cleanup()
