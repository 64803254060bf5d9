"""Metrics: hand-computed values, agreement with scikit-learn, and None for what is not defined."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from data.label_space import CHEXPERT, NO_FINDING, Head
from training.metrics import chexpert_auroc, headline, score_head


def one_hot(classes: list[int], count: int) -> np.ndarray:
    return np.eye(count)[classes]


def test_binary_scores_by_hand():
    targets = np.array([1, 1, 1, 0])
    predictions = np.array([1, 1, 0, 0])
    probabilities = np.array([[0.1, 0.9], [0.2, 0.8], [0.7, 0.3], [0.6, 0.4]])
    scores = score_head(Head.BINARY, probabilities, predictions, targets)
    assert scores["n"] == 4
    assert scores["accuracy"] == pytest.approx(0.75)
    assert scores["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert scores["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert scores["auroc"] == pytest.approx(2 / 3)
    assert scores["mcc"] == pytest.approx(2 / np.sqrt(2 * 2 * 3 * 1))


def test_one_class_only_leaves_balanced_accuracy_and_auroc_undefined():
    scores = score_head(Head.BINARY, one_hot([1, 0], 2), np.array([1, 0]), np.array([1, 1]))
    assert scores["accuracy"] == 0.5
    assert scores["balanced_accuracy"] is scores["auroc"] is scores["mcc"] is None


def test_severity_counts_only_the_grades_that_occur():
    targets, predictions = np.array([1, 1, 3]), np.array([1, 2, 3])
    scores = score_head(Head.SEVERITY, one_hot([1, 2, 3], 4), predictions, targets)
    assert scores["balanced_accuracy"] == pytest.approx((0.5 + 1) / 2)
    assert scores["macro_f1"] == pytest.approx((2 / 3 + 0 + 1) / 3), "a grade that was only predicted counts as 0"
    assert "auroc" not in scores


def test_multi_label_scores_by_hand():
    targets, predictions = np.zeros((2, 14), int), np.zeros((2, 14), int)
    targets[0, [0, 1]] = 1
    targets[1, 0] = 1
    predictions[0, 0] = predictions[1, 0] = predictions[1, 5] = 1
    probabilities = np.where(predictions, 0.9, 0.1).astype(float)
    scores = score_head(Head.CATEGORY, probabilities, predictions, targets)
    assert scores["micro_f1"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert scores["macro_classes"] == 2
    assert scores["macro_f1"] == pytest.approx((1 + 0) / 2), "class 5 has no positive target and is left out"
    assert scores["mean_average_precision"] == pytest.approx((1 + 0.5) / 2)
    assert scores["exact_match"] == 0.0


def test_no_questions_is_n_0_and_nothing_else():
    for head, classes in ((Head.BINARY, 2), (Head.REGION, 26)):
        shape = (0,) if head == Head.BINARY else (0, classes)
        scores = score_head(head, np.zeros((0, classes)), np.zeros(shape), np.zeros(shape))
        assert scores.pop("n") == 0
        scores.pop("macro_classes", None)
        assert set(scores.values()) == {None}


def test_nothing_right_and_nothing_predicted_has_no_f1():
    empty = np.zeros((3, 26), int)
    scores = score_head(Head.REGION, np.zeros((3, 26)), empty, empty)
    assert scores["micro_f1"] is scores["macro_f1"] is scores["mean_average_precision"] is None
    assert scores["exact_match"] == 1.0


def test_nan_probabilities_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        score_head(Head.BINARY, np.array([[np.nan, 0.5]]), np.array([0]), np.array([0]))
    with pytest.raises(ValueError, match="NaN"):
        chexpert_auroc(np.full((2, 14), np.nan), np.zeros((2, 14)))


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30))
def test_single_label_scores_agree_with_scikit_learn(pairs):
    targets, predictions = np.array(pairs).T
    scores = score_head(Head.SEVERITY, one_hot(list(predictions), 4), predictions, targets)
    assert scores["accuracy"] == pytest.approx(sk.accuracy_score(targets, predictions))
    assert scores["macro_f1"] == pytest.approx(sk.f1_score(targets, predictions, average="macro", zero_division=0))
    if len(set(targets)) > 1:
        recalls = [np.mean(predictions[targets == c] == c) for c in set(targets)]
        assert scores["balanced_accuracy"] == pytest.approx(np.mean(recalls))
        assert scores["mcc"] == pytest.approx(sk.matthews_corrcoef(targets, predictions))
    else:
        assert scores["balanced_accuracy"] is None


@settings(max_examples=30)
@given(st.integers(1, 20), st.integers(0, 10_000))
def test_multi_label_scores_agree_with_scikit_learn(n, seed):
    rng = np.random.default_rng(seed)
    targets, probabilities = (rng.random((n, 14)) < 0.3).astype(int), rng.random((n, 14))
    predictions = (probabilities > 0.5).astype(int)
    scores = score_head(Head.CATEGORY, probabilities, predictions, targets)
    hits = int((targets & predictions).sum())
    if targets.sum() + predictions.sum():
        assert scores["micro_f1"] == pytest.approx(2 * hits / (targets.sum() + predictions.sum()))
    occurring = np.flatnonzero(targets.any(0))
    if len(occurring):
        average = sk.average_precision_score(targets[:, occurring], probabilities[:, occurring], average="macro")
        assert scores["mean_average_precision"] == pytest.approx(average)


def test_chexpert_auroc_uses_stated_labels_only():
    labels = np.full((4, 14), np.nan)
    labels[:, 0] = [1, 0, -1, np.nan]
    labels[:2, 1] = [1, 1]
    labels[0, NO_FINDING] = 1
    probabilities = np.zeros((4, 14))
    probabilities[:, 0] = [0.9, 0.1, 1.0, 0.0]
    probabilities[:, NO_FINDING] = [0.5, 0.4, 0.6, 0.3]
    per_label, mean = chexpert_auroc(probabilities, labels)
    assert per_label[CHEXPERT[0]] == 1.0
    assert per_label[CHEXPERT[1]] is None, "one value only"
    assert per_label[CHEXPERT[2]] is None, "never stated"
    assert per_label["No Finding"] == pytest.approx(2 / 3), "a blank No Finding is a negative"
    assert mean == pytest.approx((1 + 2 / 3) / 2)


def test_headline_is_the_mean_over_the_heads_that_are_defined():
    scores = {
        "binary": {"balanced_accuracy": 0.8},
        "category": {"micro_f1": 0.4},
        "region": {"micro_f1": None},
        "severity": {"balanced_accuracy": None},
    }
    assert headline(scores) == pytest.approx(0.6)
    assert headline({"region": {"micro_f1": None}}) is None
