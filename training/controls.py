"""What the model is compared with: majority answers of the training questions, images swapped between patients."""

from __future__ import annotations

import numpy as np

from data.label_space import HEADS
from training.predictions import Answers, QuestionSet


def swap_between_patients(patients: np.ndarray, seed: int) -> np.ndarray | None:
    """A permutation of images that gives every image one of another patient.

    Patients come in random order, each one's images side by side, and the row is turned by the largest patient's number
    of images: that leaves every patient's own block and is a permutation.

    Args:
        patients: (n,) patient of each image.
    Returns:
        (n,) position of the image shown instead, or None when one patient holds more than half of the images.
    """
    identity, patient = np.unique(patients, return_inverse=True)
    largest = int(np.bincount(patient, minlength=1).max())
    if len(identity) < 2 or 2 * largest > len(patients):
        return None
    rng = np.random.default_rng(seed)
    order = np.lexsort((rng.random(len(patient)), rng.permutation(len(identity))[patient]))
    partner = np.empty(len(order), dtype=np.int64)
    partner[order] = np.roll(order, -largest)
    return partner


def majority(train: QuestionSet, asked: QuestionSet, by_text: bool) -> Answers:
    """Class frequencies of the training questions of the same text (else type, else head) as probabilities.

    The answer that follows is the most frequent class; for a multi-label head every class that at least half of those
    questions have.

    Args:
        by_text: look at the same question text first; false: start at the question type.
    Returns:
        probabilities of each head; None for a head without a training question.
    """
    answers = {}
    for head, spec in HEADS.items():
        known, wanted, truth = train.of(head), asked.of(head), train.targets(head)
        if not len(known):
            answers[head] = None
            continue
        classes = truth if spec.multi_label else np.eye(len(spec.classes), dtype=np.int8)[truth]
        probabilities = np.tile(classes.mean(0), (len(wanted), 1))
        _refine(probabilities, train.type[known], classes, asked.type[wanted])
        if by_text:
            _refine(probabilities, train.text[known], classes, asked.text[wanted])
        answers[head] = probabilities.astype(np.float32)
    return answers


def _refine(probabilities: np.ndarray, known: np.ndarray, classes: np.ndarray, wanted: np.ndarray) -> None:
    """Replace the rows whose group (`wanted`) occurs in training (`known`) with that group's class frequencies."""
    groups, group = np.unique(known, return_inverse=True)
    sums = np.zeros((len(groups), classes.shape[1]))
    np.add.at(sums, group, classes)
    frequency = sums / np.bincount(group)[:, None]
    position = np.searchsorted(groups, wanted).clip(max=len(groups) - 1)
    seen = groups[position] == wanted
    probabilities[seen] = frequency[position[seen]]
