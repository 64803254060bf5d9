"""Questions of your own: a CSV or JSONL file with one question a row, and images beside it. The manual: docs/OWN_DATA.md."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from data.answer_text import TARGETS, region_of_box, region_target
from data.label_space import QUESTION_TYPES, TYPE_INDEX, Head, QuestionType, find_question_type
from data.records import Record, RecordSet
from data.rows import Row, Table, nearest, read_table
from utils.errors import DataError

NEEDED = ("image", "question", "answer")
OPTIONAL = ("head", "type", "box", "patient", "split", "id")

SPLIT_NAMES = {
    "train": "train",
    **dict.fromkeys(("validate", "val", "valid", "validation"), "validate"),
    "test": "test",
}
SHARES = {"test": 0.1, "validate": 0.1}
"""Of the patients, where the file has no column `split`; the others are for training"""

RULES: tuple[tuple[Head, re.Pattern], ...] = (
    (Head.BINARY, re.compile(r"(?!\W*(?:what|where|which|how|describe|name|list)\b)", re.IGNORECASE)),
    (
        Head.REGION,
        re.compile(r".*\b(?:where|location|(?:which|what) (?:side|lobe|lung|region|part|zone)s?)\b", re.I | re.S),
    ),
    (Head.SEVERITY, re.compile(r".*\b(?:how (?!many)|severity|size|grade|degree|extent)", re.IGNORECASE | re.DOTALL)),
    (Head.CATEGORY, re.compile("")),
)
"""Without `head` and `type`: the first head whose pattern the question's beginning matches and whose classes the answer names.
A head that stands not here has to be named"""

TYPE_OF_HEAD: dict[Head, str] = {
    **{kind.head: kind.name for kind in reversed(QUESTION_TYPES) if kind.head},
    Head.BINARY: "D02_has_finding",
    Head.CATEGORY: "B02_describe_abnormal",
}
"""Where the file has no column `type`: the first of a head's types, unless another is said"""

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Entry:
    """A row whose cells are valid each by itself."""

    place: str
    image: str
    """path below the file's folder, with `/`"""
    question: str
    answer: str
    """may be empty"""
    kind: QuestionType | None
    """None: to be derived"""
    box: Box | None
    patient: str
    split: str
    id: str


def read_own_data(path: Path) -> RecordSet:
    """Read and check the whole file and look whether its images are there.

    DataError: what `read_table` refuses; a cell that cannot be meant so; an image that is not there; two rows that
    contradict each other. It names the row and says how to mend it.
    """
    table = read_table(path, NEEDED, OPTIONAL)
    entries = [_entry(row, table) for row in table.rows]
    _unique([entry for entry in entries if "id" in table.columns])
    _agree(entries, lambda e: e.image, lambda e: e.patient, "the image has another patient than in {place}")
    _agree(
        entries,
        lambda e: e.patient,
        lambda e: e.split,
        f"the split is another one than in {{place}} for the same {'patient' if 'patient' in table.columns else 'image'}: "
        "what is learned would be tested on people it was learned from; give them one split",
    )
    _check_images(entries, path.parent)
    records, fates = [], []
    for entry in entries:
        made = _record(entry, path.parent)
        (records if isinstance(made, Record) else fates).append(made)
    if not records:
        reasons = ", ".join(f"{fate.replace('_', ' ')}: {n:,}" for fate, n in Counter(f for *_, f in fates).items())
        raise DataError(f"{path}: no row has an answer that a head can give ({reasons}); see docs/OWN_DATA.md")
    lines = _lines(path, entries, records)
    return RecordSet(
        f"own data ({path.name})", records, fates, notes=_notes(path, table), lines=lines, warnings=table.warnings
    )


# One row


def _entry(row: Row, table: Table) -> Entry:
    image = _image(_filled(row, "image"), row.place)
    patient = _filled(row, "patient") if "patient" in table.columns else image
    drawn = "split" not in table.columns
    return Entry(
        place=row.place,
        image=image,
        question=" ".join(_filled(row, "question").split()),
        answer=row.cells.get("answer", ""),
        kind=_kind(row),
        box=_box(row),
        patient=patient,
        split=drawn_split(patient) if drawn else _chosen(row, "split", _filled(row, "split"), SPLIT_NAMES),
        id=_filled(row, "id") if "id" in table.columns else row.place.rpartition(", ")[2].replace(" ", "-"),
    )


def _filled(row: Row, column: str) -> str:
    if column not in row.cells:
        advice = "fill it in" if column in NEEDED else "fill it in in every row, or leave the column out"
        raise DataError(f"{row.place}: `{column}` is empty: {advice}")
    return row.cells[column]


def _chosen(row: Row, column: str, word: str, known: dict[str, object]):
    if word.lower() in known:
        return known[word.lower()]
    near = nearest(word, known)
    hint = f"did you mean `{near}`?" if near else f"it must be one of {', '.join(known)}"
    raise DataError(f"{row.place}: `{column}` has {_quoted(word)}: {hint}")


def _quoted(word: str) -> str:
    """No sentences: where cells have slipped, one is somebody's question."""
    return "a sentence" if " " in word else repr(word)


def _image(name: str, place: str) -> str:
    """Inside the folder, so that folder and file can be moved together and no other file of the machine is read."""
    foreign = PureWindowsPath(name)
    if name.startswith("/") or foreign.drive or ".." in foreign.parts:
        raise DataError(
            f"{place}: image {name!r} is not below the file's folder: write a path from there, without `..`; "
            "a link in that folder may lead elsewhere"
        )
    return "/".join(PurePosixPath(name).parts)


