"""The columns of a report: heads, where questions that name their class are kept apart."""

from __future__ import annotations

import numpy as np

from data.label_space import HEADS, QUESTION_TYPES, Head
from training.predictions import QuestionSet

COPY = "_copy"
COPIED = {kind.head for kind in QUESTION_TYPES if kind.copies}
"""Heads that have two columns"""
GROUPS: dict[str, Head] = {
    name: head for head in HEADS for name in (head.value, head.value + COPY)[: 2 if head in COPIED else 1]
}
"""Column of the report -> answering head: binary, category, category_copy, region, severity."""
MULTI_LABEL = tuple(name for name, head in GROUPS.items() if HEADS[head].multi_label)


def members_of(questions: QuestionSet, group: str) -> np.ndarray:
    """Positions among the head's questions that belong to a column of the report."""
    types = questions.type[questions.of(GROUPS[group])]
    copies = np.array([t.copies for t in QUESTION_TYPES])[types]
    return np.flatnonzero(copies if group.endswith(COPY) else ~copies)
