"""Runs that are killed at any moment and resumed are, to the last bit, runs that nothing happened to."""

from __future__ import annotations

import os
import random
import signal
import socket
import time

import pytest

from models.mimic_vqa_model import SSGVQA
from tests.fault import trials, zygote
from training.checkpoint import step_directory
from utils.run_lock import run_lock

KILLS = zygote.first(3, range(20))
SAVES = zygote.first(1, [6, 30])
CUTS = zygote.first(4, [1, 4, 6, 7, 8, 2, 3, 5, 9, 10, 11, 12, 13])


def test_the_straight_run_has_what_the_others_are_compared_in(straight):
    lines = zygote.numbers(straight)
    assert [line["step"] for line in lines if "train/loss" in line] == list(range(1, zygote.STEPS + 1))
    assert [line["step"] for line in lines if "val/headline" in line] == [4, 8, 12, 14]
    assert len({line["train/loss"] for line in lines if "train/loss" in line}) == zygote.STEPS
    assert {line["train/epoch"] for line in lines if "train/epoch" in line} >= {0, 1, 2, 3}


@pytest.mark.parametrize("seed", KILLS)
def test_a_run_killed_at_random_steps_ends_like_one_that_was_not(index, straight, tmp_path, seed):
    codes = trials.killed_and_resumed(index, tmp_path / "run", random.Random(seed))
    assert set(codes[:-1]) <= {-signal.SIGKILL, 0} and codes[-1] == 0
    assert zygote.numbers(tmp_path / "run") == zygote.numbers(straight)
    assert zygote.digests(tmp_path / "run") == zygote.digests(straight)


@pytest.mark.parametrize("kills", SAVES)
def test_killed_while_saving_the_newest_checkpoint_is_sound_and_the_next_start_cleans_up(index, tmp_path, kills):
    found = trials.killed_while_saving(index, tmp_path / "run", random.Random(kills), kills + 1)[:kills]
    assert [trial for trial in found if trial.found < trial.announced] == []
    assert [trial for trial in found if not trial.cleaned] == []
    assert any(trial.left for trial in found), "no kill hit a checkpoint that was being written"


@pytest.mark.parametrize("step", CUTS)
def test_resuming_at_every_step_gives_the_same_run(index, straight, tmp_path, step):
    zygote.cut(straight, tmp_path / "run", step)
    config = zygote.settings(tmp_path / "run", save_steps=1000)
    config.data.num_workers = step % 2 * 2
    child = zygote.start(index, config)
    assert child.wait() == 0, child.said
    assert f"resumed from {step_directory(tmp_path / 'run', step)}" in child.said
    assert zygote.numbers(tmp_path / "run") == zygote.numbers(straight)
    assert zygote.digests(tmp_path / "run") == zygote.digests(straight)


def test_a_run_that_goes_on_in_another_folder_has_a_best_model_there(index, straight, tmp_path):
    for step in (5, zygote.STEPS):
        config = zygote.settings(tmp_path / f"from-{step}", save_steps=1000)
        child = zygote.start(index, config, str(step_directory(straight, step)))
        assert child.wait() == 0, child.said
        assert "the best of the looks from here on" in child.said
        SSGVQA.from_pretrained(tmp_path / f"from-{step}" / "best_model")


@pytest.mark.parametrize("workers", zygote.first(1, [3, 1]))
def test_any_number_of_loader_processes_gives_the_same_run(index, straight, tmp_path, workers):
    config = zygote.settings(tmp_path / "run", save_steps=1000)
    config.data.num_workers = workers
    child = zygote.start(index, config)
    assert child.wait() == 0, child.said
    assert zygote.numbers(tmp_path / "run") == zygote.numbers(straight)
    assert zygote.digests(tmp_path / "run") == zygote.digests(straight)


def test_a_cut_between_two_lines_of_the_log_changes_neither(index, tmp_path):
    whole, cut = (zygote.settings(tmp_path / name, logging_steps=4, save_steps=3) for name in ("whole", "cut"))
    assert zygote.start(index, whole).wait() == 0
    killed = zygote.start(index, cut, prepare=zygote.before_step(7, lambda: os.kill(os.getpid(), signal.SIGKILL)))
    assert killed.wait() == -signal.SIGKILL
    assert zygote.start(index, cut).wait() == 0
    assert f"resumed from {step_directory(tmp_path / 'cut', 6)}" in (tmp_path / "cut" / "train.log").read_text()
    assert zygote.numbers(tmp_path / "cut") == zygote.numbers(tmp_path / "whole")
    assert [line["step"] for line in zygote.numbers(tmp_path / "cut") if "train/loss" in line] == [4, 8, 12, 14]


# Two runs in one folder


def test_of_two_starts_in_one_folder_the_second_names_the_first(index, tmp_path):
    config = zygote.settings(tmp_path / "run")
    first = zygote.start(index, config, prepare=zygote.before_step(2, lambda: time.sleep(60)))
    zygote.until(lambda: zygote.reached(tmp_path / "run", 2))
    second = zygote.fork(lambda: zygote.train(index, config), tmp_path / "second")
    assert second.wait() == 4
    owner = f"is in use by process {first.pid} on {socket.gethostname()} since 20"
    assert len(second.said.splitlines()) == 1 and owner in second.said
    first.kill()
    third = zygote.start(index, config)
    assert third.wait() == 0, "the lock of a killed process is taken over"


def test_a_lock_is_held_by_nobody_after_its_run(tmp_path):
    for _ in range(2):
        with run_lock(tmp_path):
            assert f"process {os.getpid()} on" in (tmp_path / ".lock").read_text()
