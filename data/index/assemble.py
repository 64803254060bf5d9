"""Joining the parts of an index: tables are made one after the other, so that one of them at a time is in memory."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data import label_space
from data.images import STORE_FILES
from data.index.part import PIXELS
from data.index.reuse import NO_ROW, SOURCE_COLUMNS
from data.index.store import COLUMNS, FORMAT, META, PROBLEMS, SOURCES, table_path, write_table
from data.release import Release
from data.vocabulary import Vocabulary
from utils.privacy import private_directory
from utils.utils import write_json

NAMES = {table: tuple(columns) for table, columns in COLUMNS.items()} | {SOURCES: tuple(SOURCE_COLUMNS)}
NAMES |= {"studies": (*NAMES["studies"], "chexpert"), "boxes": (*NAMES["boxes"], "box")}
"""Columns of each table that parts hold as numbers"""
COUNTED_FROM = {
    "questions.study": "studies",
    "images.study": "studies",
    "sources.row": "studies",
    "studies.question_start": "questions",
    "studies.image_start": "images",
    "images.box_start": "boxes",
    "images.finding_start": "findings",
    "images.offset": PIXELS,
}
"""Columns that are numbers of rows, or bytes, counted from the beginning of a part -> what of"""


@dataclass(frozen=True)
class _Part:
    """A finished part, and where it lies in the index."""

    folder: Path
    starts: dict[str, int]
    """rows of each table, and bytes of images, that come before it"""
    rows: dict[str, int]
    codes: dict[str, np.ndarray]
    """`questions.text` and `questions.question_id`: code in the part -> code in the index"""

    def column(self, key: str, values: np.ndarray) -> np.ndarray:
        """A column of this part as the index has it."""
        if key in self.codes:
            return self.codes[key][values]
        if key not in COUNTED_FROM:
            return values
        moved = values + np.array(self.starts[COUNTED_FROM[key]], dtype=values.dtype)
        return np.where(values == NO_ROW, values, moved) if key == "sources.row" else moved


@dataclass
class _Strings:
    """What all parts together hold besides numbers."""

    texts: dict[str, int] = field(default_factory=dict)
    question_ids: dict[str, int] = field(default_factory=dict)
    image_ids: list[str] = field(default_factory=list)
    views: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    counts: Counter = field(default_factory=Counter)
    names: Counter = field(default_factory=Counter)
    examples: dict[tuple[str, str], int] = field(default_factory=dict)
    copied: int = 0

    def add(self, part: dict) -> dict[str, np.ndarray]:
        """The codes of a part's strings."""
        self.image_ids += part["image_ids"]
        self.views += part["views"]
        self.notes += part["notes"]
        self.copied += part["copied"]
        self.counts.update({tuple(c[:3]): c[3] for c in part["counts"]})
        self.names.update({tuple(c[:2]): c[2] for c in part["names"]})
        self.examples = {tuple(c[:2]): c[2] for c in part.get("examples", ())} | self.examples
        return {
            "questions.text": _codes(part["texts"], self.texts),
            "questions.question_id": _codes(part["question_ids"], self.question_ids),
        }

    def of_table(self, name: str) -> dict[str, list[str]]:
        return {"images": {"image_id": self.image_ids, "view": self.views}, SOURCES: {"notes": self.notes}}.get(
            name, {}
        )


def assemble(
    folders: list[Path],
    target: Path,
    identity: dict,
    release: Release,
    vocabulary: Vocabulary,
    problems: list[dict],
    planned: dict[str, int],
) -> int:
    """Join the parts into the final tables and the image store; how many studies came from an earlier index.

    `planned`: the `image` and `study` files that there should be, of which `problems` names the bad ones.
    """
    private_directory(target / "tables")
    private_directory(target / "images")
    strings = _Strings()
    with (target / "images" / STORE_FILES[identity["image_store"]]).open("wb") as pixels:
        parts, rows = _placed(folders, strings, pixels)
    for name in NAMES:
        write_table(table_path(target, name), _joined(name, parts) | strings.of_table(name))
    for name, values in (("texts", strings.texts), ("question_ids", strings.question_ids)):
        write_table(table_path(target, name), {"value": list(values)})
    with (target / PROBLEMS).open("w") as file:
        file.writelines(json.dumps(p) + "\n" for p in problems)
    counted = {table: rows[table] for table in COLUMNS}
    meta = _meta(identity, release, vocabulary, strings, problems, counted)
    write_json(target / META, meta | {"planned": planned})
    return strings.copied


def _placed(folders: list[Path], strings: _Strings, pixels) -> tuple[list[_Part], Counter]:
    """Where each part lies, and the rows of each table; appends the images of all."""
    parts, rows = [], Counter()
    for folder in folders:
        codes = strings.add(json.loads((folder / "strings.json").read_text()))
        with np.load(folder / "columns.npz", allow_pickle=False) as columns:
            own = {table: len(columns[f"{table}.{names[0]}"]) for table, names in NAMES.items()}
        parts.append(_Part(folder, {**{table: rows[table] for table in NAMES}, PIXELS: pixels.tell()}, own, codes))
        rows.update(own)
        with (folder / PIXELS).open("rb") as source:
            shutil.copyfileobj(source, pixels, 1 << 22)
    return parts, rows


def _joined(table: str, parts: list[_Part]) -> dict[str, np.ndarray]:
    """The columns of a table, filled in place: at no time are there two copies."""
    total = sum(part.rows[table] for part in parts)
    joined: dict[str, np.ndarray] = {}
    for part in parts:
        rows = slice(part.starts[table], part.starts[table] + part.rows[table])
        with np.load(part.folder / "columns.npz", allow_pickle=False) as columns:
            for name in NAMES[table]:
                values = part.column(f"{table}.{name}", columns[f"{table}.{name}"])
                if name not in joined:
                    joined[name] = np.empty((total, *values.shape[1:]), values.dtype)
                joined[name][rows] = values
    return joined


def _codes(local: list[str], shared: dict[str, int]) -> np.ndarray:
    """Codes into a part's list of strings -> codes into the index's."""
    return np.array([shared.setdefault(text, len(shared)) for text in local] or [0], dtype=np.uint32)


def _meta(
    identity: dict,
    release: Release,
    vocabulary: Vocabulary,
    strings: _Strings,
    problems: list[dict],
    rows: dict[str, int],
) -> dict:
    by_split: dict[str, dict[str, dict[str, int]]] = {}
    for (split, question_type, fate), n in sorted(strings.counts.items()):
        by_split.setdefault(split, {}).setdefault(question_type, {})[fate] = n
    unmapped: dict[str, dict[str, int]] = {}
    for (kind, value), n in strings.names.most_common():
        unmapped.setdefault(kind, {})[value] = n
    of_kind: dict[str, dict[str, int]] = {}
    for (kind, value), study in sorted(strings.examples.items()):
        of_kind.setdefault(kind, {})[value] = study
    return {
        "format": FORMAT,
        "fingerprint": identity["fingerprint"],
        "identity": identity,
        "label_space": label_space.checksum(),
        "image_store": identity["image_store"],
        "synthetic": release.is_synthetic,
        "credentialed": release.is_credentialed,
        "vocabulary": vocabulary.as_json(),
        "rows": rows,
        "counts": by_split,
        "unmapped": unmapped,
        "examples": of_kind,
        "problems": dict(Counter(p["kind"] for p in problems)),
    }
