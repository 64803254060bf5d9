"""Training: the loop, and what happens around a step. Sees the train and validate splits only."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict
from pathlib import Path

import numpy as np

from configs.mimic_cxr_config import Config, to_yaml
from data.loader import Layout, Window, dead_loader_explained, end_loader_processes, windows
from data.mimic_cxr_dataset import VQADataset
from models.model_folder import copy_weights, read_lineage
from training.checkpoint import STATE, TrainingState, find_checkpoint, load_checkpoint, step_directory
from training.engine import Engine, global_batch
from training.loss import MultiTaskLoss
from training.meter import StepReport
from training.model_card import data_facts, model_card
from training.progress import Accounts, TakenStep, TrainerState, due
from training.resume import check_same_run, describe_run
from training.saver import Saver
from training.step import OptimizerStep, WindowDoesNotFit, raise_together
from training.tracking import WRITE_ADVICE, Sinks
from training.uploads import Uploads
from training.validation import Validation, validate
from utils.errors import CheckpointError, OutOfMemoryError
from utils.interruption import Interrupted, interruption
from utils.privacy import private_directory
from utils.utils import clean_leftovers, get_logger, write_atomic, writing_to
from utils.watchdog import Watchdog

log = get_logger(__name__)

BEST = "best_model"
EVENTS = "events.log"


class Trainer:
    """Trains a model and leaves `<output_dir>/best_model`.

    The order of the data is a function of (seed, epoch), all randomness of a visit one of (seed, epoch, visit) and all
    inside a step one of (seed, step, process): a run that is cut and resumed takes the same steps as one that is not.
    All processes of a run go through here side by side; what one decides alone is only what files to write.
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
        uploads: Uploads | None = None,
    ):
        self.config, self.settings = config, config.training
        self.model, self.tokenizer, self.engine, self.sinks = model, tokenizer, engine, sinks
        self.processes = engine.processes
        self.train_data, self.val_data = train_data, val_data
        model.credentialed = bool(model.credentialed) or train_data.index.is_credentialed
        self.total_steps, self.resume, self.uploads = total_steps, resume, uploads
        self.num_visits = train_data.num_visits()
        self.output_dir = Path(self.settings.output_dir)
        self.state = TrainerState(micro_batch=self.settings.batch_size_per_gpu)
        self.accounts = Accounts(self.settings, total_steps, self.processes)
        name = f"process {self.processes.rank}"
        self.watchdog = Watchdog(self.output_dir / EVENTS, self.settings.hang_timeout, name)
        self.take_step = OptimizerStep(engine, loss, self.settings, self.watchdog)
        self.saver = Saver(self.output_dir, self.settings.save_total_limit, self.processes, self.upload_checkpoint)
        self._windows: Iterator[Window] | None = None

    def fit(self) -> Path:
        """Train until the budget is used or validation stops improving; returns the folder of the best model.

        Raises:
            Interrupted: a signal asked for it; a checkpoint of the last finished step is there.
        """
        with interruption.deferred(), dead_loader_explained():
            with self.writing():
                self.watchdog.start()
            try:
                with self.watchdog.patient("restoring"):
                    self.restore()
                self.run()
            except Interrupted as stop:
                raise self.leave(stop) from None
            finally:
                with self.watchdog.patient("finishing the checkpoint"):
                    self.saver.wait()  # a next start must not find it half written
                self.watchdog.stop()
                end_loader_processes()
        log.info("best validation score %s at step %d", _shown(self.state.best_score), self.state.best_step)
        return self.output_dir / BEST

    def run(self) -> None:
        """The loop. Whatever is due at a step is done before the next one is taken, also after a resume."""
        with ExitStack() as first_step:
            # kernels are compiled, caches are cold
            first_step.enter_context(self.watchdog.patient("the first step"))
            while True:
                if self.due_validation():
                    self.look()
                if self.due_save():
                    self.save()
                if self.finished():
                    break
                window = self.next_window()
                try:
                    report = self.take_step(window, step_seed(self.settings.seed, self.state.step, self.processes.rank))
                except WindowDoesNotFit:
                    self.shrink_micro_batch()
                    continue
                first_step.close()
                self.advance(window, report)
        with self.watchdog.patient("finishing the checkpoint"):
            self.saver.settle()
        self.leave_if_asked()

    def restore(self) -> None:
        """Continue at a checkpoint, or start; the output folder has its config.yaml afterwards."""
        if self.processes.is_main:
            with self.writing():
                private_directory(self.output_dir)
                clean_leftovers(self.output_dir)
            self.saver.check_space(self.model)
        checkpoint = self.processes.from_main(
            find_checkpoint(self.output_dir, self.resume) if self.processes.is_main else None
        )
        self.identity = describe_run(self.config, self.train_data.index, self.processes)
        if checkpoint:
            self.load(checkpoint)
        if self.processes.is_main:
            with self.writing():
                write_atomic(self.output_dir / "config.yaml", to_yaml(self.config))
        self.accounts.start(self.state, self.sinks)

    def load(self, checkpoint: Path) -> None:
        """Take over weights, optimizer and place. CheckpointError when it is another run's."""
        if not checkpoint.is_dir():
            raise CheckpointError(
                f"{checkpoint} is not on this node: training.output_dir must be on storage that all share"
            )
        stored = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
        check_same_run(stored["run"], self.identity, checkpoint)
        self.model.credentialed |= read_lineage(checkpoint)
        with self.engine.gathered():
            expected = self.model.state_dict()
            weights, state = load_checkpoint(checkpoint, expected)
        self.engine.load_weights(weights)
        self.engine.load_state_dict(state.engine)
        self.state = TrainerState(**state.trainer)
        self.state.micro_batch = min(self.state.micro_batch, self.settings.batch_size_per_gpu)
        self.saver.saved(self.state.step)
        log.info("resumed from %s", checkpoint)
        if self.state.looked_at and not self.processes.from_main((self.output_dir / BEST).is_dir()):
            log.warning("%s is not there: the best of the looks from here on takes its place", self.output_dir / BEST)
            self.state.best_score, self.state.looked_at, self.state.looks_without_gain = None, 0, 0

    def next_window(self) -> Window | None:
        """This process's share of the next step; None when it was asked to leave while it waited."""
        self.watchdog.beat("waiting for data")
        try:
            with interruption.waiting(), self.accounts.machine.waiting():
                if self._windows is None:
                    self._windows = windows(
                        self.train_data,
                        Layout(
                            global_batch(self.settings, self.processes.world_size),
                            self.state.micro_batch,
                            self.processes.rank,
                            self.processes.world_size,
                        ),
                        epoch=self.state.epoch,
                        start=self.state.visits,
                        num_workers=self.config.data.num_workers,
                    )
                return next(self._windows)
        except Interrupted:
            end_loader_processes()  # nobody needs the batch that they are busy with
            return None

    def shrink_micro_batch(self) -> None:
        """Halve the micro-batch; more of them make the same window of the same visits."""
        state = self.state
        if state.micro_batch == 1:
            raise OutOfMemoryError(
                "out of memory with one image visit at a time: lower data.questions_per_image or data.image_size, set "
                "training.gradient_checkpointing to true, or use a smaller model"
            )
        state.micro_batch = -(-state.micro_batch // 2)
        self._windows = None
        log.warning(
            "out of memory: from step %d on micro-batches of %d image visits; the global batch stays %d",
            state.step + 1,
            state.micro_batch,
            global_batch(self.settings, self.processes.world_size),
        )

    def advance(self, window: Window, report: StepReport) -> None:
        """Move the cursor behind a window. NonFiniteError when too many steps had to be skipped."""
        state = self.state
        state.step += 1
        state.visits += window.visits
        state.questions += report.questions
        if state.visits >= self.num_visits:
            state.epoch, state.visits, self._windows = state.epoch + 1, 0, None
        self.accounts.add(TakenStep(state.step, state.epoch, window, report))
        if not self.engine.runs_ahead:
            self.accounts.settle()

    def due(self, every: int) -> bool:
        return due(self.state.step, every, self.total_steps)

    def due_validation(self) -> bool:
        state = self.state
        if state.step == state.looked_at:
            return False
        return self.due(self.settings.eval_steps) or (self.settings.eval_each_epoch and state.visits == 0)

    def due_save(self) -> bool:
        return self.state.step != self.saver.step and (
            (self.state.step > 0 and self.due(self.settings.save_steps)) or self.finished()
        )

    def finished(self) -> bool:
        """The budget of steps is used, or validation has not improved for `early_stopping_patience` looks."""
        patience = self.settings.early_stopping_patience
        return self.state.step >= self.total_steps or 0 < patience <= self.state.looks_without_gain

    def look(self) -> None:
        """Score the validation split; keep the weights if they are the best so far."""
        self.accounts.settle()
        state, started = self.state, time.monotonic()
        scores = validate(
            self.engine,
            self.val_data,
            2 * state.micro_batch,
            self.settings.max_eval_questions,
            self.config.data.num_workers,
            self.between_validation_batches,
        )
        self.sinks.log(state.step, scores.numbers() | {"val/seconds": time.monotonic() - started})
        state.looked_at = state.step
        if state.best_score is None or (scores.headline is not None and scores.headline > state.best_score):
            state.best_score, state.best_step, state.looks_without_gain = scores.headline, state.step, 0
            self.save_best(scores)
        else:
            state.looks_without_gain += 1
            if self.finished() and state.step < self.total_steps:
                log.info("stopped early: no better score in %d looks", state.looks_without_gain)

    def between_validation_batches(self) -> None:
        self.watchdog.beat("a batch of the validation split")
        self.leave_if_asked()

    def leave_if_asked(self) -> None:
        """Interrupted in all processes when one was asked to leave; all call it together."""
        if self.processes.any(interruption.asked):
            raise_together(self.processes)

    def save_best(self, scores: Validation) -> None:
        """Write `best_model`: weights, configuration, tokenizer, vocabulary, scores and model card."""
        with self.watchdog.patient("saving the best model"), self.engine.gathered():
            if self.processes.is_main:
                if not self.output_dir.is_dir():
                    raise CheckpointError(f"{self.output_dir} is gone: nothing more can be saved there")
                metrics = self.facts(self.state.step, self.state.questions) | {"validation": scores.as_json()}
                card = model_card(self.config, metrics, self.model.credentialed)
                files = {"metrics.json": metrics, "README.md": card}
                if self.uploads:
                    files |= self.uploads.records()
                self.model.save_pretrained(self.output_dir / BEST, self.tokenizer, self.config, files)
                if self.uploads:
                    self.uploads.best(self.output_dir / BEST, self.state.step)
            self.processes.barrier()

    def facts(self, step: int, questions: int) -> dict:
        """What is known of the weights without a look at them."""
        numbers = {"step": step, "questions_trained": questions, "parameters": count_parameters(self.model)}
        return numbers | {"data": data_facts(self.config, self.train_data.index)}

    def upload_checkpoint(self, folder: Path, state: TrainingState) -> None:
        """Called by the thread that wrote it."""
        if self.uploads:
            self.uploads.checkpoint(folder, state.step, self.facts(state.step, state.trainer["questions"]))

    def save(self) -> None:
        """Start writing a checkpoint to continue from; training goes on meanwhile."""
        with self.watchdog.patient("saving a checkpoint"):
            self.accounts.settle()
            self.state.meter = self.accounts.meter.state()
            with self.engine.gathered():
                weights = copy_weights(self.model) if self.processes.is_main else {}
            engine_state = self.engine.state_dict()
            self.saver.save(
                self.state.step,
                engine_state,
                asdict(self.state),
                self.identity,
                lambda folder: self.model.save_pretrained(folder, self.tokenizer, self.config, weights=weights),
            )

    def writing(self) -> AbstractContextManager:
        """Around what writes to the output folder beside the checkpoints: a disk that refuses is an error of the user."""
        return writing_to(self.output_dir, WRITE_ADVICE, CheckpointError)

    def leave(self, stop: Interrupted) -> Interrupted:
        """Save what is not saved yet; returns the reason to leave, with what to tell the user."""
        if self.state.step != self.saver.step:
            self.save()
        with self.watchdog.patient("finishing the checkpoint"):
            self.saver.settle()
        interruption.all_saved()
        folder = step_directory(self.output_dir, self.state.step)
        return Interrupted(stop.signum, f"{folder} is complete, go on with --resume auto")


def step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of all randomness inside one step of one process."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0])


def count_steps(config: Config, dataset: VQADataset, world_size: int = 1) -> int:
    """Optimizer steps of a run: `num_epochs`, but at most `max_steps`. An epoch of balanced draws has as many visits as
    one of all questions."""
    training = config.training
    steps = -(-dataset.num_visits() // global_batch(training, world_size)) * training.num_epochs
    return min(steps, training.max_steps) if training.max_steps else steps


def count_parameters(model) -> int:
    """Also of a model that ZeRO-3 has shared out."""
    return sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters())


def _shown(score: float | None) -> str:
    return "n/a" if score is None else f"{score:.4f}"
