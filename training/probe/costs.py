"""What a training will cost: steps, hours, memory and disk, from measured rates and, without an index, published counts."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from configs.mimic_cxr_config import Config
from data import published
from data.index.store import COLUMNS
from data.mimic_cxr_dataset import VQADataset
from training.engine import global_batch
from training.trainer import count_steps

PAGE = published.QBA_PAGE
TRAIN_STUDIES = published.QUESTION_STUDIES["train"]
TRAIN_FRONTAL = {grade: published.QUESTIONS[f"{grade}_frontal"]["train"] for grade in "AB"}
"""Questions of the training split about frontal images, of that grade or better."""
RATED = {grade or "all": number for grade, number in published.GRADES.items()}
"""Questions of exactly that grade, all splits and views; `all`: unrated ones."""
ASPECT = 1.2
"""Longer side of a chest film by the shorter one, about."""


@dataclass(frozen=True)
class Size:
    """The training questions of a data set."""

    questions: int
    visits: int
    """image visits of an epoch"""
    index_bytes: int
    source: str

    @property
    def questions_per_visit(self) -> float:
        return self.questions / self.visits

    def num_visits(self) -> int:
        """As a `VQADataset` says it."""
        return self.visits


def size_of_dataset(dataset: VQADataset) -> Size:
    """Counted."""
    path = Path(dataset.index.path)
    stored = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return Size(dataset.num_questions, dataset.num_visits(), stored, "counted in the index")


def published_size(config: Config) -> Size:
    """From the counts of the data set's page.

    A study's last visit is half full on average, so there are about questions / M + studies / 2 of them.
    """
    data = config.data
    exact = data.view_filter == "frontal_only" and data.quality_grade in TRAIN_FRONTAL
    grades = list(RATED)
    of_all_views = sum(RATED[grade] for grade in grades[: grades.index(data.quality_grade) + 1])
    questions = TRAIN_FRONTAL[data.quality_grade] if exact else of_all_views
    source = f"published: {PAGE}" if exact else f"at most, of all splits and views: {PAGE}"
    studies = TRAIN_STUDIES
    if data.max_samples and data.max_samples < questions:
        studies = math.ceil(studies * data.max_samples / questions)
        questions = data.max_samples
    visits = math.ceil(questions / data.questions_per_image + studies / 2)
    return Size(questions, visits, _index_bytes(config), source)


def _index_bytes(config: Config) -> int:
    """About: the index has all grades, and the pixels of all images that the view filter lets through."""
    side = config.data.image_store_size or config.data.image_size
    a_question = sum(np.dtype(kind).itemsize for kind in COLUMNS["questions"].values())
    return round(published.VIEWS[config.data.view_filter] * side * side * ASPECT + sum(RATED.values()) * a_question)


@dataclass(frozen=True)
class Forecast:
    """A whole training at a constant rate: no validation, checkpoints, start or waiting."""

    steps: int
    epochs: float
    questions: int
    """over all epochs"""
    hours_per_epoch: float
    """on one device like the measured one"""
    hours: float
    """on one device"""
    devices: int
    hours_on_devices: float
    """at best: devices that never wait for each other"""
    device_hours: float


def forecast(
    config: Config, size: Size, micro_batch: int, accumulation: int, devices: int, visits_per_second: float
) -> Forecast:
    """What the configured training takes when one device trains on `visits_per_second` image visits a second."""
    training = replace(config.training, batch_size_per_gpu=micro_batch, gradient_accumulation_steps=accumulation)
    steps = count_steps(replace(config, training=training), size, devices)
    # the last window of an epoch is smaller than the others
    visits = min(training.num_epochs * size.visits, steps * global_batch(training, devices))
    hours = visits / visits_per_second / 3600
    return Forecast(
        steps=steps,
        epochs=visits / size.visits,
        questions=round(visits * size.questions_per_visit),
        hours_per_epoch=size.visits / visits_per_second / 3600,
        hours=hours,
        devices=devices,
        hours_on_devices=hours / devices,
        device_hours=hours,
    )


@dataclass(frozen=True)
class Memory:
    """Bytes on one device, and on disk."""

    weights: int
    gradients: int
    optimizer: int
    per_visit: float
    """activations and inputs of one image visit more in the micro-batch, measured"""
    checkpoint: int
    """on disk, each"""
    output: int
    """on disk at most: all checkpoints that are kept, one being written, and the best model with its successor"""
    index: int


def needed_memory(model, save_total_limit: int, per_visit: float, index_bytes: int) -> Memory:
    """Weights as the model has them, fp32 gradients, and AdamW's two moments."""
    weights = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    trained = sum(4 * p.numel() for p in model.parameters() if p.requires_grad)
    checkpoint = weights + 2 * trained
    output = (save_total_limit + 1) * checkpoint + 2 * weights
    return Memory(weights, trained, 2 * trained, per_visit, checkpoint, output, index_bytes)
