"""Means and rates between two lines of the log."""

from __future__ import annotations

import time
from dataclasses import dataclass

from torch import Tensor

from data.batch import Batch
from training.engine import StepOutcome


@dataclass
class StepReport:
    """Loss parts of one window, still on the device, and what became of its gradient."""

    parts: dict[str, Tensor]
    outcome: StepOutcome


class Meter:
    """Means and rates since the last line of the log. Values stay on the device until they are read."""

    def start(self, step: int) -> None:
        """A run starts, or continues behind `step`."""
        self._first_step, self._begin = step, time.monotonic()
        self._clear()

    def _clear(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._steps: dict[str, int] = {}
        self._images = self._questions = 0
        self._seconds, self._last = 0.0, time.monotonic()

    def add(self, report: StepReport, window: list[Batch]) -> None:
        for name, value in report.parts.items():
            self._sums[name] = self._sums.get(name, 0) + value
            self._steps[name] = self._steps.get(name, 0) + 1
        self._outcome = report.outcome
        self._images += sum(len(batch.images) for batch in window)
        self._questions += sum(len(batch.head) for batch in window)

    def read(self, step: int, total_steps: int) -> dict[str, float]:
        """Numbers for the sinks; starts a new interval."""
        now = time.monotonic()
        seconds, per_step = now - self._last, (now - self._begin) / (step - self._first_step)
        values = {name: float(total) / self._steps[name] for name, total in self._sums.items()}
        values |= {
            "lr": self._outcome.lr,
            "grad_norm": self._outcome.grad_norm,
            "images_per_second": self._images / seconds,
            "questions_per_second": self._questions / seconds,
            "seconds_left": per_step * (total_steps - step),
        }
        self._clear()
        return {f"train/{name}": value for name, value in values.items()}
