"""What only a GPU can show: `./scripts/test.sh tests/test_gpu.py` on a machine that has one."""

from __future__ import annotations

import json

import pytest
import torch

from configs.mimic_cxr_config import Config
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
