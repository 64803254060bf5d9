"""An index of any size without a release behind it: 10⁴ to 3·10⁷ questions, in bounded memory, ready for `open_index`.

Sizes and shares are those of MIMIC-Ext-CXR-QBA 1.0.0 (https://physionet.org/content/mimic-ext-cxr-qba/1.0.0/): 134
questions of grade B or better a study and, of worse or no grade, 29 % more; 27 question types; a text is asked 238 times
on average. The contents are random: there is nothing to learn, and the index is marked as synthetic.

All images share the pixels of a few hundred drawn ones, so that the largest index takes 1 GB of disk instead of 16: the
rows of the image table are all there and differ in size, but their offsets repeat.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import big_texts
from data import label_space
from data.images import STORE_FILES, encode
from data.index import Index, open_index
from data.index.store import COLUMNS, FORMAT, META, PROBLEMS, SPLITS, write_table
from data.label_space import CHEXPERT, GRADES, HEAD_INDEX, QUESTION_TYPES, REGIONS, Head
from data.vocabulary import RESERVED
from training.probe.costs import RATED
from utils.utils import atomic_directory, write_json

QUESTIONS_PER_STUDY = 134
"""Of grade B or better."""
STUDIES_PER_PATIENT = 3
SECOND_IMAGE_SHARE = 0.1
"""Studies with two frontal films."""
HELD_OUT_SHARE = 0.01
"""Patients of the validation split, and as many of the test split."""
BOXES, FINDINGS = (8, 27), (5, 40)
"""Fewest and (not reached) most rows of an image."""
GRAIN = 2.0
"""Deviation of the noise in drawn pictures, in grey levels: their JPEGs are then as large as those of small films"""
STUDIES_PER_CHUNK = 4096
"""About 700,000 questions are made at a time."""
TYPES = np.array([i for i, t in enumerate(QUESTION_TYPES) if t.head])
"""Question types that a class can answer."""

_GOOD = GRADES.index("B")


def big_index(
    folder: Path, questions: int, *, seed: int = 0, side: int = 224, image_store: str = "raw", pictures: int = 500
) -> Index:
    """The index of these properties in `folder`, written unless it is there; see `write_big_index`."""
    path = folder / f"big-{questions}-{seed}-{side}-{image_store}-{pictures}"
    if path.exists():  # it appears whole or not at all
        return open_index(path)
    return write_big_index(path, questions, seed=seed, side=side, image_store=image_store, pictures=pictures)


def write_big_index(
    path: str | Path, questions: int, *, seed: int = 0, side: int = 224, image_store: str = "raw", pictures: int = 500
) -> Index:
    """Write an index, complete or not at all, and open it.

    Args:
        path: the folder; what is there is replaced.
        questions: how many of grade B or better, over all splits; the index has 29 % more rows.
        side: shorter side of the stored images in pixels.
        image_store: raw or jpeg.
        pictures: different images that are drawn, at most one for each image row.
    """
    plan = Plan(questions, seed, side, image_store)
    with atomic_directory(path) as folder:
        for name in ("tables", "images", "columns"):
            (folder / name).mkdir()
        store = draw_pictures(folder / "images", image_store, side, min(pictures, plan.num_images), seed)
        tables = {name: _Table(folder / "columns", name, rows) for name, rows in plan.rows.items()}
        counts = np.zeros((len(SPLITS), len(QUESTION_TYPES)), np.int64)
        for first in range(0, plan.num_studies, STUDIES_PER_CHUNK):
            chunk = Chunk(plan, first, min(first + STUDIES_PER_CHUNK, plan.num_studies))
            for name, values in chunk.tables(store).items():
                tables[name].append(values)
            counts += chunk.counts
        for name, table in tables.items():
            write_table(folder / "tables" / f"{name}.arrow", table.columns() | plan.strings.get(name, {}))
            table.remove()
        for name in ("texts", "question_ids"):
            write_table(folder / "tables" / f"{name}.arrow", plan.strings[name])
        (folder / "columns").rmdir()
        (folder / PROBLEMS).touch()
        write_json(folder / META, _meta(plan, counts))
    return open_index(path)


class Plan:
    """Everything about an index that has the size of its studies, not of its questions."""

    def __init__(self, questions: int, seed: int, side: int, image_store: str):
        self.questions, self.seed, self.side, self.image_store = questions, seed, side, image_store
        good = sum(n for grade, n in RATED.items() if grade != "all" and GRADES.index(grade) >= _GOOD)
        self.num_questions = questions + round(questions * (sum(RATED.values()) - good) / good)
        self.num_studies = max(3 * STUDIES_PER_PATIENT, round(questions / QUESTIONS_PER_STUDY))
        rng = np.random.default_rng([seed, 0])
        # sizes of studies differ as they do in real life: many with half the mean, some with three times as many
        cuts = np.cumsum(rng.gamma(3.0, size=self.num_studies))
        ends = np.round(cuts / cuts[-1] * (self.num_questions - self.num_studies)).astype(np.int64)
        self.question_end = ends + np.arange(1, self.num_studies + 1)  # everyone has one at least
        self.image_count = 1 + (rng.random(self.num_studies) < SECOND_IMAGE_SHARE)
        self.image_end = np.cumsum(self.image_count)
        self.num_images = int(self.image_end[-1])
        self.box_count = rng.integers(*BOXES, size=self.num_images)
        self.finding_count = rng.integers(*FINDINGS, size=self.num_images)
        patient = np.arange(self.num_studies) // STUDIES_PER_PATIENT
        patients = int(patient[-1]) + 1
        held_out = max(1, round(patients * HELD_OUT_SHARE))
        self.split = np.searchsorted([patients - 2 * held_out, patients - held_out], patient, side="right")
        self.subject_id = 10_000_000 + patient
        self.texts = big_texts.plan_texts(self.num_questions)
        self.vocabulary = big_texts.VOCABULARY

    @property
    def rows(self) -> dict[str, int]:
        """Rows of each table of numbers."""
        return {
            "questions": self.num_questions,
            "studies": self.num_studies,
            "images": self.num_images,
            "boxes": int(self.box_count.sum()),
            "findings": int(self.finding_count.sum()),
        }

    @cached_property
    def strings(self) -> dict[str, dict[str, list[str]]]:
        """The string columns of each table."""
        longest = int(np.diff(self.question_end, prepend=0).max())
        numbers = range(self.num_images)
        return {
            "images": {"image_id": [f"{n:08x}-{n:08x}-made-by-hand" for n in numbers], "view": ["PA"] * len(numbers)},
            "texts": {"value": self.texts.strings()},
            "question_ids": {"value": [f"question_{n:04d}" for n in range(longest)]},
        }


@dataclass
class Pictures:
    """Where each drawn picture lies in the image store."""

    offset: np.ndarray
    length: np.ndarray
    width: np.ndarray
    height: np.ndarray


class Chunk:
    """The rows of some neighbouring studies."""

    def __init__(self, plan: Plan, first: int, end: int):
        self.plan, self.studies = plan, slice(first, end)
        self.rng = np.random.default_rng([plan.seed, 1, first])
        self.questions = _slice(plan.question_end, first, end)
        self.images = _slice(plan.image_end, first, end)
        self.counts = np.zeros((len(SPLITS), len(QUESTION_TYPES)), np.int64)

    def tables(self, store: Pictures) -> dict[str, dict[str, np.ndarray]]:
        """Columns of each table of numbers, as `data.index.store.COLUMNS` names them."""
        return {
            "questions": self._questions(),
            "studies": self._studies(),
            "images": self._images(store),
            "boxes": self._boxes(),
            "findings": self._findings(),
        }

    def _questions(self) -> dict[str, np.ndarray]:
        plan, rng = self.plan, self.rng
        of_study = np.diff(plan.question_end, prepend=0)[self.studies]
        study = np.repeat(np.arange(self.studies.start, self.studies.stop), of_study)
        total = len(study)
        kind = TYPES[rng.choice(len(TYPES), size=total, p=big_texts.TYPE_SHARES[TYPES])]
        head = HEAD_OF_TYPE[kind]
        np.add.at(self.counts, (plan.split[study], kind), 1)
        first_row = np.repeat(plan.question_end[self.studies] - of_study, of_study)
        return {
            "study": study,
            "text": plan.texts.draw(kind, rng),
            "type": kind,
            "head": head,
            "target": _targets(head, rng),
            "grade": self._grades(total),
            "question_id": np.arange(self.questions.start, self.questions.stop) - first_row,
            "regions": 1 << rng.integers(len(REGIONS), size=total),
            "from_report": rng.integers(2, size=total),
        }

    def _grades(self, total: int) -> np.ndarray:
        """Exactly `questions` rows of the whole index have grade B or better: the others come at even distances."""
        low = self.plan.num_questions - self.plan.questions
        row = np.arange(self.questions.start, self.questions.stop)
        is_low = (row + 1) * low // self.plan.num_questions > row * low // self.plan.num_questions
        grades = np.empty(total, np.uint8)
        for chosen, fits in ((~is_low, lambda g: g >= _GOOD), (is_low, lambda g: g < _GOOD)):
            codes = [i for i, grade in enumerate(GRADES) if fits(i)]
            shares = np.array([RATED[GRADES[i] or "all"] for i in codes], float)
            grades[chosen] = self.rng.choice(codes, size=int(chosen.sum()), p=shares / shares.sum())
        return grades

    def _studies(self) -> dict[str, np.ndarray]:
        plan, studies = self.plan, self.studies
        labels = self.rng.choice([1.0, 0.0, -1.0, np.nan], size=(studies.stop - studies.start, len(CHEXPERT)))
        return {
            "subject_id": plan.subject_id[studies],
            "study_id": 50_000_000 + np.arange(studies.start, studies.stop),
            "split": plan.split[studies],
            "question_start": np.concatenate([[self.questions.start], plan.question_end[studies][:-1]]),
            "question_count": np.diff(plan.question_end, prepend=0)[studies],
            "image_start": np.concatenate([[self.images.start], plan.image_end[studies][:-1]]),
            "image_count": plan.image_count[studies],
            "chexpert": labels.astype(np.float32),
        }

    def _images(self, store: Pictures) -> dict[str, np.ndarray]:
        plan, rows = self.plan, self.images
        picture = np.arange(rows.start, rows.stop) % len(store.offset)
        scale = self.rng.integers(8, 12, size=len(picture))  # originals are about ten times as large
        return {
            "study": np.repeat(np.arange(self.studies.start, self.studies.stop), plan.image_count[self.studies]),
            "width": store.width[picture] * scale,
            "height": store.height[picture] * scale,
            "stored_width": store.width[picture],
            "stored_height": store.height[picture],
            "offset": store.offset[picture],
            "length": store.length[picture],
            "box_start": np.cumsum(plan.box_count)[rows] - plan.box_count[rows],
            "box_count": plan.box_count[rows],
            "finding_start": np.cumsum(plan.finding_count)[rows] - plan.finding_count[rows],
            "finding_count": plan.finding_count[rows],
        }

    def _boxes(self) -> dict[str, np.ndarray]:
        count = self.plan.box_count[self.images]
        # different regions in ascending order: the smallest of 26 random keys
        keys = self.rng.random((len(count), len(REGIONS)))
        chosen = keys.argsort(1).argsort(1) < count[:, None]
        corner, size = (
            self.rng.uniform(0, 0.6, (int(count.sum()), 2)),
            self.rng.uniform(0.1, 0.4, (int(count.sum()), 2)),
        )
        return {"region": np.nonzero(chosen)[1], "box": np.hstack([corner, corner + size]).astype(np.float32)}

    def _findings(self) -> dict[str, np.ndarray]:
        total, rng = int(self.plan.finding_count[self.images].sum()), self.rng
        return {
            "regions": _bits(rng, total, len(REGIONS), 3),
            "entity": rng.integers(RESERVED, self.plan.vocabulary.num_entities, size=total),
            "kind": rng.choice(3, size=total, p=[0.6, 0.3, 0.1]),
            "from_report": rng.random(total) < 0.7,
        }


HEAD_OF_TYPE = np.array([HEAD_INDEX[t.head] if t.head else 0 for t in QUESTION_TYPES])


def _slice(ends: np.ndarray, first: int, end: int) -> slice:
    return slice(int(ends[first - 1]) if first else 0, int(ends[end - 1]))


def _bits(rng: np.random.Generator, rows: int, classes: int, most: int) -> np.ndarray:
    """(rows,) bit masks with 1 to `most` of `classes` bits."""
    masks = np.zeros(rows, np.uint32)
    for number in range(most):
        bit = np.uint32(1) << rng.integers(classes, size=rows, dtype=np.uint32)
        masks |= np.where(rng.random(rows) < 0.5**number, bit, np.uint32(0))
    return masks


def _targets(heads: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Codes as the index stores them: 0/1, 0..3 or a bit mask."""
    targets = rng.integers(2, size=len(heads), dtype=np.uint32)
    for head, draw in {
        Head.CATEGORY: lambda n: _bits(rng, n, len(CHEXPERT), 2),
        Head.REGION: lambda n: _bits(rng, n, len(REGIONS), 3),
        Head.SEVERITY: lambda n: rng.integers(1, 4, size=n, dtype=np.uint32),
    }.items():
        chosen = np.flatnonzero(heads == HEAD_INDEX[head])
        targets[chosen] = draw(len(chosen))
    return targets


