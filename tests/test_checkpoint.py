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
from utils.interruption import Interrupted, interruption


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
    data = bytearray((copy / "optimizer.safetensors").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "optimizer.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match="optimizer.safetensors is damaged"):
        checkpoint.find_checkpoint(tmp_path, str(copy))


def test_only_broken_checkpoints_is_an_error_and_no_checkpoint_is_a_fresh_start(straight_run, tmp_path):
    assert checkpoint.find_checkpoint(tmp_path, "auto") is None
    shutil.copytree(checkpoint.step_directory(straight_run[0], 8), tmp_path / "step-00000008")
    (tmp_path / "step-00000008" / "config.yaml").unlink()
    with pytest.raises(CheckpointError, match="none of the 1 checkpoints"):
        checkpoint.find_checkpoint(tmp_path, "auto")
    assert checkpoint.find_checkpoint(tmp_path, "never") is None


@pytest.mark.parametrize(
    ("section", "name", "value", "message"),
    [
        ("model", "hidden_dim", 32, "model.hidden_dim: 16 -> 32"),
        ("training", "learning_rate", 2e-3, "training.learning_rate: 0.001 -> 0.002"),
        ("data", "questions_per_image", 2, "data.questions_per_image: 3 -> 2"),
        ("training", "batch_size_per_gpu", 2, "8 image visits a step, now they are 4"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_in_one_line(
    index, straight_run, tmp_path, section, name, value, message
):
    config = make_config(tmp_path)
    setattr(getattr(config, section), name, value)
    trainer = make_trainer(index, config, resume=str(checkpoint.step_directory(straight_run[0], 8)))
    with pytest.raises(CheckpointError, match=message) as error:
        trainer.fit()
    assert "\n" not in str(error.value)


def test_another_index_is_refused(index, straight_run, tmp_path, monkeypatch):
    trainer = make_trainer(index, make_config(tmp_path), resume=str(checkpoint.step_directory(straight_run[0], 8)))
    monkeypatch.setitem(index.meta, "fingerprint", "1" * 16)
    with pytest.raises(CheckpointError, match="another index"):
        trainer.fit()


def test_what_may_change_changes(index, straight_run, tmp_path, caplog):
    config = make_config(tmp_path, logging_steps=3, batch_size_per_gpu=2, gradient_accumulation_steps=4, max_steps=9)
    trainer = make_trainer(index, config, resume=str(checkpoint.step_directory(straight_run[0], 7)))
    with caplog.at_level(logging.INFO):
        trainer.fit()
    assert trainer.state.step == 9
    assert "training.max_steps: 8 -> 9" in caplog.text


def test_old_checkpoints_are_pruned_and_each_is_a_model_folder(index, tmp_path):
    trainer = make_trainer(index, make_config(tmp_path, save_steps=2, save_total_limit=2))
    trainer.fit()
    kept = checkpoint.list_checkpoints(tmp_path)
    assert [p.name for p in kept] == ["step-00000008", "step-00000006"]
    model, *_ = SSGVQA.from_pretrained(kept[0])
    for name, value in model.state_dict().items():
        assert torch.equal(value, trainer.model.state_dict()[name])
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")], "no leftovers"


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGUSR1, 75)])
def test_signals_save_a_checkpoint_and_stop(index, tmp_path, signum, code):
    trainer = make_trainer(index, make_config(tmp_path, save_steps=1000))
    step = trainer.take_step

    def interrupted_step(window, seed):
        if trainer.state.step == 1:
            os.kill(os.getpid(), signum)
        return step(window, seed)

    trainer.take_step = interrupted_step
    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    interruption.install()
    try:
        with pytest.raises(Interrupted, match="step-00000001 is complete") as stopped:
            trainer.fit()
    finally:
        interruption.forget()
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert stopped.value.exit_code == code
    assert [p.name for p in checkpoint.list_checkpoints(tmp_path)] == ["step-00000001"]
    checkpoint.verify(checkpoint.step_directory(tmp_path, 1))


def test_a_second_run_does_not_write_over_the_first(straight_run, tmp_path):
    folder = straight_run[0]
    with pytest.raises(CheckpointError, match="--resume auto"):
        check_output(folder, "never")
    check_output(folder, "auto")
    check_output(folder, str(checkpoint.step_directory(folder, 8)))
    with pytest.raises(CheckpointError, match="earlier run"):
        check_output(folder, str(tmp_path / "elsewhere" / "step-00000001"))
    check_output(tmp_path, "never")


def test_what_the_optimizer_has_learnt_is_laid_out_like_the_weights(index, straight_run, tmp_path):
    # the fused AdamW of GPUs refuses anything else
    trainer = make_trainer(index, make_config(tmp_path), resume=str(checkpoint.step_directory(straight_run[0], 4)))
    trainer.restore()
    states = trainer.engine.optimizer.state
    assert any(not p.is_contiguous() for p in states), "channels-last weights"
    for parameter, state in states.items():
        assert state["exp_avg"].stride() == state["exp_avg_sq"].stride() == parameter.stride()
