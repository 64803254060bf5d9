"""Questions of an index whose answer has a place: a finding or device that is there, in regions with a box."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from configs.mimic_cxr_config import DataConfig
from data.index import SPLITS, Index
from data.label_space import HEADS, QUESTION_TYPES, REGIONS, TYPE_INDEX, Head
from data.visits import QuestionFilter
from models.explaining import FilmPixels
from training.report.grounding import region_boxes
from training.scoring.grounding import Cells
from utils.errors import DataError

PLACED_TYPES = (
    "D02_has_finding",
    "D03_where_is_finding",
    "D04_how_severe_is_finding",
    "D06_has_device",
    "D07_where_is_device",
)
"""Questions about one thing. Of the yes/no ones only those whose answer is yes: what is not there has no place."""


@dataclass(frozen=True)
class Item:
    """One question about one film."""

    patient: int
    image: int
    """Row of the index's image table"""
    film: FilmPixels
    text: str
    head: Head
    classes: tuple[str, ...]
    """Those that are right; the most probable of them is explained"""
    boxes: np.ndarray
    """(k, 4) of the regions that the answer speaks of, x1 y1 x2 y2 in [0, 1] of the film; k at least 1"""

    @property
    def share(self) -> float:
        """Of the film that the boxes cover together: how often a random point hits."""
        cells = Cells.of(self.boxes)
        return float(cells.areas[cells.inside(self.boxes).any(0)].sum())

    def hit(self, point: tuple[float, float] | None) -> bool:
        """Whether a point of the film, x and y in [0, 1], lies in one of the boxes; no point is no hit."""
        if point is None:
            return False
        x, y = point
        x1, y1, x2, y2 = self.boxes.T
        return bool(((x1 <= x) & (x < x2) & (y1 <= y) & (y < y2)).any())


def choose_items(index: Index, data: DataConfig, split: str, most: int, seed: int) -> list[Item]:
    """At most so many of the questions with a place of a split, drawn at random; in the order of the index.

    Args:
        data: its filters decide which questions count, as in training.
    Raises:
        DataError: there is none.
    """
    questions = index.questions
    inside = index.studies["split"][questions["study"]] == SPLITS.index(split)
    types = np.array([TYPE_INDEX[name] for name in PLACED_TYPES])
    wanted = inside & np.isin(questions["type"], types) & (questions["target"] > 0) & (questions["regions"] > 0)
    rows = np.flatnonzero(wanted & QuestionFilter(index, data).passes(slice(None)))
    images = index.studies["image_start"][questions["study"][rows]].astype(np.int64)
    boxes, there = region_boxes(index, images)
    spoken = (questions["regions"][rows].astype(np.int64)[:, None] >> np.arange(len(REGIONS)) & 1).astype(bool) & there
    usable = np.flatnonzero(spoken.any(1))
    if not len(usable):
        raise DataError(
            f"index {index.path}: no question of the {split} split is about a finding that is there and in a region with a"
            " box; give the index of a release with scene graphs"
        )
    drawn = np.sort(np.random.default_rng(seed).permutation(usable)[:most])
    return [_item(index, int(rows[i]), int(images[i]), boxes[i][spoken[i]]) for i in drawn]


def _item(index: Index, row: int, image: int, boxes: np.ndarray) -> Item:
    questions, images = index.questions, index.images
    kind = QUESTION_TYPES[questions["type"][row]]
    target, names = int(questions["target"][row]), HEADS[kind.head].classes
    several = HEADS[kind.head].multi_label
    return Item(
        patient=int(index.studies["subject_id"][images["study"][image]]),
        image=image,
        film=FilmPixels(index.pixels[image], int(images["width"][image]), int(images["height"][image])),
        text=index.text(questions["text"][row]),
        head=kind.head,
        classes=tuple(n for i, n in enumerate(names) if target >> i & 1) if several else (names[target],),
        boxes=boxes.astype(np.float64),
    )
