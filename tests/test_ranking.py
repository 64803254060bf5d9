"""AUROC and average precision from histograms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from training.scoring.ranking import auroc, average_precision, histogram


def draw(seed, n=80, distinct=30):
    rng = np.random.default_rng(seed)
    positive = rng.random(n) < 0.4
    positive[:2] = [True, False]
    return rng.integers(0, 6, n), rng.integers(0, distinct, n) / distinct, positive


@settings(max_examples=50)
@given(seed=st.integers(0, 10**6))
def test_with_a_bin_for_each_score_they_are_scikit_learns(seed):
    patients, scores, positive = draw(seed)
    total = histogram(patients, scores, positive, 6).sum(0)
    assert float(auroc(total)) == pytest.approx(roc_auc_score(positive, scores), abs=1e-9)
    assert float(average_precision(total)) == pytest.approx(average_precision_score(positive, scores), abs=1e-9)


def test_by_hand():
    scores, positive = np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, True, False, True])
    total = histogram(np.zeros(4, int), scores, positive, 1).sum(0)
    assert float(auroc(total)) == pytest.approx((1 + 0.5 + 1 + 1) / 4)
    assert float(average_precision(total)) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_bins_at_quantiles_come_near():
    rng = np.random.default_rng(1)
    positive = rng.random(20_000) < 0.3
    scores = rng.normal(positive * 1.0)
    total = histogram(np.zeros(20_000, int), scores, positive, 1, bins=256).sum(0)
    assert total.shape == (512,)
    assert float(auroc(total)) == pytest.approx(roc_auc_score(positive, scores), abs=1e-3)
    assert float(average_precision(total)) == pytest.approx(average_precision_score(positive, scores), abs=5e-3)


@pytest.mark.parametrize("share", [0.3, 0.01])
def test_average_precision_is_exact_with_a_bin_for_each_positive_however_rare(share):
    rng = np.random.default_rng(2)
    positive = rng.random(10_000) < share
    scores = np.round(rng.normal(positive * 1.5), 2)
    exact = average_precision_score(positive, scores)
    total = histogram(np.zeros(10_000, int), scores, positive, 1, bins=2_000, at_positives=True).sum(0)
    assert float(average_precision(total)) == pytest.approx(exact, abs=1e-9)
    few = histogram(np.zeros(10_000, int), scores, positive, 1, bins=128, at_positives=True).sum(0)
    assert len(few) <= 2 * 129 and float(average_precision(few)) == pytest.approx(exact, abs=5e-3)


def test_without_both_classes_there_is_no_auroc():
    for positive in (np.zeros(3, bool), np.ones(3, bool)):
        total = histogram(np.zeros(3, int), np.array([0.1, 0.2, 0.3]), positive, 1).sum(0)
        assert np.isnan(auroc(total))
        assert np.isnan(average_precision(total)) != positive.any()


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_patients_add_up(seed):
    patients, scores, positive = draw(seed)
    parts = histogram(patients, scores, positive, 6)
    twice = parts[0] * 2 + parts[3]
    chosen = np.concatenate([np.flatnonzero(patients == 0)] * 2 + [np.flatnonzero(patients == 3)])
    if len(set(positive[chosen])) == 2:
        assert float(auroc(twice)) == pytest.approx(roc_auc_score(positive[chosen], scores[chosen]), abs=1e-9)
