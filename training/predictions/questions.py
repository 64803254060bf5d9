"""The questions of an evaluation, and their answers in one fixed order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from configs.mimic_cxr_config import DataConfig
from data.index import SPLITS, Index
from data.label_space import GRADES, HEAD_INDEX, HEADS, QUESTION_TYPES, TYPE_INDEX, Head
from data.mentions import Mentions
from data.visits import QuestionFilter
from utils.errors import DataError, NonFiniteError

Answers = Mapping[Head, np.ndarray | None]
"""Head -> probabilities (n of the head, classes) float32, in the order of the question set; None: not known."""


@dataclass(frozen=True)
class QuestionSet:
    """Questions by their rows in the index, in order; columns of n values."""

    index: Index
    rows: np.ndarray
    """(n,) rows of the index's question table, ascending"""

    def _column(self, name: str) -> np.ndarray:
        return self.index.questions[name][self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def head(self) -> np.ndarray:
        """(n,) `label_space.HEAD_INDEX`"""
        return self._column("head")

    @cached_property
    def type(self) -> np.ndarray:
        """(n,) `label_space.TYPE_INDEX`"""
        return self._column("type")

    @cached_property
    def text(self) -> np.ndarray:
        """(n,) code of the question's text"""
        return self._column("text")

    @cached_property
    def question_id(self) -> np.ndarray:
        """(n,) code of the release's question id"""
        return self._column("question_id")

    @cached_property
    def study(self) -> np.ndarray:
        """(n,) rows of the index's study table"""
        return self._column("study")

    @cached_property
    def patient(self) -> np.ndarray:
        """(n,) subject ids"""
        return self.index.studies["subject_id"][self.study]

    @cached_property
    def image(self) -> np.ndarray:
        """(n,) rows of the index's image table: the canonical image of the study"""
        return self.index.studies["image_start"][self.study].astype(np.int64)

    @cached_property
    def names(self) -> list[frozenset[str]]:
        """(n,) names of entities and regions that each question mentions, in lower case"""
        codes, place = np.unique(self.text, return_inverse=True)
        mentions = Mentions.of(self.index.vocabulary)
        of_text = [mentions.in_text(text) for text in self.index.texts(codes)]
        return [of_text[i] for i in place]

    @cached_property
    def place(self) -> np.ndarray:
        """(n,) position among the questions of the same head"""
        place = np.zeros(len(self), dtype=np.int64)
        for head in HEADS:
            own = self.of(head)
            place[own] = np.arange(len(own))
        return place

    def of(self, head: Head) -> np.ndarray:
        """Positions (n of the head,) of a head's questions."""
        return np.flatnonzero(self.head == HEAD_INDEX[head])

    def targets(self, head: Head) -> np.ndarray:
        """(n of the head,) int64 class numbers, or (n of the head, classes) int8 multi-hot."""
        return expand_targets(head, self._column("target")[self.of(head)])


class AnswerTable:
    """Collects a row's answers while batches come in any order."""

    def __init__(self, questions: QuestionSet):
        self._questions = questions
        self._answers = {
            head: np.full((len(questions.of(head)), len(spec.classes)), np.nan, dtype=np.float32)
            for head, spec in HEADS.items()
        }

    def add(self, positions: np.ndarray, probabilities: Mapping[Head, np.ndarray]) -> None:
        """Store the answers to the questions at `positions` (q,); `probabilities[head]` is (q, classes)."""
        for head, values in probabilities.items():
            own = self._questions.head[positions] == HEAD_INDEX[head]
            self._answers[head][self._questions.place[positions[own]]] = values[own]

    def complete(self, row: str) -> Answers:
        """All answers. Raises NonFiniteError when one is missing or not a number."""
        for head, values in self._answers.items():
            bad = int(np.isnan(values).any(1).sum())
            if bad:
                raise NonFiniteError(
                    f"row {row}: {bad:,} of {len(values):,} {head.value} answers are not numbers; "
                    "the model's weights are damaged or its training diverged"
                )
        return self._answers


def expand_targets(head: Head, target: np.ndarray) -> np.ndarray:
    """(n,) stored targets -> (n,) int64 class numbers, or (n, classes) int8 multi-hot for a multi-label head."""
    if not HEADS[head].multi_label:
        return target.astype(np.int64)
    classes = np.arange(len(HEADS[head].classes))
    return (target.astype(np.int64)[:, None] >> classes & 1).astype(np.int8)


def question_fates(index: Index, split: str, data: DataConfig) -> dict[str, dict[str, int]]:
    """Every question of the release's split by type and fate: `evaluated`, or the reason why not.

    Raises:
        DataError: the index's tables and its counts disagree.
    """
    fates = {name: Counter(by_fate) for name, by_fate in index.meta["counts"].get(split, {}).items()}
    questions = index.questions
    own = index.studies["split"][questions["study"]] == SPLITS.index(split)
    kept = QuestionFilter(index, data).passes(slice(None))
    wanted = np.ones(len(own), dtype=bool)
    if data.question_types:
        wanted = np.isin(questions["type"], [TYPE_INDEX[name] for name in data.question_types])
    rated = questions["grade"] != GRADES.index("")
    in_table = {
        "evaluated": kept,
        "filtered_type": ~kept & ~wanted,
        "unrated": ~kept & wanted & ~rated,
        "below_grade": ~kept & wanted & rated,
    }
    for fate, mask in in_table.items():
        for number, n in enumerate(np.bincount(questions["type"][own & mask], minlength=len(QUESTION_TYPES))):
            if n:
                fates.setdefault(QUESTION_TYPES[number].name, Counter())[fate] += int(n)
    for name, by_fate in fates.items():
        rows = sum(by_fate[fate] for fate in in_table)
        if by_fate.pop("target", 0) != rows:
            raise DataError(
                f"index {index.path}: {rows:,} rows of {name} in {split} are not what it counted; build it again"
            )
    return {name: dict(by_fate) for name, by_fate in fates.items()}


def check_key(questions: QuestionSet) -> None:
    """DataError unless (study, question_id) tells all questions apart; a study has one patient and one image here."""
    pairs = np.stack([questions.study, questions.question_id], axis=1).astype(np.int64)
    repeated = len(pairs) - len(np.unique(pairs, axis=0))
    if repeated:
        raise DataError(
            f"index {questions.index.path}: {repeated:,} question ids repeat within a study, so that predictions could "
            "not be joined; mend the release's question_id values"
        )
