"""The tiny preset as a user starts it: the launcher, two processes under DeepSpeed, interrupted, resumed, evaluated."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data.synthetic import write_release
from training import checkpoint

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    write_release(folder, studies=48, seed=1)
    return folder


@pytest.fixture
def paths(release) -> list[str]:
    data = ["--mimic_cxr_path", str(release / "mimic-cxr-jpg"), "--mimic_qa_path", str(release / "mimic-ext-cxr-qba")]
    return ["--config", "configs/tiny_config.yaml", *data, "--set", f"data.index_dir={release / 'index'}"]


@pytest.fixture
def environment() -> dict[str, str]:
    here = {"SSGVQA_USE_CURRENT_ENV": "1", "VIRTUAL_ENV": sys.prefix, "OMP_NUM_THREADS": "1"}
    return os.environ | here | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


@pytest.mark.slow
def test_two_processes_under_zero_2_survive_a_signal_and_can_be_evaluated(release, paths, environment, tmp_path):
    run = tmp_path / "run"
    command = ["./scripts/launch_distributed_training.sh", "--num_gpus", "2", *paths, "--output_dir", str(run)]
    steps = ["max_steps=30", "num_epochs=100", "eval_steps=15", "logging_steps=1", "eval_each_epoch=false"]
    command += ["--set", "deepspeed.enabled=true", "--batch_size", "8"]
    command += [part for step in steps for part in ("--set", f"training.{step}")]
    training = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    wait_for_steps(run / "metrics.jsonl", 4, training)
    training.send_signal(signal.SIGTERM)
    printed = training.communicate(timeout=120)[0]
    assert training.returncode == 75, printed
    assert "DeepSpeed" in printed and "ZeRO-2" in printed and "2 processes" in printed
    cut = checkpoint.find_checkpoint(run, "auto")
    assert 4 <= int(cut.name.removeprefix("step-")) < 30

    resumed = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert resumed.returncode == 0, resumed.stderr
    assert f"resumed from {cut}" in resumed.stderr
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "train/loss" in line] == list(range(1, 31)), "each step once"

    results = tmp_path / "results"
    command = [
        sys.executable,
        "evaluate.py",
        "--model_path",
        str(run / "best_model"),
        *paths,
        "--output_dir",
        str(results),
    ]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (results / "report.json").is_file() and (run / "best_model" / "question_only").is_dir()


def wait_for_steps(metrics: Path, steps: int, training: subprocess.Popen) -> None:
    deadline = time.monotonic() + 200
    while not metrics.is_file() or metrics.read_text().count("train/loss") < steps:
        assert time.monotonic() < deadline and training.poll() is None, training.communicate()[0]
        time.sleep(0.1)
