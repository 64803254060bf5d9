"""Answers, controls, counts and the predictions file, with a model whose answers can be computed by hand."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.mimic_cxr_config import DataConfig
from data.label_space import CHEXPERT, HEADS, REGIONS, Head
from tests.evaluation_stub import make_setup
from tests.mini_index import write_mini_index
from training.controls import majority, swap_between_patients
from training.evaluation import ROWS, evaluate
from training.predictions import QuestionSet, question_fates, write_predictions
from utils.errors import DataError, NonFiniteError

PATIENTS = [0, 0, 1, 2, 2, 3, 4]


@pytest.fixture
def setup(tmp_path):
    return make_setup(tmp_path, PATIENTS)


def run(setup, **options):
    return evaluate(setup.model, setup.question_only, setup.dataset, setup.train, **options)


# Swap between patients


@settings(max_examples=200, deadline=None)
@given(patients=st.lists(st.integers(0, 6), min_size=1, max_size=30), seed=st.integers(0, 5))
def test_swap_never_shows_an_image_of_the_same_patient(patients, seed):
    patients = np.array(patients)
    partner = swap_between_patients(patients, seed)
    if 2 * np.bincount(patients).max() > len(patients):
        assert partner is None
    else:
        assert sorted(partner) == list(range(len(patients)))
        assert (patients[partner] != patients).all()


def test_swap_depends_on_the_seed_only():
    patients = np.arange(40) // 2
    assert (swap_between_patients(patients, 1) == swap_between_patients(patients, 1)).all()
    assert (swap_between_patients(patients, 1) != swap_between_patients(patients, 2)).any()


# Rows


def expected_yes(setup, questions, shown, graph_of):
    """The stub model's probability of "yes": from the shown image's grey, the graph's image, and the word ids."""
    index, table = setup.dataset.index, setup.dataset.token_table
    grey = lambda rows: np.array([index.pixels[r].mean() / 100 for r in rows])  # noqa: E731
    words = np.array([table.encode(np.array([code]))[0].input_ids.sum().item() / 1000 for code in questions.text])
    graph = 0 if graph_of is None else 30 * (1 / (1 + np.exp(-grey(graph_of))) - 0.55)
    value = 20 * (grey(shown) - 0.2) + graph + words
    return 1 / (1 + np.exp(-2 * value))


def test_each_row_answers_from_its_own_image_and_graph(setup):
    result = run(setup, batch_size=3, seed=4)
    questions = result.questions
    images = np.unique(questions.image)
    patients = setup.dataset.index.studies["subject_id"][setup.dataset.index.images["study"][images]]
    partner_of = dict(zip(images, images[swap_between_patients(patients, 4)], strict=True))
    partner = np.array([partner_of[i] for i in questions.image])
    own = questions.of(Head.BINARY)
    for row, shown, graph in [
        ("model", questions.image, questions.image),
        ("graph_none", questions.image, None),
        ("graph_shuffled", questions.image, partner),
        ("shuffled_image", partner, partner),
    ]:
        wanted = expected_yes(setup, questions, shown, graph)[own]
        np.testing.assert_allclose(result.answers[row][Head.BINARY][:, 1], wanted, rtol=1e-4, err_msg=row)


def test_blank_image_is_the_mean_training_image_for_every_study(setup):
    result = run(setup)
    answers, questions = result.answers["blank_image"], result.questions
    texts = questions.text[questions.of(Head.BINARY)]
    for text in np.unique(texts):
        assert len(np.unique(answers[Head.BINARY][texts == text], axis=0)) == 1
    grey = setup.train.mean_image().float().mean().item() / 100
    tokens = setup.dataset.token_table.encode(texts[:1])[0].input_ids.sum().item() / 1000
    value = 20 * (grey - 0.2) + 30 * (1 / (1 + np.exp(-grey)) - 0.55) + tokens
    assert answers[Head.BINARY][0, 1] == pytest.approx(1 / (1 + np.exp(-2 * value)), rel=1e-4)


