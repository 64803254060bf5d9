"""Which questions of a split are used, and how an epoch of them is cut into visits of images.

Nothing is kept for each question: a study has the counts of those that pass the filters, and an epoch is a function from
the number of a visit to its questions, which needs the same time for ten thousand questions and for thirty million.
Letters in shapes: S studies with questions, V visits of an epoch, M most questions of a visit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from configs.mimic_cxr_config import DataConfig
from data.index import SPLITS, Index
from data.label_space import GRADES, HEAD_INDEX, QUESTION_TYPES, TYPE_INDEX
from data.order import ranges, shuffled, uniform
from utils.errors import ConfigError

QUESTIONS_AT_ONCE = 1_000_000
"""Rows that one look at the question table takes."""
VISIT_ORDER, QUESTION_ORDER, STUDY_DRAW, STUDY_SAMPLE, AUGMENTATION, IMAGE_DRAW, GRAPH_DRAW = range(7)
"""What a random number is for: a key of its own for each."""


class QuestionFilter:
    """`data.quality_grade` and `data.question_types`. ConfigError for a name that is none."""

    def __init__(self, index: Index, data: DataConfig):
        if data.quality_grade != "all" and data.quality_grade not in GRADES[1:]:
            raise ConfigError(
                f"data.quality_grade = {data.quality_grade!r}: must be one of {', '.join(GRADES[:0:-1])} or all"
            )
        unknown = [t for t in data.question_types if t not in TYPE_INDEX]
        if unknown:
            raise ConfigError(
                f"data.question_types: {unknown[0]!r} is no question type; they are {', '.join(TYPE_INDEX)}"
            )
        self.questions = index.questions
        self.lowest_grade = 0 if data.quality_grade == "all" else GRADES.index(data.quality_grade)
        self.wanted: np.ndarray | None = None
        if data.question_types:
            self.wanted = np.isin(np.arange(256), [TYPE_INDEX[t] for t in data.question_types])

    def passes(self, rows: np.ndarray | slice) -> np.ndarray:
        """(n,) bool for rows of the question table."""
        passing = self.questions["grade"][rows] >= self.lowest_grade
        if self.wanted is not None:
            passing &= self.wanted[self.questions["type"][rows]]
        return passing


class Selection:
    """The questions of a split that pass the filters.

    Args:
        most: at most so many questions, those of randomly chosen studies (by seed), whole studies first; 0: all.
    """

    def __init__(self, index: Index, split: str, data: DataConfig, most: int = 0, seed: int = 0):
        self.index, self.filter = index, QuestionFilter(index, data)
        self._start = index.studies["question_start"].astype(np.int64)
        self._all = index.studies["question_count"].astype(np.int64)
        self._chosen = index.studies["split"] == SPLITS.index(split)
        self._cut = (-1, 0)  # a study of which not all questions that pass are used, and how many are
        used = self._count()
        if most:
            order = np.argsort(uniform(seed, STUDY_SAMPLE, np.arange(len(used))), kind="stable")
            before = np.cumsum(used[order]) - used[order]
            passing, used[order] = used.copy(), np.clip(most - before, 0, used[order])
            self._chosen = used > 0
            for study in np.flatnonzero(self._chosen & (used < passing)):  # one at most
                self._cut = int(study), int(used[study])
        self.studies = np.flatnonzero(used)
        """(S,) rows of the study table, ascending"""
        self.count = used[self.studies]
        """(S,) questions of each"""

    def _pieces(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """(first, end) of some studies in a row, and for each of their question rows whether it is used: bool."""
        ends = self._start + self._all
        low = 0
        while low < len(ends):
            high = max(low + 1, int(np.searchsorted(ends, self._start[low] + QUESTIONS_AT_ONCE, side="right")))
            chosen = self._chosen[low:high]
            if chosen.any():
                used = self.filter.passes(slice(int(self._start[low]), int(ends[high - 1])))
                if not chosen.all():
                    used &= np.repeat(chosen, self._all[low:high])
                study, count = self._cut
                if low <= study < high:
                    of_study = used[self._start[study] - self._start[low] :][: self._all[study]]
                    of_study[np.flatnonzero(of_study)[count:]] = False
                yield low, high, used
            low = high

    def _count(self) -> np.ndarray:
        """(studies of the index,) used questions of each."""
        count = np.zeros(len(self._all), dtype=np.int64)
        for low, high, used in self._pieces():
            asked = low + np.flatnonzero(self._all[low:high])  # reduceat would take a question for a study without any
            count[asked] = np.add.reduceat(used.view(np.uint8), self._start[asked] - self._start[low], dtype=np.uint32)
        return count

    def chunks(self) -> Iterator[np.ndarray]:
        """Rows of the question table, ascending, about `QUESTIONS_AT_ONCE` at a time."""
        for low, _, used in self._pieces():
            yield self._start[low] + np.flatnonzero(used)

    def type_counts(self) -> Iterator[np.ndarray]:
        """(n, types) uint32: questions of each type of some of `studies`, in their order."""
        types, kinds = self.index.questions["type"], len(QUESTION_TYPES)
        for low, high, used in self._pieces():
            cell = np.repeat(np.arange(0, (high - low) * kinds, kinds), self._all[low:high])
            cell += types[self._start[low] :][: len(used)]
            counts = np.bincount(cell[used], minlength=(high - low) * kinds).reshape(-1, kinds)
            yield counts[counts.any(axis=1)].astype(np.uint32)

    def candidates(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Question rows of the studies at `places` of `studies`, in order, and for each which of them it belongs to."""
        studies = self.studies[places]
        rows, owner = ranges(self._start[studies], self._all[studies])
        passing = self.filter.passes(rows)
        rows, owner = rows[passing], owner[passing]
        used = _place_in_group(owner) < self.count[places][owner]
        return rows[used], owner[used]


