"""Studies of an index to choose from: their films, the questions asked about them, and what the data set answers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from data.index import SPLITS, Index, open_index
from data.label_space import HEADS, REGIONS, Head
from data.release.locate import JpgFolder, find_jpg
from data.scene_graph import ABSENT, AT_LEAST_ONE
from data.vocabulary import RESERVED
from examples.page.evidence import Truth
from utils.errors import DataError

LISTED = 200
"""Studies of a split that are listed; others are found by their number"""

USUAL_QUESTIONS = (
    "Is the study abnormal?",
    "Describe the abnormal findings in the study.",
    "Is there pleural effusion?",
    "Is there cardiomegaly?",
    "Is there a pacemaker?",
    "Is there anything abnormal in the left lung?",
    "What is abnormal in the right lower lung zone?",
    "Where is the consolidation?",
    "Where is the pleural effusion?",
    "How severe is the pleural effusion?",
    "Are there any support devices?",
)
"""For a film that is in no index, in the data set's words"""


@dataclass(frozen=True)
class Studies:
    """An opened index and, where it is given, the release with the original films."""

    index: Index
    release: JpgFolder | None = None

    @staticmethod
    def open(index: Path, release: Path | None = None) -> Studies:
        """DataError when either is not there or cannot be read."""
        if release is not None and not release.is_dir():
            raise DataError(f"--release {release}: no such folder; give the folder of MIMIC-CXR-JPG, or leave it out")
        return Studies(open_index(index), find_jpg(release) if release else None)

    @cached_property
    def splits(self) -> list[str]:
        """Splits that have studies with questions."""
        return [split for split in SPLITS if len(self._of(split))]

    def listed(self, split: str) -> list[str]:
        """Numbers of the first `LISTED` studies of a split."""
        return [str(number) for number in self.index.studies["study_id"][self._of(split)[:LISTED]]]

    def find(self, split: str, number: str) -> int:
        """The row of a study; DataError when the split has none of this number."""
        rows = self._of(split)
        wanted = number.strip().lower().removeprefix("s")
        if wanted.isascii() and wanted.isdecimal() and len(wanted) < 19:
            found = rows[self.index.studies["study_id"][rows] == int(wanted)]
            if len(found):
                return int(found[0])
        raise DataError(
            f"the split {split} of this index has no study of this number with questions: choose one of the list, or "
            "type another number"
        )

    def _of(self, split: str) -> np.ndarray:
        if split not in SPLITS:
            return np.empty(0, np.int64)
        studies = self.index.studies
        return np.flatnonzero((studies["split"] == SPLITS.index(split)) & (studies["question_count"] > 0))

    # One study

    def film(self, study: int) -> Path | np.ndarray:
        """The file of the study's first film; without a release its pixels, (h, w) uint8, as the index keeps them."""
        row = int(self.index.studies["image_start"][study])
        if self.release is None:
            return self.index.pixels[row]
        subject, number = (int(self.index.studies[name][study]) for name in ("subject_id", "study_id"))
        return self.release.image_path(subject, number, self.index.image_id(row))

    def questions(self, study: int) -> list[str]:
        """What the data set asks about a study, each text once, in its order."""
        return list(dict.fromkeys(self.index.texts(self.index.questions["text"][self._asked(study)])))

    def truth(self, study: int, question: str, width: int, height: int) -> Truth:
        """What the report says, with boxes in pixels of a film of this size.

        The answer is that of the study's question with this text, whatever its case; None where there is none.
        """
        index, row = self.index, self._row(study, question)
        classes, regions = None, frozenset()
        if row is not None:
            head = list(HEADS)[index.questions["head"][row]]
            classes = _classes(head, int(index.questions["target"][row]))
            regions = frozenset(_names(int(index.questions["regions"][row])))
        return Truth(classes, regions, self._boxes(study, width, height), self._findings(study))

    def _row(self, study: int, question: str) -> int | None:
        """Row of the study's question with this text, whatever its case and spaces."""
        rows, wanted = self._asked(study), " ".join(question.lower().split())
        texts = self.index.texts(self.index.questions["text"][rows])
        return next((int(row) for row, text in zip(rows, texts) if " ".join(text.lower().split()) == wanted), None)

    def _asked(self, study: int) -> np.ndarray:
        first = int(self.index.studies["question_start"][study])
        return np.arange(first, first + int(self.index.studies["question_count"][study]))

    def _boxes(self, study: int, width: int, height: int) -> dict[str, tuple[float, float, float, float]]:
        image = int(self.index.studies["image_start"][study])
        first = int(self.index.images["box_start"][image])
        rows = range(first, first + int(self.index.images["box_count"][image]))
        size = np.array([width, height, width, height])
        return {
            REGIONS[self.index.boxes["region"][row]]: tuple(float(v) for v in self.index.boxes["box"][row] * size)
            for row in rows
        }

    def _findings(self, study: int) -> tuple[str, ...]:
        image = int(self.index.studies["image_start"][study])
        first, lines = int(self.index.images["finding_start"][image]), []
        for row in range(first, first + int(self.index.images["finding_count"][image])):
            kind = int(self.index.findings["kind"][row])
            if kind == ABSENT:
                continue
            entity = self.index.vocabulary.entities[int(self.index.findings["entity"][row]) - RESERVED]
            places = _names(int(self.index.findings["regions"][row]))
            where = f"at least one of {', '.join(places)}" if kind == AT_LEAST_ONE else ", ".join(places)
            lines.append(f"{entity}: {where}")
        return tuple(sorted(set(lines)))


def _names(mask: int) -> list[str]:
    return [name for number, name in enumerate(REGIONS) if mask >> number & 1]


def _classes(head: Head, target: int) -> frozenset[str]:
    """Names of a target: one class, or a bit mask of several."""
    spec = HEADS[head]
    chosen = range(len(spec.classes)) if spec.multi_label else [target]
    return frozenset(spec.classes[c] for c in chosen if not spec.multi_label or target >> c & 1)
