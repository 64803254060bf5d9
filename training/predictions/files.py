"""The predictions file: one parquet row a question, from our model or from any other.

Columns (`SCHEMA`): `subject_id`, `study_id`, `image_id`, `question_id`, `question_type` and `head` name the question;
`probabilities` has one number for each class of the head, `prediction` the class numbers (a head with several answers: 0 or 1 for
each class), `target` the truth in the same form. A model that gives no probabilities has null there. The metadata's
`credentialed` is `false` where neither the questions nor the model are; a file that says nothing counts as credentialed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.label_space import HEAD_INDEX, HEADS, QUESTION_TYPES, TYPE_INDEX, Head
from models.probabilities import THRESHOLD, decide
from training.predictions.questions import Answers, QuestionSet
from utils.errors import DataError
from utils.privacy import is_credentialed
from utils.utils import get_logger, write_atomic

log = get_logger(__name__)

SCHEMA = pa.schema(
    {
        "subject_id": pa.int64(),
        "study_id": pa.int64(),
        "image_id": pa.string(),
        "question_id": pa.string(),
        "question_type": pa.string(),
        "head": pa.string(),
        "probabilities": pa.list_(pa.float32()),
        "prediction": pa.list_(pa.int8()),
        "target": pa.list_(pa.int8()),
    }
)
TOLERANCE = 1e-3
"""Of probabilities: what may be beyond 0 and 1, and the sum of those of a head with one answer beside 1."""


@dataclass(frozen=True)
class Predictions:
    """Answers to a question set by head, in its order; None: the head has no answers, or they have no probabilities."""

    questions: QuestionSet
    probabilities: dict[Head, np.ndarray | None]
    """(n of the head, classes) float32"""
    predictions: dict[Head, np.ndarray | None]
    """(n of the head,) int64 classes, or (n of the head, classes) int8 multi-hot"""

    @staticmethod
    def of(questions: QuestionSet, answers: Answers) -> Predictions:
        """Decided by the largest probability, or by 0.5 for each class of a head with several answers."""
        decided = {head: None if values is None else decide(head, values) for head, values in answers.items()}
        return Predictions(questions, dict(answers), decided)

    def write(self, path: Path, metadata: dict[str, str], credentialed: bool | None = None) -> None:
        """Every question, complete or not at all, in the order of the index.

        `credentialed`: whether the model is, or the answers that it is compared with; None: not known. Goes into the file's
        metadata together with the index's own lineage.
        """
        questions, index = self.questions, self.questions.index
        lineage = {"credentialed": str(index.is_credentialed or credentialed).lower()}
        names, heads = np.array([t.name for t in QUESTION_TYPES]), np.array([head.value for head in HEADS])
        columns = {
            "subject_id": questions.patient,
            "study_id": index.studies["study_id"][questions.study],
            "image_id": index.image_ids(questions.image),
            "question_id": index.question_keys(questions.question_id),
            "question_type": names[questions.type].tolist(),
            "head": heads[questions.head].tolist(),
            "probabilities": _lists(questions, self.probabilities, np.float32),
            "prediction": _lists(questions, self.predictions, np.int8),
            "target": _lists(questions, {head: questions.targets(head) for head in HEADS}, np.int8),
        }
        arrays = [pa.array(columns[field.name], type=field.type) for field in SCHEMA]
        sink = pa.BufferOutputStream()
        schema = SCHEMA.with_metadata(metadata | {"synthetic": str(index.is_synthetic).lower()} | lineage)
        pq.write_table(pa.table(arrays, schema=schema), sink, compression="zstd")
        write_atomic(path, sink.getvalue().to_pybytes())


def write_predictions(
    path: Path, questions: QuestionSet, answers: Answers, graph: str, credentialed: bool | None = None
) -> None:
    """Write a model's answers; `graph`: what it answered from; `credentialed`: see `Predictions.write`."""
    Predictions.of(questions, answers).write(path, {"graph": graph}, credentialed)


def _lists(questions: QuestionSet, values: dict[Head, np.ndarray | None], dtype: type) -> pa.ListArray:
    """One list a question; null for a head without values."""
    length, parts = np.zeros(len(questions), dtype=np.int64), {}
    for head, of_head in values.items():
        if of_head is not None:
            width = 1 if of_head.ndim == 1 else of_head.shape[1]
            parts[head] = of_head.astype(dtype).reshape(len(of_head), width)
            length[questions.of(head)] = parts[head].shape[1]
    offsets = np.concatenate([[0], np.cumsum(length)])
    flat = np.empty(offsets[-1], dtype=dtype)
    for head, part in parts.items():
        flat[offsets[questions.of(head)][:, None] + np.arange(part.shape[1])] = part
    return pa.ListArray.from_arrays(pa.array(offsets, type=pa.int32()), pa.array(flat), mask=pa.array(length == 0))


