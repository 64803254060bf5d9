"""Metrics that are functions of counts: what is summed over patients, and what is made of the sums.

Whatever is drawn or left out, the counts of some patients are the sum of theirs, so that two thousand resamples are one matrix
product. A metric takes sums of any leading shape (...) and gives as many values, nan where it is not defined.
Letters: P patients, n questions, C classes, K counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.label_space import HEADS, Head

Values = dict[str, np.ndarray]
"""metric -> (...)"""


@dataclass(frozen=True)
class Counted:
    """Questions of one head, counted for each patient."""

    head: Head
    counts: np.ndarray
    """(P, K) float64: a flat confusion matrix (C true x C predicted), or hits, false alarms and misses of C classes, then
    questions, exact answers and the sum of Jaccard indices"""

    @staticmethod
    def of(
        head: Head, patients: np.ndarray, predictions: np.ndarray, targets: np.ndarray, num_patients: int
    ) -> Counted:
        """`patients` (n,) in 0..P-1; predictions and targets as `score_head` takes them."""
        count = _multi_label if HEADS[head].multi_label else _confusion
        return Counted(head, count(patients, predictions, targets, len(HEADS[head].classes), num_patients))

    def metrics(self, sums: np.ndarray) -> Values:
        """(..., K) sums over some patients -> every metric of the head.

        Averages over classes are over those that occur in all counts together. Where sums lack one of them, the mean over few
        classes (binary, severity) is undefined: it would be of something else. The mean over many leaves that class out.
        """
        total = self.counts.sum(0)
        of_sums = of_multi_label if HEADS[self.head].multi_label else of_confusion
        return of_sums(sums, total, self.head)

    @property
    def averaged(self) -> int:
        """How many classes macro-F1 is a mean over."""
        classes, total = len(HEADS[self.head].classes), self.counts.sum(0)
        if HEADS[self.head].multi_label:
            return int((total[:classes] + total[2 * classes : 3 * classes] > 0).sum())
        matrix = total.reshape(classes, classes)
        return int((matrix.sum(0) + matrix.sum(1) > 0).sum())

    def questions(self, sums: np.ndarray) -> np.ndarray:
        """(..., K) -> (...)"""
        return sums[..., -3] if HEADS[self.head].multi_label else sums.sum(-1)


def _confusion(
    patients: np.ndarray, predictions: np.ndarray, targets: np.ndarray, classes: int, num_patients: int
) -> np.ndarray:
    cell = (patients * classes + targets) * classes + predictions
    return np.bincount(cell, minlength=num_patients * classes**2).reshape(num_patients, classes**2).astype(np.float64)


def _multi_label(
    patients: np.ndarray, predictions: np.ndarray, targets: np.ndarray, classes: int, num_patients: int
) -> np.ndarray:
    predictions, targets = predictions.astype(bool), targets.astype(bool)
    both, either = (predictions & targets), (predictions | targets)
    union = either.sum(1)
    jaccard = np.divide(both.sum(1), union, out=np.ones(len(union)), where=union > 0)
    numbers = [both, predictions & ~targets, targets & ~predictions]
    numbers += [np.ones((len(union), 1)), ~(predictions ^ targets).any(1)[:, None], jaccard[:, None]]
    counts = np.zeros((num_patients, 3 * classes + 3))
    np.add.at(counts, patients, np.concatenate(numbers, axis=1).astype(np.float64))
    return counts


def of_confusion(sums: np.ndarray, total: np.ndarray, head: Head) -> Values:
    """accuracy, balanced_accuracy, macro_f1 (classes that are true or told), mcc; of two classes: precision, recall and F1 of
    each; of ordered ones: kappa, mae."""
    spec = HEADS[head]
    classes = len(spec.classes)
    matrix = sums.reshape(*sums.shape[:-1], classes, classes)
    whole = total.reshape(classes, classes)
    true, told, hits = matrix.sum(-1), matrix.sum(-2), np.diagonal(matrix, axis1=-2, axis2=-1)
    n = matrix.sum((-2, -1))
    occurring = whole.sum(1) > 0
    several = occurring.sum() > 1
    scores = _ratio(hits, true), _ratio(2 * hits, true + told), _ratio(hits, told)
    recall, f1, precision = (of_present(value, true) for value in scores)
    # as scikit-learn: a class that is only told has the F1 0
    mentioned = occurring | (whole.sum(0) > 0)
    of_mentioned = np.where(occurring, f1, 0.0)[..., mentioned]
    values = {
        "accuracy": _ratio(hits.sum(-1), n),
        "balanced_accuracy": recall[..., occurring].mean(-1) if several else np.full(n.shape, np.nan),
        "macro_f1": of_mentioned.mean(-1) if mentioned.any() else np.full(n.shape, np.nan),
        "mcc": _mcc(true, told, hits, n),
    }
    if spec.two_classes:
        for place, name in enumerate(spec.classes):
            values |= {
                f"precision_{name}": precision[..., place],
                f"recall_{name}": recall[..., place],
                f"f1_{name}": f1[..., place],
            }
    if spec.ordered:
        values |= _ordinal(matrix, true, told, n)
    return values


def _mcc(true: np.ndarray, told: np.ndarray, hits: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Gorodkin's R_K (2004); 0 where all answers are the same, nan where all targets are."""
    covariance = hits.sum(-1) * n - (true * told).sum(-1)
    of_true, of_told = n**2 - (true**2).sum(-1), n**2 - (told**2).sum(-1)
    value = _ratio(covariance, np.sqrt(of_true * of_told))
    return np.where(of_true > 0, np.where(of_told > 0, value, 0.0), np.nan)


