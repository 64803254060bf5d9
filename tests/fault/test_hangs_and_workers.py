"""Loader processes that die or fail, and programs that hang."""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from data.loader import make_loader
from tests.fault import zygote
from tests.tiny_training import make_trainer
from training.checkpoint import find_checkpoint
from utils.errors import DataError

# Loader processes


def in_epoch(trainer, epoch: int, action) -> None:
    """Call `action` in the process that loads the first batch of an epoch."""
    batch = trainer.train_data.batch
    trainer.train_data.batch = lambda visits, which: (visits.number == epoch and action(), batch(visits, which))[1]


def with_workers(output: Path, **training):
    config = zygote.settings(output, save_steps=2, **training)
    config.data.num_workers = 2
    return config


def kill_yourself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_loader_process_is_named_and_the_run_can_go_on(index, straight, tmp_path):
    output, started = tmp_path / "run", time.monotonic()
    child = zygote.start(index, with_workers(output), prepare=lambda trainer: in_epoch(trainer, 1, kill_yourself))
    assert child.wait(20) == 3
    assert time.monotonic() - started < 10
    error = child.said.splitlines()[-1]
    assert error.startswith("error: a process that loads data has died (DataLoader worker (pid")
    assert "as when memory runs out" in error and "lower data.num_workers" in error and "Traceback" not in child.said
    assert zygote.start(index, with_workers(output)).wait() == 0
    assert zygote.digests(output) == zygote.digests(straight)


def test_a_loader_process_killed_while_the_run_computes_is_named_too(index, tmp_path):
    def kill_one():
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        time.sleep(1)

    child = zygote.start(index, with_workers(tmp_path / "run"), prepare=zygote.before_step(2, kill_one))
    assert child.wait(20) == 3
    assert "error: a process that loads data has died" in child.said


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_the_user_in_a_loader_process_keeps_its_words(index, tmp_path, workers):
    def fail():
        raise DataError("image-0007: not a picture; mend it")

    config = with_workers(tmp_path / "run")
    config.data.num_workers = workers
    child = zygote.start(index, config, prepare=lambda trainer: in_epoch(trainer, 1, fail))
    assert child.wait(20) == 3
    assert child.said.splitlines()[-1] == "error: image-0007: not a picture; mend it"
    assert find_checkpoint(tmp_path / "run", "auto")


def test_an_unexpected_error_in_a_loader_process_is_an_internal_error(index, tmp_path):
    child = zygote.start(index, with_workers(tmp_path / "run"), prepare=lambda t: in_epoch(t, 1, lambda: 1 // 0))
    assert child.wait(20) == 1
    assert child.said.splitlines()[-1].startswith("internal error: ZeroDivisionError: ")


def test_errors_of_batches_reach_who_reads_them(index, tmp_path):
    trainer = make_trainer(index, zygote.settings(tmp_path))
    loader = make_loader(trainer.val_data, 2)
    next(loader)
    trainer.val_data.batch = lambda *args: (_ for _ in ()).throw(DataError("broken"))
    with pytest.raises(DataError, match="^broken$"):
        next(loader)


@pytest.mark.parametrize("workers", [1, 3])
def test_no_loader_process_outlives_a_run_that_ends_inside_an_epoch(index, tmp_path, workers):
    config = with_workers(tmp_path / "run", max_steps=2)
    config.data.num_workers = workers
    started = time.monotonic()
    child = zygote.start(index, config, prepare=lambda trainer: setattr(zygote, "kept_alive", trainer))
    assert child.wait(20) == 0
    assert time.monotonic() - started < 5


def test_a_loader_that_is_left_early_ends_its_own_processes_at_once_though_they_are_busy(index, tmp_path):
    trainer = make_trainer(index, zygote.settings(tmp_path))
    before = set(multiprocessing.active_children())
    other = make_loader(trainer.train_data, 1, num_workers=1)
    batch = trainer.train_data.batch
    trainer.train_data.batch = lambda epoch, which: (which[0] > 0 and time.sleep(20), batch(epoch, which))[1]
    loader = make_loader(trainer.train_data, 1, num_workers=2)
    next(other), next(loader)
    assert len(set(multiprocessing.active_children()) - before) == 3
    started = time.monotonic()
    loader.close()
    assert time.monotonic() - started < 2
    assert len(set(multiprocessing.active_children()) - before) == 1
    next(other)
    other.close()
    assert set(multiprocessing.active_children()) == before


# Hangs


def events(output: Path) -> str:
    return (output / "events.log").read_text()


def a_function_that_hangs() -> None:
    time.sleep(60)


def seconds_to_end(child: zygote.Child, output: Path, step: int) -> float:
    zygote.until(lambda: zygote.reached(output, step) or child.ended())
    started = time.monotonic()
    child.wait(20)
    return time.monotonic() - started


def test_a_step_that_hangs_ends_the_run_with_the_stacks(index, tmp_path):
    output = tmp_path / "run"
    child = zygote.start(
        index, zygote.settings(output, hang_timeout=2), prepare=zygote.before_step(2, a_function_that_hangs)
    )
    assert seconds_to_end(child, output, 2) < 5
    assert child.code == 6
    assert "process 0 hangs: no progress for 2 s since waiting for data" in events(output)
    assert "in a_function_that_hangs" in events(output) and "Thread 0x" in events(output)
    assert f"the stacks of its threads are in {output}/events.log" in child.said
    assert zygote.start(index, zygote.settings(output, hang_timeout=2)).wait() == 0


def test_a_c_function_that_holds_the_interpreter_is_ended_too(index, tmp_path):
    output = tmp_path / "run"

    def hold_the_interpreter():
        time.sleep(0.7)  # the watchdog has looked once
        ctypes.PyDLL(None).sleep(20)

    child = zygote.start(
        index, zygote.settings(output, hang_timeout=1), prepare=zygote.before_step(2, hold_the_interpreter)
    )
    assert seconds_to_end(child, output, 2) < 5
    assert child.code == 1, "the timer in C knows no other exit code"
    assert "in hold_the_interpreter" in events(output)


def test_a_look_and_a_save_may_take_longer(index, tmp_path):
    output = tmp_path / "run"

    def prepare(trainer):
        save = trainer.model.save_pretrained
        slow = lambda *args, **more: (threads_are("MainThread") and time.sleep(2), save(*args, **more))[1]  # noqa: E731
        trainer.model.save_pretrained = slow

    def threads_are(name):
        import threading

        return threading.current_thread().name == name

    child = zygote.start(index, zygote.settings(output, hang_timeout=1, max_steps=4), prepare=prepare)
    assert child.wait() == 0, child.said
    assert events(output) == ""


def test_without_a_time_out_nothing_is_watched(index, tmp_path):
    output = tmp_path / "run"
    child = zygote.start(
        index, zygote.settings(output, hang_timeout=0), prepare=zygote.before_step(2, lambda: time.sleep(1.5))
    )
    assert child.wait() == 0
    assert not (output / "events.log").exists()
    assert json.loads((output / "metrics.jsonl").read_text().splitlines()[-1])["step"] == zygote.STEPS
