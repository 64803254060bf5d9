"""Training: the step, the loop, checkpoints, resuming, tracking, the text-only control and the command line."""

from __future__ import annotations

import json
import logging
import math
import shutil

import numpy as np
import pytest
import torch

from configs.mimic_cxr_config import Config, TrainingConfig
from data.label_space import HEAD_INDEX, Head
from data.mimic_cxr_dataset import GraphWeights, VQADataset, make_loader
from models.encoders import build_tokenizer
from models.mimic_vqa_model import SSGVQA
from models.question_only import QuestionOnly
from tests.mini_index import write_mini_index
from training import checkpoint, question_only, tracking
from training import trainer as trainer_module
from training.engine import TorchEngine, build_engine, build_schedule, choose_precision, scaled_learning_rate
from training.graph_dropout import NONE, ORACLE, GraphMix, draw_graphs
from training.loss import MultiTaskLoss
from training.run import check_output
from training.trainer import Trainer, count_steps, step_seed
from utils.errors import CheckpointError, ConfigError, NonFiniteError

GRADE = 4
FINDINGS = [([0], "pleural effusion", 1, True), ([1, 3], "nodule", 2, True), ([8], "cardiomegaly", 0, False)]
BOXES = [(0, 0.1, 0.1, 0.5, 0.8), (8, 0.4, 0.4, 0.8, 0.8)]


def study(split: str, number: int) -> dict:
    yes = number % 2
    questions = [
        ("D02_has_finding", "Is there a pleural effusion ?", yes, GRADE),
        ("D06_has_device", "Is there a pacemaker ?", int(number % 3 == 0), GRADE),
        ("B02_describe_abnormal", "What is abnormal ?", 1 << (number % 5), GRADE),
        ("D03_where_is_finding", "Where is the nodule ?", 0b101, GRADE),
    ]
    if yes:
        questions.append(("D04_how_severe_is_finding", "How severe is it ?", number % 4, GRADE))
    labels = [1.0, 0.0, -1.0, np.nan] + [np.nan] * 10
    return {"split": split, "questions": questions, "findings": FINDINGS, "boxes": BOXES, "chexpert": labels}


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    studies = [study("train", n) for n in range(14)] + [study("validate", n) for n in range(6)]
    return write_mini_index(tmp_path_factory.mktemp("index") / "index", studies)


def make_config(output_dir, **training) -> Config:
    config = Config()
    config.model.pretrained = False
    config.model.visual_backbone = "convnext_atto"
    config.model.visual_kwargs = {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}
    config.model.visual_stride = 16
    config.model.text_kwargs = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    config.model.hidden_dim, config.model.fusion_depth, config.model.fusion_heads = 16, 1, 2
    config.model.sim_inner_dim, config.model.graph_layers = 8, 1
    config.data.image_size, config.data.questions_per_image = 32, 3
    values = {
        "output_dir": str(output_dir),
        "batch_size_per_gpu": 4,
        "gradient_accumulation_steps": 2,
        "reference_batch_size": 8,
        "learning_rate": 1e-3,
        "new_layer_lr_scale": 1.0,
        "gradient_checkpointing": False,
        "max_steps": 8,
        "logging_steps": 1,
        "eval_steps": 4,
        "eval_each_epoch": False,
        "save_steps": 3,
        "early_stopping_patience": 0,
        "seed": 7,
    }
    for name, value in (values | training).items():
        setattr(config.training, name, value)
    return config


class ListSink:
    def __init__(self):
        self.lines: list[tuple[int, dict]] = []

    def start(self, step: int) -> None:
        self.started = step

    def log(self, step: int, values: dict) -> None:
        self.lines.append((step, values))

    def close(self) -> None:
        pass


def make_trainer(index, config: Config, resume: str = "never") -> Trainer:
    torch.manual_seed(config.training.seed)
    tokenizer = build_tokenizer(config.model, index.texts(np.arange(index.num_texts)))
    shared = {"weights": GraphWeights.of(config.training), "seed": config.training.seed}
    train = VQADataset(index, "train", config.data, tokenizer, train=True, **shared)
    validate = VQADataset(index, "validate", config.data, tokenizer, train=False, **shared)
    model = SSGVQA.build(config.model, index.vocabulary, tokenizer, config.data.image_size)
    steps = count_steps(config, train)
    engine = TorchEngine(config.training, model, steps, torch.device("cpu"))
    loss = MultiTaskLoss(config.training)
    return Trainer(config, model, tokenizer, engine, train, validate, loss, tracking.Sinks([ListSink()]), steps, resume)