def _ordinal(matrix: np.ndarray, true: np.ndarray, told: np.ndarray, n: np.ndarray) -> Values:
    """Quadratic weighted kappa (Cohen 1968), nan where all targets are one grade, and mean absolute error of grades."""
    grade = np.arange(matrix.shape[-1])
    distance = np.abs(grade[:, None] - grade)
    by_chance = _ratio((true[..., :, None] * told[..., None, :] * distance**2).sum((-2, -1)), n)
    disagreement = (matrix * distance**2).sum((-2, -1))
    return {
        "quadratic_kappa": of_present(1 - _ratio(disagreement, by_chance), (true > 0).sum(-1) - 1),
        "mae": _ratio((matrix * distance).sum((-2, -1)), n),
    }


def of_multi_label(sums: np.ndarray, total: np.ndarray, head: Head) -> Values:
    """micro_f1, micro_precision, micro_recall, macro_f1 (classes that are ever right), jaccard (mean over questions, 1 for
    two empty sets), exact_match. What is counted over all classes is 0 where classes are told and none is true."""
    classes = len(HEADS[head].classes)
    hits, alarms, misses = (sums[..., i * classes : (i + 1) * classes] for i in range(3))
    n, exact, jaccard = (sums[..., 3 * classes + i] for i in range(3))
    occurring = (total[:classes] + total[2 * classes : 3 * classes]) > 0
    f1 = of_present(_ratio(2 * hits, 2 * hits + alarms + misses), hits + misses)
    tp, fp, fn = hits.sum(-1), alarms.sum(-1), misses.sum(-1)
    return {
        "micro_f1": _ratio(2 * tp, 2 * tp + fp + fn),
        "micro_precision": _ratio(tp, tp + fp),
        "micro_recall": _ratio(tp, tp + fn),
        "macro_f1": mean_of_known(f1[..., occurring]),
        "jaccard": _ratio(jaccard, n),
        "exact_match": _ratio(exact, n),
    }


def of_classes(counted: Counted) -> list[dict[str, float | int | None]]:
    """Of a multi-label head, for each class: questions that have it (`n_pos`), precision, recall, F1."""
    classes = len(HEADS[counted.head].classes)
    hits, alarms, misses = counted.counts.sum(0)[: 3 * classes].reshape(3, classes)
    values = {
        "precision": _ratio(hits, hits + alarms),
        "recall": _ratio(hits, hits + misses),
        "f1": _ratio(2 * hits, 2 * hits + alarms + misses),
    }
    values = {name: of_present(value, hits + misses) for name, value in values.items()}
    return [
        {"n_pos": int(hits[c] + misses[c])} | {name: known(value[c]) for name, value in values.items()}
        for c in range(classes)
    ]


def of_present(values: np.ndarray, true: np.ndarray) -> np.ndarray:
    """nan where nothing is `true`: a class without a question has no score, whatever is answered."""
    return np.where(true > 0, values, np.nan)


def mean_of_known(values: np.ndarray) -> np.ndarray:
    """(..., C) -> (...) mean of those that are not nan; nan where all are."""
    there = ~np.isnan(values)
    return _ratio(np.where(there, values, 0).sum(-1), there.sum(-1))


def known(value: float) -> float | None:
    """None for nan."""
    return None if np.isnan(value) else float(value)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """nan where the denominator is 0."""
    numerator, denominator = np.broadcast_arrays(np.asarray(numerator, float), np.asarray(denominator, float))
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)
