"""AUROC and average precision as functions of histograms of scores, which are sums over patients.

Scores are put into bins; within a bin they count as equal, as tied scores do. With as many bins as there are distinct scores both
are exact. Average precision is so already with a bin that begins at each positive's score: nothing else is a threshold of it, and
where positives are rare the quantiles of all scores would put them into one bin. Letters: P patients, n questions, B bins.
"""

from __future__ import annotations

import numpy as np

MOST_BINS = 256


def histogram(
    patients: np.ndarray,
    scores: np.ndarray,
    positive: np.ndarray,
    num_patients: int,
    bins: int = MOST_BINS,
    at_positives: bool = False,
) -> np.ndarray:
    """(P, 2B): for each patient the negatives in each bin, lowest score first, and then the positives.

    Args:
        patients: (n,) in 0..P-1; scores: (n,); positive: (n,) bool.
        at_positives: bins begin at scores of positives, for average precision.
    """
    place = _bins(scores, scores[positive] if at_positives else scores, bins)
    count = int(place.max(initial=0)) + 1
    cell = (patients * 2 + positive.astype(np.int64)) * count + place
    return np.bincount(cell, minlength=num_patients * 2 * count).reshape(num_patients, 2 * count).astype(np.float64)


def _bins(scores: np.ndarray, edges: np.ndarray, bins: int) -> np.ndarray:
    """(n,) bin of each score: they begin at distinct `edges`, or at quantiles of them where there are more than `bins`."""
    distinct = np.unique(edges)
    if len(distinct) > bins:
        distinct = np.unique(np.quantile(edges, np.linspace(0, 1, bins + 1)[:-1], method="inverted_cdf"))
    place = np.searchsorted(distinct, scores, side="right")
    return place - place.min(initial=len(distinct))  # the first is empty where the lowest score is an edge


def auroc(histograms: np.ndarray) -> np.ndarray:
    """(..., 2B) -> (...) probability that a positive scores above a negative, ties counting half; nan without both."""
    negative, positive = _split(histograms)
    below = np.cumsum(negative, -1) - negative
    pairs = positive.sum(-1) * negative.sum(-1)
    return _ratio((positive * (below + negative / 2)).sum(-1), pairs)


def average_precision(histograms: np.ndarray) -> np.ndarray:
    """(..., 2B) -> (...) sum of precision x gain in recall over falling thresholds, as scikit-learn; nan without positives."""
    negative, positive = (side[..., ::-1] for side in _split(histograms))
    hits = np.cumsum(positive, -1)
    told = hits + np.cumsum(negative, -1)
    precision = np.divide(hits, told, out=np.zeros_like(hits), where=told > 0)
    return _ratio((precision * positive).sum(-1), positive.sum(-1))


def _split(histograms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    half = histograms.shape[-1] // 2
    return histograms[..., :half], histograms[..., half:]


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(
        numerator, denominator, out=np.full(np.shape(numerator), np.nan), where=np.asarray(denominator) > 0
    )
