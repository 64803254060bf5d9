"""Which micro-batch and how many loader workers: the choices, from measurements that somebody else makes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

GROWTH = 1.05
"""A larger micro-batch must be faster by this to be worth its memory."""
PATIENCE = 2
"""Sizes in a row that bring less, before no larger one is tried."""
AHEAD = 1.2
"""Rate of loader processes over that of the step from which they keep up."""
IN_TURN = 20.0
"""The same without loader processes: loading and computing take turns, and this costs 5 %."""


@dataclass(frozen=True)
class Trial:
    """What one size of the micro-batch needs."""

    size: int
    """image visits"""
    peak: int
    """bytes, with the visits that need most"""
    questions: float
    """of an ordinary micro-batch, mean"""
    micro_seconds: float
    """forward, loss and backward of an ordinary micro-batch, median"""
    update_seconds: float
    """clipping and optimizer of a step, median"""

    def questions_per_second(self, accumulation: int) -> float:
        """On one device, with so many micro-batches a step."""
        return accumulation * self.questions / (accumulation * self.micro_seconds + self.update_seconds)

    def visits_per_second(self, accumulation: int) -> float:
        """As above, image visits."""
        return self.questions_per_second(accumulation) * self.size / self.questions


@dataclass
class Search:
    """Sizes that were tried, in the order of size, and where it ended."""

    trials: list[Trial]
    largest: int
    """known to fit"""
    refused: int | None
    """the smallest that is known not to fit"""
    why: str
    """no larger one was tried"""

    @property
    def is_exact(self) -> bool:
        """One visit more does not fit."""
        return self.refused == self.largest + 1


def doubled(most: int) -> Iterator[int]:
    """1, 2, 4 ... and `most`."""
    size = 1
    while size < most:
        yield size
        size *= 2
    yield most


def search(
    most: int,
    measure: Callable[[int], Trial | None],
    fits: Callable[[int], bool],
    hurdle: Callable[[list[Trial], int], str],
) -> Search:
    """Double the micro-batch until it does not fit, `most` is reached or there is a hurdle; then close in on the largest.

    Args:
        measure: a trial of a size, None when it does not fit.
        fits: whether a size fits, without its times.
        hurdle: why a size is not worth a trial after these trials; empty when it is.
    """
    trials: list[Trial] = []
    refused, why = None, "the global batch needs no larger one"
    for size in doubled(most):
        if trials and (reason := hurdle(trials, size)):
            why = reason
            break
        found = measure(size)
        if found is None:
            refused, why = size, "out of memory"
            break
        trials.append(found)
    largest = trials[-1].size if trials else 0
    while refused and refused - largest > 1 and not hurdle([], (largest + refused) // 2):
        middle = (largest + refused) // 2
        largest, refused = (middle, refused) if fits(middle) else (largest, middle)
    if trials and largest > trials[-1].size and not hurdle([], largest) and (found := measure(largest)):
        trials.append(found)
    return Search(trials, largest, refused, why)


def stopped_growing(rates: list[float]) -> bool:
    """Whether the last `PATIENCE` rates brought less than `GROWTH` over the best before them."""
    return len(rates) > PATIENCE and max(rates[-PATIENCE:]) < GROWTH * max(rates[:-PATIENCE])


def best_trial(trials: list[Trial], accumulation: Callable[[int], int], share: int, limit: float) -> Trial:
    """The smallest micro-batch within 5 % of the best rate.

    Args:
        accumulation: micro-batches a step for a size.
        share: image visits of a step on one device; sizes that make exactly these go before others.
        limit: bytes that a peak should not exceed if there is a choice.
    """
    candidates = [trial for trial in trials if trial.peak <= limit] or trials[:1]
    exact = [trial for trial in candidates if trial.size * accumulation(trial.size) == share]
    candidates = exact or candidates
    rates = {trial.size: trial.questions_per_second(accumulation(trial.size)) for trial in candidates}
    return next(trial for trial in candidates if GROWTH * rates[trial.size] >= max(rates.values()))


def with_loader(step: float, loader: float, workers: int) -> float:
    """Questions a second of training, from those of the step alone and of the loader alone."""
    return min(step, loader) if workers else 1 / (1 / step + 1 / loader)


def choose_workers(rates: dict[int, float], step: float) -> tuple[int, bool]:
    """The fewest workers that keep up with `step` questions a second, and whether any do; else the best there are.

    `rates`: workers -> questions a second of the loader alone.
    """
    for workers, rate in sorted(rates.items()):
        if rate >= step * (AHEAD if workers else IN_TURN):
            return workers, True
    return max(sorted(rates), key=lambda workers: with_loader(step, rates[workers], workers)), False
