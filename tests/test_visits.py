"""Which questions are used, and what a visit of an epoch holds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.mimic_cxr_config import DataConfig
from data import visits
from data.label_space import HEAD_INDEX, TYPE_INDEX, Head
from data.visits import BalancedDraw, BalancedWeights, Epoch, Selection, text_codes
from tests.mini_index import write_mini_index

KINDS = ("D02_has_finding", "D03_where_is_finding", "D04_how_severe_is_finding")


def index_of(folder, studies):
    """An index of studies, each a list of (type number, grade)."""
    rows = [
        {
            "split": ("train", "validate")[number % 3 == 2],
            "questions": [(KINDS[kind], f"text {kind} {grade}", 1, grade) for kind, grade in questions],
        }
        for number, questions in enumerate(studies)
    ]
    return write_mini_index(folder, rows, side=16)


studies_of = st.lists(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 6)), max_size=9), min_size=1, max_size=9)


def by_hand(index, grade, kinds=()):
    """Rows of the train split that pass, by study."""
    questions, splits = index.questions, index.studies["split"]
    wanted = [TYPE_INDEX[k] for k in kinds] or range(256)
    found = {}
    for row, study in enumerate(questions["study"]):
        if splits[study] == 0 and questions["grade"][row] >= grade and questions["type"][row] in wanted:
            found.setdefault(int(study), []).append(row)
    return found


@settings(max_examples=30, deadline=None)
@given(studies_of, st.sampled_from([("all", 0), ("B", 3), ("A", 4)]), st.integers(1, 20), st.booleans())
def test_selection_is_that_of_a_plain_loop(tmp_path_factory, studies, grade, at_once, typed):
    index = index_of(tmp_path_factory.mktemp("i") / "i", studies)
    kinds = [KINDS[0]] if typed else []
    expected = by_hand(index, grade[1], kinds)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(visits, "QUESTIONS_AT_ONCE", at_once)  # studies in pieces of any size
        selection = Selection(index, "train", DataConfig(quality_grade=grade[0], question_types=kinds))
        rows = np.concatenate([np.zeros(0, int), *selection.chunks()])
        codes = text_codes(selection)
    assert selection.studies.tolist() == list(expected)
    assert selection.count.tolist() == [len(r) for r in expected.values()]
    assert rows.tolist() == [row for r in expected.values() for row in r]
    assert codes.tolist() == sorted({int(index.questions["text"][row]) for row in rows})
    candidates, owner = selection.candidates(np.arange(len(expected)))
    assert (
        candidates.tolist() == rows.tolist()
        and owner.tolist() == np.repeat(np.arange(len(expected)), selection.count).tolist()
    )


@settings(max_examples=30, deadline=None)
@given(studies_of, st.integers(1, 12))
def test_most_questions_are_whole_studies_and_part_of_one(tmp_path_factory, studies, most):
    index = index_of(tmp_path_factory.mktemp("i") / "i", studies)
    everything = {s: len(r) for s, r in by_hand(index, 0).items()}
    selection = Selection(index, "train", DataConfig(quality_grade="all"), most, seed=4)
    assert selection.count.sum() == min(most, sum(everything.values()))
    cut = [s for s, n in zip(selection.studies, selection.count, strict=True) if n < everything[int(s)]]
    assert len(cut) <= 1
    rows = np.concatenate([np.zeros(0, int), *selection.chunks()])
    by_study = by_hand(index, 0)
    assert rows.tolist() == [
        row for s, n in zip(selection.studies, selection.count, strict=True) for row in by_study[int(s)][:n]
    ]
    assert rows.tolist() == selection.candidates(np.arange(len(selection.studies)))[0].tolist()


@settings(max_examples=30, deadline=None)
@given(studies_of, st.sampled_from([("all", 0), ("B", 3)]), st.integers(0, 12), st.integers(1, 20))
def test_balanced_weights_are_those_of_a_plain_loop(tmp_path_factory, studies, grade, most, at_once):
    index = index_of(tmp_path_factory.mktemp("i") / "i", studies)
    if not by_hand(index, grade[1]):
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(visits, "QUESTIONS_AT_ONCE", at_once)
        selection = Selection(index, "train", DataConfig(quality_grade=grade[0]), most, seed=4)
        weights = BalancedWeights(selection)
        until = weights.until
    types, study = (index.questions[c][np.concatenate(list(selection.chunks()))] for c in ("type", "study"))
    number = {t: (types == t).sum() for t in np.unique(types)}  # each of these types has a head of its own
    wanted = [sum(1 / number[t] for t in types[study == s]) for s in selection.studies]
    np.testing.assert_allclose(np.diff(until, prepend=0), wanted, atol=1e-12)
    np.testing.assert_allclose(weights.of_type[list(number)], [1 / n for n in number.values()])


def test_an_epoch_can_be_entered_anywhere(tmp_path):
    index = index_of(tmp_path / "i", [[(0, 5)] * n for n in (7, 3, 2, 9, 1)])
    selection = Selection(index, "train", DataConfig())
    epoch = Epoch(selection, 4, seed=1, number=2)
    whole = epoch.select(np.arange(len(epoch)))
    assert sorted(whole.rows) == sorted(np.concatenate(list(selection.chunks())))
    for number in range(len(epoch)):
        one = epoch.select(np.array([number]))
        assert one.study[0] == whole.study[number]
        assert one.rows.tolist() == whole.rows[whole.visit_of == number].tolist()


def test_questions_of_a_study_are_cut_anew_each_epoch(tmp_path):
    index = index_of(tmp_path / "i", [[(0, 5)] * 12])
    selection = Selection(index, "train", DataConfig())
    cuts = set()
    for number in range(5):
        epoch = Epoch(selection, 4, seed=1, number=number)
        found = epoch.select(np.arange(3))
        cuts.add(frozenset(frozenset(found.rows[found.visit_of == v].tolist()) for v in range(3)))
    assert len(cuts) == 5


def test_balanced_draws_have_as_many_of_each_type_and_none_twice(tmp_path):
    # in 200 studies: 10 questions of one type each, of another type 2 in every 9th, of a third 1 in every 15th
    studies = [[(0, 5)] * 10 + [(1, 5)] * 2 * (i % 9 == 0) + [(2, 5)] * (i % 15 == 0) for i in range(200)]
    index = index_of(tmp_path / "i", studies)
    selection = Selection(index, "train", DataConfig())
    heads = np.zeros(len(HEAD_INDEX))
    for number in range(30):
        draw = BalancedDraw(selection, 1, 3, number, BalancedWeights(selection))
        found = draw.select(np.arange(len(draw)))
        heads += np.bincount(index.questions["head"][found.rows], minlength=len(heads))
        wide = BalancedDraw(selection, 4, 3, number, BalancedWeights(selection))
        found = wide.select(np.arange(len(wide)))
        assert len(np.unique(found.visit_of * 10_000 + found.rows)) == len(found.rows)
        assert (index.questions["study"][found.rows] == found.study[found.visit_of]).all()
    share = heads / heads.sum()
    used = [HEAD_INDEX[h] for h in (Head.BINARY, Head.REGION, Head.SEVERITY)]
    np.testing.assert_allclose(share[used], 1 / 3, atol=0.02)


def test_studies_come_in_another_random_order_each_epoch(tmp_path):
    index = index_of(tmp_path / "i", [[(0, 5)]] * 60)
    selection = Selection(index, "train", DataConfig())
    orders = [Epoch(selection, 4, seed=1, number=n).select(np.arange(40)).study.tolist() for n in range(3)]
    assert len({tuple(order) for order in [*orders, sorted(orders[0])]}) == 4
    assert all(sorted(order) == selection.studies.tolist() for order in orders)
