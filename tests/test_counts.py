"""Metrics as functions of counts: scikit-learn's to 1e-9, hand-computed cases, and what is not defined."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from data.label_space import HEADS, Head
from training.metrics import class_table, score_head
from training.scoring.counts import Counted, of_classes

NEAR = {"rel": 0, "abs": 1e-9}


def counted(head, predictions, targets, patients=None):
    patients = np.zeros(len(targets), dtype=int) if patients is None else patients
    return Counted.of(head, patients, predictions, targets, int(patients.max(initial=0)) + 1)


def totals(head, predictions, targets):
    found = counted(head, predictions, targets)
    return found.metrics(found.counts.sum(0))


def draw(seed, head, n):
    rng = np.random.default_rng(seed)
    classes = len(HEADS[head].classes)
    if HEADS[head].multi_label:
        targets = rng.random((n, classes)) < rng.random(classes) * 0.5
        return (rng.random((n, classes)) < 0.3).astype(np.int8), targets.astype(np.int8)
    targets = rng.integers(0, classes, n)
    targets[:classes] = np.arange(classes)
    return np.where(rng.random(n) < 0.5, targets, rng.integers(0, classes, n)), targets


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), head=st.sampled_from([Head.BINARY, Head.SEVERITY]))
def test_metrics_of_one_answer_are_scikit_learns(seed, head):
    predictions, targets = draw(seed, head, 60)
    found = totals(head, predictions, targets)
    wanted = {
        "accuracy": sk.accuracy_score(targets, predictions),
        "balanced_accuracy": sk.balanced_accuracy_score(targets, predictions),
        "macro_f1": sk.f1_score(targets, predictions, average="macro", zero_division=0),
        "mcc": sk.matthews_corrcoef(targets, predictions),
    }
    if head == Head.SEVERITY:
        wanted["quadratic_kappa"] = sk.cohen_kappa_score(targets, predictions, weights="quadratic", labels=range(4))
        wanted["mae"] = sk.mean_absolute_error(targets, predictions)
    else:
        precision, recall, f1, _ = sk.precision_recall_fscore_support(targets, predictions, labels=[0, 1])
        for place, name in enumerate(("no", "yes")):
            wanted |= {f"precision_{name}": precision[place], f"recall_{name}": recall[place], f"f1_{name}": f1[place]}
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert float(found[name]) == pytest.approx(value, **NEAR), name


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), head=st.sampled_from([Head.CATEGORY, Head.REGION]))
def test_metrics_of_several_answers_are_scikit_learns(seed, head):
    predictions, targets = draw(seed, head, 40)
    found = totals(head, predictions, targets)
    occurring = np.flatnonzero(targets.any(0))
    each = sk.f1_score(targets, predictions, labels=occurring, average=None, zero_division=0)
    wanted = {
        "micro_f1": sk.f1_score(targets, predictions, average="micro"),
        "micro_precision": sk.precision_score(targets, predictions, average="micro"),
        "micro_recall": sk.recall_score(targets, predictions, average="micro"),
        "macro_f1": each.mean(),
        "jaccard": sk.jaccard_score(targets, predictions, average="samples", zero_division=1),
        "exact_match": sk.accuracy_score(targets, predictions),
    }
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert float(found[name]) == pytest.approx(value, **NEAR), name


def test_severity_by_hand():
    found = totals(Head.SEVERITY, np.array([1, 3, 2, 0]), np.array([1, 1, 2, 2]))
    assert float(found["mae"]) == pytest.approx((0 + 2 + 0 + 2) / 4)
    # observed disagreement 4 + 4; by chance: truths 1,1,2,2 against answers 1,3,2,0: (0+4+1+1)*2/4 + (1+1+0+4)*2/4
    assert float(found["quadratic_kappa"]) == pytest.approx(1 - 8 / 6)


def test_several_answers_by_hand():
    targets, predictions = np.zeros((3, 14), int), np.zeros((3, 14), int)
    targets[0, [0, 1]] = predictions[0, [0, 2]] = 1  # one hit, one miss, one false alarm: Jaccard 1/3
    targets[1, 0] = predictions[1, 0] = 1  # exact; the third is empty on both sides
    found = totals(Head.CATEGORY, predictions, targets)
    assert float(found["micro_f1"]) == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert float(found["macro_f1"]) == pytest.approx((1 + 0) / 2), "class 2 never occurs and does not count"
    assert float(found["jaccard"]) == pytest.approx((1 / 3 + 1 + 1) / 3)
    assert float(found["exact_match"]) == pytest.approx(2 / 3)


def test_what_is_not_defined_is_nan_and_never_0_or_1():
    one = totals(Head.BINARY, np.array([1, 0]), np.array([1, 1]))
    assert np.isnan([one["balanced_accuracy"], one["mcc"]]).all()
    assert np.isnan(one["recall_no"]) and float(one["recall_yes"]) == 0.5
    never = totals(Head.BINARY, np.array([1, 1]), np.array([1, 1]))
    assert np.isnan([never["precision_no"], never["recall_no"], never["f1_no"]]).all()
    absent = totals(Head.BINARY, np.array([0, 1, 1]), np.array([1, 1, 1]))
    of_no = [absent["precision_no"], absent["recall_no"], absent["f1_no"]]
    assert np.isnan(of_no).all(), "told, but never true"
    one_grade = totals(Head.SEVERITY, np.array([1, 2, 1]), np.array([1, 1, 1]))
    assert np.isnan(one_grade["quadratic_kappa"]) and float(one_grade["mae"]) == pytest.approx(1 / 3)
    empty = totals(Head.CATEGORY, np.zeros((2, 14), int), np.zeros((2, 14), int))
    assert np.isnan([empty["micro_f1"], empty["micro_precision"], empty["micro_recall"], empty["macro_f1"]]).all()
    alarms = totals(Head.CATEGORY, np.ones((2, 14), int), np.zeros((2, 14), int))
    assert np.isnan([alarms["micro_recall"], alarms["macro_f1"]]).all()
    assert {float(alarms[name]) for name in ("micro_f1", "micro_precision", "jaccard", "exact_match")} == {0.0}
    nothing = totals(Head.REGION, np.zeros((0, 26), int), np.zeros((0, 26), int))
    assert all(np.isnan(value) for value in nothing.values())
    assert set(score_head(Head.SEVERITY, np.zeros((0, 4)), np.zeros(0, int), np.zeros(0, int)).values()) == {0, None}


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), head=st.sampled_from([Head.CATEGORY, Head.REGION]))
def test_a_mean_over_many_classes_leaves_out_those_that_a_resample_lacks(seed, head):
    """As scikit-learn scores the questions of the drawn patients, over the classes that occur both in them and in all."""
    predictions, targets = draw(seed, head, 12)
    rng = np.random.default_rng(seed)
    patients = rng.integers(0, 6, 12)
    found = counted(head, predictions, targets, patients)
    times = np.bincount(rng.integers(0, len(found.counts), len(found.counts)), minlength=len(found.counts))
    rows = np.repeat(np.arange(12), times[patients])
    occurring = np.flatnonzero(targets[rows].any(0)) if len(rows) else []
    value = float(found.metrics(times @ found.counts)["macro_f1"])
    if not len(occurring):
        assert np.isnan(value)
        return
    each = sk.f1_score(targets[rows], predictions[rows], labels=occurring, average=None, zero_division=0)
    assert value == pytest.approx(each.mean(), **NEAR)


@pytest.mark.parametrize("metric", ["balanced_accuracy", "macro_f1"])
def test_a_mean_over_few_classes_is_undefined_in_a_resample_that_lacks_one(metric):
    """Grade 3 is one patient's: without it the mean of the other three would be of something else."""
    patients, targets = np.arange(4), np.array([0, 1, 2, 3])
    found = counted(Head.SEVERITY, np.array([0, 1, 2, 0]), targets, patients)
    values = found.metrics(np.array([[1, 1, 1, 1], [2, 1, 1, 0]]) @ found.counts)[metric]
    assert not np.isnan(values[0]) and np.isnan(values[1])


