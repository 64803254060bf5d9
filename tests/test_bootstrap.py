"""The patient-level bootstrap: against brute force, on blind models, its coverage, and Holm's correction."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score

from data.label_space import Head
from training.bootstrap import Interval, Resamples, holm, interval
from training.scoring.counts import Counted

METRIC = "balanced_accuracy"


def make(seed, patients=12, questions=90, classes=2):
    rng = np.random.default_rng(seed)
    patient = np.concatenate([np.arange(patients), rng.integers(0, patients, questions - patients)])
    target = rng.integers(0, classes, questions)
    target[:classes] = np.arange(classes)
    prediction = np.where(rng.random(questions) < 0.6, target, rng.integers(0, classes, questions))
    return patient, prediction, target


def count(patient, prediction, target, head=Head.BINARY):
    return Counted.of(head, patient, prediction, target, int(patient.max(initial=-1)) + 1)


def of(counted, resamples, base=None, confidence=0.95) -> Interval:
    """Interval of balanced accuracy, or of its gain."""
    value, drawn = (counted.metrics(sums)[METRIC] for sums in (counted.counts.sum(0), resamples.sums(counted.counts)))
    if base is not None:
        value = value - base.metrics(base.counts.sum(0))[METRIC]
        drawn = drawn - base.metrics(resamples.sums(base.counts))[METRIC]
    return interval(float(value), drawn, confidence, len(counted.counts), difference=base is not None)


def test_gain_interval_equals_brute_force():
    """Repeats the questions of the drawn patients and lets scikit-learn score them."""
    patient, prediction, target = make(3, patients=20, questions=90, classes=4)
    base = np.random.default_rng(9).integers(0, 4, len(target))
    resamples = Resamples(20, 300, 5)
    result = of(
        count(patient, prediction, target, Head.SEVERITY), resamples, count(patient, base, target, Head.SEVERITY)
    )
    gains = []
    for times in resamples.times:
        rows = np.repeat(np.arange(len(patient)), times[patient])
        if len(np.unique(target[rows])) == len(np.unique(target)):
            gains.append(
                balanced_accuracy_score(target[rows], prediction[rows])
                - balanced_accuracy_score(target[rows], base[rows])
            )
    assert (result.low, result.high) == pytest.approx(tuple(np.quantile(gains, [0.025, 0.975])))
    assert result.dropped == 300 - len(gains) and result.n_patients == 20
    expected = balanced_accuracy_score(target, prediction) - balanced_accuracy_score(target, base)
    assert result.value == pytest.approx(expected)


def test_every_resample_has_as_many_patients_as_there_are():
    times = Resamples(40, 500, 1).times
    assert times.shape == (500, 40) and (times.sum(1) == 40).all()
    assert times.mean(0) == pytest.approx(np.ones(40), abs=0.2)


def test_resamples_without_a_class_are_dropped_and_counted():
    patient, target = np.arange(40), np.repeat([1, 0], [4, 36])  # 0.9^40 have none of the four
    result = of(count(patient, target, target), Resamples(40, 2000, 0))
    assert result.dropped / 2000 == pytest.approx(0.9**40, abs=0.01)
    assert (result.low, result.high) == (1.0, 1.0)


def test_there_is_no_interval_where_too_many_resamples_lack_a_class():
    patient, target = np.arange(4), np.array([1, 0, 0, 0])  # (3/4)^4 miss patient 0, (1/4)^4 have no other
    counted = count(patient, target, target)
    result = of(counted, Resamples(4, 2000, 0), count(patient, 1 - target, target))
    assert result.dropped / 2000 == pytest.approx(0.75**4 + 0.25**4, abs=0.04)
    assert (result.value, result.low, result.high, result.p) == (1.0, None, None, None)


@pytest.mark.parametrize(("undefined", "shown"), [(5, True), (6, False)])
def test_up_to_one_in_twenty_resamples_may_be_undefined(undefined, shown):
    drawn = np.where(np.arange(100) < undefined, np.nan, np.linspace(0, 1, 100))
    result = interval(0.5, drawn, 0.95, patients=9)
    assert result.dropped == undefined and (result.low is not None) == (result.high is not None) == shown


def test_nothing_to_score_is_undefined_not_zero():
    nobody = np.zeros(0, dtype=np.int64)
    result = of(count(nobody, nobody, nobody), Resamples(0, 50, 0))
    assert (result.value, result.low, result.high, result.n_patients) == (None, None, None, 0)


def test_one_patient_has_a_value_but_no_interval():
    same = np.zeros(4, dtype=np.int64)
    result = of(count(same, same, np.array([0, 1, 0, 1])), Resamples(1, 50, 0))
    assert result.value == 0.5 and result.low is None and result.high is None


def test_identical_answers_have_exactly_no_gain():
    counted = count(*make(1))
    result = of(counted, Resamples(12, 100, 0), counted)
    assert (result.value, result.low, result.high, result.p) == (0.0, 0.0, 0.0, 1.0)


def test_resamples_depend_on_the_seed_only():
    counted = count(*make(1))
    first, second, other = (of(counted, Resamples(12, 100, seed)) for seed in (0, 0, 1))
    assert first == second
    assert (first.low, first.high) != (other.low, other.high)


def test_gain_of_a_blind_model_over_another_contains_zero():
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(150), 20)
    target, blind, other = rng.integers(0, 2, (3, len(patient)))
    result = of(count(patient, blind, target), Resamples(150, 1000, 1), count(patient, other, target))
    assert result.low < 0 < result.high and result.p > 0.05


def test_a_real_gain_has_a_small_p():
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(150), 20)
    target, blind = rng.integers(0, 2, (2, len(patient)))
    seeing = np.where(rng.random(len(patient)) < 0.8, target, 1 - target)
    result = of(count(patient, seeing, target), Resamples(150, 1000, 1), count(patient, blind, target))
    assert result.low > 0 and result.p == pytest.approx(2 / 1001)


def test_intervals_of_dependent_questions_are_wider_than_those_of_independent_ones():
    """Forty questions of a patient that are right or wrong together tell no more than one."""
    rng = np.random.default_rng(2)
    patient, target = np.repeat(np.arange(40), 40), np.tile([0, 1], 800)
    prediction = np.where(np.repeat(rng.random(40) < 0.7, 40), target, 1 - target)
    clustered = of(count(patient, prediction, target), Resamples(40, 500, 0))
    alone = of(count(np.arange(1600), prediction, target), Resamples(1600, 500, 0))
    assert clustered.high - clustered.low > 4 * (alone.high - alone.low)


@pytest.mark.slow
def test_the_interval_covers_the_truth_as_often_as_it_says():
    """Patients whose questions are right together: the patients' interval covers in 95 %, that of questions does not."""
    rng = np.random.default_rng(4)
    trials, patients, questions = 4000, 300, 10
    truth, covered, by_questions = 0.65, 0, 0
    patient = np.repeat(np.arange(patients), questions)
    everyone, alone = Resamples(patients, 500, 0), Resamples(patients * questions, 200, 0)
    for trial in range(trials):
        chance = rng.beta(1.3, 0.7, patients)  # mean 0.65; answers of a patient correlate by 1 / (1 + 2) = 1 / 3
        target = rng.integers(0, 2, len(patient))
        prediction = np.where(rng.random(len(patient)) < chance[patient], target, 1 - target)
        result = of(count(patient, prediction, target), everyone)
        covered += result.low <= truth <= result.high
        if trial < 400:
            naive = of(count(np.arange(len(patient)), prediction, target), alone)
            by_questions += naive.low <= truth <= naive.high
    assert 0.935 <= covered / trials <= 0.965
    assert by_questions / 400 < 0.8


def test_holm_by_hand():
    assert holm([0.01, 0.04, None, 0.03]) == [pytest.approx(0.03), pytest.approx(0.06), None, pytest.approx(0.06)]
    assert holm([]) == [] and holm([None]) == [None]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_keeps_the_order_and_never_helps(values):
    adjusted = holm(values)
    assert all(a >= p - 1e-12 and a <= 1 for a, p in zip(adjusted, values, strict=True))
    order = np.argsort(values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()
