"""Do probabilities mean what they say? Calibration errors, temperature, reliability, and what abstaining is worth.

For a head with one answer, confidence is the probability of the answer that is given, and it is right or wrong. For a head with
several, every (question, class) is a decision of its own; whether to answer at all is decided for the whole question. Letters: n
decisions, C classes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from data.label_space import HEADS, Head
from models.probabilities import LEAST, tempered

BINS = 15
COVERAGES = np.linspace(0.05, 1, 20)


@dataclass(frozen=True)
class Decisions:
    """Confidence and outcome of each decision of a head."""

    confidence: np.ndarray
    """(n,)"""
    right: np.ndarray
    """(n,) bool"""


def decisions(head: Head, probabilities: np.ndarray, predictions: np.ndarray, targets: np.ndarray) -> Decisions:
    """Of answers in the form that `score_head` takes."""
    if HEADS[head].multi_label:
        told, truth = predictions.astype(bool), targets.astype(bool)
        return Decisions(np.where(told, probabilities, 1 - probabilities).ravel(), (told == truth).ravel())
    return Decisions(probabilities[np.arange(len(targets)), predictions], predictions == targets)


def whole_answers(head: Head, probabilities: np.ndarray, predictions: np.ndarray, targets: np.ndarray) -> Decisions:
    """One decision a question: an answer of several classes is as sure as its least sure class, and right if all of them are."""
    made = decisions(head, probabilities, predictions, targets)
    if not HEADS[head].multi_label:
        return made
    shape = targets.shape
    return Decisions(made.confidence.reshape(shape).min(1, initial=1.0), made.right.reshape(shape).all(1))


def calibration(head: Head, probabilities: np.ndarray, predictions: np.ndarray, targets: np.ndarray) -> dict:
    """`ece` (bins of equal mass), `brier`, `nll`, and the `reliability` diagram; None without questions.

    brier: mean over questions of the squared distance between probabilities and truth, summed over the classes of a head with
    one answer (0 to 2; Brier 1950) and averaged over those of a head with several. nll in nats, likewise.
    ValueError: a probability is NaN.
    """
    if np.isnan(probabilities).any():
        raise ValueError("a probability is NaN: the model is broken, scoring it would hide that")
    if not len(targets):
        return {"ece": None, "brier": None, "nll": None, "reliability": []}
    made = decisions(head, probabilities, predictions, targets)
    bins = reliability(made)
    error = sum(b["n"] * abs(b["confidence"] - b["accuracy"]) for b in bins) / sum(b["n"] for b in bins)
    return {"ece": error, **_proper_scores(head, probabilities, targets), "reliability": bins}


def reliability(made: Decisions, bins: int = BINS) -> list[dict[str, float | int]]:
    """Bins of as equal mass as ties allow, lowest confidence first: n, mean confidence, share of right decisions."""
    edges = np.unique(np.quantile(made.confidence, np.linspace(0, 1, bins + 1)[1:-1]))
    place = np.searchsorted(edges, made.confidence, side="right")
    n = np.bincount(place)
    confidence, right = (np.bincount(place, weights=w) for w in (made.confidence, made.right.astype(float)))
    return [
        {"n": int(n[b]), "confidence": float(confidence[b] / n[b]), "accuracy": float(right[b] / n[b])}
        for b in np.flatnonzero(n)
    ]


def _proper_scores(head: Head, probabilities: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    values = probabilities.astype(np.float64)
    if HEADS[head].multi_label:
        truth = targets.astype(np.float64)
        near = values.clip(LEAST, 1 - LEAST)
        nll = -(truth * np.log(near) + (1 - truth) * np.log1p(-near))
        return {"brier": float(((values - truth) ** 2).mean()), "nll": float(nll.mean())}
    truth = np.eye(values.shape[1])[targets]
    nll = -np.log(values[np.arange(len(targets)), targets].clip(LEAST))
    return {"brier": float(((values - truth) ** 2).sum(1).mean()), "nll": float(nll.mean())}


def fit_temperature(head: Head, probabilities: np.ndarray, targets: np.ndarray) -> float | None:
    """The temperature with the least negative log-likelihood, in [0.05, 20] (Guo et al. 2017); None without questions."""
    from scipy.optimize import minimize_scalar

    if not len(targets):
        return None
    found = minimize_scalar(
        lambda log_t: _proper_scores(head, tempered(head, probabilities, np.exp(log_t)), targets)["nll"],
        bounds=(np.log(0.05), np.log(20)),
        method="bounded",
    )
    return float(np.exp(found.x))


@dataclass(frozen=True)
class RiskCoverage:
    """What answering only the surest questions is worth; coverage is the share that is answered."""

    coverage: list[float]
    risk: list[float]
    """share of wrong answers among the answered"""
    area: float
    """mean risk over all coverages (AURC; Geifman et al. 2019)"""
    accuracy_at_80: float

    def as_json(self) -> dict:
        return asdict(self)


def risk_coverage(made: Decisions) -> RiskCoverage | None:
    """None without decisions. Decisions of equal confidence are answered in a mean order: each has their mean risk."""
    n = len(made.confidence)
    if not n:
        return None
    order = np.argsort(-made.confidence, kind="stable")
    _, group, size = np.unique(-made.confidence[order], return_inverse=True, return_counts=True)
    wrong = np.bincount(group, weights=~made.right[order]) / size
    risk = np.cumsum(wrong[group]) / np.arange(1, n + 1)
    at = np.ceil(COVERAGES * n - 1e-9).astype(int) - 1
    return RiskCoverage(
        coverage=[float(c) for c in (at + 1) / n],
        risk=[float(r) for r in risk[at]],
        area=float(risk.mean()),
        accuracy_at_80=float(1 - risk[int(np.ceil(0.8 * n - 1e-9)) - 1]),
    )
