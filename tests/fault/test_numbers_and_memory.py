"""Losses that are no numbers, and memory that runs out."""

from __future__ import annotations

import json
import math

import pytest
import torch

from tests.fault import zygote
from tests.fault.worker import inject
from tests.tiny_training import make_trainer
from training.checkpoint import find_checkpoint, list_checkpoints, verify


def run(index, output, fault: dict, **training) -> zygote.Child:
    child = zygote.start(index, zygote.settings(output, **training), prepare=lambda trainer: inject(trainer, fault))
    child.wait()
    return child


def poisoned(steps: set[int]):
    """A fault: the gradient of these steps, counted from 0, is NaN."""

    def prepare(trainer):
        backward = trainer.engine.backward
        trainer.engine.backward = lambda loss: backward(loss * math.nan if trainer.state.step in steps else loss)

    return prepare


def skipped(output) -> list[int]:
    return [json.loads(line)["step"] for line in (output / "skipped_steps.jsonl").read_text().splitlines()]


# Numbers


def test_a_run_that_only_gets_nan_stops_and_keeps_the_checkpoint_before(index, straight, tmp_path):
    output = tmp_path / "run"
    config = zygote.settings(output, save_steps=3, max_skipped_steps=4)
    child = zygote.start(index, config, prepare=poisoned(set(range(5, 99))))
    assert child.wait() == 5
    error = child.said.splitlines()[-1]
    assert error.startswith("error: 4 steps in a row up to step 9 had losses or gradients that are not finite")
    assert "training.learning_rate" in error
    assert skipped(output) == [6, 7, 8, 9]
    for folder in list_checkpoints(output):
        verify(folder)
    assert [p.name for p in list_checkpoints(output)] == ["step-00000006", "step-00000003"]
    last_good = (output / "step-00000003" / "model.safetensors").read_bytes()
    assert last_good == (straight / "step-00000003" / "model.safetensors").read_bytes()


def test_too_many_skipped_steps_in_all_stop_the_run_too(index, tmp_path):
    config = zygote.settings(tmp_path / "run", max_skipped_steps=2, max_skipped_fraction=0.25)
    child = zygote.start(index, config, prepare=poisoned({1, 3, 5, 7, 9, 11}))
    assert child.wait() == 5
    allowed = round(0.25 * zygote.STEPS)
    assert f"error: {allowed + 1} steps up to step {2 * (allowed + 1)} had losses" in child.said
    assert skipped(tmp_path / "run") == [2, 4, 6, 8, 10][: allowed + 1]


def test_a_single_nan_is_skipped_counted_and_survives_a_resume(index, straight, tmp_path):
    output, cut = tmp_path / "run", tmp_path / "cut"
    config = zygote.settings(output, save_steps=1, save_total_limit=99)
    child = zygote.start(index, config, prepare=poisoned({4}))
    assert child.wait() == 0, child.said
    assert "step 5 skipped: its loss or gradient is not finite" in child.said
    counts = {line["step"]: line["train/skipped_steps"] for line in zygote.lines(output) if "train/lr" in line}
    assert counts == {step: int(step >= 5) for step in range(1, zygote.STEPS + 1)}
    same = [(a, b) for a, b in zip(zygote.numbers(output), zygote.numbers(straight)) if a["step"] < 5]
    assert all(a == b for a, b in same) and len(same) == 5
    weights = [(output / f"step-0000000{step}" / "model.safetensors").read_bytes() for step in (4, 5, 6)]
    assert weights[0] == weights[1] != weights[2]
    assert not any(math.isnan(value) for line in zygote.lines(output) for value in line.values() if value is not None)
    zygote.cut(output, cut, 7)
    assert zygote.start(index, zygote.settings(cut)).wait() == 0
    assert zygote.numbers(cut) == zygote.numbers(output)


# Memory


def test_a_micro_batch_that_does_not_fit_is_halved_and_the_step_stays_the_same(index, straight, tmp_path):
    output = tmp_path / "run"
    child = run(index, output, {"kind": "oom", "most": 2, "step": 3}, save_steps=5)
    assert child.code == 0, child.said
    expected = "out of memory: from step 4 on micro-batches of 2 image visits; the global batch stays 8"
    assert [line for line in child.said.splitlines() if line.startswith("out of memory")] == [expected]
    losses, whole = (
        [line["train/loss"] for line in zygote.numbers(folder) if "train/loss" in line] for folder in (output, straight)
    )
    assert losses[:3] == whole[:3]
    assert len(losses) == zygote.STEPS
    stored = json.loads((find_checkpoint(output, "auto") / "training_state.json").read_text())
    assert stored["trainer"]["micro_batch"] == 2
    again = zygote.start(
        index, zygote.settings(output, max_steps=16), prepare=lambda t: inject(t, {"kind": "oom", "most": 2})
    )
    assert again.wait() == 0
    assert "out of memory" not in again.said, "a resumed run does not try again what did not fit"


def seen_and_gradients(index, output, most: int) -> tuple[list, dict]:
    """Questions of a step in their order, and its gradient, when at most so many images fit."""
    config = zygote.settings(output)
    config.model.dropout = config.model.drop_path = 0.0
    trainer = make_trainer(index, config)
    trainer.model.eval()
    trainer.model.train = lambda mode=True: None  # the text encoder has dropout of its own
    inject(trainer, {"kind": "oom", "most": most})
    questions, gradients = [], {}
    take_step = trainer.take_step

    class Enough(Exception):
        pass

    def noted_step(loss):
        gradients.update({name: p.grad.clone() for name, p in trainer.model.named_parameters()})
        raise Enough

    def noted_window(window, seed):
        questions[:] = [row for batch in window.batches for row in batch.ids.question.tolist()]
        return take_step(window, seed)

    trainer.take_step, trainer.engine.step = noted_window, noted_step
    with pytest.raises(Enough):
        trainer.fit()
    assert trainer.state.micro_batch == min(4, most)
    return questions, gradients


def test_smaller_micro_batches_have_the_same_visits_in_the_same_order_and_the_same_gradient(
    index, tmp_path, monkeypatch
):
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)  # its kernels round otherwise for a single image
    questions, gradients = seen_and_gradients(index, tmp_path / "4", 4)
    for most in (2, 1):
        fewer = seen_and_gradients(index, tmp_path / str(most), most)
        assert fewer[0] == questions
        difference = max((fewer[1][name] - gradient).abs().max().item() for name, gradient in gradients.items())
        assert difference < 1e-6


def test_memory_for_not_even_one_image_is_one_line(index, tmp_path):
    child = run(index, tmp_path / "run", {"kind": "oom", "most": 0, "step": 4}, save_steps=3)
    assert child.code == 7
    assert child.said.splitlines()[-1].startswith("error: out of memory with one image visit at a time: lower ")
    assert find_checkpoint(tmp_path / "run", "auto").name == "step-00000003"


def test_the_memory_error_of_the_cpu_counts_too(index, tmp_path):
    def prepare(trainer):
        forward = trainer.engine.forward
        trainer.engine.forward = lambda *args, **more: (
            len(args[0]) > 2 and torch.empty(2**60),
            forward(*args, **more),
        )[1]

    child = zygote.start(index, zygote.settings(tmp_path / "run"), prepare=prepare)
    assert child.wait() == 0, child.said
    assert "out of memory: from step 1 on micro-batches of 2 image visits" in child.said
