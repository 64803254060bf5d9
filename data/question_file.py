"""A file of questions about films: what its rows mean, checked without a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data.label_space import Head, find_head
from data.rows import Row, Table, read_table
from utils.errors import DataError

NEEDED, OPTIONAL = ("image", "question"), ("head",)
"""Columns"""
OUTPUTS = (".csv", ".jsonl")


@dataclass(frozen=True)
class Request:
    """A row of the file that can be tried."""

    number: int
    """of the rows that are not empty, from 0"""
    place: str
    image: str
    """as it is written"""
    path: Path
    question: str
    head: Head | None


def read_question_file(path: Path) -> Table:
    """The rows of a CSV or JSONL file; DataError as of `read_table`."""
    return read_table(path, NEEDED, OPTIONAL)


def to_request(number: int, row: Row, folder: Path) -> Request:
    """DataError or ConfigError for a row that cannot be meant so."""
    for name in NEEDED:
        if name not in row.cells:
            raise DataError(f"no {name}: fill the cell")
    image, question = row.cells["image"], row.cells["question"]
    return Request(number, row.place, image, (folder / image).absolute(), question, find_head(row.cells.get("head")))


def check_output(output: Path, overwrite: bool, questions: Path) -> None:
    """DataError for an output that must not or cannot be written, before anything is computed."""
    if output.suffix.lower() not in OUTPUTS:
        raise DataError(f"{output}: must end with .csv or .jsonl")
    if output.resolve() == questions.resolve():
        raise DataError(f"{output}: is the file of the questions; name another one with --output")
    if output.is_dir():
        raise DataError(f"{output}: is a folder; name a file with --output")
    if output.exists() and not overwrite:
        raise DataError(f"{output}: is there already; name another file with --output, or replace it with --overwrite")