def test_a_class_that_is_only_told_counts_as_0_in_every_resample():
    found = counted(Head.SEVERITY, np.array([0, 1, 2]), np.array([0, 1, 1]), np.arange(3))
    values = found.metrics(np.array([[1, 1, 1], [1, 2, 0]]) @ found.counts)["macro_f1"]
    assert values[0] == pytest.approx((1 + 2 / 3 + 0) / 3) and values[1] == pytest.approx((1 + 1 + 0) / 3)


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), head=st.sampled_from(list(HEADS)))
def test_counts_of_patients_add_up(seed, head):
    predictions, targets = draw(seed, head, 30)
    patients = np.random.default_rng(seed).integers(0, 5, 30)
    apart = counted(head, predictions, targets, patients)
    np.testing.assert_allclose(apart.counts.sum(0), counted(head, predictions, targets).counts.sum(0))
    for patient in range(5):
        own = patients == patient
        np.testing.assert_allclose(apart.counts[patient], counted(head, predictions[own], targets[own]).counts.sum(0))
    assert apart.questions(apart.counts.sum(0)) == 30


def test_a_class_without_positives_has_no_recall_and_no_auroc():
    targets, predictions = np.zeros((4, 26), int), np.zeros((4, 26), int)
    targets[:2, 3], predictions[0, 3], predictions[3, 5] = 1, 1, 1
    table = of_classes(counted(Head.REGION, predictions, targets))
    assert table[3] == {"n_pos": 2, "precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3)}
    assert table[5] == {"n_pos": 0, "precision": None, "recall": None, "f1": None}
    probabilities = np.random.default_rng(0).random((4, 26))
    full = class_table(Head.REGION, probabilities, predictions, targets)
    rows = list(full.values())
    assert rows[3]["auroc"] == pytest.approx(sk.roc_auc_score(targets[:, 3], probabilities[:, 3]))
    assert rows[5]["auroc"] is rows[5]["average_precision"] is None and rows[5]["n_neg"] == 4
    blind = class_table(Head.REGION, None, predictions, targets)
    assert {row["auroc"] for row in blind.values()} == {None}
