"""A signal at any moment: a checkpoint of the last finished step, exit code 75, and the resumed run is the same run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fault import trials, zygote
from training import checkpoint
from training.checkpoint import step_directory
from utils.interruption import ONE_EVENT

GRACE = 2.0
"""Seconds from signal to end; a step and a save of these runs take 0.1"""

RANDOM = [(seed, (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)[seed % 3]) for seed in range(20)]


def assert_left_well(index, straight, output: Path, stop: trials.Stop, signum=signal.SIGTERM) -> None:
    assert stop.code == 75, stop.said
    assert stop.seconds < GRACE
    assert stop.saved == stop.done
    folder = step_directory(output, stop.saved)
    name = signal.Signals(signum).name
    assert stop.said.splitlines()[-1] == f"stopped by {name}: {folder} is complete, go on with --resume auto"
    child = zygote.start(index, zygote.settings(output))
    assert child.wait() == 0, child.said
    assert zygote.numbers(output) == zygote.numbers(straight)
    assert zygote.digests(output) == zygote.digests(straight)


@pytest.mark.parametrize(("seed", "signum"), zygote.first(3, RANDOM))
def test_a_signal_at_a_random_moment(index, straight, tmp_path, seed, signum):
    output = tmp_path / "run"
    assert_left_well(
        index, straight, output, trials.signalled_at_random(index, output, random.Random(seed), signum), signum
    )


def stop_at_mark(index, config, prepare) -> trials.Stop:
    output = Path(config.training.output_dir)
    child = zygote.start(index, config, prepare=prepare)
    return trials.signalled(child, output, signal.SIGTERM, Path(f"{output}.mark").exists)


def test_a_signal_in_the_first_step(index, straight, tmp_path):
    output = tmp_path / "run"
    stop = stop_at_mark(index, zygote.settings(output), zygote.before_step(0, trials.marks(output)))
    assert stop.saved == 0
    assert_left_well(index, straight, output, stop)


def test_a_signal_inside_a_look_at_the_validation_split(index, straight, tmp_path):
    output = tmp_path / "run"

    def prepare(trainer):
        batch, mark = trainer.val_data.batch, trials.marks(output)
        trainer.val_data.batch = lambda *args: (trainer.state.step == 8 and mark(), batch(*args))[1]

    stop = stop_at_mark(index, zygote.settings(output), prepare)
    assert stop.saved == 8 and not any("val/headline" in line and line["step"] == 8 for line in zygote.lines(output))
    assert_left_well(index, straight, output, stop)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_signal_while_the_run_waits_for_data(index, straight, tmp_path, workers):
    output = tmp_path / "run"
    config = zygote.settings(output)
    config.data.num_workers = workers

    def prepare(trainer):
        batch, mark = trainer.train_data.batch, trials.marks(output, lambda: time.sleep(20))
        trainer.train_data.batch = lambda epoch, which: (epoch.number == 1 and mark(), batch(epoch, which))[1]

    stop = stop_at_mark(index, config, prepare)
    assert stop.saved >= 2, "epoch 1 begins after step 4; loader processes are ahead of it"
    assert_left_well(index, straight, output, stop)


def test_a_signal_while_a_checkpoint_is_written(index, straight, tmp_path):
    output = tmp_path / "run"
    save_file, mark = checkpoint.save_file, trials.marks(output, lambda: time.sleep(0.3))

    def prepare(trainer):
        checkpoint.save_file = lambda *args, **kwargs: (mark(), save_file(*args, **kwargs))[1]

    assert_left_well(index, straight, output, stop_at_mark(index, zygote.settings(output), prepare))


def test_a_signal_after_the_last_step(index, straight, tmp_path):
    output = tmp_path / "run"

    def prepare(trainer):
        settle, mark = trainer.saver.settle, trials.marks(output)
        trainer.saver.settle = lambda: (trainer.finished() and mark(), settle())[1]

    stop = stop_at_mark(index, zygote.settings(output), prepare)
    assert stop.saved == zygote.STEPS
    assert_left_well(index, straight, output, stop)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_second_signal_ends_the_run_at_once(index, tmp_path, second):
    output = tmp_path / "run"
    child = zygote.start(index, zygote.settings(output), prepare=zygote.before_step(3, lambda: time.sleep(20)))
    zygote.until(lambda: zygote.reached(output, 3))
    child.send(signal.SIGTERM)
    zygote.until(lambda: "saving a checkpoint, then leaving" in child.said)
    assert not child.ended()
    child.send(signal.SIGHUP)  # together with the first, as at the end of a session: the same event
    time.sleep(ONE_EVENT + 0.1)
    assert not child.ended()
    started = time.monotonic()
    child.send(second)
    assert child.wait() == 128 + second
    assert time.monotonic() - started < 1


def test_ctrl_c_has_the_exit_code_of_ctrl_c(index, tmp_path):
    output = tmp_path / "run"
    child = zygote.start(index, zygote.settings(output))
    stop = trials.signalled(child, output, signal.SIGINT, lambda: zygote.reached(output, 2))
    assert (stop.code, stop.saved) == (130, stop.done)
    assert stop.said.splitlines()[-1].startswith("stopped by ctrl-C: ")


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="needs /proc to see when a process listens to signals"
)
def test_a_signal_before_training_is_one_line(root, tmp_path):
    pipe = subprocess.PIPE
    command = [
        sys.executable,
        "train_mimic_cxr.py",
        "--config",
        "configs/tiny_config.yaml",
        "--output_dir",
        tmp_path / "run",
    ]
    process = subprocess.Popen(
        command, cwd=root, stdout=pipe, stderr=pipe, text=True, env=os.environ | {"HOME": str(tmp_path)}
    )
    status = Path(f"/proc/{process.pid}/status")

    def listens() -> bool:
        (caught,) = [line for line in status.read_text().splitlines() if line.startswith("SigCgt")]
        return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)

    zygote.until(listens)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (75, "stopped by SIGTERM\n")
    assert not (tmp_path / "run").exists()