def weights_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


@pytest.fixture(scope="module")
def straight_run(index, tmp_path_factory):
    """A run of eight steps with all its checkpoints: (folder, final weights, logged lines)."""
    folder = tmp_path_factory.mktemp("straight")
    trainer = make_trainer(index, make_config(folder, save_steps=1, save_total_limit=20))
    trainer.fit()
    return folder, weights_of(trainer), trainer.sinks._sinks[0].lines


# Resuming and checkpoints


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


def test_the_last_window_of_an_epoch_may_be_smaller_and_none_is_lost(index, tmp_path):
    trainer = make_trainer(index, make_config(tmp_path, max_steps=0, num_epochs=2, eval_steps=1000, save_steps=1000))
    batches = trainer.train_data.num_batches(4)
    assert batches % 2 == 1, "the test wants a partial window"
    assert trainer.total_steps == batches + 1, "two epochs of (batches + 1) / 2 windows"
    trainer.fit()
    assert trainer.state.questions == 2 * trainer.train_data.num_questions
    assert (trainer.state.epoch, trainer.state.batch) == (2, 0)


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
    import os
    import signal

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


# The step


def test_accumulated_micro_batches_have_the_gradient_of_one_large_batch(index, tmp_path):
    config = make_config(tmp_path, graph_none_fraction=0.0, graph_oracle_fraction=0.0)
    config.data.augmentation = False
    config.model.dropout = config.model.drop_path = 0.0
    gradients = []
    for size in (4, 2):
        trainer = make_trainer(index, config)
        trainer.engine.step = lambda: None
        trainer.advance = lambda window, outcome: None
        trainer.model.eval()
        trainer.model.train = lambda mode=True: None  # dropout stays off
        loader = make_loader(trainer.train_data, size)
        trainer.train_step([next(loader) for _ in range(8 // size)])
        gradients.append({n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], atol=2e-5), name


def test_every_parameter_gets_a_gradient(index, tmp_path):
    trainer = make_trainer(index, make_config(tmp_path, graph_none_fraction=0.5))
    trainer.engine.step = lambda: None
    trainer.advance = lambda window, outcome: None
    trainer.train_step(list(make_loader(trainer.train_data, 8))[:1])
    missing = [name for name, p in trainer.model.named_parameters() if p.grad is None]
    assert missing == []


def test_non_finite_steps_leave_the_weights_and_stop_the_run_when_they_go_on(index, tmp_path):
    trainer = make_trainer(index, make_config(tmp_path, max_skipped_steps=3))
    before = weights_of(trainer)
    trainer.engine.backward = lambda loss: (loss * math.nan).backward()
    with pytest.raises(NonFiniteError, match="3 steps in a row"):
        trainer.fit()
    assert trainer.state.step == 3
    for name, value in weights_of(trainer).items():
        assert torch.equal(value, before[name]), name


def test_graph_dropout_mixes_per_image(index, tmp_path):
    trainer = make_trainer(index, make_config(tmp_path))
    batch = next(make_loader(trainer.train_data, 3))
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
    choice = draw_graphs(20_000, TrainingConfig(graph_none_fraction=0.15, graph_oracle_fraction=0.1))
    assert (choice == NONE).float().mean().item() == pytest.approx(0.15, abs=0.01)
    assert (choice == ORACLE).float().mean().item() == pytest.approx(0.10, abs=0.01)
    assert (draw_graphs(100, TrainingConfig(graph_none_fraction=0, graph_oracle_fraction=0)) == 0).all()


def test_step_seeds_differ_by_step_and_process():
    assert len({step_seed(seed, step, rank) for seed in (0, 1) for step in range(50) for rank in (0, 1)}) == 200


# The loop


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
    config = make_config(tmp_path, max_steps=40, eval_steps=20, learning_rate=5e-3, save_steps=1000)
    trainer = make_trainer(index, config)
    best = trainer.fit()
    lines = trainer.sinks._sinks[0].lines
    losses = [values["train/loss"] for _, values in lines if "train/loss" in values]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    looks = [step for step, values in lines if "val/headline" in values]
    assert looks == [20, 40]
    _, _, stored, vocabulary = SSGVQA.from_pretrained(best)
    assert vocabulary == index.vocabulary and stored.training.seed == 7
    card = (best / "README.md").read_text()
    assert "no clinical meaning" in card and "Not for clinical use" in card
    for text in index.texts(np.arange(index.num_texts)):
        assert text not in card, "no question in the card"


def test_the_trainer_never_reads_the_test_split(index, tmp_path):
    trainer = make_trainer(index, make_config(tmp_path))
    assert {trainer.train_data.split, trainer.val_data.split} == {"train", "validate"}


def test_balanced_draws_are_limited_by_steps_alone(index, tmp_path):
    config = make_config(tmp_path, max_steps=500, num_epochs=1)
    config.data.draw = "balanced"
    assert make_trainer(index, config).total_steps == 500


# Engine


def test_precision_is_chosen_with_a_reason():
    cpu = torch.device("cpu")
    assert choose_precision(TrainingConfig(), cpu).name == "fp32"
    assert choose_precision(TrainingConfig(fp16=False, precision="fp32"), cpu).reason == "training.fp16 is false"
    assert choose_precision(TrainingConfig(precision="bf16"), cpu).name == "bf16"
    with pytest.raises(ConfigError, match="needs a GPU"):
        choose_precision(TrainingConfig(precision="fp16"), cpu)


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
    outcome = trainer.engine.step()
    assert outcome.applied and outcome.grad_norm == pytest.approx(
        math.sqrt(sum(p.numel() for p in parameters)), rel=1e-4
    )
    assert all(p.grad is None for p in parameters)


def test_build_engine_uses_what_is_there(index, tmp_path):
    config = make_config(tmp_path)
    engine = build_engine(config, make_trainer(index, config).model, 10)
    assert (engine.rank, engine.world_size, engine.is_main) == (0, 1, True)


# Tracking


def test_metrics_file_continues_without_repeating_steps(tmp_path):
    path = tmp_path / "metrics.jsonl"
    sink = tracking.JsonlSink(path)
    sink.start(0)
    for step in (1, 2, 3):
        sink.log(step, {"train/loss": 1.0 / step, "train/grad_norm": math.inf})
    sink.close()
    path.write_text(path.read_text() + '{"step": 4, "tr')  # a kill in the middle of a line
    sink = tracking.JsonlSink(path)
    sink.start(2)
    sink.log(3, {"train/loss": 9.0})
    sink.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3] and lines[-1]["train/loss"] == 9.0
    assert lines[0]["train/grad_norm"] is None


def test_remote_sink_refuses_a_question_string_and_drops_unknown_names():
    assert tracking.remote_values({"train/loss": 1.0, "secret/rows": 3.0, "val/headline": 0.5}) == {
        "train/loss": 1.0,
        "val/headline": 0.5,
    }
    with pytest.raises(ValueError, match="numbers only"):
        tracking.remote_values({"train/question": "Is there an effusion?"})


def test_wandb_is_off_without_a_key_and_its_failure_stops_nothing(monkeypatch, tmp_path, caplog):
    config = make_config(tmp_path)
    assert tracking.maybe_wandb(config) == []
    import wandb

    def refuse(**kwargs):
        raise RuntimeError("no network")

    monkeypatch.setattr(wandb, "init", refuse)
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    with caplog.at_level(logging.WARNING):
        assert tracking.maybe_wandb(config) == []
    assert "training goes on" in caplog.text and "xxxx" not in caplog.text


def test_wandb_gets_numbers_and_no_path(monkeypatch, tmp_path):
    import wandb

    sent = {}

    class FakeRun:
        def log(self, values, step):
            sent["values"] = values

        def finish(self, quiet):
            raise RuntimeError("gone")

    def init(**kwargs):
        sent.update(kwargs)
        return FakeRun()

    monkeypatch.setattr(wandb, "init", init)
    config = make_config(tmp_path)
    config.data.mimic_cxr_path = "/patients"
    config.wandb.enabled = "offline"
    (sink,) = tracking.maybe_wandb(config)
    sink.log(1, {"train/loss": 1.0})
    sink.close()
    assert sent["mode"] == "offline" and sent["values"] == {"train/loss": 1.0}
    assert all(isinstance(value, (int, float)) for value in sent["config"].values())
    assert "patients" not in str(sent["config"])


def test_a_second_run_does_not_write_over_the_first(straight_run, tmp_path):
    folder = straight_run[0]
    with pytest.raises(CheckpointError, match="--resume auto"):
        check_output(folder, "never")
    check_output(folder, "auto")
    check_output(folder, str(checkpoint.step_directory(folder, 8)))
    with pytest.raises(CheckpointError, match="earlier run"):
        check_output(folder, str(tmp_path / "elsewhere" / "step-00000001"))
    check_output(tmp_path, "never")


# The text-only control


@pytest.fixture(scope="module")
def noisy_index(tmp_path_factory):
    """Yes/no questions whose best textual answer differs by text, category and severity questions beside them."""
    rng = np.random.default_rng(0)
    words = ["effusion", "nodule", "pacemaker", "edema", "fracture", "mass", "collapse", "scar"]
    texts = [f"Is there {'a new ' if n % 2 else 'an old '}{words[n // 2 % 8]} in part {n // 16} ?" for n in range(48)]
    rates = rng.choice([0.2, 0.8, 0.45, 0.6], len(texts))
    studies = []
    for split, count in (("train", 60), ("validate", 60)):
        for _ in range(count):
            questions = [
                ("D02_has_finding", texts[t], int(rng.random() < rates[t]), GRADE) for t in rng.choice(48, 20, False)
            ]
            questions.append(("B02_describe_abnormal", "What is abnormal ?", int(rng.choice([1, 3])), GRADE))
            questions.append(("D04_how_severe_is_finding", "How severe is it ?", int(rng.choice([1, 1, 2])), GRADE))
            studies.append({"split": split, "questions": questions})
    return write_mini_index(tmp_path_factory.mktemp("noisy") / "index", studies)


def control_data(index, config: Config):
    tokenizer = build_tokenizer(config.model, index.texts(np.arange(index.num_texts)))
    train = VQADataset(index, "train", config.data, tokenizer, train=True)
    return tokenizer, train, VQADataset(index, "validate", config.data, tokenizer, train=False)


def test_collapsed_texts_have_the_loss_of_all_questions(noisy_index, tmp_path):
    config = make_config(tmp_path)
    tokenizer, train, _ = control_data(noisy_index, config)
    model = QuestionOnly.build(config.model, tokenizer).eval()
    counts = question_only.count_answers(train)
    texts = len(train.text_codes)
    logits = question_only._forward(model, train, train.text_codes, torch.device("cpu"))
    batch = next(make_loader(train, 10_000))
    answers = model(batch.questions, batch.question_of)
    binary = batch.head == HEAD_INDEX[Head.BINARY]
    expected = torch.nn.functional.cross_entropy(
        answers["binary"][binary], batch.targets.binary[binary], reduction="sum"
    )
    collapsed = counts[Head.BINARY].loss(Head.BINARY, logits["binary"], torch.arange(texts))
    assert collapsed.item() == pytest.approx(expected.item(), rel=1e-4)
    category = batch.head == HEAD_INDEX[Head.CATEGORY]
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        answers["category"][category], batch.targets.category[category], reduction="sum"
    )
    collapsed = counts[Head.CATEGORY].loss(Head.CATEGORY, logits["category"], torch.arange(texts))
    assert collapsed.item() == pytest.approx(expected.item(), rel=1e-4)
    assert Head.REGION not in counts


def test_no_function_of_the_text_is_better_than_the_best_loss():
    positive = torch.tensor([[3.0, 1.0], [0.0, 2.0]])
    counts = question_only.AnswerCounts(positive, positive.sum(1))
    best = counts.best_loss(Head.BINARY)
    assert best == pytest.approx(-(3 * math.log(0.75) + math.log(0.25)))
    table = (positive / positive.sum(1, keepdim=True)).clamp(min=1e-9).log()
    assert counts.loss(Head.BINARY, table, torch.arange(2)).item() == pytest.approx(best, abs=1e-5)


def test_the_control_is_as_good_as_a_table_of_answers(noisy_index, tmp_path):
    config = make_config(tmp_path)
    config.model.hidden_dim = 32
    config.model.text_kwargs |= {"hidden_size": 32, "intermediate_size": 64}
    tokenizer, train, validate = control_data(noisy_index, config)
    control, convergence = question_only.train_question_only(config, tokenizer, train, seed=0)
    assert convergence.converged and 0 <= convergence.loss - convergence.best_loss < 0.05
    table = question_only.count_answers(train)[Head.BINARY].positive.argmax(1).numpy()
    questions = noisy_index.questions
    rows = validate.rows[questions["head"][validate.rows] == HEAD_INDEX[Head.BINARY]]
    majority = table[np.searchsorted(train.text_codes, questions["text"][rows])]
    accuracy = (majority == questions["target"][rows]).mean()
    scores = question_only.score_question_only(control, validate)
    assert scores["heads"]["binary"]["accuracy"] >= accuracy - 0.02
    assert scores["heads"]["region"]["n"] == 0 and scores["headline"] is not None
