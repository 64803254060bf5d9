"""Forks trainings from one process that has imported everything: a run then starts in milliseconds, not seconds.

Reads one JSON line for each process to start: {"environ", "job", "out"}; writes stdout to `<out>.stdout`, stderr to
`<out>.stderr`, answers with the process id, and leaves its exit code (negative: a signal) in `<out>.code`.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from pathlib import Path


def serve() -> None:
    import torch

    os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed  # noqa: F401 (only to have it)

    from tests.fault import worker
    from utils import cli

    torch.set_num_threads(1)
    running: dict[int, str] = {}
    print("ready", flush=True)
    while True:
        if select.select([sys.stdin], [], [], 0.02)[0]:
            line = sys.stdin.buffer.raw.readline()
            if not line:
                break
            request = json.loads(line)
            pid = os.fork()
            if pid == 0:
                become(request)
                cli.run(worker.main, [json.dumps(request["job"])])
            running[pid] = request["out"]
            print(pid, flush=True)
        while running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            note_end(running.pop(pid), status)
    for pid in running:
        os.kill(pid, signal.SIGKILL)


def become(request: dict) -> None:
    """Turn a fork into the process that was asked for."""
    os.environ.update(request["environ"])
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(f"{request['out']}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
        os.close(file)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)


def note_end(out: str, status: int) -> None:
    temporary = Path(f"{out}.code.tmp")
    temporary.write_text(str(os.waitstatus_to_exitcode(status)))
    temporary.rename(f"{out}.code")


if __name__ == "__main__":
    serve()
