"""A small model folder that counts as trained, and films to ask it about, for the tests of asking."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from configs.mimic_cxr_config import Config
from data.synthetic import cases, images
from models.probabilities import weights_sha256
from models.question_only import QuestionOnly
from tests.small_model import SIZE, build, model_config, small_tokenizer
from utils.utils import write_json

TRAINED = {"metrics.json": {"step": 8}}
HEADS_AT = {"binary": 2.0, "category": 0.5, "region": 1.5, "severity": 3.0}
"""Temperatures"""


def asking_config(**data) -> Config:
    """The small model's settings."""
    config = Config()
    config.model, config.data.image_size = model_config(), SIZE
    for name, value in data.items():
        setattr(config.data, name, value)
    return config


def write_model(folder: Path, control: bool = True, fusion: str = "sim", **data) -> Path:
    """A model folder with random but disturbed weights and the record of a training. `data`: settings."""
    config, tokenizer = asking_config(**data), small_tokenizer()
    config.model = model_config(fusion=fusion)
    build(fusion).save_pretrained(folder, tokenizer, config, TRAINED)
    if control:
        QuestionOnly.build(config.model, tokenizer).save_pretrained(
            folder / "question_only", tokenizer, config, TRAINED
        )
    return folder


def calibrate(folder: Path) -> None:
    """As an evaluation does, with temperatures that are not 1."""
    write_json(folder / "temperature.json", HEADS_AT | {"model_sha256": weights_sha256(folder)})


@cache
def drawn_film(number: int = 0) -> np.ndarray:
    """(h, w) uint8: the first film of a look-alike study, which is a frontal one."""
    study = cases.make_studies(8, seed=3)[number]
    body, poses = images.study_poses(study, 3, (300, 340))
    return images.draw_film(study, 0, body, poses[0], 3)


def write_film(path: Path, number: int = 0) -> Path:
    """`drawn_film` as a file."""
    Image.fromarray(drawn_film(number)).save(path)
    return path
