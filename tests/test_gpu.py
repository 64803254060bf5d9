"""What only a GPU can show: `./scripts/test.sh tests/test_gpu.py` on a machine that has one."""

from __future__ import annotations

import json

import pytest
import torch

from configs.mimic_cxr_config import Config
from data.loader import Layout, windows
from tests.tiny_training import make_config, make_index, make_trainer, weights_of
from training.checkpoint import step_directory
from training.processes import single
from utils import hardware_utils

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return make_index(tmp_path_factory.mktemp("index"))


def default_model(output, **training) -> Config:
    """The default configuration with random weights: ConvNeXt-Base, BERT-base, 224 pixels."""
    config = make_config(output, **training)
    config.model = Config().model
    config.model.pretrained = False
    config.data.image_size, config.data.questions_per_image = 224, 20
    return config


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_default_model_takes_bf16_steps(index, tmp_path, checkpointing):
    config = default_model(tmp_path, max_steps=3, eval_steps=3, gradient_checkpointing=checkpointing)
    trainer = make_trainer(index, config, processes=single())
    assert trainer.engine.precision.name == "bf16"
    before = weights_of(trainer)
    trainer.fit()
    assert trainer.state.skipped == 0
    assert any(not torch.equal(value, before[name]) for name, value in weights_of(trainer).items())


def test_the_host_hands_over_a_step_without_waiting(index, tmp_path):
    trainer = make_trainer(index, default_model(tmp_path, graph_none_fraction=0.3), processes=single())
    stream = windows(trainer.train_data, Layout(4, 2))
    for number in range(2):  # what is made once may wait
        last = trainer.take_step(next(stream), number)
    last.outcome.settle()
    window, done = next(stream), torch.cuda.Event()
    torch.cuda._sleep(4_000_000_000)  # cycles: one or two seconds
    torch.cuda.set_sync_debug_mode("error")
    try:
        report = trainer.take_step(window, 2)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    done.record()
    assert not done.query(), "the device is still busy"
    assert report.outcome.settle().applied and done.query()


def test_a_late_outcome_is_that_of_its_own_step(index, tmp_path):
    folders = tmp_path / "at_once", tmp_path / "late"
    for folder, late in zip(folders, (False, True), strict=True):
        trainer = make_trainer(index, make_config(folder, max_steps=6, logging_steps=1), processes=single())
        assert trainer.engine.runs_ahead
        trainer.engine.runs_ahead = late
        backward = trainer.engine.backward
        trainer.engine.backward = lambda loss, trainer=trainer, backward=backward: backward(
            loss * torch.nan if trainer.state.step in (1, 4) else loss
        )
        trainer.fit()
        assert [step for step, _ in losses_of(trainer)] == [1, 3, 4, 6]
        assert trainer.state.skipped == 2
    skipped = [(folder / "skipped_steps.jsonl").read_text() for folder in folders]
    assert skipped[0].replace("inf", "nan") == skipped[1].replace("inf", "nan")


def test_a_run_on_a_gpu_resumes(index, tmp_path):
    straight = make_trainer(index, make_config(tmp_path / "a", save_steps=4, save_total_limit=9), processes=single())
    straight.fit()
    folder = step_directory(tmp_path / "a", 4)
    resumed = make_trainer(index, make_config(tmp_path / "b"), resume=str(folder), processes=single())
    resumed.fit()
    losses = dict(losses_of(straight))
    assert [step for step, _ in losses_of(resumed)] == [5, 6, 7, 8]
    for step, loss in losses_of(resumed):
        assert loss == pytest.approx(losses[step], rel=1e-2)


def test_real_exhaustion_of_memory_shrinks_the_micro_batch(index, tmp_path):
    config = default_model(tmp_path, max_steps=1, eval_steps=10, batch_size_per_gpu=14, gradient_accumulation_steps=1)
    _, total = torch.cuda.mem_get_info()
    small = make_trainer(index, config, processes=single())
    weights = sum(p.numel() * 16 for p in small.model.parameters())  # fp32 weights, gradients and both moments
    torch.cuda.set_per_process_memory_fraction(min(1.0, (1.3 * weights + 2**30) / total))
    try:
        small.fit()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert small.state.step == 1 and small.state.micro_batch < 14


def test_the_probe_finds_a_micro_batch(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hardware_utils.main(["--probe", "--max_minutes", "3", "--json"]) == 0
    assert "training.batch_size_per_gpu" in json.dumps(json.loads(capsys.readouterr().out))


def losses_of(trainer) -> list[tuple[int, float]]:
    lines = trainer.sinks._sinks[0].lines
    return [(step, values["train/loss"]) for step, values in lines if "train/loss" in values]
