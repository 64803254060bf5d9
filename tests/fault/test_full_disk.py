"""A disk that is full, protected, failing or gone: one line, exit code 4, and the checkpoint before is as it was."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
from collections import namedtuple
from pathlib import Path

import pytest

from tests.fault import power_cut, zygote
from tests.fault.failing import Disk
from tests.fault.unprivileged import NOBODY, public_folder
from tests.tiny_training import make_config, make_trainer
from training import checkpoint, saver
from training.checkpoint import find_checkpoint, list_checkpoints, verify
from utils.errors import CheckpointError
from utils.utils import clean_leftovers

LIMITS = [100_000, 300_000, 2_000, 4_100, 218_000, 219_000, 441_000]
"""Bytes of a file; a checkpoint has files of 113 to 441,072"""


def last_line(child: zygote.Child) -> str:
    """The only line of an error; no traceback."""
    assert "Traceback" not in child.said
    assert len([line for line in child.said.splitlines() if line.startswith("error")]) == 1
    return child.said.splitlines()[-1]


@pytest.mark.parametrize("limit", zygote.first(2, LIMITS))
def test_a_disk_that_gets_full_in_the_middle_of_a_checkpoint(index, tmp_path, limit):
    resource = pytest.importorskip("resource", reason="this system does not limit the size of files")
    output = tmp_path / "run"

    def fill_the_disk():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    config = zygote.settings(output, save_steps=3, logging_steps=1000, eval_steps=1000)
    child = zygote.start(index, config, prepare=zygote.before_step(4, fill_the_disk))
    assert child.wait() == 4
    said = last_line(child)
    assert said.startswith(f"error: checkpoint {output}/step-00000006 cannot be written: ")
    assert "File too large" in said and " GB free); free space or choose another training.output_dir" in said
    assert find_checkpoint(output, "auto").name == "step-00000003"
    assert zygote.leftovers(output) == []
    if limit == 100_000:
        assert zygote.start(index, config).wait() == 0, "with space again"


@pytest.mark.parametrize("limit", [1_000, 0])
def test_a_log_that_cannot_be_written(index, tmp_path, limit):
    resource = pytest.importorskip("resource", reason="this system does not limit the size of files")
    output = tmp_path / "run"

    def fill_the_disk():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    child = zygote.start(index, zygote.settings(output), prepare=zygote.before_step(4, fill_the_disk))
    assert child.wait() == 4, "also when the message itself cannot be written"
    if limit:
        assert last_line(child).startswith(
            f"error: cannot write to {output}/metrics.jsonl (File too large); free space"
        )
    assert zygote.start(index, zygote.settings(output)).wait() == 0


def test_on_a_full_disk_the_oldest_checkpoint_makes_room(tmp_path, caplog, monkeypatch):
    for step in (1, 2, 3):
        checkpoint_of(tmp_path, step, limit=3)
    with caplog.at_level(logging.WARNING), Disk(5, errno.ENOSPC).failing():
        checkpoint_of(tmp_path, 4, limit=3)
    assert [p.name[-1] for p in list_checkpoints(tmp_path)] == ["4", "3", "2"]
    for folder in list_checkpoints(tmp_path):
        verify(folder)
    assert "No space left on device" in caplog.text and "once more without step-00000001" in caplog.text


def checkpoint_of(output: Path, step: int, limit: int = 2) -> Path:
    state = checkpoint.TrainingState(step, checkpoint.EngineState({}, {"steps": step}), {"step": step}, {})
    return checkpoint.save_checkpoint(output, state, limit, lambda folder: power_cut.write_model(folder, step))


def operations(work: Path, action) -> int:
    disk = Disk(0, 0)
    with disk.failing():
        action(work)
    return disk.count


def refusal(disk: Disk, action) -> str:
    """The message of the CheckpointError, empty when there was none."""
    try:
        with disk.failing():
            action()
    except CheckpointError as error:
        return str(error)
    return ""


CASES = [(errno.ENOSPC, 1), (errno.EIO, 3), (errno.EIO, 1), (errno.EIO, 2), (errno.ENOSPC, 2), (errno.ENOSPC, 3)]


@pytest.mark.parametrize(("number", "kept"), zygote.first(2, CASES))
def test_any_operation_may_fail_while_a_checkpoint_is_written(tmp_path, number, kept):
    before = tmp_path / "before"
    before.mkdir()
    for step in range(1, kept + 1):
        checkpoint_of(before, step, limit=3)
    total = operations(shutil.copytree(before, tmp_path / "count"), lambda output: checkpoint_of(output, 9, kept))
    assert total > 30
    outcomes = set()
    for nth in range(1, total + 1):
        output = shutil.copytree(before, tmp_path / str(nth))
        failed = refusal(Disk(nth, number), lambda output=output: checkpoint_of(output, 9, kept))
        if failed:
            assert os.strerror(number) in failed and str(output) in failed and "GB free" in failed
        names = [p.name for p in list_checkpoints(output)]
        newest = find_checkpoint(output, "auto").name
        assert newest == names[0], "no half-written checkpoint has a name"
        assert newest == "step-00000009" or (failed and newest == f"step-0000000{kept}")
        clean_leftovers(output)
        assert zygote.leftovers(output) == []
        outcomes.add((newest, bool(failed)))
        shutil.rmtree(output)
    assert ("step-00000009", False) in outcomes, "a failure while the oldest is deleted is a warning"
    assert kept == 3 or (f"step-0000000{kept}", True) in outcomes


def test_any_operation_may_fail_while_the_best_model_is_replaced(tmp_path):
    write = power_cut.write_best
    before = tmp_path / "before"
    before.mkdir()
    old = power_cut.crash_disk.as_tree(write(before, 1))
    new = power_cut.crash_disk.as_tree(write(tmp_path / "new", 2))
    total = operations(shutil.copytree(before, tmp_path / "count"), lambda output: write(output, 2))
    for nth in range(1, total + 1):
        output = shutil.copytree(before, tmp_path / str(nth))
        failed = refusal(Disk(nth, errno.EIO), lambda output=output: write(output, 2))
        assert not failed or os.strerror(errno.EIO) in failed
        found = power_cut.crash_disk.as_tree(output / "best_model")
        assert found == new or (failed and found == old)
        clean_leftovers(output)
        assert power_cut.crash_disk.as_tree(output / "best_model") == found
        assert zygote.leftovers(output) == []


Usage = namedtuple("Usage", "total used free")


def test_too_little_space_is_said_before_the_first_step(index, tmp_path, monkeypatch):
    trainer = make_trainer(index, make_config(tmp_path))
    monkeypatch.setattr(saver.shutil, "disk_usage", lambda folder: Usage(10**12, 10**12, 10_000))
    with pytest.raises(CheckpointError) as caught:
        trainer.fit()
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}: 0.00 GB are free and checkpoints will need 0.0")
    assert "training.save_total_limit" in message and trainer.state.step == 0


def test_checkpoints_that_are_there_already_need_no_space_again(index, tmp_path, monkeypatch):
    make_trainer(index, make_config(tmp_path, save_steps=2)).fit()
    free = 1_500_000
    monkeypatch.setattr(saver.shutil, "disk_usage", lambda folder: Usage(10**12, 10**12, free))
    make_trainer(index, make_config(tmp_path, save_steps=2), resume="auto").fit()
    with pytest.raises(CheckpointError, match="free space"):
        make_trainer(index, make_config(tmp_path / "fresh", save_steps=2)).fit()


def as_nobody(action) -> None:
    if os.geteuid() == 0:
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
    action()


def test_an_output_folder_where_nothing_may_be_written(index):
    with public_folder() as folder:
        for output in (folder / "new", folder):
            config = zygote.settings(output)
            child = zygote.fork(
                lambda config=config: as_nobody(lambda: zygote.train(index, config)), Path(f"{folder}.said")
            )
            assert child.wait() == 4
            assert child.said == (
                f"error: {output} cannot be written (Permission denied); choose another training.output_dir\n"
            )
        os.unlink(child.log)


def test_an_output_folder_that_becomes_protected(index):
    with public_folder() as folder:
        output = folder / "run"
        output.mkdir()
        if os.geteuid() == 0:
            os.chown(output, NOBODY, NOBODY)
        config = zygote.settings(output, eval_steps=1000)
        protect = zygote.before_step(4, lambda: os.chmod(output, 0o555))
        action = lambda: as_nobody(lambda: zygote.train(index, config, prepare=protect))  # noqa: E731
        child = zygote.fork(action, Path(f"{folder}.said"))
        assert child.wait() == 4
        assert "step-00000006 cannot be written: Permission denied" in last_line(child)
        verify(output / "step-00000003")
        os.unlink(child.log)


@pytest.mark.parametrize("what", ["checkpoint", "best model"])
def test_an_output_folder_that_vanishes(index, tmp_path, what):
    output = tmp_path / "run"
    rest = {"eval_steps": 1000} if what == "checkpoint" else {"save_steps": 1000, "eval_steps": 6}
    vanish = zygote.before_step(4, lambda: shutil.rmtree(output))
    child = zygote.start(index, zygote.settings(output, **rest), prepare=vanish)
    assert child.wait() == 4
    assert f"{output} is gone" in last_line(child)
    assert not output.exists(), "nothing is begun again without the rest of the run"
