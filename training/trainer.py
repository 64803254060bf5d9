"""Training: the loop, and what happens around a step. Sees the train and validate splits only."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from configs.mimic_cxr_config import Config, to_yaml
from data.batch import Batch
from data.mimic_cxr_dataset import VQADataset, make_loader
from training.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint
from training.engine import Engine, StepOutcome
from training.graph_dropout import GraphMix, draw_graphs
from training.loss import MultiTaskLoss
from training.meter import Meter, StepReport
from training.model_card import model_card
from training.tracking import Sinks
from training.validation import Validation, validate
from utils.errors import NonFiniteError
from utils.utils import clean_leftovers, get_logger, write_atomic

log = get_logger(__name__)

BEST = "best_model"


@dataclass
class TrainerState:
    """Everything that a resumed run must know beside weights and optimizer."""

    step: int = 0
    """optimizer steps taken, skipped ones included"""
    epoch: int = 0
    batch: int = 0
    """micro-batches of this epoch that are used up"""
    best_score: float | None = None
    best_step: int = 0
    looks_without_gain: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    questions: int = 0
    """questions trained on so far"""


class Trainer:
    """Trains a model and leaves `<output_dir>/best_model`.

    The order of the data is a function of (seed, epoch), all randomness inside a step one of (seed, step): a run that is
    cut and resumed takes the same steps as one that is not.
    """

    def __init__(
        self,
        config: Config,
        model,
        tokenizer,
        engine: Engine,
        train_data: VQADataset,
        val_data: VQADataset,
        loss: MultiTaskLoss,
        sinks: Sinks,
        total_steps: int,
        resume: str = "never",
    ):
        self.config, self.settings = config, config.training
        self.model, self.tokenizer, self.engine, self.loss, self.sinks = model, tokenizer, engine, loss, sinks
        self.train_data, self.val_data = train_data, val_data
        self.total_steps, self.resume = total_steps, resume
        self.num_batches = train_data.num_batches(self.settings.batch_size_per_gpu)
        self.output_dir = Path(self.settings.output_dir)
        self.state = TrainerState()
        self.meter = Meter()

    def fit(self) -> Path:
        """Train until the budget is used or validation stops improving; returns the folder of the best model."""
        self.restore()
        with interruption() as interrupted:
            for window in self.windows():
                report = self.train_step(window)
                self.meter.add(report, window)
                if self.due(self.settings.logging_steps):
                    self.log()
                if self.due_validation():
                    self.look()
                if self.due(self.settings.save_steps) or self.finished() or interrupted.is_set():
                    self.save()
                if interrupted.is_set():
                    raise KeyboardInterrupt
        log.info("best validation score %s at step %d", _shown(self.state.best_score), self.state.best_step)
        return self.output_dir / BEST

    def restore(self) -> None:
        """Continue at a checkpoint, or start; the output folder has its config.yaml afterwards."""
        self.output_dir.mkdir(parents=True, exist_ok=True)
        clean_leftovers(self.output_dir)
        checkpoint = find_checkpoint(self.output_dir, self.resume)
        if checkpoint:
            stored = load_checkpoint(checkpoint, self.model)
            self.engine.load_state_dict(stored.engine)
            self.state = TrainerState(**stored.trainer)
            log.info("resumed from %s", checkpoint)
        write_atomic(self.output_dir / "config.yaml", to_yaml(self.config))
        self.sinks.start(self.state.step)
        self.meter.start(self.state.step)

    def windows(self) -> Iterator[list[Batch]]:
        """The micro-batches of each optimizer step still to be taken; the last window of an epoch may be smaller."""
        while not self.finished():
            loader = make_loader(
                self.train_data,
                self.settings.batch_size_per_gpu,
                epoch=self.state.epoch,
                start=self.state.batch,
                num_workers=self.config.data.num_workers,
            )
            while not self.finished() and (window := list(islice(loader, self.settings.gradient_accumulation_steps))):
                yield window

    def train_step(self, window: list[Batch]) -> StepReport:
        """One optimizer step over the micro-batches of a window."""
        torch.manual_seed(step_seed(self.settings.seed, self.state.step, self.engine.rank))
        self.model.train()
        counts = self.reduced(self.loss.window_counts(window))
        parts: dict[str, Tensor] = {}
        for batch in window:
            choice = draw_graphs(len(batch.images), self.settings)
            batch = batch.to(self.engine.device)
            with self.engine.autocast():
                outputs = self.engine.forward(
                    batch.images,
                    batch.questions,
                    batch.question_of,
                    batch.image_of,
                    graph=GraphMix(choice.to(self.engine.device), batch.graph),
                )
            losses = self.loss(outputs, batch, counts)
            self.engine.backward(losses.total)
            parts = {name: parts.get(name, 0) + value for name, value in losses.parts.items()}
        outcome = self.engine.step()
        self.advance(window, outcome)
        return StepReport(parts, outcome)

    def reduced(self, counts: dict[str, float]) -> dict[str, float]:
        """The window's counts over all processes."""
        total = self.engine.reduce_sum(torch.tensor(list(counts.values()), dtype=torch.float64))
        return dict(zip(counts, total.tolist(), strict=True))

    def advance(self, window: list[Batch], outcome: StepOutcome) -> None:
        """Move the cursor behind a window. NonFiniteError when too many steps in a row had to be skipped."""
        state = self.state
        state.step += 1
        state.batch += len(window)
        state.questions += sum(len(batch.head) for batch in window)
        if state.batch >= self.num_batches:
            state.epoch, state.batch = state.epoch + 1, 0
        if outcome.applied:
            state.skipped_in_a_row = 0
            return
        state.skipped += 1
        state.skipped_in_a_row += 1
        log.warning("step %d skipped: its gradient is not finite", state.step)
        if state.skipped_in_a_row >= self.settings.max_skipped_steps:
            raise NonFiniteError(
                f"{state.skipped_in_a_row} steps in a row up to step {state.step} had gradients that are not finite "
                "(training.max_skipped_steps): lower training.learning_rate, or set training.precision to bf16 or fp32"
            )

    def log(self) -> None:
        values = self.meter.read(self.state.step, self.total_steps)
        values |= {"train/epoch": self.state.epoch, "train/skipped_steps": self.state.skipped}
        self.sinks.log(self.state.step, values)

    def due(self, every: int) -> bool:
        """After every so many steps, and after the last one."""
        return self.state.step % every == 0 or self.state.step >= self.total_steps

    def due_validation(self) -> bool:
        return self.due(self.settings.eval_steps) or (self.settings.eval_each_epoch and self.state.batch == 0)

    def finished(self) -> bool:
        """The budget of steps is used, or validation has not improved for `early_stopping_patience` looks."""
        patience = self.settings.early_stopping_patience
        return self.state.step >= self.total_steps or 0 < patience <= self.state.looks_without_gain

    def look(self) -> None:
        """Score the validation split; keep the weights if they are the best so far."""
        state, started = self.state, time.monotonic()
        scores = validate(
            self.engine,
            self.val_data,
            2 * self.settings.batch_size_per_gpu,
            self.settings.max_eval_questions,
            self.config.data.num_workers,
        )
        self.sinks.log(state.step, scores.numbers() | {"val/seconds": time.monotonic() - started})
        if state.best_score is None or (scores.headline is not None and scores.headline > state.best_score):
            state.best_score, state.best_step, state.looks_without_gain = scores.headline, state.step, 0
            self.save_best(scores)
        else:
            state.looks_without_gain += 1
            if self.finished() and state.step < self.total_steps:
                log.info("stopped early: no better score in %d looks", state.looks_without_gain)

    def save_best(self, scores: Validation) -> None:
        """Write `best_model`: weights, configuration, tokenizer, vocabulary, scores and model card."""
        metrics = {"step": self.state.step, "questions_trained": self.state.questions, "validation": scores.as_json()}
        card = model_card(self.config, self.train_data.index, metrics, sum(p.numel() for p in self.model.parameters()))
        files = {"metrics.json": metrics, "README.md": card}
        self.model.save_pretrained(self.output_dir / BEST, self.tokenizer, self.config, files)

    def save(self) -> None:
        """Write a checkpoint to continue from."""
        save_checkpoint(
            self.output_dir,
            self.state.step,
            self.model,
            self.tokenizer,
            self.engine.state_dict(),
            asdict(self.state),
            self.config,
            self.settings.save_total_limit,
        )


def step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of all randomness inside one step of one process."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0])


def count_steps(config: Config, dataset: VQADataset) -> int:
    """Optimizer steps of a run: `num_epochs`, but at most `max_steps`. An epoch of balanced draws has as many visits as
    one of all questions."""
    training = config.training
    windows = -(-dataset.num_batches(training.batch_size_per_gpu) // training.gradient_accumulation_steps)
    steps = windows * training.num_epochs
    return min(steps, training.max_steps) if training.max_steps else steps


@contextmanager
def interruption() -> Iterator[threading.Event]:
    """The first ctrl-C asks the loop to save and stop after its step; the second one stops at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    previous = signal.getsignal(signal.SIGINT)

    def ask(signum, frame):
        asked.set()
        signal.signal(signal.SIGINT, previous)
        log.info("interrupted: saving a checkpoint after this step (again to stop at once)")

    signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, previous)


def _shown(score: float | None) -> str:
    return "n/a" if score is None else f"{score:.4f}"
