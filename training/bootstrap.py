"""Patient-level bootstrap of the headline metrics.

Questions of one patient are not independent, so whole patients are drawn. Balanced accuracy and micro-F1 are both means
over classes of `numerator / denominator`, and both parts are sums over patients. With per-patient counts of shape
(P, 2, C) a resample is one product with the patients' multiplicities, a thousand resamples are one matrix product.
P patients, C classes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

_CHUNK = 256
"""Resamples at a time: bounds the (resamples, P) matrix of multiplicities."""


@dataclass(frozen=True)
class Interval:
    """A value with its percentile interval over resamples of patients; None where undefined."""

    value: float | None
    low: float | None
    high: float | None
    n_patients: int
    resamples: int
    dropped: int
    """Resamples in which the metric is undefined (a class without a question): left out of the interval."""

    def as_json(self) -> dict:
        return asdict(self)


def balanced_accuracy_counts(patients: np.ndarray, predictions: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Hits and questions per patient and class.

    Args:
        patients: (n,) int in 0..P-1, every number used.
        predictions, targets: (n,) int class indices.
    Returns:
        (P, 2, C) float64 over the C classes that occur among the targets; C = 0, undefined, when fewer than two do.
    """
    classes, position = np.unique(targets, return_inverse=True)
    if len(classes) < 2:
        return np.zeros((int(patients.max(initial=-1)) + 1, 2, 0))
    counts = np.zeros((int(patients.max(initial=-1)) + 1, 2, len(classes)))
    np.add.at(counts, (patients, 0, position), predictions == targets)
    np.add.at(counts, (patients, 1, position), 1)
    return counts


def micro_f1_counts(patients: np.ndarray, predictions: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """`2 TP` and `2 TP + FP + FN` per patient, over all classes together.

    Args:
        patients: (n,) int in 0..P-1, every number used.
        predictions, targets: (n, classes) 0/1.
    Returns:
        (P, 2, 1) float64.
    """
    predictions, targets = predictions.astype(bool), targets.astype(bool)
    counts = np.zeros((int(patients.max(initial=-1)) + 1, 2, 1))
    np.add.at(counts, (patients, 0, 0), 2 * (predictions & targets).sum(1))
    np.add.at(counts, (patients, 1, 0), predictions.sum(1) + targets.sum(1))
    return counts


def mean_ratio(counts: np.ndarray) -> np.ndarray:
    """(..., 2, C) counts -> (...) mean over classes of numerator / denominator; nan where a denominator or C is 0."""
    if counts.shape[-1] == 0:
        return np.full(counts.shape[:-2], np.nan)
    numerator, denominator = counts[..., 0, :], counts[..., 1, :]
    ratio = np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)
    return ratio.mean(-1)


def bootstrap(
    counts: np.ndarray, baseline: np.ndarray | None = None, *, samples: int, confidence: float, seed: int
) -> Interval:
    """The metric, or its gain over a baseline, with its percentile interval.

    Args:
        counts: (P, 2, C) per-patient counts.
        baseline: (P, 2, C') counts of the same patients' questions answered otherwise; the same resamples serve both.
        samples: resamples; confidence: for example 0.95; seed: equal seeds draw equal patients.
    """
    rng = np.random.default_rng(seed)
    patients = len(counts)
    drawn = np.full(samples, np.nan)
    for start in range(0, samples if patients else 0, _CHUNK):
        size = min(_CHUNK, samples - start)
        times = rng.multinomial(patients, np.full(patients, 1 / patients), size=size).astype(np.float64)
        drawn[start : start + size] = _resampled(counts, times)
        if baseline is not None:
            drawn[start : start + size] -= _resampled(baseline, times)
    value = float(mean_ratio(counts.sum(0)))
    if baseline is not None:
        value -= float(mean_ratio(baseline.sum(0)))
    defined = drawn[~np.isnan(drawn)]
    known = not np.isnan(value) and len(defined) > 0 and patients > 1  # one patient has no spread to show
    tail = (1 - confidence) / 2
    low, high = np.quantile(defined, [tail, 1 - tail]) if known else (None, None)
    return Interval(
        value=None if np.isnan(value) else value,
        low=float(low) if known else None,
        high=float(high) if known else None,
        n_patients=patients,
        resamples=samples,
        dropped=samples - len(defined),
    )


def _resampled(counts: np.ndarray, times: np.ndarray) -> np.ndarray:
    """(P, 2, C) counts, (S, P) multiplicities of the patients -> (S,) metric."""
    return mean_ratio((times @ counts.reshape(len(counts), -1)).reshape(len(times), *counts.shape[1:]))