class _Table:
    """Columns that grow on disk and are never in memory as a whole."""

    def __init__(self, folder: Path, name: str, rows: int):
        shapes = {column: (dtype, (rows,)) for column, dtype in COLUMNS[name].items()}
        shapes |= {column: (np.float32, (rows, width)) for column, width in WIDE.get(name, {}).items()}
        self.files = {column: folder / f"{name}.{column}.npy" for column in shapes}
        for column, (dtype, shape) in shapes.items():
            np.lib.format.open_memmap(self.files[column], mode="w+", dtype=dtype, shape=shape).flush()
        self.name, self.done = name, 0

    def append(self, values: dict[str, np.ndarray]) -> None:
        if set(values) != set(self.files):
            raise ValueError(f"table {self.name}: {sorted(set(values) ^ set(self.files))} do not belong together")
        rows = {len(value) for value in values.values()}
        if len(rows) != 1:
            raise ValueError(f"table {self.name}: columns of {sorted(rows)} rows")
        end = self.done + rows.pop()
        for column, value in values.items():
            np.load(self.files[column], mmap_mode="r+")[self.done : end] = value
        self.done = end

    def columns(self) -> dict[str, np.ndarray]:
        return {column: np.load(file, mmap_mode="r") for column, file in self.files.items()}

    def remove(self) -> None:
        for file in self.files.values():
            file.unlink()


