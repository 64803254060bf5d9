"""The patient-level bootstrap: against brute force, on blind models, and its coverage."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, f1_score

from training.bootstrap import balanced_accuracy_counts, bootstrap, mean_ratio, micro_f1_counts


def make(seed, patients=12, questions=90, classes=2):
    rng = np.random.default_rng(seed)
    patient = np.concatenate([np.arange(patients), rng.integers(0, patients, questions - patients)])
    target = rng.integers(0, classes, questions)
    target[:classes] = np.arange(classes)
    prediction = np.where(rng.random(questions) < 0.6, target, rng.integers(0, classes, questions))
    return patient, prediction, target


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 4))
def test_balanced_accuracy_is_scikit_learns(seed, classes):
    patient, prediction, target = make(seed, classes=classes)
    counts = balanced_accuracy_counts(patient, prediction, target)
    assert mean_ratio(counts.sum(0)) == pytest.approx(balanced_accuracy_score(target, prediction))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_micro_f1_is_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    patient = np.arange(30) % 7
    target, prediction = rng.integers(0, 2, (2, 30, 5))
    counts = micro_f1_counts(patient, prediction, target)
    assert mean_ratio(counts.sum(0)) == pytest.approx(f1_score(target, prediction, average="micro"))


def brute_force(patient, prediction, base, target, samples, seed):
    """Repeats the questions of the drawn patients and lets scikit-learn score them."""
    rng = np.random.default_rng(seed)
    number = patient.max() + 1
    times = np.concatenate(
        [
            rng.multinomial(number, np.full(number, 1 / number), size=n)
            for n in [256] * (samples // 256) + [samples % 256]
        ]
    )
    gains = []
    for row in times:
        rows = np.repeat(np.arange(len(patient)), row[patient])
        if len(np.unique(target[rows])) < len(np.unique(target)):
            continue
        gains.append(
            balanced_accuracy_score(target[rows], prediction[rows]) - balanced_accuracy_score(target[rows], base[rows])
        )
    return np.quantile(gains, [0.025, 0.975]), samples - len(gains)


def test_gain_interval_equals_brute_force():
    patient, prediction, target = make(3, patients=6, questions=25, classes=3)
    base = np.random.default_rng(9).integers(0, 3, len(target))
    result = bootstrap(
        balanced_accuracy_counts(patient, prediction, target),
        balanced_accuracy_counts(patient, base, target),
        samples=300,
        confidence=0.95,
        seed=5,
    )
    (low, high), dropped = brute_force(patient, prediction, base, target, 300, 5)
    assert (result.low, result.high) == pytest.approx((low, high))
    assert result.dropped == dropped
    assert result.n_patients == 6
    expected = balanced_accuracy_score(target, prediction) - balanced_accuracy_score(target, base)
    assert result.value == pytest.approx(expected)


def test_resamples_without_a_class_are_dropped_and_counted():
    patient = np.array([0, 1, 2, 3])
    target = np.array([1, 0, 0, 0])  # only patient 0 has class 1: about (3/4)^4 of the resamples miss it
    counts = balanced_accuracy_counts(patient, target, target)
    result = bootstrap(counts, samples=2000, confidence=0.95, seed=0)
    assert result.dropped / 2000 == pytest.approx(0.75**4 + 0.25**4, abs=0.04)
    assert (result.low, result.high) == (1.0, 1.0)


def test_nothing_to_score_is_undefined_not_zero():
    nobody = np.zeros(0, dtype=np.int64)
    result = bootstrap(balanced_accuracy_counts(nobody, nobody, nobody), samples=50, confidence=0.95, seed=0)
    assert (result.value, result.low, result.high, result.n_patients) == (None, None, None, 0)
    empty = np.zeros((3, 14))  # no positive anywhere: F1 is 0/0
    result = bootstrap(micro_f1_counts(np.arange(3), empty, empty), samples=50, confidence=0.95, seed=0)
    assert (result.value, result.low, result.dropped) == (None, None, 50)


def test_one_patient_has_a_value_but_no_interval():
    same = np.zeros(4, dtype=np.int64)
    result = bootstrap(
        balanced_accuracy_counts(same, same, np.array([0, 1, 0, 1])), samples=50, confidence=0.95, seed=0
    )
    assert result.value == 0.5
    assert result.low is None and result.high is None


def test_identical_answers_have_exactly_no_gain():
    patient, prediction, target = make(1)
    counts = balanced_accuracy_counts(patient, prediction, target)
    result = bootstrap(counts, counts, samples=100, confidence=0.95, seed=0)
    assert (result.value, result.low, result.high) == (0.0, 0.0, 0.0)


def test_resamples_depend_on_the_seed_only():
    patient, prediction, target = make(1)
    counts = balanced_accuracy_counts(patient, prediction, target)
    first, second, other = (bootstrap(counts, samples=100, confidence=0.95, seed=seed) for seed in (0, 0, 1))
    assert first == second
    assert (first.low, first.high) != (other.low, other.high)


def test_gain_of_a_blind_model_over_another_contains_zero():
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(150), 20)
    target, blind, other = rng.integers(0, 2, (3, len(patient)))
    result = bootstrap(
        balanced_accuracy_counts(patient, blind, target),
        balanced_accuracy_counts(patient, other, target),
        samples=1000,
        confidence=0.95,
        seed=1,
    )
    assert result.low < 0 < result.high


def test_intervals_of_dependent_questions_are_wider_than_those_of_independent_ones():
    """Forty questions of a patient that are right or wrong together tell no more than one."""
    rng = np.random.default_rng(2)
    patient = np.repeat(np.arange(40), 40)
    target = np.tile([0, 1], 800)
    right = np.repeat(rng.random(40) < 0.7, 40)
    prediction = np.where(right, target, 1 - target)
    clustered = bootstrap(balanced_accuracy_counts(patient, prediction, target), samples=500, confidence=0.95, seed=0)
    alone = bootstrap(
        balanced_accuracy_counts(np.arange(1600), prediction, target), samples=500, confidence=0.95, seed=0
    )
    assert clustered.high - clustered.low > 4 * (alone.high - alone.low)


@pytest.mark.slow
def test_coverage_of_the_interval_is_near_its_confidence():
    rng = np.random.default_rng(4)
    trials, patients, questions, covered = 400, 80, 10, 0
    truth = 0.65  # mean over patients of each one's chance of a right answer
    for trial in range(trials):
        chance = rng.beta(6.5, 3.5, patients)
        patient = np.repeat(np.arange(patients), questions)
        target = rng.integers(0, 2, len(patient))
        prediction = np.where(rng.random(len(patient)) < chance[patient], target, 1 - target)
        counts = balanced_accuracy_counts(patient, prediction, target)
        result = bootstrap(counts, samples=500, confidence=0.95, seed=trial)
        covered += result.low <= truth <= result.high
    assert 0.92 <= covered / trials <= 0.98
