"""Means and rates between two lines of the log."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from data.loader import Window
from training.engine import StepOutcome
from training.processes import Processes


@dataclass
class StepReport:
    """Loss parts of one window over all processes, still on the device, and what became of its gradient."""

    parts: dict[str, Tensor]
    outcome: StepOutcome
    questions: int
    """over all processes"""


class Meter:
    """Means and rates since the last line of the log. Values stay on the device until they are read."""

    def start(self, step: int, sums: dict | None = None) -> None:
        """A run starts, or continues behind `step` with the `state` of a meter."""
        self._first_step, self._begin = step, time.monotonic()
        self._clear()
        if sums:
            self._sums = {name: torch.tensor(total) for name, (total, _) in sums.items()}
            self._steps = {name: steps for name, (_, steps) in sums.items()}

    def _clear(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._steps: dict[str, int] = {}
        self._images = self._questions = 0
        self._last = time.monotonic()

    def add(self, report: StepReport, window: Window) -> None:
        self._outcome = report.outcome
        for name, value in report.parts.items() if report.outcome.applied else ():
            total = self._sums.get(name)
            self._sums[name] = value if total is None else total.to(value.device) + value
            self._steps[name] = self._steps.get(name, 0) + 1
        self._images += window.images
        self._questions += window.questions

    def state(self) -> dict[str, tuple[float, int]]:
        """Sums and steps since the last line: with them a resumed run writes the same next line."""
        return {name: (float(total), self._steps[name]) for name, total in self._sums.items()}

    def read(self, step: int, total_steps: int, processes: Processes) -> dict[str, float]:
        """Numbers over all processes for the sinks; starts a new interval."""
        now = time.monotonic()
        seconds, per_step = now - self._last, (now - self._begin) / max(1, step - self._first_step)
        images, questions = processes.sum(torch.tensor([self._images, self._questions], dtype=torch.float64)).tolist()
        values = {name: float(total) / self._steps[name] for name, total in self._sums.items()}
        values |= {
            "lr": self._outcome.lr,
            "grad_norm": self._outcome.grad_norm,
            "images_per_second": images / seconds,
            "questions_per_second": questions / seconds,
            "seconds_left": per_step * (total_steps - step),
        }
        self._clear()
        return {f"train/{name}": value for name, value in values.items()}