def read_predictions(path: Path, questions: QuestionSet) -> tuple[Predictions, dict[str, str]]:
    """The answers of a file to exactly these questions, whatever order it has them in, and its metadata.

    Raises:
        DataError: it is no such file; a column is missing; a question is missing, twice, or not among these; its type, head
            or target is another; a probability is none.
    """
    table = _read(path)
    place = _places(path, table, questions)
    _check_same(path, table, questions, place)
    found, predicted = {}, {}
    for head, spec in HEADS.items():
        own = place[questions.of(head)]
        width = len(spec.classes)
        values = _matrix(path, table, "probabilities", own, width, head)
        chosen = _matrix(path, table, "prediction", own, width if spec.multi_label else 1, head)
        found[head] = None if values is None else _checked(path, head, values)
        if chosen is None:
            raise DataError(f"{path}: {head.value} questions have no prediction")
        most = 1 if spec.multi_label else width - 1
        if len(chosen) and not (chosen.min() >= 0 and chosen.max() <= most):
            raise DataError(f"{path}: a {head.value} prediction is not in 0..{most}")
        predicted[head] = chosen.astype(np.int8) if spec.multi_label else chosen[:, 0].astype(np.int64)
        _warn_of_contradictions(path, head, found[head], predicted[head])
    metadata = {key.decode(): value.decode(errors="replace") for key, value in (table.schema.metadata or {}).items()}
    return Predictions(questions, found, predicted), metadata


def read_lineage(path: Path) -> bool:
    """Whether a predictions file counts as credentialed. DataError as `read_predictions`."""
    return is_credentialed((_schema(path).metadata or {}).get(b"credentialed", b"").decode(errors="replace"))


def _warn_of_contradictions(path: Path, head: Head, probabilities: np.ndarray | None, predictions: np.ndarray) -> None:
    """A model may decide in its own way, but a file whose columns belong to two models should not pass silently."""
    if probabilities is None:
        return
    if HEADS[head].multi_label:
        other = ((probabilities >= THRESHOLD) != (predictions == 1)).any(1)
    else:
        chosen = probabilities[np.arange(len(predictions)), predictions]
        other = chosen < probabilities.max(1, initial=0.0) - TOLERANCE
    if other.any():
        log.warning(
            "%s: %s of %s %s predictions are not what their probabilities favour: both are scored as they are",
            path, f"{int(other.sum()):,}", f"{len(other):,}", head.value,
        )  # fmt: skip


def _schema(path: Path) -> pa.Schema:
    if path.is_dir():
        raise DataError(f"{path} is a folder: name the file, such as {path / 'predictions.parquet'}")
    if not path.is_file():
        raise DataError(f"no predictions file {path}: evaluate.py writes one as predictions.parquet")
    try:
        return pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise _no_predictions(path, error) from error


def _no_predictions(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} is no predictions file: {str(error).splitlines()[0]}")


def _read(path: Path) -> pa.Table:
    names = _schema(path).names
    try:
        lost = [name for name in SCHEMA.names if name not in names]
        if lost:
            raise DataError(f"{path}: column(s) missing: {', '.join(lost)}; wanted are {', '.join(SCHEMA.names)}")
        table = pq.read_table(path, columns=SCHEMA.names)
        for field in SCHEMA:
            if pa.types.is_list(field.type) and not _is_list(table.schema.field(field.name).type):
                raise DataError(
                    f"{path}: column {field.name} has {table.schema.field(field.name).type}, wanted are lists"
                )
        return table.cast(SCHEMA.with_metadata(table.schema.metadata)).combine_chunks()
    except (pa.ArrowException, OSError) as error:
        raise _no_predictions(path, error) from error


def _is_list(kind: pa.DataType) -> bool:
    return (
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_fixed_size_list(kind)
        or pa.types.is_null(kind)
    )


