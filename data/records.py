"""An index of questions that come one by one, from a data set that is not a MIMIC release."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data import images as image_files
from data import label_space
from data.images import STORE_FILES
from data.index.store import COLUMNS, FORMAT, META, PROBLEMS, SPLITS, Index, open_index, write_table
from data.label_space import CHEXPERT, GRADES, HEAD_INDEX, QUESTION_TYPES, TYPE_INDEX
from data.vocabulary import Vocabulary
from utils.errors import DataError
from utils.privacy import private_directory
from utils.utils import atomic_directory, write_json

ID_BITS = 48


@dataclass(frozen=True)
class Record:
    """A question about an image, with its answer as a target."""

    image: Path
    patient: str
    split: str
    text: str
    type: str
    """`label_space.QUESTION_TYPES`"""
    target: int
    """class, or bit mask"""
    question_id: str
    regions: int = 0
    """bit mask of the regions that the answer speaks of"""


def write_record_index(
    path: Path,
    records: Sequence[Record],
    vocabulary: Vocabulary,
    *,
    side: int,
    credentialed: bool = False,
    fates: Iterable[tuple[str, str, str]] = (),
    image_store: str = "raw",
    notes: Sequence[str] = (),
    origin: str = "",
) -> Index:
    """Write an index whose studies are images; there are no graphs.

    Args:
        records: in any order. Images of several splits are stored once for each.
        vocabulary: of the model that will be asked.
        side: shorter side of the stored images.
        credentialed: the records, or the model that the names are of and that features may be kept of, are.
        fates: (split, question type or '', fate) of every question that became no record.
        notes: sentences about the data set that every evaluation repeats.
        origin: what the index was made of, kept in `meta["origin"]`.
    Raises:
        DataError: nothing to write, or an image cannot be read.
    """
    if not records:
        raise DataError(f"no question to write to {path}")
    writer = _Writer()
    by_image: dict[tuple[int, str, Path], list[Record]] = defaultdict(list)
    for record in records:
        by_image[SPLITS.index(record.split), record.patient, record.image].append(record)
    with atomic_directory(path) as folder:
        private_directory(folder / "images")
        with (folder / "images" / STORE_FILES[image_store]).open("wb") as pixels:
            for key in sorted(by_image):
                writer.add_image(key, by_image[key], side, image_store, pixels)
        private_directory(folder / "tables")
        for name, table in writer.tables().items():
            write_table(folder / "tables" / f"{name}.arrow", table)
        (folder / PROBLEMS).write_text("")
        meta = writer.meta(records, vocabulary, side, image_store, fates) | {"credentialed": credentialed}
        write_json(folder / META, meta | {"notes": list(notes), "origin": origin, "has_graphs": False})
    return open_index(path)


class _Writer:
    """Rows of the tables as they grow."""

    def __init__(self):
        self.columns = {table: {name: [] for name in names} for table, names in COLUMNS.items()}
        self.texts: dict[str, int] = {}
        self.question_ids: dict[str, int] = {}
        self.image_ids: list[str] = []
        self.offset = 0

    def add_image(self, key: tuple[int, str, Path], records: list[Record], side: int, store: str, pixels) -> None:
        split, patient, image = key
        array, width, height = image_files.decode(image, side)
        stored = image_files.encode(array, store)
        pixels.write(stored)
        study = len(self.columns["studies"]["split"])
        self._add(
            "studies",
            subject_id=_number(patient),
            study_id=_number(f"{image.stem}/{SPLITS[split]}"),
            split=split,
            question_start=len(self.columns["questions"]["study"]),
            question_count=len(records),
            image_start=study,
            image_count=1,
        )
        self._add(
            "images",
            study=study,
            width=width,
            height=height,
            stored_width=array.shape[1],
            stored_height=array.shape[0],
            offset=self.offset,
            length=len(stored),
            **dict.fromkeys(("box_start", "box_count", "finding_start", "finding_count"), 0),
        )
        self.image_ids.append(image.stem)
        self.offset += len(stored)
        for record in records:
            self._add_question(study, record)

    def _add_question(self, study: int, record: Record) -> None:
        kind = TYPE_INDEX[record.type]
        self._add(
            "questions",
            study=study,
            text=self.texts.setdefault(record.text, len(self.texts)),
            type=kind,
            head=HEAD_INDEX[QUESTION_TYPES[kind].head],
            target=record.target,
            grade=len(GRADES) - 1,
            question_id=self.question_ids.setdefault(record.question_id, len(self.question_ids)),
            regions=record.regions,
            from_report=0,
        )

    def _add(self, table: str, **values: object) -> None:
        for name, value in values.items():
            self.columns[table][name].append(value)

    def tables(self) -> dict[str, dict]:
        tables = {
            table: {name: np.array(values, dtype=COLUMNS[table][name]) for name, values in columns.items()}
            for table, columns in self.columns.items()
        }
        studies = len(tables["studies"]["split"])
        tables["studies"]["chexpert"] = np.full((studies, len(CHEXPERT)), np.nan, dtype=np.float32)
        tables["boxes"]["box"] = np.zeros((0, 4), dtype=np.float32)
        tables["images"] |= {"image_id": self.image_ids, "view": [""] * studies}
        tables["texts"], tables["question_ids"] = {"value": list(self.texts)}, {"value": list(self.question_ids)}
        return tables

    def meta(
        self, records: Sequence[Record], vocabulary: Vocabulary, side: int, store: str, fates: Iterable
    ) -> dict[str, object]:
        counts = Counter((r.split, r.type, "target") for r in records) + Counter(fates)
        by_split: dict[str, dict[str, dict[str, int]]] = {}
        for (split, kind, fate), n in sorted(counts.items()):
            by_split.setdefault(split, {}).setdefault(kind, {})[fate] = n
        content = json.dumps([[str(value) for value in vars(record).values()] for record in records])
        identity = {"records": hashlib.sha256(content.encode()).hexdigest()[:16], "image_store_size": side}
        return {
            "format": FORMAT,
            "fingerprint": identity["records"],
            "identity": identity,
            "label_space": label_space.checksum(),
            "image_store": store,
            "synthetic": False,
            "vocabulary": vocabulary.as_json(),
            "rows": {table: len(next(iter(columns.values()))) for table, columns in self.columns.items()},
            "counts": by_split,
            "unmapped": {},
            "problems": {},
        }


def _number(name: str) -> int:
    """A number for a name: its hash, as ids in an index are numbers."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> (64 - ID_BITS)
