"""An index of questions that come one by one, from a data set that is not a MIMIC release."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from data import images as image_files
from data import label_space
from data.images import STORE_FILES
from data.index.store import COLUMNS, FORMAT, META, PROBLEMS, SPLITS, Index, open_index, require_free, write_table
from data.label_space import CHEXPERT, GRADES, HEAD_INDEX, QUESTION_TYPES, TYPE_INDEX
from data.vocabulary import Vocabulary
from utils.errors import DataError
from utils.privacy import private_directory
from utils.utils import atomic_directory, write_json, writing_to

ID_BITS = 48
ID_DIGITS = 14
"""Most digits of a name that is a number below 2**48"""

CHUNK = 64
"""Images that are decoded at a time"""
SHOWN = 5
"""Broken images that a message names"""

Decoded = tuple[np.ndarray, int, int]
"""What `images.decode` returns: pixels, and the original's width and height"""


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
    image_id: str
    """names the image in predictions and audits"""
    regions: int = 0
    """bit mask of the regions that the answer speaks of"""
    box: tuple[int, tuple[float, float, float, float]] | None = None
    """a region, and where it is: x1, y1, x2, y2 in pixels of the original image"""
    place: str = ""
    """where the question stands, for messages"""


@dataclass(frozen=True)
class RecordSet:
    """A data set as it was read: its questions, and what became of those that are none."""

    name: str
    """as reports call it"""
    records: list[Record]
    """in any order; images of several splits are stored once for each"""
    fates: list[tuple[str, str, str]]
    """(split, question type or '', fate) of every question that became no record"""
    public: bool = False
    """anybody may have it; any other set counts as credentialed"""
    notes: list[str] = field(default_factory=list)
    """sentences about the set that every evaluation repeats"""
    lines: list[str] = field(default_factory=list)
    """what was read, for the log"""
    warnings: list[str] = field(default_factory=list)
    """of the reader, for the log"""

    def count_lines(self) -> list[str]:
        """Questions by split and type, and those that became no record by split and reason."""
        asked = Counter((record.split, record.type) for record in self.records)
        left = Counter((split, fate) for split, _, fate in self.fates)
        return [f"  {split}: {n:,} {kind}" for (split, kind), n in sorted(asked.items())] + [
            f"  {split}: {n:,} left out ({fate.replace('_', ' ')})" for (split, fate), n in sorted(left.items())
        ]


def write_record_index(
    path: Path,
    read: RecordSet,
    vocabulary: Vocabulary,
    *,
    side: int,
    image_store: str = "raw",
    origin: str = "",
    credentialed: bool = False,
) -> Index:
    """Write an index whose studies are images; there are no graphs.

    Args:
        vocabulary: of the model that will be asked.
        side: shorter side of the stored images.
        credentialed: the model that the names are of, and that features may be kept of, is.
        origin: what the index was made of, kept in `meta["origin"]`.
    Raises:
        DataError: nothing to write, images cannot be read (the first `SHOWN` are named), a box leaves its image, or `path`
            cannot be written to or holds something else.
    """
    if not read.records:
        raise DataError(f"no question to write to {path}")
    with writing_to(path, "free space, or name another folder with --set data.index_dir=..."):
        require_free(path)
        own = {"public": read.public, "credentialed": credentialed or not read.public, "origin": origin}
        _write(path, read, vocabulary, side, image_store, own | {"has_graphs": False})
    return open_index(path)


def _write(path: Path, read: RecordSet, vocabulary: Vocabulary, side: int, image_store: str, own: dict) -> None:
    writer = _Writer()
    by_image: dict[tuple[int, str, Path], list[Record]] = defaultdict(list)
    for record in read.records:
        by_image[SPLITS.index(record.split), record.patient, record.image].append(record)
    with atomic_directory(path) as folder:
        private_directory(folder / "images")
        with (folder / "images" / STORE_FILES[image_store]).open("wb") as pixels:
            keys = sorted(by_image)
            for key, decoded in zip(keys, _decoded([by_image[key][0] for key in keys], side), strict=True):
                writer.add_image(key, by_image[key], decoded, image_store, pixels)
        private_directory(folder / "tables")
        for name, table in writer.tables().items():
            write_table(folder / "tables" / f"{name}.arrow", table)
        (folder / PROBLEMS).write_text("")
        write_json(folder / META, writer.meta(read, vocabulary, side, image_store) | own)


