"""Scores of predictions. What is not defined is None (shown as n/a), never 0 or 1; definitions are scikit-learn's.

Letters: n questions of one head, C classes of that head.
"""

from __future__ import annotations

import numpy as np

from data.label_space import CHEXPERT, HEADS, NO_FINDING, Head

Scores = dict[str, float | int | None]

HEADLINE = {head: "micro_f1" if spec.multi_label else "balanced_accuracy" for head, spec in HEADS.items()}
"""The metric of each head that selects the best model."""


def score_head(head: Head, probabilities: np.ndarray, predictions: np.ndarray, targets: np.ndarray) -> Scores:
    """All metrics of one head.

    Args:
        probabilities: (n, C) in [0, 1].
        predictions, targets: (n,) class numbers for binary and severity, (n, C) multi-hot for category and region.
    Returns:
        binary, severity: n, accuracy, balanced_accuracy (mean recall of the classes that occur; None when fewer than two
        do), macro_f1 (over classes that occur in targets or predictions), mcc; binary also auroc.
        category, region: n, micro_f1, macro_f1 and mean_average_precision (both over the `macro_classes` classes that
        occur), exact_match.
    Raises:
        ValueError: a probability is NaN.
    """
    head = Head(head)
    _check(probabilities)
    if HEADS[head].multi_label:
        return _score_multi_label(probabilities, predictions, targets)
    return _score_single(head, probabilities, predictions, targets)


def _score_single(head: Head, probabilities: np.ndarray, predictions: np.ndarray, targets: np.ndarray) -> Scores:
    # imported where it is needed: it takes a second, and training starts without a score
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef, recall_score, roc_auc_score

    scores: Scores = dict.fromkeys(("n", "accuracy", "balanced_accuracy", "macro_f1", "mcc"))
    if head == Head.BINARY:
        scores["auroc"] = None
    scores["n"] = len(targets)
    if not len(targets):
        return scores
    occurring = np.unique(targets)
    mentioned = np.union1d(occurring, predictions)
    scores["accuracy"] = float(accuracy_score(targets, predictions))
    scores["macro_f1"] = float(f1_score(targets, predictions, labels=mentioned, average="macro", zero_division=0))
    if len(occurring) > 1:
        recall = recall_score(targets, predictions, labels=occurring, average="macro", zero_division=0)
        scores["balanced_accuracy"] = float(recall)
        scores["mcc"] = float(matthews_corrcoef(targets, predictions))
        if head == Head.BINARY:
            scores["auroc"] = float(roc_auc_score(targets, probabilities[:, 1]))
    return scores


def _score_multi_label(probabilities: np.ndarray, predictions: np.ndarray, targets: np.ndarray) -> Scores:
    from sklearn.metrics import average_precision_score, f1_score

    scores: Scores = dict.fromkeys(("n", "micro_f1", "macro_f1", "mean_average_precision", "exact_match"))
    scores |= {"n": len(targets), "macro_classes": 0}
    if not len(targets):
        return scores
    targets, predictions = np.asarray(targets, dtype=np.int8), np.asarray(predictions, dtype=np.int8)
    occurring = np.flatnonzero(targets.any(0))
    scores["macro_classes"] = len(occurring)
    scores["exact_match"] = float((targets == predictions).all(1).mean())
    if targets.any() or predictions.any():
        scores["micro_f1"] = float(f1_score(targets, predictions, average="micro", zero_division=0))
    if len(occurring):
        per_class = f1_score(targets, predictions, labels=occurring, average=None, zero_division=0)
        scores["macro_f1"] = float(np.mean(per_class))
        precision = [average_precision_score(targets[:, c], probabilities[:, c]) for c in occurring]
        scores["mean_average_precision"] = float(np.mean(precision))
    return scores


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
