"""The columns of a report: heads, where questions that name their class are kept apart."""

from __future__ import annotations

import numpy as np

from data.label_space import HEADS, QUESTION_TYPES, Head
from training.predictions import QuestionSet

CATEGORY_COPY = "category_copy"
GROUPS: dict[str, Head] = {
    "binary": Head.BINARY,
    "category": Head.CATEGORY,
    CATEGORY_COPY: Head.CATEGORY,
    "region": Head.REGION,
    "severity": Head.SEVERITY,
}
"""Column of the report -> answering head."""
MULTI_LABEL = tuple(name for name, head in GROUPS.items() if HEADS[head].multi_label)


def members_of(questions: QuestionSet, group: str) -> np.ndarray:
    """Positions among the head's questions that belong to a column of the report."""
    types = questions.type[questions.of(GROUPS[group])]
    copies = np.array([t.copies for t in QUESTION_TYPES])[types]
    if GROUPS[group] != Head.CATEGORY:
        return np.arange(len(types))
    return np.flatnonzero(copies if group == CATEGORY_COPY else ~copies)
