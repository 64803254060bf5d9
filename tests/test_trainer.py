"""Training: the step, the loop and the engine."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from configs.mimic_cxr_config import TrainingConfig
from data.label_space import Head
from data.loader import Layout, Window, make_loader, num_batches, windows
from models.mimic_vqa_model import SSGVQA
from tests.tiny_training import make_config, make_index, make_trainer, weights_of
from training import checkpoint
from training import trainer as trainer_module
from training.engine import build_engine, build_schedule, choose_precision, scaled_learning_rate
from training.graph_dropout import NONE, ORACLE, GraphMix, draw_graphs
from training.trainer import step_seed
from utils.errors import ConfigError, NonFiniteError


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return make_index(tmp_path_factory.mktemp("index"))


# The step


def gradients_of(trainer, window) -> dict[str, torch.Tensor]:
    """What backward passes leave before the update."""
    step, found = trainer.engine.step, {}

    def record(loss):
        found.update({n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None})
        return step(loss)

    trainer.engine.step = record
    trainer.take_step(window, seed=0)
    return found


def test_accumulated_micro_batches_have_the_gradient_of_one_large_batch(index, tmp_path):
    config = make_config(tmp_path, graph_none_fraction=0.3, graph_oracle_fraction=0.3)
    config.model.dropout = config.model.drop_path = 0.0
    gradients = []
    for size in (8, 4, 2, 3):
        trainer = make_trainer(index, config)
        trainer.model.eval()
        trainer.model.train = lambda mode=True: None  # dropout stays off
        gradients.append(gradients_of(trainer, next(windows(trainer.train_data, Layout(8, size)))))
    for other in gradients[1:]:
        assert gradients[0].keys() == other.keys()
        for name, gradient in gradients[0].items():
            assert torch.allclose(gradient, other[name], atol=2e-5), name


def test_every_parameter_gets_a_gradient(index, tmp_path):
    trainer = make_trainer(index, make_config(tmp_path, graph_none_fraction=0.5))
    found = gradients_of(trainer, next(windows(trainer.train_data, Layout(8, 8))))
    assert [name for name, _ in trainer.model.named_parameters() if name not in found] == []


def test_padding_reaches_every_parameter_and_changes_nothing(index, tmp_path):
    trainer = make_trainer(index, make_config(tmp_path))
    (batch,) = next(windows(trainer.train_data, Layout(4, 4))).batches
    padding = dataclasses.replace(batch, padding=True)
    alone = gradients_of(make_trainer(index, trainer.config), Window([batch], 4))
    padded = gradients_of(make_trainer(index, trainer.config), Window([batch, padding], 4))
    only = gradients_of(trainer, Window([padding], 4))
    for name, gradient in alone.items():
        assert torch.equal(gradient, padded[name]), name
        assert not only[name].any(), name


def test_non_finite_steps_leave_the_weights_and_stop_the_run_when_they_go_on(index, tmp_path):
    trainer = make_trainer(index, make_config(tmp_path, max_skipped_steps=3))
    before = weights_of(trainer)
    trainer.engine.backward = lambda loss: (loss * math.nan).backward()
    with pytest.raises(NonFiniteError, match="3 steps in a row"):
        trainer.fit()
    assert trainer.state.step == 3
    for name, value in weights_of(trainer).items():
        assert torch.equal(value, before[name]), name
    lines = [json.loads(line) for line in (tmp_path / "skipped_steps.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all(line["index_rows"] for line in lines)


def test_graph_dropout_mixes_per_image(index, tmp_path):
    trainer = make_trainer(index, make_config(tmp_path))
    batch = next(make_loader(trainer.train_data, 3)).on("cpu")
    prediction = trainer.model.predict_graph(trainer.model.encode_images(batch.images))
    graph = GraphMix(torch.tensor([0, NONE, ORACLE]), batch.graph)(prediction)
    own = prediction.graph()
    assert graph.exists.tolist() == [True, False, True]
    assert torch.equal(graph.entity_probs[0], own.entity_probs[0]) and torch.equal(graph.boxes[0], own.boxes[0])
    effusion = index.vocabulary.entity_index["pleural effusion"]
    assert graph.entity_probs[2, 0, effusion] == 1 and graph.entity_probs[2].sum() == 3, (
        "one finding, one of two regions"
    )
    known = batch.graph.box_mask[2]
    assert known.any() and torch.equal(graph.boxes[2][known], batch.graph.boxes[2][known])


def test_graph_dropout_follows_its_fractions():
    torch.manual_seed(0)
    choice = draw_graphs(torch.rand(20_000), TrainingConfig(graph_none_fraction=0.15, graph_oracle_fraction=0.1))
    assert (choice == NONE).float().mean().item() == pytest.approx(0.15, abs=0.01)
    assert (choice == ORACLE).float().mean().item() == pytest.approx(0.10, abs=0.01)
    assert (draw_graphs(torch.rand(100), TrainingConfig(graph_none_fraction=0, graph_oracle_fraction=0)) == 0).all()


def test_step_seeds_differ_by_step_and_process():
    assert len({step_seed(seed, step, rank) for seed in (0, 1) for step in range(50) for rank in (0, 1)}) == 200


# The loop


def test_the_last_window_of_an_epoch_may_be_smaller_and_none_is_lost(index, tmp_path):
    trainer = make_trainer(index, make_config(tmp_path, max_steps=0, num_epochs=2, eval_steps=1000, save_steps=1000))
    batches = num_batches(trainer.train_data, 4)
    assert batches % 2 == 1, "the test wants a partial window"
    assert trainer.total_steps == batches + 1, "two epochs of (batches + 1) / 2 windows"
    trainer.fit()
    assert trainer.state.questions == 2 * trainer.train_data.num_questions
    assert (trainer.state.epoch, trainer.state.visits) == (2, 0)


def test_best_model_is_the_best_look_and_early_stopping_ends_the_run(index, tmp_path, monkeypatch):
    scores = iter([0.2, 0.6, 0.5, 0.4, 0.9])

    class Look:
        def __init__(self, headline):
            self.headline = headline

        def numbers(self):
            return {"val/headline": self.headline}

        def as_json(self):
            empty = {"n": 0, "balanced_accuracy": None, "micro_f1": None}
            return {"headline": self.headline, "chexpert_auroc": None, "heads": {head.value: empty for head in Head}}

    monkeypatch.setattr(trainer_module, "validate", lambda *args: Look(next(scores)))
    trainer = make_trainer(index, make_config(tmp_path, max_steps=20, eval_steps=2, early_stopping_patience=2))
    best = trainer.fit()
    assert trainer.state.step == 8, "two looks without a better score after the one at step 4"
    assert (trainer.state.best_score, trainer.state.best_step) == (0.6, 4)
    stored = json.loads((best / "metrics.json").read_text())
    assert stored["step"] == 4 and stored["validation"]["headline"] == 0.6
    assert checkpoint.list_checkpoints(tmp_path)[0].name == "step-00000008", "a run that stops early can be continued"


def test_a_run_learns_and_its_best_model_loads(index, tmp_path):
    config = make_config(tmp_path, max_steps=24, eval_steps=12, learning_rate=5e-3, save_steps=1000)
    trainer = make_trainer(index, config)
    best = trainer.fit()
    lines = trainer.sinks._sinks[0].lines
    losses = [values["train/loss"] for _, values in lines if "train/loss" in values]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    looks = [step for step, values in lines if "val/headline" in values]
    assert looks == [12, 24]
    _, _, stored, vocabulary = SSGVQA.from_pretrained(best)
    assert vocabulary == index.vocabulary and stored.training.seed == 7
    card = (best / "README.md").read_text()
    assert "no clinical meaning" in card and "Not for clinical use" in card
    for text in index.texts(np.arange(index.num_texts)):
        assert text not in card, "no question in the card"


def test_the_trainer_never_reads_the_test_split(index, tmp_path):
    trainer = make_trainer(index, make_config(tmp_path))
    assert {trainer.train_data.split, trainer.val_data.split} == {"train", "validate"}


def test_an_epoch_of_balanced_draws_has_as_many_steps_as_one_of_all_questions(index, tmp_path):
    config = make_config(tmp_path, max_steps=500, num_epochs=2)
    of_epochs = make_trainer(index, config).total_steps
    config.data.draw = "balanced"
    assert make_trainer(index, config).total_steps == of_epochs < 500
    config.training.max_steps = 3
    assert make_trainer(index, config).total_steps == 3


# Engine


def test_precision_is_chosen_with_a_reason():
    cpu = torch.device("cpu")
    assert choose_precision(TrainingConfig(), cpu).name == "fp32"
    assert choose_precision(TrainingConfig(fp16=False, precision="fp32"), cpu).reason == "training.fp16 is false"
    assert choose_precision(TrainingConfig(precision="bf16"), cpu).name == "bf16"
    with pytest.raises(ConfigError, match="needs a GPU"):
        choose_precision(TrainingConfig(precision="fp16"), cpu)


@pytest.mark.parametrize("has", [True, False])
def test_bf16_on_a_processor_without_it_is_called_slow(monkeypatch, has):
    monkeypatch.setattr("training.engine.cpu_has_bf16", lambda: has)
    chosen = choose_precision(TrainingConfig(precision="bf16"), torch.device("cpu"))
    assert chosen.name == "bf16"
    assert ("faster with fp32" in chosen.reason) is not has


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_gpus_without_bf16_get_fp16(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A card")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_precision(TrainingConfig(), torch.device("cuda")).name == expected


def test_schedule_warms_up_and_ends_at_zero():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = build_schedule(optimizer, 100, 0.1)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert 0 < rates[0] < 0.1 and rates == sorted(rates[:11]) + sorted(rates[11:], reverse=True)
    assert max(rates) == 1.0 and rates[-1] < 0.001
    assert optimizer.param_groups[0]["lr"] == 0.0


def test_learning_rate_follows_the_square_root_of_the_batch():
    config = TrainingConfig(
        learning_rate=1e-4, batch_size_per_gpu=16, gradient_accumulation_steps=4, reference_batch_size=256
    )
    assert scaled_learning_rate(config, world_size=4) == pytest.approx(1e-4)
    assert scaled_learning_rate(config, world_size=1) == pytest.approx(0.5e-4)


def test_clipping_bounds_the_step_and_reports_the_norm_before(index, tmp_path):
    trainer = make_trainer(index, make_config(tmp_path, max_grad_norm=1e-3))
    parameters = list(trainer.model.parameters())
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    outcome = trainer.engine.step(torch.tensor(1.0)).settle()
    assert outcome.applied and outcome.grad_norm == pytest.approx(
        math.sqrt(sum(p.numel() for p in parameters)), rel=1e-4
    )
    assert all(p.grad is None for p in parameters)


def test_build_engine_uses_what_is_there(index, tmp_path):
    config = make_config(tmp_path)
    engine = build_engine(config, make_trainer(index, config).model, 10)
    assert (engine.processes.rank, engine.processes.world_size, engine.processes.is_main) == (0, 1, True)
    assert engine.kind == "plain PyTorch"