class _Writer:
    """Rows of the tables as they grow."""

    def __init__(self):
        self.columns = {table: {name: [] for name in names} for table, names in COLUMNS.items()}
        self.texts: dict[str, int] = {}
        self.question_ids: dict[str, int] = {}
        self.image_ids: list[str] = []
        self.boxes: list[list[float]] = []
        self.offset = 0

    def add_image(
        self, key: tuple[int, str, Path], records: list[Record], decoded: Decoded, store: str, pixels
    ) -> None:
        split, patient, _ = key
        image_id = records[0].image_id
        array, width, height = decoded
        stored = image_files.encode(array, store)
        pixels.write(stored)
        study = len(self.columns["studies"]["split"])
        self._add(
            "studies",
            subject_id=_number(patient),
            study_id=_number(f"{image_id}/{SPLITS[split]}"),
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
            box_start=len(self.boxes),
            box_count=self._add_boxes(records, width, height),
            finding_start=0,
            finding_count=0,
        )
        self.image_ids.append(image_id)
        self.offset += len(stored)
        for record in records:
            self._add_question(study, record)

    def _add_boxes(self, records: list[Record], width: int, height: int) -> int:
        """The smallest box around those of each region, as parts of the sides; returns how many there are."""
        of_region: dict[int, list[tuple[float, ...]]] = defaultdict(list)
        for record in records:
            if record.box:
                region, (x1, y1, x2, y2) = record.box
                if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
                    raise DataError(
                        f"{record.place}: the box {x1:g}, {y1:g}, {x2:g}, {y2:g} is not inside the image "
                        f"({width} x {height} pixels): wanted are x1, y1, x2, y2 in pixels of the original"
                    )
                of_region[region].append((x1 / width, y1 / height, x2 / width, y2 / height))
        for region, boxes in sorted(of_region.items()):
            x1, y1, x2, y2 = zip(*boxes)
            self._add("boxes", region=region)
            self.boxes.append([min(x1), min(y1), max(x2), max(y2)])
        return len(of_region)

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
        tables["boxes"]["box"] = np.array(self.boxes, dtype=np.float32).reshape(-1, 4)
        tables["images"] |= {"image_id": self.image_ids, "view": [""] * studies}
        tables["texts"], tables["question_ids"] = {"value": list(self.texts)}, {"value": list(self.question_ids)}
        return tables

    def meta(self, read: RecordSet, vocabulary: Vocabulary, side: int, store: str) -> dict[str, object]:
        counts = Counter((r.split, r.type, "target") for r in read.records) + Counter(read.fates)
        by_split: dict[str, dict[str, dict[str, int]]] = {}
        for (split, kind, fate), n in sorted(counts.items()):
            by_split.setdefault(split, {}).setdefault(kind, {})[fate] = n
        identity = {"records": _checksum(read.records), "image_store_size": side}
        return {
            "format": FORMAT,
            "dataset": read.name,
            "notes": read.notes,
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


def _decoded(records: list[Record], side: int) -> Iterator[Decoded]:
    """The image of each, in order. Several threads read: decoders work outside Python's lock.

    After the first that cannot be read the others are read to name all that are broken, and then DataError is raised.
    """
    from tqdm import tqdm

    broken: list[DataError] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool, tqdm(total=len(records), desc="images", disable=None) as bar:
        for first in range(0, len(records), CHUNK):
            for one in pool.map(partial(_decode, side=side), records[first : first + CHUNK]):
                bar.update()
                if isinstance(one, DataError):
                    broken.append(one)
                elif not broken:
                    yield one
    if len(broken) == 1:
        raise broken[0]
    if broken:
        named = "; ".join(str(error) for error in broken[:SHOWN])
        more = f"; and {len(broken) - SHOWN:,} more" if len(broken) > SHOWN else ""
        raise DataError(f"{len(broken):,} of {len(records):,} images cannot be read: {named}{more}")


def _decode(record: Record, side: int) -> Decoded | DataError:
    """As `images.decode`; the error says which question asks for the image."""
    try:
        return image_files.decode(record.image, side)
    except DataError as error:
        return DataError(f"{record.place}: {error}" if record.place else str(error))


def _checksum(records: list[Record]) -> str:
    """Of everything but where the images lie: the same on every machine."""
    here = ("image", "place")
    content = [[str(value) for name, value in vars(record).items() if name not in here] for record in records]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _number(name: str) -> int:
    """A number for a name, as ids in an index are numbers: the name itself where it is one, else its hash."""
    if name.isascii() and name.isdecimal() and len(name) <= ID_DIGITS and not name.startswith("0"):
        return int(name)
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> (64 - ID_BITS)
