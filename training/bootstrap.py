"""Uncertainty from resampled patients.

Questions of one patient are not independent, so whole patients are drawn. Metrics are functions of sums over patients
(`training.scoring.counts`, `.ranking`): a resample is one row of multiplicities, two thousand are one matrix product, and all
metrics of all models are computed from the same resamples, which makes every difference a paired one.
Letters: P patients, S resamples, K counts.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

MOST_UNDEFINED = 0.05
"""Share of resamples in which a metric may be undefined. Above, those that are left say nothing about all: no interval."""
_CHUNK = 256
"""Resamples at a time: bounds the (S, P) matrix of floating-point multiplicities."""


@dataclass(frozen=True)
class Interval:
    """A value with its percentile interval over resamples of patients; None where undefined."""

    value: float | None
    low: float | None
    high: float | None
    n_patients: int
    resamples: int
    dropped: int
    """Resamples in which the metric is undefined (a class without a question): left out of the interval; see MOST_UNDEFINED."""
    p: float | None = None
    """Of a difference: two-sided, that it is zero"""

    def as_json(self) -> dict:
        return {name: value for name, value in asdict(self).items() if name != "p" or value is not None}


class Resamples:
    """The same random patients for whatever is summed over them; equal seeds draw equal patients."""

    def __init__(self, num_patients: int, samples: int, seed: int):
        rng = np.random.default_rng(seed)
        self.num_patients, self.samples = num_patients, samples
        self.times = np.empty((samples if num_patients else 0, num_patients), dtype=np.uint8)
        """(S, P) how often each patient is drawn"""
        for times in self.times:
            times[:] = np.bincount(rng.integers(num_patients, size=num_patients), minlength=num_patients)

    def sums(self, counts: np.ndarray) -> np.ndarray:
        """(P, K) counts -> (S, K) their sums in each resample."""
        sums = np.empty((len(self.times), counts.shape[1]))
        for start in range(0, len(sums), _CHUNK):
            sums[start : start + _CHUNK] = self.times[start : start + _CHUNK].astype(np.float64) @ counts
        return sums


def interval(value: float, drawn: np.ndarray, confidence: float, patients: int, difference: bool = False) -> Interval:
    """Percentile interval of a metric; none when it is undefined in more than MOST_UNDEFINED of the resamples.

    Args:
        value: of all patients; nan: undefined.
        drawn: (S,) values of the resamples, nan where undefined.
        confidence: for example 0.95.
        patients: that have a question.
        difference: with a p-value.
    """
    defined = drawn[~np.isnan(drawn)]
    enough = len(defined) > 0 and len(drawn) - len(defined) <= MOST_UNDEFINED * len(drawn)
    known = not np.isnan(value) and enough and patients > 1  # one patient has no spread to show
    tail = (1 - confidence) / 2
    low, high = np.quantile(defined, [tail, 1 - tail]) if known else (None, None)
    return Interval(
        value=None if np.isnan(value) else float(value),
        low=float(low) if known else None,
        high=float(high) if known else None,
        n_patients=patients,
        resamples=len(drawn),
        dropped=len(drawn) - len(defined),
        p=_p_value(defined) if known and difference else None,
    )


def _p_value(differences: np.ndarray) -> float:
    """Twice the share of resamples on the rarer side of zero, each side with one more (Davison and Hinkley 1997, 4.2)."""
    sides = (differences <= 0).sum(), (differences >= 0).sum()
    return float(min(1.0, 2 * (1 + min(sides)) / (1 + len(differences))))


def holm(p_values: list[float | None]) -> list[float | None]:
    """Adjusted for their number (Holm 1979); None stays None and does not count."""
    order = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        adjusted[place] = largest
    return adjusted
