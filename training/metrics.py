"""Scores of predictions. What is not defined is None (shown as n/a), never 0 or 1; definitions are scikit-learn's.

Letters: n questions of one head, C classes of that head.
"""

from __future__ import annotations

import numpy as np

from data.label_space import CHEXPERT, HEADS, NO_FINDING, Head
from training.scoring.counts import Counted, known, of_classes

Scores = dict[str, float | int | None]

HEADLINE = {head: "micro_f1" if spec.multi_label else "balanced_accuracy" for head, spec in HEADS.items()}
"""The metric of each head that selects the best model."""


def score_head(head: Head, probabilities: np.ndarray | None, predictions: np.ndarray, targets: np.ndarray) -> Scores:
    """All metrics of one head.

    Args:
        probabilities: (n, C) in [0, 1]; None: not known, and what ranks by them is undefined.
        predictions, targets: (n,) class numbers, for multi-label heads (n, C) multi-hot.
    Returns:
        n, and macro_classes: over how many classes macro_f1 is a mean.
        One class is right: accuracy, balanced_accuracy (mean recall of the classes that occur; None when fewer than two
        do), macro_f1 (over classes that occur in targets or predictions), mcc; of two classes (binary) also precision,
        recall and F1 of each by its name, auroc, average_precision; of ordered ones (severity) also quadratic_kappa and
        mae (in grades).
        Several may be (category, region): micro_f1, micro_precision, micro_recall, macro_f1 and mean_average_precision (both
        over the classes that occur), jaccard, exact_match.
    Raises:
        ValueError: a probability is NaN.
    """
    head = Head(head)
    if probabilities is not None:
        _check(probabilities)
    predictions, targets = (np.asarray(values).astype(np.int64) for values in (predictions, targets))
    counted = Counted.of(head, np.zeros(len(targets), dtype=np.int64), predictions, targets, num_patients=1)
    values = counted.metrics(counted.counts.sum(0))
    return (
        {"n": len(targets)}
        | {"macro_classes": counted.averaged}
        | {name: known(value) for name, value in values.items()}
        | ranked(head, probabilities, targets)
    )


def ranked(head: Head, probabilities: np.ndarray | None, targets: np.ndarray) -> Scores:
    """The metrics of `score_head` that depend on the order of probabilities."""
    if HEADS[head].multi_label:
        return _mean_average_precision(probabilities, targets)
    if not HEADS[head].two_classes:
        return {}
    scores: Scores = {"auroc": None, "average_precision": None}
    if probabilities is not None and len(np.unique(targets)) > 1:
        # imported where it is needed: it takes a second, and training starts without a score
        from sklearn.metrics import average_precision_score, roc_auc_score

        scores["auroc"] = float(roc_auc_score(targets, probabilities[:, 1]))
        scores["average_precision"] = float(average_precision_score(targets, probabilities[:, 1]))
    return scores


def _mean_average_precision(probabilities: np.ndarray | None, targets: np.ndarray) -> Scores:
    occurring = np.flatnonzero(np.asarray(targets).any(0)) if len(targets) else []
    scores: Scores = {"mean_average_precision": None}
    if probabilities is not None and len(occurring):
        from sklearn.metrics import average_precision_score

        precision = [average_precision_score(targets[:, c], probabilities[:, c]) for c in occurring]
        scores["mean_average_precision"] = float(np.mean(precision))
    return scores


def class_table(
    head: Head, probabilities: np.ndarray | None, predictions: np.ndarray, targets: np.ndarray
) -> dict[str, Scores]:
    """Of a multi-label head: class -> n_pos, n_neg, precision, recall, f1, auroc, average_precision."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    counted = Counted.of(head, np.zeros(len(targets), dtype=np.int64), predictions, targets, num_patients=1)
    table = {}
    for c, (name, scores) in enumerate(zip(HEADS[head].classes, of_classes(counted), strict=True)):
        scores = {"n_pos": scores.pop("n_pos"), "n_neg": 0, **scores, "auroc": None, "average_precision": None}
        scores["n_neg"] = len(targets) - scores["n_pos"]
        if probabilities is not None and scores["n_pos"]:
            scores["average_precision"] = float(average_precision_score(targets[:, c], probabilities[:, c]))
            if scores["n_neg"]:
                scores["auroc"] = float(roc_auc_score(targets[:, c], probabilities[:, c]))
        table[name] = scores
    return table


def chexpert_auroc(probabilities: np.ndarray, labels: np.ndarray) -> tuple[dict[str, float | None], float | None]:
    """AUROC of each CheXpert label over the images where it is stated, and their mean.

    Args:
        probabilities: (n, 14).
        labels: (n, 14) 1, 0, -1 uncertain, nan blank. Uncertain and blank are left out, but a blank "No Finding" is 0.
    Returns:
        label -> AUROC, None where only one value occurs; the mean over the defined ones, None when there is none.
    """
    from sklearn.metrics import roc_auc_score

    _check(probabilities)
    labels = np.array(labels, dtype=np.float64)
    labels[np.isnan(labels[:, NO_FINDING]), NO_FINDING] = 0.0
    per_label: dict[str, float | None] = {}
    for c, name in enumerate(CHEXPERT):
        stated = (labels[:, c] == 0) | (labels[:, c] == 1)
        truth = labels[stated, c]
        both = len(np.unique(truth)) == 2
        per_label[name] = float(roc_auc_score(truth, probabilities[stated, c])) if both else None
    defined = [value for value in per_label.values() if value is not None]
    return per_label, float(np.mean(defined)) if defined else None


def headline(scores: dict[str, Scores]) -> float | None:
    """Mean over heads of balanced accuracy or micro-F1, undefined ones left out; `scores`: head -> metrics."""
    values = [scores[head.value].get(metric) for head, metric in HEADLINE.items() if head.value in scores]
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def _check(probabilities: np.ndarray) -> None:
    if np.isnan(probabilities).any():
        raise ValueError("a probability is NaN: the model is broken, scoring it would hide that")
