"""Checkpoints and resuming: bit for bit, whole or absent, verified before use."""

from __future__ import annotations

import logging
import os
import shutil
import signal

import pytest
import torch

from models.mimic_vqa_model import SSGVQA
from tests.tiny_training import make_config, make_index, make_trainer, weights_of
from training import checkpoint
from training.run import check_output
from utils.errors import CheckpointError


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return make_index(tmp_path_factory.mktemp("index"))


@pytest.fixture(scope="module")
def straight_run(index, tmp_path_factory):
    """A run of eight steps with all its checkpoints: (folder, final weights, logged lines)."""
    folder = tmp_path_factory.mktemp("straight")
    trainer = make_trainer(index, make_config(folder, save_steps=1, save_total_limit=20))
    trainer.fit()
    return folder, weights_of(trainer), trainer.sinks._sinks[0].lines


@pytest.mark.parametrize("step", [1, 3, 4, 7])
def test_resume_is_bit_identical_at_every_place_of_an_epoch(index, straight_run, tmp_path, step):
    folder, final, lines = straight_run
    trainer = make_trainer(index, make_config(tmp_path), resume=str(checkpoint.step_directory(folder, step)))
    trainer.fit()
    assert trainer.sinks._sinks[0].started == step
    for name, value in weights_of(trainer).items():
        assert torch.equal(value, final[name]), name
    losses = {s: values["train/loss"] for s, values in lines if "train/loss" in values}
    resumed = {s: values["train/loss"] for s, values in trainer.sinks._sinks[0].lines if "train/loss" in values}
    assert resumed == {s: loss for s, loss in losses.items() if s > step}


def test_truncated_newest_checkpoint_is_skipped_and_named_in_the_log(straight_run, tmp_path, caplog):
    copy = tmp_path / "run"
    shutil.copytree(straight_run[0], copy)
    newest = checkpoint.step_directory(copy, 8) / "model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-10])
    (checkpoint.step_directory(copy, 7) / "MANIFEST.json").unlink()
    with caplog.at_level(logging.WARNING):
        found = checkpoint.find_checkpoint(copy, "auto")
    assert found == checkpoint.step_directory(copy, 6)
    assert "step-00000008" in caplog.text and "model.safetensors" in caplog.text
    assert "step-00000007" in caplog.text and "MANIFEST.json" in caplog.text


def test_a_changed_byte_is_found_by_its_hash(straight_run, tmp_path):
    copy = tmp_path / "step-00000008"
    shutil.copytree(checkpoint.step_directory(straight_run[0], 8), copy)
    data = bytearray((copy / "training_state.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "training_state.pt").write_bytes(data)
    with pytest.raises(CheckpointError, match="training_state.pt is damaged"):
        checkpoint.find_checkpoint(tmp_path, str(copy))


def test_only_broken_checkpoints_is_an_error_and_no_checkpoint_is_a_fresh_start(straight_run, tmp_path):
    assert checkpoint.find_checkpoint(tmp_path, "auto") is None
    shutil.copytree(checkpoint.step_directory(straight_run[0], 8), tmp_path / "step-00000008")
    (tmp_path / "step-00000008" / "config.yaml").unlink()
    with pytest.raises(CheckpointError, match="none of the 1 checkpoints"):
        checkpoint.find_checkpoint(tmp_path, "auto")
    assert checkpoint.find_checkpoint(tmp_path, "never") is None


def test_a_checkpoint_of_another_model_is_refused_in_one_line(index, straight_run, tmp_path):
    config = make_config(tmp_path)
    config.model.hidden_dim = 32
    trainer = make_trainer(index, config, resume=str(checkpoint.step_directory(straight_run[0], 8)))
    with pytest.raises(CheckpointError, match="does not fit this run") as error:
        trainer.fit()
    assert "\n" not in str(error.value)


def test_old_checkpoints_are_pruned_and_each_is_a_model_folder(index, tmp_path):
    trainer = make_trainer(index, make_config(tmp_path, save_steps=2, save_total_limit=2))
    trainer.fit()
    kept = checkpoint.list_checkpoints(tmp_path)
    assert [p.name for p in kept] == ["step-00000008", "step-00000006"]
    model, *_ = SSGVQA.from_pretrained(kept[0])
    for name, value in model.state_dict().items():
        assert torch.equal(value, trainer.model.state_dict()[name])
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")], "no leftovers"


def test_ctrl_c_saves_a_checkpoint_and_stops(index, tmp_path, monkeypatch):
    trainer = make_trainer(index, make_config(tmp_path, save_steps=1000))
    step = trainer.train_step

    def interrupted_step(window):
        if trainer.state.step == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return step(window)

    monkeypatch.setattr(trainer, "train_step", interrupted_step)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    assert signal.getsignal(signal.SIGINT) is before
    assert [p.name for p in checkpoint.list_checkpoints(tmp_path)] == ["step-00000002"]


def test_a_second_run_does_not_write_over_the_first(straight_run, tmp_path):
    folder = straight_run[0]
    with pytest.raises(CheckpointError, match="--resume auto"):
        check_output(folder, "never")
    check_output(folder, "auto")
    check_output(folder, str(checkpoint.step_directory(folder, 8)))
    with pytest.raises(CheckpointError, match="earlier run"):
        check_output(folder, str(tmp_path / "elsewhere" / "step-00000001"))
    check_output(tmp_path, "never")
