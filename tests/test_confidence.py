"""Calibration, temperature and risk-coverage: by hand, against scikit-learn, and on probabilities known to be right."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss

from data.label_space import Head
from training.scoring.confidence import (
    Decisions,
    calibration,
    decisions,
    fit_temperature,
    reliability,
    risk_coverage,
    tempered,
    whole_answers,
)


def yes(probability):
    probability = np.asarray(probability, dtype=np.float64)
    return np.stack([1 - probability, probability], axis=1)


def test_calibration_by_hand():
    probabilities, targets = yes([0.9, 0.9, 0.6, 0.6]), np.array([1, 0, 1, 1])
    found = calibration(Head.BINARY, probabilities, probabilities.argmax(1), targets)
    assert found["reliability"] == [
        {"n": 2, "confidence": pytest.approx(0.6), "accuracy": 1.0},
        {"n": 2, "confidence": pytest.approx(0.9), "accuracy": 0.5},
    ]
    assert found["ece"] == pytest.approx(0.5 * 0.4 + 0.5 * 0.4)
    assert found["brier"] == pytest.approx(2 * (0.01 + 0.81 + 0.16 + 0.16) / 4)
    assert found["nll"] == pytest.approx(-(np.log(0.9) + np.log(0.1) + 2 * np.log(0.6)) / 4)


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_brier_and_nll_are_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    probability, targets = rng.uniform(0.01, 0.99, 50), rng.integers(0, 2, 50)
    targets[:2] = [0, 1]
    found = calibration(Head.BINARY, yes(probability), (probability > 0.5).astype(int), targets)
    assert found["brier"] == pytest.approx(2 * brier_score_loss(targets, probability), abs=1e-9)
    assert found["nll"] == pytest.approx(log_loss(targets, probability), abs=1e-9)


def test_probabilities_that_are_right_have_no_error_and_need_no_temperature():
    rng = np.random.default_rng(0)
    probability = rng.uniform(0.02, 0.98, 40_000)
    targets = (rng.random(40_000) < probability).astype(int)
    good = yes(probability)
    assert calibration(Head.BINARY, good, good.argmax(1), targets)["ece"] < 0.01
    assert fit_temperature(Head.BINARY, good, targets) == pytest.approx(1, abs=0.04)
    sure = tempered(Head.BINARY, good, 1 / 3)
    assert calibration(Head.BINARY, sure, sure.argmax(1), targets)["ece"] > 0.08
    fitted = fit_temperature(Head.BINARY, sure, targets)
    assert fitted == pytest.approx(3, rel=0.04)
    np.testing.assert_allclose(tempered(Head.BINARY, tempered(Head.BINARY, good, 1 / 3), 3), good, atol=1e-6)


def test_a_head_with_several_answers_has_a_decision_a_class():
    probabilities, targets = np.full((2, 14), 0.1), np.zeros((2, 14), int)
    probabilities[0, 3], targets[0, 3], targets[1, 5] = 0.8, 1, 1
    made = decisions(Head.CATEGORY, probabilities, (probabilities >= 0.5).astype(int), targets)
    assert len(made.confidence) == 28 and made.right.sum() == 27
    assert made.confidence[3] == pytest.approx(0.8) and made.confidence[0] == pytest.approx(0.9)
    whole = whole_answers(Head.CATEGORY, probabilities, (probabilities >= 0.5).astype(int), targets)
    assert whole.right.tolist() == [True, False] and whole.confidence.tolist() == pytest.approx([0.8, 0.9])
    assert fit_temperature(Head.CATEGORY, np.zeros((0, 14)), np.zeros((0, 14), int)) is None


def test_risk_and_coverage_by_hand():
    made = Decisions(np.array([0.9, 0.8, 0.7, 0.6, 0.5]), np.array([True, True, False, True, False]))
    found = risk_coverage(made)
    assert found.accuracy_at_80 == pytest.approx(3 / 4)
    assert found.risk[-1] == pytest.approx(2 / 5) and found.coverage[-1] == 1
    assert found.area == pytest.approx((0 + 0 + 1 / 3 + 1 / 4 + 2 / 5) / 5)


def test_equal_confidence_is_answered_in_no_order():
    right = np.array([True] * 5 + [False] * 5)
    same = np.full(10, 0.7)
    for order in (np.arange(10), np.arange(10)[::-1]):
        found = risk_coverage(Decisions(same, right[order]))
        assert found.accuracy_at_80 == pytest.approx(0.5) and set(np.round(found.risk, 9)) == {0.5}
    assert risk_coverage(Decisions(np.zeros(0), np.zeros(0, bool))) is None


def test_bins_are_of_equal_mass_however_skewed_confidence_is():
    confidence = 1 - np.random.default_rng(0).exponential(0.01, 3000).clip(0, 0.5)  # nearly all above 0.95
    bins = reliability(Decisions(confidence, np.ones(3000, bool)))
    assert [b["n"] for b in bins] == [200] * 15


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), distinct=st.integers(1, 40))
def test_reliability_holds_every_decision(seed, distinct):
    rng = np.random.default_rng(seed)
    made = Decisions(rng.integers(0, distinct, 200) / distinct, rng.random(200) < 0.6)
    bins = reliability(made)
    assert sum(b["n"] for b in bins) == 200 and len(bins) <= 15
    assert sum(b["n"] * b["accuracy"] for b in bins) == pytest.approx(made.right.sum())
    assert [b["confidence"] for b in bins] == sorted(b["confidence"] for b in bins)