def test_oracle_row_reads_the_reports_graph_and_no_other_row_does(tmp_path):
    """Leak check: other graphs in the index change the oracle row and nothing else."""
    results = []
    for name, findings in [("a", []), ("b", [(range(26), "nodule", 1, 1), (range(5), "cardiomegaly", 1, 1)])]:
        results.append(run(make_setup(tmp_path / name, PATIENTS, findings)))
    first, second = results
    for row in ROWS:
        same = all(np.array_equal(first.answers[row][head], second.answers[row][head]) for head in HEADS)
        assert same == (row != "graph_oracle"), row
    np.testing.assert_array_equal(first.chexpert, second.chexpert)


@pytest.mark.parametrize("batch_size", [1, 2, 50])
def test_batch_size_does_not_change_the_answers(setup, batch_size):
    reference, other = run(setup, batch_size=3), run(setup, batch_size=batch_size)
    for row in ROWS:
        for head in HEADS:
            np.testing.assert_allclose(reference.answers[row][head], other.answers[row][head], rtol=1e-5)


@pytest.mark.parametrize("graph", ["none", "shuffled", "oracle"])
def test_graph_option_is_what_the_model_row_answers_from(setup, graph):
    chosen, usual = run(setup, graph=graph), run(setup)
    assert chosen.graph == graph
    for head in HEADS:
        np.testing.assert_array_equal(chosen.answers["model"][head], usual.answers[f"graph_{graph}"][head])
        # controls stay what they are
        np.testing.assert_array_equal(chosen.answers["shuffled_image"][head], usual.answers["shuffled_image"][head])


def test_without_controls_only_the_model_answers(setup):
    result = evaluate(setup.model, None, setup.dataset, None)
    assert result.answers["model"] is not None
    assert all(result.answers[row] is None and "--controls none" in result.missing[row] for row in ROWS[1:])


def test_one_patient_with_most_images_makes_swaps_undefined_not_wrong(tmp_path):
    setup = make_setup(tmp_path, [0, 0, 0, 1])
    result = run(setup)
    for row in ("shuffled_image", "graph_shuffled"):
        assert result.answers[row] is None and "half of the images" in result.missing[row]
    assert result.answers["graph_none"] is not None
    with pytest.raises(DataError, match="--graph shuffled"):
        run(setup, graph="shuffled")


def test_chexpert_is_scored_once_a_study(setup):
    result = run(setup)
    assert result.chexpert.shape == (len(PATIENTS), len(CHEXPERT))
    assert (result.chexpert_labels[:, 0] == [i % 2 for i in range(len(PATIENTS))]).all()
    index = setup.dataset.index
    grey = [index.pixels[r].mean() / 100 for r in np.unique(result.questions.image)]
    np.testing.assert_allclose(result.chexpert[:, 0], 1 / (1 + np.exp(-np.array(grey))), rtol=1e-5)


def test_answers_that_are_no_numbers_stop_the_evaluation(setup):
    with torch.no_grad():
        setup.model.scale.fill_(torch.nan)
    with pytest.raises(NonFiniteError, match="are not numbers"):
        run(setup)


def test_question_ids_that_repeat_in_a_study_are_refused(tmp_path):
    setup = make_setup(tmp_path, PATIENTS)
    codes = setup.dataset.index.questions["question_id"].copy()
    codes[setup.dataset.rows[1]] = codes[setup.dataset.rows[0]]
    setup.dataset.index.questions["question_id"] = codes
    with pytest.raises(DataError, match="repeat within a study"):
        run(setup)


# Majority


def majority_of(tmp_path, train, asked, by_text):
    index = write_mini_index(
        tmp_path / "index", [{"split": "train", "questions": train}, {"split": "validate", "questions": asked}]
    )
    known = QuestionSet(index, np.arange(len(train)))
    wanted = QuestionSet(index, np.arange(len(train), len(train) + len(asked)))
    return majority(known, wanted, by_text)


HAS, DEVICES = "D02_has_finding", "B13_has_devices"


def test_majority_looks_at_text_then_type_then_head(tmp_path):
    train = [(HAS, "effusion?", 1, 4)] * 3 + [(HAS, "effusion?", 0, 4)] + [(HAS, "nodule?", 0, 4)] * 6
    asked = [(HAS, "effusion?", 0, 4), (HAS, "never seen?", 0, 4), (DEVICES, "devices?", 0, 4)]
    by_text = majority_of(tmp_path / "a", train, asked, by_text=True)[Head.BINARY]
    np.testing.assert_allclose(by_text[:, 1], [3 / 4, 3 / 10, 3 / 10])
    by_type = majority_of(tmp_path / "b", [*train, (DEVICES, "tubes?", 1, 4)], asked, by_text=False)[Head.BINARY]
    np.testing.assert_allclose(by_type[:, 1], [3 / 10, 3 / 10, 1.0])
    np.testing.assert_allclose(by_type.sum(1), 1)


