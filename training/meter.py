"""Means and rates between two lines of the log."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from data.loader import Window
from training.outcome import PendingOutcome, Readout
from training.processes import Processes


@dataclass
class StepReport:
    """One step as it was handed to the device: losses and outcome arrive when the device has computed them."""

    names: list[str]
    """of the loss parts that the window has targets for"""
    losses: Readout
    """the parts in that order, over all processes"""
    outcome: PendingOutcome
    questions: int
    """over all processes"""


class Meter:
    """Means and rates since the last line of the log."""

    def start(self, step: int, sums: dict | None = None) -> None:
        """A run starts, or continues behind `step` with the `state` of a meter."""
        self._first_step, self._begin = step, time.monotonic()
        self._clear()
        if sums:
            self._sums = {name: total for name, (total, _) in sums.items()}
            self._steps = {name: steps for name, (_, steps) in sums.items()}

    def _clear(self) -> None:
        self._sums: dict[str, float] = {}
        self._steps: dict[str, int] = {}
        self._images = self._questions = 0
        self._last = time.monotonic()

    def add(self, report: StepReport, window: Window) -> None:
        """Waits for the step unless it has been settled."""
        self._outcome = report.outcome.settle()
        for name, value in zip(report.names, report.losses.read(), strict=True) if self._outcome.applied else ():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._steps[name] = self._steps.get(name, 0) + 1
        self._images += window.images
        self._questions += window.questions

    def state(self) -> dict[str, tuple[float, int]]:
        """Sums and steps since the last line: with them a resumed run writes the same next line."""
        return {name: (total, self._steps[name]) for name, total in self._sums.items()}

    def read(self, step: int, total_steps: int, processes: Processes) -> dict[str, float]:
        """Numbers over all processes for the sinks; starts a new interval."""
        now = time.monotonic()
        seconds, per_step = now - self._last, (now - self._begin) / max(1, step - self._first_step)
        images, questions = processes.sum(torch.tensor([self._images, self._questions], dtype=torch.float64)).tolist()
        values = {name: total / self._steps[name] for name, total in self._sums.items()}
        values |= {
            "lr": self._outcome.lr,
            "grad_norm": self._outcome.grad_norm,
            "images_per_second": images / seconds,
            "questions_per_second": questions / seconds,
            "seconds_left": per_step * (total_steps - step),
        }
        self._clear()
        return {f"train/{name}": value for name, value in values.items()}
