"""The predictions file: round trip, answers of other models, and everything that can be wrong with it."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.label_space import HEAD_INDEX, HEADS, Head
from tests.evaluation_stub import make_setup
from training.evaluation import evaluate
from training.predictions import SCHEMA, Predictions, QuestionSet, read_predictions
from utils.errors import DataError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A question set and the model's answers to it."""
    setup = make_setup(tmp_path_factory.mktemp("files"), [0, 0, 1, 2, 3])
    evaluation = evaluate(setup.model, None, setup.dataset, None)
    return evaluation.questions, Predictions.of(evaluation.questions, evaluation.answers["model"])


@pytest.fixture
def file(made, tmp_path):
    made[1].write(tmp_path / "p.parquet", {"graph": "predicted"})
    return tmp_path / "p.parquet"


def change(path, **columns):
    """Write the file again with other columns: name -> new values."""
    table = pq.read_table(path)
    for name, values in columns.items():
        table = table.set_column(
            table.schema.get_field_index(name), SCHEMA.field(name), pa.array(values, SCHEMA.field(name).type)
        )
    pq.write_table(table, path)


def test_round_trip(made, file):
    questions, answered = made
    assert pq.read_schema(file).names == SCHEMA.names
    found, metadata = read_predictions(file, questions)
    assert metadata["graph"] == "predicted" and metadata["synthetic"] == "true"
    for head in HEADS:
        np.testing.assert_array_equal(found.probabilities[head], answered.probabilities[head])
        np.testing.assert_array_equal(found.predictions[head], answered.predictions[head])


def test_any_order_of_rows_is_the_same(made, file):
    table = pq.read_table(file)
    order = np.random.default_rng(0).permutation(len(table))
    pq.write_table(table.take(pa.array(order)), file)
    found, _ = read_predictions(file, made[0])
    for head in HEADS:
        np.testing.assert_array_equal(found.probabilities[head], made[1].probabilities[head])


def test_a_model_may_decide_otherwise_and_give_no_probabilities(made, file):
    table = pq.read_table(file)
    change(file, probabilities=[None] * len(table), prediction=table["target"].to_pylist())
    found, _ = read_predictions(file, made[0])
    assert set(found.probabilities.values()) == {None}
    np.testing.assert_array_equal(found.predictions[Head.REGION], made[0].targets(Head.REGION))
    np.testing.assert_array_equal(found.predictions[Head.SEVERITY], made[0].targets(Head.SEVERITY))


@pytest.mark.parametrize("head", HEADS)
def test_a_head_may_have_no_questions(made, tmp_path, head):
    everything, answered = made
    questions = QuestionSet(everything.index, everything.rows[everything.head != HEAD_INDEX[head]])
    assert len(questions) < len(everything)
    answers = {other: values if other != head else values[:0] for other, values in answered.probabilities.items()}
    Predictions.of(questions, answers).write(tmp_path / "fewer.parquet", {})
    found, _ = read_predictions(tmp_path / "fewer.parquet", questions)
    assert [len(found.predictions[other]) > 0 for other in HEADS] == [other != head for other in HEADS]


def refused(path, questions, match):
    with pytest.raises(DataError, match=match) as caught:
        read_predictions(path, questions)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_missing_files_and_other_files(made, tmp_path):
    refused(tmp_path / "nowhere.parquet", made[0], "no predictions file")
    (tmp_path / "text.parquet").write_text("hello")
    refused(tmp_path / "text.parquet", made[0], "is no predictions file")


@pytest.mark.parametrize("column", ["probabilities", "question_id", "target"])
def test_a_missing_column_is_named(made, file, column):
    pq.write_table(pq.read_table(file).drop_columns([column]), file)
    refused(file, made[0], rf"column\(s\) missing: {column}")


def test_a_column_of_another_kind(made, file):
    table = pq.read_table(file)
    pq.write_table(table.set_column(0, "subject_id", pa.array(["x"] * len(table))), file)
    refused(file, made[0], "is no predictions file")


def test_a_question_twice(made, file):
    table = pq.read_table(file)
    pq.write_table(pa.concat_tables([table, table.slice(0, 2)]), file)
    refused(file, made[0], r"2 row\(s\) answer a question a second time")


def test_missing_rows_and_rows_that_were_not_asked(made, file):
    questions, _ = made
    table = pq.read_table(file)
    pq.write_table(table.slice(3), file)
    refused(file, questions, "3 of the questions have no row.*--split")
    pq.write_table(table, file)
    refused(file, QuestionSet(questions.index, questions.rows[:-1]), r"1 row\(s\) answer no question asked")


def test_another_type_head_or_target(made, file):
    table = pq.read_table(file)
    for column, value in (("question_type", "B03_is_abnormal"), ("head", "severity")):
        values = table[column].to_pylist()
        change(file, **{column: [value, *values[1:]]})
        refused(file, made[0], f"1 rows have another {column}")
        change(file, **{column: values})
    targets = table["target"].to_pylist()
    change(file, target=[[1 - targets[0][0]], *targets[1:]])
    refused(file, made[0], "1 binary rows have another target")


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ([0.5], "of another length than 2"),
        ([2.0, -1.0], "are no probabilities"),
        ([0.9, 0.9], "are no probabilities"),
        ([float("nan"), 0.5], "are not numbers"),
        (None, "have null"),
    ],
)
def test_what_is_no_probability(made, file, values, match):
    given = pq.read_table(file)["probabilities"].to_pylist()
    change(file, probabilities=[values, *given[1:]])
    refused(file, made[0], match)


def test_a_class_that_does_not_exist(made, file):
    given = pq.read_table(file)["prediction"].to_pylist()
    change(file, prediction=[[7], *given[1:]])
    refused(file, made[0], "binary prediction is not in 0..1")


def test_ids_must_be_those_of_the_index(made, file):
    table = pq.read_table(file)
    change(file, subject_id=[value + 1 for value in table["subject_id"].to_pylist()])
    refused(file, made[0], "rows have another subject_id than the index")
    change(file, subject_id=table["subject_id"].to_pylist(), image_id=["zz"] * len(table))
    refused(file, made[0], "rows have another image_id than the index")


def test_a_folder_and_plain_numbers_are_named(made, file, tmp_path):
    refused(tmp_path, made[0], "is a folder: name the file")
    table = pq.read_table(file)
    place = table.schema.get_field_index("prediction")
    pq.write_table(table.set_column(place, "prediction", pa.array([1] * len(table))), file)
    refused(file, made[0], "column prediction has int64, wanted are lists")


def test_predictions_against_their_own_probabilities_are_said(made, file, caplog):
    read_predictions(file, made[0])
    assert not caplog.records
    flipped = [
        [1 - row[0]] if head == "binary" else row
        for row, head in zip(*(pq.read_table(file)[name].to_pylist() for name in ("prediction", "head")))
    ]
    change(file, prediction=flipped)
    found, _ = read_predictions(file, made[0])
    n = len(found.predictions[Head.BINARY])
    assert f"{n:,} of {n:,} binary predictions are not what their probabilities favour" in caplog.text