def test_majority_of_a_multi_label_head_is_each_classs_frequency(tmp_path):
    where = "D03_where_is_finding"
    train = [(where, "where?", 0b011, 4), (where, "where?", 0b001, 4), (where, "where?", 0b100, 4)]
    answers = majority_of(tmp_path, train, [(where, "where?", 1, 4)], by_text=True)
    np.testing.assert_allclose(answers[Head.REGION][0, :4], [2 / 3, 1 / 3, 1 / 3, 0])
    assert answers[Head.BINARY] is None  # no training question: not known, rather than class 0


# Counts


def test_every_question_of_the_split_has_one_fate(tmp_path):
    setup = make_setup(tmp_path, PATIENTS)
    index = setup.dataset.index
    index.meta["counts"]["validate"]["D02_has_finding"]["no_verdict"] = 5
    index.meta["counts"]["validate"]["A_indication"] = {"unsupported_type": 11}
    fates = question_fates(index, "validate", DataConfig(question_types=["D02_has_finding"]))
    studies = len(PATIENTS)
    assert fates["D02_has_finding"] == {
        "evaluated": 2 * studies,
        "below_grade": studies,
        "unrated": studies,
        "no_verdict": 5,
    }
    assert fates["A_indication"] == {"unsupported_type": 11}
    assert fates["B13_has_devices"] == {"filtered_type": studies}
    assert sum(n for by_fate in fates.values() for n in by_fate.values()) == 10 * studies + 5 + 11


def test_an_index_that_miscounts_its_own_rows_is_refused(setup):
    setup.dataset.index.meta["counts"]["validate"]["D02_has_finding"]["target"] += 1
    with pytest.raises(DataError, match="build it again"):
        question_fates(setup.dataset.index, "validate", DataConfig())


# predictions.parquet


def test_predictions_file_has_exactly_the_promised_columns_and_a_unique_key(setup, tmp_path):
    result = run(setup)
    path = tmp_path / "predictions.parquet"
    write_predictions(path, result.questions, result.answers["model"], "predicted")
    table = pq.read_table(path)
    assert table.schema.names == [
        "subject_id", "study_id", "image_id", "question_id", "question_type", "head",
        "probabilities", "prediction", "target",
    ]  # fmt: skip
    assert [str(t) for t in table.schema.types] == ["int64"] * 2 + ["string"] * 4 + [
        "list<element: float>", "list<element: int8>", "list<element: int8>",
    ]  # fmt: skip
    frame = table.to_pandas()
    assert len(frame) == setup.dataset.num_questions
    assert not frame.duplicated(["subject_id", "study_id", "question_id", "image_id"]).any()
    assert frame.question_id.duplicated().any()  # the same id in every study: it is no key by itself
    assert list(tmp_path.glob(".*")) == []


def test_predictions_file_holds_what_was_answered(setup, tmp_path):
    result = run(setup)
    write_predictions(tmp_path / "p.parquet", result.questions, result.answers["model"], "predicted")
    frame = pq.read_table(tmp_path / "p.parquet").to_pandas()
    for head, spec in HEADS.items():
        own = frame[frame["head"] == head.value]
        np.testing.assert_array_equal(np.stack(own.probabilities), result.answers["model"][head])
        width = len(spec.classes) if spec.multi_label else 1
        assert {len(t) for t in own.target} == {len(p) for p in own.prediction} == {width}
    first = frame[frame.study_id == frame.study_id.iloc[0]].set_index("question_type")
    assert first.loc["D04_how_severe_is_finding"].target.tolist() == [1]
    assert np.flatnonzero(first.loc["D03_where_is_finding"].target).tolist() == [REGIONS.index("heart")]
    assert first.loc["C01_describe_region"].target.sum() == 0
    expected = first.loc["D03_where_is_finding"].probabilities >= 0.5
    assert (first.loc["D03_where_is_finding"].prediction == expected).all()