WIDE = {"studies": {"chexpert": len(CHEXPERT)}, "boxes": {"box": 4}}
"""Columns of several float32 values a row."""


def draw_pictures(folder: Path, image_store: str, side: int, number: int, seed: int) -> Pictures:
    """Write `number` pictures of shorter side `side` as an image store of this kind."""
    rng = np.random.default_rng([seed, 2])
    longer = rng.integers(side, side * 5 // 4 + 1, size=number)
    upright = rng.random(number) < 0.8
    width, height = np.where(upright, side, longer), np.where(upright, longer, side)
    length = np.zeros(number, np.int64)
    with (folder / STORE_FILES[image_store]).open("wb") as file:
        for n in range(number):
            length[n] = file.write(encode(draw_picture(rng, int(width[n]), int(height[n])), image_store))
    return Pictures(np.cumsum(length) - length, length, width, height)


def draw_picture(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """(height, width) uint8: random soft shapes of several sizes, and grain."""
    picture = np.full((height, width), 120.0, np.float32)
    for cells, strength in ((3, 45), (8, 20), (24, 8), (64, 4)):
        soft = Image.fromarray(rng.normal(size=(cells, cells)).astype(np.float32))
        picture += strength * np.asarray(soft.resize((width, height), Image.Resampling.BICUBIC))
    picture += GRAIN * rng.standard_normal(picture.shape, dtype=np.float32)
    return picture.clip(0, 255).astype(np.uint8)


def _meta(plan: Plan, counts: np.ndarray) -> dict:
    identity = {"format": FORMAT, "questions": plan.questions, "seed": plan.seed}
    identity |= {"image_store": plan.image_store, "image_store_size": plan.side}
    identity["fingerprint"] = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    by_split = {
        split: {QUESTION_TYPES[t].name: {"target": int(counts[s, t])} for t in TYPES if counts[s, t]}
        for s, split in enumerate(SPLITS)
    }
    return {
        "format": FORMAT,
        "fingerprint": identity["fingerprint"],
        "identity": identity,
        "label_space": label_space.checksum(),
        "image_store": plan.image_store,
        "synthetic": True,
        "credentialed": False,
        "vocabulary": plan.vocabulary.as_json(),
        "rows": plan.rows,
        "counts": by_split,
        "unmapped": {},
        "problems": {},
    }
