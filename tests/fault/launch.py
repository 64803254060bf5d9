"""Starts small trainings of one or several processes and collects what they say."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
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


def start(job: dict, processes: int = 1) -> list[subprocess.Popen]:
    """The processes of a run, meeting at a free port of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = []
    for rank in range(processes):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        if processes > 1:
            environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        command = [sys.executable, "-m", "tests.fault.worker", json.dumps(job)]
        pipe = subprocess.PIPE
        running.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True))
    return running


def finish(running: list[subprocess.Popen], timeout: float = 120) -> Ended:
    """Wait for all; a process that outlives the time-out is killed and fails the test."""
    codes, reports, stderr = [], [], []
    for process in running:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            for other in running:
                other.kill()
            raise
        lines = [line for line in out.splitlines() if line.startswith("REPORT ")]
        codes.append(process.returncode)
        reports.append(json.loads(lines[-1].removeprefix("REPORT ")) if lines else None)
        stderr.append(err)
    return Ended(codes, reports, stderr)


def run(job: dict, processes: int = 1, timeout: float = 120) -> Ended:
    return finish(start(job, processes), timeout)
