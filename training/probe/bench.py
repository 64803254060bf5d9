"""The configured model with an engine of its own, and what its steps and its loader need."""

from __future__ import annotations

import gc
import os
import statistics
import time
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch
from transformers import AutoConfig, BertConfig

from configs.mimic_cxr_config import Config, ModelConfig
from data.index import Index
from data.loader import Layout, Window, windows
from data.mimic_cxr_dataset import VQADataset
from models.encoders import build_tokenizer, scratch_text_config
from models.mimic_vqa_model import SSGVQA
from models.pretrained import LOAD_ERRORS
from models.tokenizer import MOST_PIECES, train_tokenizer
from training.engine import TorchEngine
from training.loss import MultiTaskLoss
from training.outcome import PendingOutcome
from training.probe.batches import IndexSource, MadeUpSource, Source, find_index, made_up_vocabulary
from training.probe.choices import Trial, doubled
from training.probe.costs import Size, published_size, size_of_dataset
from training.probe.memory import expected_peak, memory_in_use, memory_limit, peak_memory
from training.processes import single
from training.run import load_start, training_questions
from training.step import OptimizerStep, WindowDoesNotFit, is_out_of_memory
from utils.errors import ConfigError
from utils.utils import get_logger, seed_everything
from utils.watchdog import Watchdog

log = get_logger(__name__)

TIMED, TIMED_LEAST = 10, 2
"""Timed steps of a size, most and least"""
TIMED_SECONDS = 2.0
"""Between them, enough"""
LOADER_SECONDS = 2.0
"""For each number of workers"""
CLINICAL_BERT_PIECES = 28_996
"""Word pieces of Bio_ClinicalBERT, otherwise of BERT-base's shape"""


