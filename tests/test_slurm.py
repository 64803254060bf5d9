"""The SLURM job, with commands of the same names in place of srun and scontrol."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

SRUN = """#!/usr/bin/env bash
printf '%s\\n' "$@" >"$HOME/srun"
trap 'echo USR1 >>"$HOME/signals"; exit 75' USR1
touch "$HOME/ready"
[[ -z ${FAKE_WAIT:-} ]] || for _ in {1..600}; do sleep 0.05; done
exit "${FAKE_CODE:-0}"
"""
SCONTROL = """#!/usr/bin/env bash
case $1 in
    show) echo "JobState=${FAKE_STATE:-RUNNING} Reason=None" ;;
    *) echo "$@" >>"$HOME/scontrol"; exit "${FAKE_SCONTROL:-0}" ;;
esac
"""


@pytest.fixture
def job(tmp_path):
    """Start the batch script in a copy of the scripts, as SLURM would on the first node."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    (tmp_path / "requirements.txt").write_text("")
    tools = tmp_path / ".venv" / "bin"
    tools.mkdir(parents=True)
    python = f'#!/bin/sh\n[ "$1 $2" != "-m pip" ] || exit 0\nexec {sys.executable} "$@"\n'
    for name, text in {"python": python, "srun": SRUN, "scontrol": SCONTROL}.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    started = []

    def start(*options, **variables):
        environment = {"PATH": f"{tools}:/usr/bin:/bin", "HOME": str(tmp_path), "SLURM_SUBMIT_DIR": str(tmp_path)}
        environment |= {"SLURM_JOB_ID": "7", "SLURM_NNODES": "2", "SLURM_CPUS_PER_TASK": "8", **variables}
        command = ["bash", str(tmp_path / "scripts" / "slurm" / "train.sbatch"), *options]
        process = subprocess.Popen(command, cwd="/", env=environment, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def finish(process):
    _, err = process.communicate(timeout=30)
    return process.returncode, err.splitlines()[-1]


def requeued(folder):
    return (folder / "scontrol").exists() and (folder / "scontrol").read_text() == "requeue 7\n"


def test_a_finished_job(job, tmp_path):
    process = job("--config", "configs/tiny_config.yaml", "--set", "wandb.name=two words")
    assert finish(process)[0] == 0
    assert (tmp_path / "srun").read_text().splitlines() == [
        *("--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--cpus-per-task=8"),
        *(
            "./scripts/launch_distributed_training.sh",
            "--config",
            "configs/tiny_config.yaml",
            "--set",
            "wandb.name=two words",
        ),
    ]
    assert not requeued(tmp_path)


def test_a_failed_job_is_not_requeued(job, tmp_path):
    assert finish(job(FAKE_CODE="3"))[0] == 3
    assert not requeued(tmp_path)


def test_a_job_that_shall_be_tried_again_is_requeued(job, tmp_path):
    assert finish(job(FAKE_CODE="75")) == (75, "requeued: goes on from its checkpoint")
    assert requeued(tmp_path)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"SLURM_RESTART_COUNT": "50"}, "requeued 50 times already"),
        ({"SLURM_RESTART_COUNT": "2", "SSGVQA_MAX_REQUEUES": "2"}, "requeued 2 times already"),
        ({"FAKE_STATE": "CANCELLED"}, "cancelled"),
        ({"FAKE_STATE": "COMPLETING"}, "cancelled"),
        ({"FAKE_SCONTROL": "1"}, "scontrol could not requeue it"),
    ],
)
def test_a_job_that_cannot_or_shall_not_be_requeued(job, tmp_path, variables, message):
    code, last = finish(job(FAKE_CODE="75", **variables))
    assert code == 75
    assert last.startswith(message)
    assert requeued(tmp_path) == ("FAKE_SCONTROL" in variables)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM], ids=lambda number: number.name)
def test_signals_are_handed_on_and_the_step_is_waited_for(job, tmp_path, number):
    process = job(FAKE_WAIT="1")
    end = time.monotonic() + 30
    while not (tmp_path / "ready").exists():
        assert time.monotonic() < end, "srun was not started"
        time.sleep(0.02)
    os.kill(process.pid, number)
    assert finish(process)[0] == 75
    assert (tmp_path / "signals").read_text() == "USR1\n"
    assert requeued(tmp_path)


def test_a_job_from_elsewhere_says_where_to_submit_it(job, tmp_path):
    code, last = finish(job(SLURM_SUBMIT_DIR="/"))
    assert code == 2
    assert "is not the root of the repository" in last


def test_the_head_asks_for_what_the_script_needs():
    text = (ROOT / "scripts" / "slurm" / "train.sbatch").read_text()
    options = [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")]
    assert {"--ntasks-per-node=1", "--signal=B:USR1@120", "--requeue", "--open-mode=append"} <= set(options)
    before = text[: text.index("#SBATCH")]
    assert all(line.startswith("#") for line in before.splitlines() if line), (
        "sbatch stops reading at the first command"
    )
