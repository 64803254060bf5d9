"""Tables that people write, CSV or JSON lines: every cell as text, and one clear line for what is wrong with the file."""

from __future__ import annotations

import csv
import difflib
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from utils.errors import DataError

DELIMITERS = ",;\t"
"""Spreadsheets write any of these, by country: the one that is most frequent in the header counts"""


@dataclass(frozen=True)
class Row:
    """The cells of a row that are not empty, without space around them."""

    place: str
    """`films.csv, row 7`: rows as a spreadsheet counts them, the header being the first; of JSON lines the line"""
    cells: dict[str, str]


@dataclass(frozen=True)
class Table:
    """The rows that are not empty, and which columns occur."""

    rows: list[Row]
    columns: frozenset[str]
    warnings: list[str]
    """of columns that nobody knows"""


def read_table(path: Path, needed: Iterable[str], optional: Iterable[str]) -> Table:
    """Read a `.csv` or `.jsonl` file in UTF-8; names of columns may differ in case and in space around them.

    DataError: not such a file, a needed column is missing, rows of several lengths, or no row at all.
    """
    kind = path.suffix.lower()
    if kind not in (".csv", ".jsonl"):
        raise DataError(f"{path}: must be a .csv or .jsonl file; from a spreadsheet: save it as CSV UTF-8")
    needed, text = tuple(needed), _text(path)
    rows = list(_csv_rows(text, path.name) if kind == ".csv" else _json_rows(text, path.name))
    if not rows:
        raise DataError(f"{path}: has no rows: it must hold one for each question, with {', '.join(needed)}")
    columns = dict.fromkeys(name for _, cells in rows for name in cells)
    known = [*needed, *optional]
    if not set(known) & set(columns):  # do not quote it: without a header it is somebody's question
        raise DataError(f"{path}: the first row must name the columns, at least {', '.join(needed)}")
    for name in needed:
        if name not in columns:
            near = nearest(name, [column for column in columns if column not in known])
            advice = f"is `{near}` meant? rename it" if near else "add it"
            raise DataError(f"{path}: no column `{name}` (there are: {', '.join(columns)}): {advice}")
    warnings = []
    for name in columns:
        if name not in known:
            near = nearest(name, [column for column in known if column not in columns])
            hint = f": did you mean `{near}`?" if near else ""
            warnings.append(f"{path.name}: the column `{name}` is not read{hint}")
    filled = [Row(place, {name: cell.strip() for name, cell in cells.items() if cell.strip()}) for place, cells in rows]
    return Table(filled, frozenset(columns), warnings)


def nearest(word: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
    """The known word that was most likely meant; `likeness` in [0, 1] is the least that counts."""
    return next(iter(difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=likeness)), None)


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"no file {path}: correct the path") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(f"{path}, line {line}: not UTF-8; from a spreadsheet: save it as CSV UTF-8") from error


def _csv_rows(text: str, name: str) -> Iterator[tuple[str, dict[str, str]]]:
    first = next((line for line in text.splitlines() if line.strip()), "")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(DELIMITERS, key=first.count), strict=True)
    header, number = None, 0
    try:
        for number, cells in enumerate(reader, 1):
            if not any(cell.strip() for cell in cells):
                continue  # spreadsheets leave such rows at the end
            if header is None:
                header = _header(cells, name)
                continue
            if len(cells) != len(header):
                raise DataError(
                    f"{name}, row {number}: has {len(cells)} cells, the header {len(header)}: put a cell that holds a "
                    "comma, a semicolon or a tab between double quotes"
                )
            yield f"{name}, row {number}", dict(zip(header, cells))
    except csv.Error as error:
        raise DataError(f"{name}, row {number + 1}: not valid CSV ({error}): check its double quotes") from error


def _header(cells: list[str], name: str) -> list[str]:
    header = [cell.strip().lower() for cell in cells]
    for column in header:
        if not column:
            raise DataError(f"{name}: a column of the header has no name: name it or delete it")
        if header.count(column) > 1:
            raise DataError(f"{name}: two columns are called `{column}`: rename or delete one")
    return header


def _json_rows(text: str, name: str) -> Iterator[tuple[str, dict[str, str]]]:
    for number, line in enumerate(text.split("\n"), 1):
        place = f"{name}, row {number}"
        if not line.strip():
            continue
        try:
            value = json.loads(line, object_pairs_hook=_without_twins)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place}: not valid JSON ({error}): wanted is one object a line") from error
        if not isinstance(value, dict):
            raise DataError(f"{place}: not an object: wanted is {{...}} with a name for each value")
        yield place, {column: _json_cell(cell, f"{place}, `{column}`") for column, cell in value.items()}


def _without_twins(pairs: list[tuple[str, object]]) -> dict[str, object]:
    named = {column.strip().lower(): value for column, value in pairs}
    if len(named) < len(pairs):
        raise ValueError("a name occurs twice")
    return named


def _json_cell(value: object, place: str) -> str:
    """As it would stand in a CSV."""
    if isinstance(value, list) and not any(isinstance(item, (list, dict)) for item in value):
        return ", ".join(_json_cell(item, place) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, dict)):
        raise DataError(f"{place}: wanted is a text, a number or a list of them")
    text = "" if value is None else str(value)
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise DataError(f"{place}: half of a character that UTF-16 writes as two: write the text again")
    return text