class TimedEngine(TorchEngine):
    """`TorchEngine` that knows how long its last update took."""

    update_seconds = 0.0

    def step(self, loss: torch.Tensor) -> PendingOutcome:
        start = self.clock()
        outcome = super().step(loss)
        self.update_seconds = self.clock() - start
        return outcome

    def clock(self) -> float:
        """Seconds, when the device has done all that it was asked for."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


@dataclass
class Rig:
    """What is measured."""

    config: Config
    engine: TimedEngine
    source: Source
    dataset: VQADataset | None
    """None: made-up tensors"""
    size: Size
    notes: list[str] = field(default_factory=list)


def build_rig(config: Config) -> Rig:
    """Model, engine and batches of a configuration, on the first GPU or the CPU. Writes and downloads nothing.

    DataError: the folders that the configuration names hold no release, or the filters leave no question.
    """
    seed_everything(config.training.seed)
    index, note = find_index(config)
    notes = [note] if note else []
    model, tokenizer = _start(config, index, notes) or (None, None)
    if index and tokenizer is None:
        tokenizer = _tokenizer(config.model, index, notes)
    dataset = training_questions(config, index, tokenizer, keep_tokens=False) if index else None
    size = size_of_dataset(dataset) if dataset else published_size(config)
    model = model or _random_model(config, index, len(tokenizer) if index else MOST_PIECES, notes)
    engine = TimedEngine(config.training, model, 1000, single())
    source = IndexSource(dataset) if dataset else MadeUpSource(config, size.questions_per_visit)
    return Rig(config, engine, source, dataset, size, notes)


def _start(config: Config, index: Index | None, notes: list[str]):
    """Model and tokenizer of `training.init_from`, if they can be had."""
    folder = config.training.init_from
    if not folder:
        return None
    if index and Path(folder).is_dir():
        return load_start(config, index)
    notes.append(f"training.init_from = {folder} is not read: the model is that of the configuration")
    return None


def _tokenizer(config: ModelConfig, index: Index, notes: list[str]):
    texts = index.texts(range(index.num_texts))
    try:
        return build_tokenizer(config, texts)
    except ConfigError:
        notes.append(f"the tokenizer of {config.text_encoder} is not here: word pieces made from the questions instead")
        return train_tokenizer(texts, config.max_question_length)


def _random_model(config: Config, index: Index | None, pieces: int, notes: list[str]) -> SSGVQA:
    """Random weights are as large and as slow as trained ones. `pieces`: of a vocabulary made from the questions."""
    names = index.vocabulary if index else made_up_vocabulary()
    if config.model.pretrained:
        notes.append("random weights of the configured architecture: they need the same time and memory")
    text = _text_config(config.model, pieces, notes)
    return SSGVQA(config.model, names.num_entities, names.num_regions, config.data.image_size, text)


def _text_config(config: ModelConfig, pieces: int, notes: list[str]):
    if not config.pretrained:
        return scratch_text_config(config, pieces)
    try:
        return AutoConfig.from_pretrained(config.text_encoder, local_files_only=True)
    except LOAD_ERRORS:
        notes.append(f"{config.text_encoder} is not here: measured with an encoder of Bio_ClinicalBERT's shape")
        return BertConfig(vocab_size=CLINICAL_BERT_PIECES)


class Bench:
    """Measures single sizes of the micro-batch.

    Args:
        machine_bytes: main memory that this process may use.
        deadline: `time.monotonic()` at which measuring should be over.
    """

    def __init__(self, rig: Rig, machine_bytes: float, deadline: float):
        self.rig, self.engine, self.deadline = rig, rig.engine, deadline
        training = rig.config.training
        no_watchdog = Watchdog(os.devnull, 0)
        self.take_step = OptimizerStep(rig.engine, MultiTaskLoss(training), training, no_watchdog)
        self.limit = memory_limit(rig.engine.device, machine_bytes)
        trained = sum(p.numel() for p in rig.engine.model.parameters() if p.requires_grad)
        # without any image: weights (and on a CPU the program), then gradients and AdamW's two moments in fp32
        self.peaks = {0: memory_in_use(rig.engine.device) + 3 * 4 * trained}
        """size -> bytes"""
        self._seconds_per_visit = 0.0
        self._warm = False

    def is_safe(self, size: int) -> bool:
        """Whether the size can be tried at all: too large a one would exhaust main memory, so two small ones are first."""
        small = [few for few in (1, 2) if few < size and self.engine.device.type != "cuda"]
        return all(self.fits(few) for few in small)

    def fits(self, size: int) -> bool:
        """Take a step with the visits that need most memory; on a CPU not if it is likely to use up main memory."""
        gpu = self.engine.device.type == "cuda"
        if not gpu and expected_peak(self.peaks, size) > self.limit:
            return False
        window = self.rig.source.worst(size)
        if not self._warm:  # the first step makes the optimizer's state, and is slower
            self._warm = True
            if not self.run(window):
                return False
        start = self.engine.clock()
        with peak_memory(self.engine.device) as peak:
            done = self.run(window)
        if done:
            self.peaks[size] = peak.highest
            self._seconds_per_visit = (self.engine.clock() - start) / size
        return done and (gpu or peak.highest <= self.limit)

    def measure(self, size: int) -> Trial | None:
        """Memory and times of a size; None when it does not fit."""
        if not self.fits(size):
            return None
        prepared = self.rig.source.ordinary(size, TIMED_LEAST + 1)
        self.run(prepared[0])
        micro, update = [], []
        for number in range(TIMED):
            start = self.engine.clock()
            self.run(prepared[number % len(prepared)])
            update.append(self.engine.update_seconds)
            micro.append(self.engine.clock() - start - self.engine.update_seconds)
            if number + 1 >= TIMED_LEAST and sum(micro) + sum(update) > TIMED_SECONDS:
                break
        questions = statistics.mean(window.questions for window in prepared)
        trial = Trial(size, self.peaks[size], questions, statistics.median(micro), statistics.median(update))
        log.info("micro-batch %d: %.3g s, %.2f GiB", size, trial.micro_seconds, trial.peak / 2**30)
        return trial

    def run(self, window: Window) -> bool:
        """One optimizer step; False when memory ran out."""
        try:
            self.take_step(window, 0)
            return True
        except WindowDoesNotFit:
            pass
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # not inside the handlers: the error holds on to tensors
        self.engine.discard()
        gc.collect()
        if self.engine.device.type == "cuda":
            torch.cuda.empty_cache()
        return False

    def in_time(self, size: int) -> bool:
        """Whether a trial of this size is likely to end before the deadline."""
        steps = 2 + TIMED_LEAST
        return time.monotonic() + steps * size * self._seconds_per_visit < self.deadline


def loader_rates(
    dataset: VQADataset, size: int, most_workers: int, only: int | None, deadline: float
) -> dict[int, float]:
    """Questions a second of the loader alone for 0, 1, 2, 4 ... workers, or for `only` so many."""
    counts = [only] if only is not None else sorted({0, *doubled(max(1, most_workers))} & {*range(most_workers + 1)})
    rates = {}
    for workers in counts:
        if rates and time.monotonic() + 2 * LOADER_SECONDS > deadline:
            break
        if rate := _loader_rate(dataset, size, workers):
            rates[workers] = rate
    return rates


def _loader_rate(dataset: VQADataset, size: int, workers: int) -> float | None:
    """None when an epoch is too short to tell."""
    stream = windows(dataset, Layout(size, size), num_workers=workers)
    started = workers + 1  # by then each worker has given one
    if dataset.num_visits() // size < 2 * started:
        return None
    for _ in islice(stream, started):
        pass
    questions, start = 0, time.perf_counter()
    for window in stream:
        questions += window.questions
        if time.perf_counter() - start > LOADER_SECONDS:
            break
    return questions / (time.perf_counter() - start)
