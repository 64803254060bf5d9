"""Scores with intervals: one question set, one draw of patients, any number of answers to it.

Letters: P patients, S resamples, n questions of a head, C its classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from data.label_space import HEADS, Head
from training.bootstrap import Interval, Resamples, interval
from training.metrics import Scores, score_head
from training.predictions import Predictions, QuestionSet
from training.scoring.counts import Counted, mean_of_known
from training.scoring.ranking import MOST_BINS, auroc, average_precision, histogram

CLASS_BINS = 128
"""Bins of the scores of one of many classes, for resamples of a mean over classes"""


@dataclass(frozen=True)
class Scored:
    """Some questions of a head, as one model answered them."""

    scores: Scores
    """those of `metrics.score_head`, with `studies` and `patients` that have one of these questions"""
    drawn: dict[str, np.ndarray]
    """metric -> (S,) values in the resamples, nan where undefined"""

    @property
    def patients(self) -> int:
        return self.scores["patients"]


class Scorer:
    """Scores answers to a question set; all of them, and all differences, with the same resampled patients."""

    def __init__(self, questions: QuestionSet, *, samples: int, confidence: float, seed: int):
        self.questions, self.confidence = questions, confidence
        patients, self._patient = np.unique(questions.patient, return_inverse=True)
        self._resamples = Resamples(len(patients), samples, seed)

    def score(
        self, answered: Predictions | None, head: Head, members: np.ndarray | None = None, ranks: bool = False
    ) -> Scored | None:
        """None without answers.

        Args:
            members: positions among the head's questions; None: all.
            ranks: resample also what ranks by probabilities, which takes longer.
        """
        if answered is None or answered.predictions.get(head) is None:
            return None
        members = np.arange(len(self.questions.of(head))) if members is None else members
        probabilities = answered.probabilities[head]
        probabilities = None if probabilities is None else probabilities[members]
        predictions, targets = answered.predictions[head][members], self.questions.targets(head)[members]
        patient = self._patient[self.questions.of(head)[members]]
        counted = Counted.of(head, patient, predictions, targets, self._resamples.num_patients)
        drawn = counted.metrics(self._resamples.sums(counted.counts))
        if ranks and probabilities is not None and len(members):
            drawn |= self._ranked(head, patient, probabilities, targets)
        scores = score_head(head, probabilities, predictions, targets)
        studies = np.unique(self.questions.study[self.questions.of(head)[members]])
        sizes = {"n": scores["n"], "studies": len(studies), "patients": len(np.unique(patient))}
        return Scored(sizes | scores, drawn)

    def _ranked(
        self, head: Head, patient: np.ndarray, probabilities: np.ndarray, targets: np.ndarray
    ) -> dict[str, np.ndarray]:
        if HEADS[head].two_classes:
            asked = patient, probabilities[:, 1], targets == 1
            return {"auroc": self.ranked(*asked, auroc), "average_precision": self.ranked(*asked, average_precision)}
        occurring = np.flatnonzero(targets.any(0)) if HEADS[head].multi_label else ()
        if not len(occurring):
            return {}
        each = [
            self.ranked(patient, probabilities[:, c], targets[:, c] == 1, average_precision, CLASS_BINS)
            for c in occurring
        ]
        return {"mean_average_precision": mean_of_known(np.stack(each, axis=1))}

    def ranked(
        self, patient: np.ndarray, scores: np.ndarray, positive: np.ndarray, metric: Callable, bins: int = MOST_BINS
    ) -> np.ndarray:
        """(S,) `metric` (auroc, average_precision) of what ranks (m,) cases, nan where it is not defined.

        Bins take a little from every resample. How much is known for all patients together, and given back.

        Args:
            patient: (m,) in 0..P-1 (`patients_of`); scores: (m,); positive: (m,) bool.
        """
        at_positives, everyone = metric is average_precision, np.zeros(len(scores), dtype=np.int64)
        counts = histogram(patient, scores, positive, self._resamples.num_patients, bins, at_positives)
        exact = histogram(everyone, scores, positive, 1, len(scores), at_positives)[0]
        return (metric(self._resamples.sums(counts)) + metric(exact) - metric(counts.sum(0))).clip(0, 1)

    def patients_of(self, studies: np.ndarray) -> np.ndarray:
        """Rows of the study table, each with a question -> their patients, 0..P-1."""
        found, first = np.unique(self.questions.study, return_index=True)
        return self._patient[first[np.searchsorted(found, studies)]]

    def interval(self, scored: Scored | None, metric: str) -> Interval:
        """Of a metric's value."""
        if scored is None or metric not in scored.drawn:
            return Interval(None, None, None, 0, self._resamples.samples, 0)
        return self.of_drawn(scored.scores[metric], scored.drawn[metric], scored.patients)

    def of_drawn(self, value: float | None, drawn: np.ndarray, patients: int) -> Interval:
        """Of a value of all `patients`, None where undefined, and (S,) of the resamples."""
        return interval(np.nan if value is None else value, drawn, self.confidence, patients)

    def mean(self, positions: np.ndarray, values: np.ndarray) -> Interval:
        """Of a number that the questions at `positions` (m,) of the set have."""
        patient = self._patient[positions]
        counts = np.zeros((self._resamples.num_patients, 2))
        np.add.at(counts, patient, np.stack([values.astype(np.float64), np.ones(len(values))], axis=1))
        with np.errstate(invalid="ignore", divide="ignore"):
            value, drawn = (total[..., 0] / total[..., 1] for total in (counts.sum(0), self._resamples.sums(counts)))
        return interval(float(value), drawn, self.confidence, len(np.unique(patient)))

    def gain(self, scored: Scored | None, other: Scored | None, metric: str) -> Interval:
        """Of the difference to other answers to the same questions, with its p-value."""
        if scored is None or other is None or metric not in scored.drawn or metric not in other.drawn:
            return Interval(None, None, None, 0, self._resamples.samples, 0)
        ours, theirs = scored.scores[metric], other.scores[metric]
        value = np.nan if ours is None or theirs is None else ours - theirs
        drawn = scored.drawn[metric] - other.drawn[metric]
        return interval(value, drawn, self.confidence, scored.patients, difference=True)
