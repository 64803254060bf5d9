"""A run small enough for tests: a hand-made index, a model of a few thousand weights, and a trainer for them."""

from __future__ import annotations

import numpy as np
import torch

from configs.mimic_cxr_config import Config
from data.index import Index
from data.mimic_cxr_dataset import GraphWeights, VQADataset
from models.encoders import build_tokenizer
from models.mimic_vqa_model import SSGVQA
from tests.mini_index import write_mini_index
from training import tracking
from training.engine import build_engine
from training.loss import MultiTaskLoss
from training.processes import Processes, single
from training.trainer import Trainer, count_steps

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

    def start(self, step: int, run_id: str = "") -> None:
        self.started = step

    def log(self, step: int, values: dict) -> None:
        self.lines.append((step, values))

    def close(self) -> None:
        pass


def make_trainer(index, config: Config, resume: str = "never", processes: Processes | None = None) -> Trainer:
    processes = processes or single(torch.device("cpu"))
    torch.manual_seed(config.training.seed)
    tokenizer = build_tokenizer(config.model, index.texts(np.arange(index.num_texts)))
    shared = {"weights": GraphWeights.of(config.training), "seed": config.training.seed}
    train = VQADataset(index, "train", config.data, tokenizer, train=True, **shared)
    validate = VQADataset(index, "validate", config.data, tokenizer, train=False, **shared)
    model = SSGVQA.build(config.model, index.vocabulary, tokenizer, config.data.image_size)
    steps = count_steps(config, train, processes.world_size)
    engine = build_engine(config, model, steps, processes)
    loss = MultiTaskLoss(config.training)
    return Trainer(config, model, tokenizer, engine, train, validate, loss, tracking.Sinks([ListSink()]), steps, resume)


def weights_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def make_index(folder) -> Index:
    """Fourteen training and six validation studies."""
    studies = [study("train", n) for n in range(14)] + [study("validate", n) for n in range(6)]
    return write_mini_index(folder / "index", studies)