def _places(path: Path, table: pa.Table, questions: QuestionSet) -> np.ndarray:
    """(n,) row of the file for each question."""
    index = questions.index
    here = list(zip(index.studies["study_id"][questions.study].tolist(), index.question_keys(questions.question_id)))
    there = list(zip(table["study_id"].to_pylist(), table["question_id"].to_pylist()))
    row_of = {key: row for row, key in enumerate(there)}
    if len(row_of) < len(there):
        twice = next(key for row, key in enumerate(there) if row_of[key] != row)
        raise DataError(
            f"{path}: {len(there) - len(row_of):,} row(s) answer a question a second time, such as {_named(twice)}"
        )
    place = np.array([row_of.pop(key, -1) for key in here], dtype=np.int64)
    problems = {"of the questions have no row": int((place < 0).sum()), "row(s) answer no question asked": len(row_of)}
    if any(problems.values()):
        detail = ", ".join(f"{number:,} {what}" for what, number in problems.items() if number)
        first = here[int(np.flatnonzero(place < 0)[0])] if (place < 0).any() else next(iter(row_of))
        raise DataError(
            f"{path}: {detail}, such as {_named(first)} ({len(place):,} questions asked, {len(there):,} rows): --split, "
            "data.quality_grade and data.question_types must be those that the file was made for"
        )
    return place


def _named(key: tuple[int, str]) -> str:
    return f"study_id {key[0]}, question_id {key[1]}"


def _check_same(path: Path, table: pa.Table, questions: QuestionSet, place: np.ndarray) -> None:
    """DataError where the file holds another type, head or target of a question than the index."""
    ids = {"subject_id": questions.patient, "image_id": np.array(questions.index.image_ids(questions.image))}
    for column, own in ids.items():
        given = np.array(table[column].to_pylist())[place]
        if different := np.flatnonzero(given != own).tolist():
            raise DataError(
                f"{path}: {len(different):,} rows have another {column} than the index {questions.index.path}, the first in "
                f"study {questions.index.studies['study_id'][questions.study[different[0]]]}"
            )
    types, heads = TYPE_INDEX, {head.value: number for head, number in HEAD_INDEX.items()}
    for column, numbers, own in (("question_type", types, questions.type), ("head", heads, questions.head)):
        given = np.array([numbers.get(name, -1) for name in table[column].to_pylist()], dtype=np.int64)[place]
        if different := int((given != own).sum()):
            raise DataError(f"{path}: {different:,} rows have another {column} than the index {questions.index.path}")
    for head, spec in HEADS.items():
        own = place[questions.of(head)]
        width = len(spec.classes) if spec.multi_label else 1
        truth = _matrix(path, table, "target", own, width, head)
        wanted = questions.targets(head).reshape(len(own), width)
        if truth is None or (truth != wanted).any():
            different = len(own) if truth is None else int((truth != wanted).any(1).sum())
            if different:
                raise DataError(
                    f"{path}: {different:,} {head.value} rows have another target than the index "
                    f"{questions.index.path}: the file was made for another release or version"
                )


def _matrix(path: Path, table: pa.Table, name: str, rows: np.ndarray, width: int, head: Head) -> np.ndarray | None:
    """(n, width) of the lists at `rows`; None where all are null. DataError for other lengths, or null for some only."""
    column = table[name]
    lists = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    null = np.asarray(lists.is_null())[rows]
    if len(rows) and null.all():
        return None
    if null.any():
        raise DataError(f"{path}: {int(null.sum()):,} of {len(rows):,} {head.value} rows have null as {name}")
    offsets = lists.offsets.to_numpy().astype(np.int64)
    lengths = np.diff(offsets)[rows]
    if (lengths != width).any():
        raise DataError(
            f"{path}: {int((lengths != width).sum()):,} {head.value} rows have a {name} of another length than {width}"
        )
    values = lists.values.to_numpy(zero_copy_only=False)
    return values[offsets[rows][:, None] + np.arange(width)]


def _checked(path: Path, head: Head, values: np.ndarray) -> np.ndarray:
    """DataError unless they are probabilities."""
    if not np.isfinite(values).all():
        raise DataError(f"{path}: {int((~np.isfinite(values)).any(1).sum()):,} {head.value} rows are not numbers")
    far = (values < -TOLERANCE) | (values > 1 + TOLERANCE)
    if not HEADS[head].multi_label:
        far |= np.abs(values.sum(1, keepdims=True) - 1) > TOLERANCE
    if far.any():
        raise DataError(
            f"{path}: {int(far.any(1).sum()):,} {head.value} rows are no probabilities (0 to 1"
            f"{'' if HEADS[head].multi_label else ', in all 1'}): logits?"
        )
    return values.clip(0, 1)