def text_codes(selection: Selection) -> np.ndarray:
    """Codes of the distinct texts of a selection, ascending."""
    index = selection.index
    used = np.zeros(index.num_texts, dtype=bool)
    for rows in selection.chunks():
        used[index.questions["text"][rows]] = True
    return np.flatnonzero(used)


def _place_in_group(owner: np.ndarray) -> np.ndarray:
    """(n,) ascending group numbers -> how many of the same group stand before."""
    first = np.zeros(len(owner), dtype=np.int64)
    begins = np.flatnonzero(owner[1:] != owner[:-1]) + 1
    first[begins] = begins
    return np.arange(len(owner)) - np.maximum.accumulate(first)


@dataclass(frozen=True)
class Visits:
    """Some visits of images with their questions; n visits, Q questions."""

    study: np.ndarray
    """(n,) rows of the study table"""
    rows: np.ndarray
    """(Q,) rows of the question table"""
    visit_of: np.ndarray
    """(Q,) which of the n visits a question belongs to, ascending"""


class Epoch:
    """All questions of a selection once, in visits of at most M: each study in as few as possible, of nearly equal size.

    Args:
        number: of the epoch; None: no random order, as for evaluation.
    """

    def __init__(self, selection: Selection, most: int, seed: int, number: int | None):
        self.selection, self.seed, self.number = selection, seed, number
        self._visits = -(-selection.count // most)
        self._until = np.cumsum(self._visits)

    def __len__(self) -> int:
        """V"""
        return int(self._until[-1]) if len(self._until) else 0

    def select(self, which: np.ndarray) -> Visits:
        """The visits with these numbers, (n,) in [0, V)."""
        selection = self.selection
        if self.number is not None:
            which = shuffled(which, len(self), self.seed, VISIT_ORDER, self.number)
        place = np.searchsorted(self._until, which, side="right")
        piece = which - (self._until - self._visits)[place]
        low, high = (selection.count[place] * (piece + extra) // self._visits[place] for extra in (0, 1))
        rows, owner = selection.candidates(place)
        if self.number is not None:
            rows = rows[
                np.argsort(owner + uniform(self.seed, QUESTION_ORDER, self.number, rows))
            ]  # owners stay as they are
        rank = _place_in_group(owner)
        chosen = (low[owner] <= rank) & (rank < high[owner])
        return Visits(selection.studies[place], rows[chosen], owner[chosen])


class BalancedDraw:
    """As many visits as an epoch has, questions drawn evenly over heads and, within a head, over question types.

    A study is drawn in proportion to the weights of its questions; of these, at most M without replacement.
    """

    def __init__(self, selection: Selection, most: int, seed: int, number: int, weights: BalancedWeights):
        self.selection, self.most, self.seed, self.number, self.weights = selection, most, seed, number, weights
        self._until = weights.until  # made here, before loader processes start, and not in each of them
        self._visits = int((-(-selection.count // most)).sum())

    def __len__(self) -> int:
        return self._visits

    def select(self, which: np.ndarray) -> Visits:
        """The visits with these numbers, (n,) in [0, V)."""
        selection, weights = self.selection, self.weights
        drawn = uniform(self.seed, STUDY_DRAW, self.number, which) * self._until[-1]
        place = np.searchsorted(self._until, drawn, side="right").clip(max=len(self._until) - 1)
        rows, owner = selection.candidates(place)
        # the largest keys u^(1/w) are a draw without replacement in proportion to the weights (Efraimidis and Spirakis 2006)
        u = uniform(self.seed, QUESTION_ORDER, self.number, which[owner], rows)
        keys = -np.log1p(-u) / weights.of_type[selection.index.questions["type"][rows]]
        rows = rows[np.lexsort((keys, owner))]
        chosen = _place_in_group(owner) < self.most
        return Visits(selection.studies[place], rows[chosen], owner[chosen])


class BalancedWeights:
    """Weights with which every head and, within a head, every question type has the same share of all draws."""

    def __init__(self, selection: Selection):
        self.selection = selection

    @property
    def of_type(self) -> np.ndarray:
        """(types,) weight of a question by its type."""
        return self._weights[0]

    @property
    def until(self) -> np.ndarray:
        """(S,) sums of the weights of all studies up to and with each."""
        return self._weights[1]

    @cached_property
    def _weights(self) -> tuple[np.ndarray, np.ndarray]:
        counts = list(self.selection.type_counts())
        per_type = sum(some.sum(0) for some in counts)
        head = np.array([HEAD_INDEX.get(kind.head, len(HEAD_INDEX)) for kind in QUESTION_TYPES])
        types_of_head = np.bincount(head[per_type > 0], minlength=len(HEAD_INDEX) + 1)
        of_type = 1.0 / np.maximum(per_type * types_of_head[head], 1)
        return of_type, np.cumsum(np.concatenate([some @ of_type for some in counts]))
