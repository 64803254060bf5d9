"""Parts of the report that show single answers or whole distributions: curves, confusion matrices, worst errors."""

from __future__ import annotations

import numpy as np

from data.label_space import HEADS, QUESTION_TYPES, Head
from training.predictions import Predictions, QuestionSet
from utils.privacy import hashed_id, new_salt

POINTS = 101
"""of a curve"""
WORST = 20


def roc(answered: Predictions) -> dict[str, list[float]] | None:
    """`fpr` and `tpr` of the yes/no questions; None without probabilities or without both answers."""
    from sklearn.metrics import roc_curve

    probabilities, targets = answered.probabilities[Head.BINARY], answered.questions.targets(Head.BINARY)
    if probabilities is None or len(np.unique(targets)) < 2:
        return None
    fpr, tpr, _ = roc_curve(targets, probabilities[:, 1])
    at = np.unique(np.linspace(0, len(fpr) - 1, POINTS).astype(int))
    return {"fpr": fpr[at].tolist(), "tpr": tpr[at].tolist()}


def confusion(answered: Predictions) -> dict[str, list[list[int]]]:
    """Of each head with one answer: truth by answer."""
    table = {}
    for head, spec in HEADS.items():
        if not spec.multi_label:
            counts = np.zeros((len(spec.classes),) * 2, dtype=np.int64)
            np.add.at(counts, (answered.questions.targets(head), answered.predictions[head]), 1)
            table[head.value] = counts.tolist()
    return table


def right_answers(answered: Predictions) -> np.ndarray:
    """(n,) bool: exactly the target."""
    right = np.zeros(len(answered.questions), dtype=bool)
    for head, spec in HEADS.items():
        same = answered.predictions[head] == answered.questions.targets(head)
        right[answered.questions.of(head)] = same.all(1) if spec.multi_label else same
    return right


def worst_errors(answered: Predictions) -> list[dict]:
    """The surest wrong answers: row of predictions.parquet, type, what was said and what is true; ids only as hashes.

    Surest: the largest distance of a probability to the truth.
    """
    questions, found, salt = answered.questions, [], new_salt()
    for head, spec in HEADS.items():
        probabilities = answered.probabilities[head]
        if probabilities is None or not len(probabilities):
            continue
        targets = questions.targets(head)
        truth = targets if spec.multi_label else np.eye(len(spec.classes))[targets]
        distance = np.abs(probabilities - truth).max(1)
        wrong = answered.predictions[head] != targets
        distance[~(wrong.any(1) if spec.multi_label else wrong)] = -1
        for place in np.argsort(-distance, kind="stable")[:WORST]:
            if distance[place] >= 0:
                found.append(_error(questions, answered, head, int(place), float(distance[place]), salt))
    return sorted(found, key=lambda error: -error["distance"])[:WORST]


def _error(questions: QuestionSet, answered: Predictions, head: Head, place: int, distance: float, salt: str) -> dict:
    position = int(questions.of(head)[place])
    study = questions.index.studies["study_id"][questions.study[position]]
    return {
        "row": position,
        "study": hashed_id(study, salt),
        "type": QUESTION_TYPES[questions.type[position]].name,
        "said": names_of(head, answered.predictions[head][place]),
        "truth": names_of(head, questions.targets(head)[place]),
        "distance": distance,
    }


def names_of(head: Head, answer: np.ndarray) -> str:
    """An answer in words."""
    spec = HEADS[head]
    if not spec.multi_label:
        return spec.classes[int(answer)]
    return ", ".join(name for name, chosen in zip(spec.classes, answer, strict=True) if chosen) or "none"
