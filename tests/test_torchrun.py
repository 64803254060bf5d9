"""utils.torchrun ends as its workers ended; signals reach them once. The workers here import no torch."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from utils.torchrun import exit_code

WORKER = """
import json, os, signal, sys, time
from pathlib import Path

folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
received = []
{body}
"""
WAIT = """
def note(number, frame):
    received.append(number)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
    signal.signal(number, note)
(folder / f"ready-{rank}").touch()
end = time.monotonic() + 60
while not received and time.monotonic() < end:
    time.sleep(0.02)
"""


@pytest.fixture
def launch(tmp_path, root):
    """Start the launcher on a worker with this body; it is ended with the test."""
    started = []

    def start(body, *options, workers=2, arguments=(), standalone=True):
        script = tmp_path / "worker.py"
        script.write_text(WORKER.format(body=body))
        command = [
            sys.executable,
            "-m",
            "utils.torchrun",
            *["--standalone"] * standalone,
            f"--nproc_per_node={workers}",
        ]
        process = subprocess.Popen(
            [*command, *options, str(script), str(tmp_path), *arguments],
            cwd=root,
            env={name: value for name, value in os.environ.items() if name != "LOGLEVEL"},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def wait_for(folder, names, seconds=60):
    end = time.monotonic() + seconds
    while not all((folder / name).exists() for name in names):
        assert time.monotonic() < end, "the workers did not start"
        time.sleep(0.02)


def finish(process):
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err.splitlines()


@pytest.mark.parametrize(
    ("codes", "received", "expected"),
    [
        ([0, 0], 0, 0),
        ([75, 0], 0, 75),
        ([75, 75], signal.SIGTERM, 75),
        ([0, 0], signal.SIGTERM, 0),
        ([1, 3], 0, 3),
        ([3, 75], signal.SIGTERM, 3),
        ([-9], 0, 1),
        ([75, -9], signal.SIGUSR1, 1),
        ([75, -10], signal.SIGUSR1, 75),
        ([-15, -15], signal.SIGTERM, 75),
        ([-15], 0, 1),
        ([-2, -2], signal.SIGINT, 130),
        ([130, 130], signal.SIGINT, 130),
    ],
)
def test_exit_codes(codes, received, expected):
    assert exit_code(codes, received) == expected


def test_success_and_arguments_that_look_like_options_of_torchrun(launch, tmp_path):
    body = 'json.dump([sys.argv[2:], os.environ["WORLD_SIZE"]], open(folder / f"{rank}.json", "w"))'
    arguments = ["--start", "4", "--role", "x", "-m", "--max", "--", "--set", "a.b=two words", "--nnodes=9"]
    assert finish(launch(body, arguments=arguments)) == (0, "", [])
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == [arguments, "2"]


def test_the_first_failure_gives_the_code_and_the_others_are_ended(launch):
    body = "if rank == 1: sys.exit(3)\ntime.sleep(60)"
    code, _, lines = finish(launch(body))
    assert code == 3
    assert lines == ["rank 0: killed by SIGTERM, ended by the launcher", "rank 1: exit code 3"]


def test_the_cause_may_end_later_than_its_consequence(launch):
    assert finish(launch("time.sleep(0 if rank else 0.7)\nsys.exit(1 if rank else 3)"))[0] == 3


def test_a_killed_worker_is_named(launch):
    code, _, lines = finish(launch("if rank == 1: os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(60)"))
    assert code == 1
    assert lines[1] == "rank 1: killed by SIGKILL (the kernel does this when memory runs out)"


def test_a_failure_is_tried_again_and_leaving_is_not(launch, tmp_path):
    body = 'open(folder / f"{rank}.log", "a").write("x")\nsys.exit(int(sys.argv[2]))'
    assert finish(launch(body, "--max_restarts", "1", arguments=["4"], workers=1))[0] == 4
    assert (tmp_path / "0.log").read_text() == "xx"
    code, _, lines = finish(launch(body, "--max-restarts=3", arguments=["75"], workers=1))
    assert (code, lines[0]) == (75, "rank 0: left to be started again (exit code 75)")
    assert (tmp_path / "0.log").read_text() == "xxx"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1], ids=lambda number: number.name)
def test_a_signal_reaches_every_worker_once_and_nobody_is_hurried(launch, tmp_path, number):
    """Rank 1 leaves at once, rank 0 after a while; a second signal to the launcher changes nothing."""
    body = WAIT + 'time.sleep(1.5 - rank)\n(folder / f"{rank}.json").write_text(json.dumps(received))\nsys.exit(75)'
    process = launch(body)
    wait_for(tmp_path, ["ready-0", "ready-1"])
    process.send_signal(number)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    code, _, lines = finish(process)
    assert code == 75
    assert lines[-1].startswith("the run was interrupted and can go on")
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == [number]


def test_workers_that_leave_by_themselves_have_time(launch, tmp_path):
    body = "if rank == 0:\n    time.sleep(1)\n    (folder / 'saved').touch()\nsys.exit(75)"
    assert finish(launch(body))[0] == 75
    assert (tmp_path / "saved").exists()


def test_a_worker_that_does_not_leave_is_killed_with_its_children(launch, tmp_path):
    body = (
        "import subprocess\nchild = subprocess.Popen(['sleep', '60'])\n(folder / 'child').write_text(str(child.pid))\n"
    )
    process = launch(body + WAIT + "time.sleep(60)", "--shutdown_timeout", "1", workers=1)
    wait_for(tmp_path, ["ready-0"])
    process.send_signal(signal.SIGTERM)
    code, _, lines = finish(process)
    assert code == 1
    assert lines[0].startswith("rank 0: killed by SIGKILL")
    assert "ended by the launcher" in lines[0]
    child = int((tmp_path / "child").read_text())
    assert not running(child)


def running(pid):
    """Whether this process runs; one that nobody has waited for does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)], ids=["term", "int"])
def test_a_signal_while_waiting_for_the_other_node(launch, number, expected):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    meeting = ["--nnodes=2", "--node_rank=0", "--master_addr=127.0.0.1", f"--master_port={port}"]
    process = launch("", *meeting, standalone=False)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            break
        time.sleep(0.05)
    process.send_signal(number)
    assert finish(process)[0] == expected
