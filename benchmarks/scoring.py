"""`score`: intervals of all metrics over resampled patients, against scoring each resample with scikit-learn."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from sklearn.metrics import balanced_accuracy_score, f1_score

from benchmarks.report import Section
from benchmarks.session import Session
from benchmarks.timing import Variant
from data.label_space import HEADS, Head
from training.predictions import Predictions
from training.report.scorer import Scorer

SHARES = {Head.BINARY: 0.6, Head.CATEGORY: 0.25, Head.REGION: 0.12, Head.SEVERITY: 0.03}
"""Of the questions of a split, roughly as grade A has them"""
OTHER_SHARE = 0.03
"""Beside these, for a head that the data set does not have"""


class AskedQuestions:
    """Questions without an index: patients, heads and targets drawn at random."""

    def __init__(self, number: int, patients: int, rng: np.random.Generator):
        self.patient = self.study = rng.integers(patients, size=number)
        shares = np.array([SHARES.get(head, OTHER_SHARE) for head in HEADS])
        ends = np.cumsum((number * shares / shares.sum()).round().astype(int))
        self._of = dict(zip(HEADS, np.split(np.arange(number), ends[:-1]), strict=True))
        self._targets = {head: _drawn(head, len(own), rng) for head, own in self._of.items()}

    def __len__(self) -> int:
        return len(self.patient)

    def of(self, head: Head) -> np.ndarray:
        return self._of[head]

    def targets(self, head: Head) -> np.ndarray:
        return self._targets[head]


def _drawn(head: Head, number: int, rng: np.random.Generator) -> np.ndarray:
    classes = len(HEADS[head].classes)
    if HEADS[head].multi_label:
        return (rng.random((number, classes)) < 0.1).astype(np.int8)
    return rng.integers(classes, size=number)


def _answers(questions: AskedQuestions, rng: np.random.Generator) -> Predictions:
    """Right in about two of three cases."""
    probabilities = {}
    for head, spec in HEADS.items():
        targets, noise = questions.targets(head), rng.random((len(questions.of(head)), len(spec.classes)))
        truth = targets if spec.multi_label else np.eye(len(spec.classes))[targets]
        values = (0.3 * truth + 0.7 * noise).astype(np.float32)
        probabilities[head] = values if spec.multi_label else values / values.sum(1, keepdims=True)
    return Predictions.of(questions, probabilities)


def run(session: Session) -> Iterator[Section]:
    args = session.args
    rng = np.random.default_rng(args.seed)
    questions = AskedQuestions(args.questions, args.patients, rng)
    answered, other = _answers(questions, rng), _answers(questions, rng)
    draw = {"samples": args.samples, "confidence": 0.95, "seed": args.seed}

    def ours(ranks: bool) -> int:
        scorer = Scorer(questions, **draw)
        for head in HEADS:
            both = [scorer.score(one, head, ranks=ranks) for one in (answered, other)]
            for metric in both[0].drawn:
                scorer.interval(both[0], metric)
                scorer.gain(*both, metric)
        return args.samples

    def one_by_one() -> int:
        """One metric a head, as it is usually written."""
        drawn = np.random.default_rng(args.seed).integers(args.patients, size=args.patients)
        times = np.bincount(drawn, minlength=args.patients)
        for head, spec in HEADS.items():
            rows = np.repeat(np.arange(len(questions.of(head))), times[questions.patient[questions.of(head)]])
            for one in (answered, other):
                told, truth = one.predictions[head][rows], questions.targets(head)[rows]
                if spec.multi_label:
                    f1_score(truth, told, average="micro", zero_division=0)
                else:
                    balanced_accuracy_score(truth, told)
        return 1

    variants = [
        Variant("scikit-learn, one metric a head, a resample at a time", one_by_one, unit="resamples"),
        Variant("all metrics made of counts, with paired differences", lambda: ours(False), unit="resamples"),
        Variant("the same with AUROC and average precision", lambda: ours(True), unit="resamples"),
    ]
    yield Section(
        "intervals over resampled patients",
        session.measure(variants),
        variants[0].name,
        facts={"questions": len(questions), "patients": args.patients, "resamples": args.samples, "models": 2},
    )