def _kind(row: Row) -> QuestionType | None:
    head = row.cells.get("head")
    head = head and _chosen(row, "head", head, {one.value: one for one in Head if one in TYPE_OF_HEAD})
    name = row.cells.get("type")
    if name is None:
        return QUESTION_TYPES[TYPE_INDEX[TYPE_OF_HEAD[head]]] if head else None
    kind = find_question_type(name)
    if kind is None:
        near = nearest(name, TYPE_INDEX)
        hint = f"did you mean `{near}`?" if near else "see docs/OWN_DATA.md for all types"
        raise DataError(f"{row.place}: `type` has {_quoted(name)}: {hint}")
    if kind.head is None:
        raise DataError(
            f"{row.place}: no head answers questions of type {kind.name}: choose another type or leave it empty"
        )
    if head and head != kind.head:
        raise DataError(f"{row.place}: head {head} and type {kind.name} ({kind.head}) contradict each other: keep one")
    return kind


def _box(row: Row) -> Box | None:
    if "box" not in row.cells:
        return None
    try:
        x1, y1, x2, y2 = map(float, re.split(r"[,;\s]+", row.cells["box"].strip("[]() \t")))
        if not all(map(math.isfinite, (x1, y1, x2, y2))) or not (0 <= x1 < x2 and 0 <= y1 < y2):
            raise ValueError
    except ValueError as error:
        raise DataError(
            f"{row.place}: `box` must be four numbers x1, y1, x2, y2 in pixels of the original image, from the top left, "
            "with x1 < x2 and y1 < y2"
        ) from error
    return x1, y1, x2, y2


def drawn_split(patient: str) -> str:
    """A function of the patient's name alone: nobody changes sides when the file grows."""
    draw = int.from_bytes(hashlib.sha256(f"split {patient}".encode()).digest()[:6], "big") / 2**48
    for split, share in SHARES.items():
        if draw < share:
            return split
        draw -= share
    return "train"


# All rows


def _unique(entries: list[Entry]) -> None:
    seen: dict[str, str] = {}
    for entry in entries:
        if entry.id in seen:
            raise DataError(
                f"{entry.place}: `id` is that of {seen[entry.id]} too: give each row its own, or leave them out"
            )
        seen[entry.id] = entry.place


def _agree(entries: list[Entry], of: Callable, value: Callable, problem: str) -> None:
    first: dict[str, Entry] = {}
    for entry in entries:
        other = first.setdefault(of(entry), entry)
        if value(other) != value(entry):
            raise DataError(f"{entry.place}: {problem.format(place=other.place.rpartition(', ')[2])}")


def _check_images(entries: list[Entry], folder: Path) -> None:
    of_image: dict[str, list[Entry]] = {}
    for entry in entries:
        of_image.setdefault(entry.image, []).append(entry)
    missing = [found for name, found in of_image.items() if not os.path.isfile(folder / name)]
    if missing:
        first = missing[0][0]
        hint = "write / between folders" if "\\" in first.image else "correct the path or bring the file"
        raise DataError(
            f"{first.place}: image {first.image} does not exist in {folder} ({len(missing):,} of {len(of_image):,} "
            f"images are missing): {hint}"
        )


def derived_kind(question: str, answer: str) -> QuestionType | None:
    """The question type that stands for the head which the rules find."""
    for head, pattern in RULES:
        if pattern.match(question) and TARGETS[head](answer) is not None:
            return QUESTION_TYPES[TYPE_INDEX[TYPE_OF_HEAD[head]]]
    return None


def _record(entry: Entry, folder: Path) -> Record | tuple[str, str, str]:
    """The record, or split, type and why there is none."""
    if not entry.answer:
        return entry.split, entry.kind.name if entry.kind else "", "no_answer"
    kind = entry.kind or derived_kind(entry.question, entry.answer)
    if kind is None:
        return entry.split, "", "no_rule"
    target = TARGETS[kind.head](entry.answer)
    if target is None:
        return entry.split, kind.name, "answer_outside_classes"
    region = region_of_box(entry.answer)
    return Record(
        image=folder / entry.image,
        patient=entry.patient,
        split=entry.split,
        text=entry.question,
        type=kind.name,
        target=target,
        question_id=entry.id,
        image_id=entry.image,
        regions=region_target(entry.answer) or 0,
        box=(region, entry.box) if entry.box and region is not None else None,
        place=entry.place,
    )


# What is said about the file


def _notes(path: Path, table: Table) -> list[str]:
    notes = []
    if "patient" not in table.columns:
        notes.append(
            f"{path.name} has no column `patient`: each image counts as a patient, so images of one person may be in "
            "several splits, and intervals may be too narrow"
        )
    if "split" not in table.columns:
        train = 1 - sum(SHARES.values())
        notes.append(
            f"{path.name} has no column `split`: {train:.0%} of the patients were drawn for training, "
            f"{SHARES['validate']:.0%} for validation and {SHARES['test']:.0%} for test, always the same"
        )
    return notes


def _lines(path: Path, entries: list[Entry], records: list[Record]) -> list[str]:
    images, patients = len({entry.image for entry in entries}), len({entry.patient for entry in entries})
    lines = [
        f"own data {path}: {len(entries):,} questions about {images:,} images of {patients:,} patients, "
        f"{len(records):,} of them with a target"
    ]
    boxes, used = sum(entry.box is not None for entry in entries), sum(record.box is not None for record in records)
    if boxes:
        lines.append(f"  boxes: {used:,} used, {boxes - used:,} not (their answers do not name exactly one region)")
    return lines
