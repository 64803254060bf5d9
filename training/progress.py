"""Where a run stands, and the accounts of its steps: what was skipped, and the lines of the log."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from configs.mimic_cxr_config import TrainingConfig
from data.loader import Window
from training.machine_numbers import MachineNumbers
from training.meter import Meter, StepReport
from training.outcome import StepOutcome
from training.processes import Processes
from training.tracking import WRITE_ADVICE, Sinks
from utils.errors import CheckpointError, NonFiniteError
from utils.privacy import open_private
from utils.utils import get_logger, writing_to

log = get_logger(__name__)

SKIPPED = "skipped_steps.jsonl"


@dataclass
class TrainerState:
    """Everything that a resumed run must know beside weights and optimizer."""

    step: int = 0
    """optimizer steps taken, skipped ones included"""
    epoch: int = 0
    visits: int = 0
    """image visits of this epoch that are used up, over all processes"""
    micro_batch: int = 0
    """image visits of one batch of one process: the configured size, or what memory allowed"""
    best_score: float | None = None
    best_step: int = 0
    looked_at: int = 0
    """step of the last look at the validation split"""
    looks_without_gain: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    questions: int = 0
    """questions trained on so far, over all processes"""
    meter: dict = field(default_factory=dict)
    """what the next line of the log already has"""
    tracker_run: str = ""
    """id of this run in trackers; empty without them"""


@dataclass
class TakenStep:
    """A step that the cursor is behind already, and of which the device may not know yet what becomes of it."""

    number: int
    """from 1"""
    epoch: int
    """of the cursor behind it"""
    window: Window
    report: StepReport


class Accounts:
    """Counts the skipped steps of a run and writes its log, each step as soon as its outcome is known.

    The steps may be settled at once or when the next one is under way: what is counted and written is the same.
    """

    def __init__(self, settings: TrainingConfig, total_steps: int, processes: Processes):
        self.settings, self.total_steps, self.processes = settings, total_steps, processes
        self.meter = Meter()
        self.machine = MachineNumbers(processes.device)
        self._open: TakenStep | None = None

    def start(self, state: TrainerState, sinks: Sinks) -> None:
        """A run begins or goes on; its counters are kept in `state`."""
        self.state, self.sinks = state, sinks
        state.tracker_run = sinks.start(state.step, state.tracker_run)
        self.meter.start(state.step, state.meter)
        self.machine.start()

    def add(self, step: TakenStep) -> None:
        """Settle the step before and leave this one open."""
        self.settle()
        self._open = step

    def settle(self) -> None:
        """Account for the step that is open; all processes call it together.

        Raises:
            NonFiniteError: too many steps had to be skipped.
        """
        if self._open is None:
            return
        step, self._open = self._open, None
        self.meter.add(step.report, step.window)
        outcome = step.report.outcome.settle()
        if outcome.applied:
            self.state.skipped_in_a_row = 0
        else:
            self._skip(step, outcome)
        if due(step.number, self.settings.logging_steps, self.total_steps):
            values = self.meter.read(step.number, self.total_steps, self.processes)
            values |= {"train/epoch": step.epoch, "train/skipped_steps": self.state.skipped}
            values |= self.machine.read() if self.processes.is_main else {}
            self.sinks.log(step.number, values)

    def _skip(self, step: TakenStep, outcome: StepOutcome) -> None:
        """Count and report a step that was not applied; which questions it had stays on this machine."""
        state = self.state
        if outcome.overflow:
            log.info("step %d skipped: fp16 overflowed, the loss scale is lower now", step.number)
            return
        state.skipped += 1
        state.skipped_in_a_row += 1
        log.warning("step %d skipped: its loss or gradient is not finite", step.number)
        rows = self.processes.gather([row for batch in step.window.batches for row in batch.ids.question.tolist()])
        path = Path(self.settings.output_dir) / SKIPPED
        if self.processes.is_main:
            line = {
                "step": step.number,
                "epoch": step.epoch,
                "gradient_norm": str(outcome.grad_norm),
                "index_rows": rows,
            }
            writing = writing_to(self.settings.output_dir, WRITE_ADVICE, CheckpointError)
            with writing, open_private(path, "a") as file:
                file.write(json.dumps(line) + "\n")
        allowed = max(self.settings.max_skipped_steps, round(self.settings.max_skipped_fraction * self.total_steps))
        in_a_row = state.skipped_in_a_row >= self.settings.max_skipped_steps
        if in_a_row or state.skipped > allowed:
            what = f"{state.skipped_in_a_row} steps in a row" if in_a_row else f"{state.skipped} steps"
            raise NonFiniteError(
                f"{what} up to step {step.number} had losses or gradients that are not finite (training.max_skipped_steps, "
                f"max_skipped_fraction; their questions: {path}): lower training.learning_rate, or set "
                "training.precision to bf16 or fp32"
            )


def due(step: int, every: int, total_steps: int) -> bool:
    """After every so many steps, and after the last one."""
    return step % every == 0 or step >= total_steps
