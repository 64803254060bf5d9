"""From answers to `report.json`: every metric of every row, with the gain over the text-only control and its interval.

`report.json`:
    rows[row][head][metric]       binary, category, category_copy (questions that name their class), region, severity
    by_type[type][row][metric]    question types that were evaluated
    gain[head], interval[head]    headline metric, patient-level intervals: model minus question_only; the model's own
    chexpert[label]               auroc, n_pos, n_neg over the studies' images
    counts[fate], counts_by_type  every question of the release's split: evaluated, or why not
    headline, missing_rows, provenance
null is "not defined" or "not computed" (`missing_rows` says why; majority answers of a head without training questions),
never 0 or 1.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from data.label_space import CHEXPERT, HEADS, NO_FINDING, QUESTION_TYPES, Head
from training.bootstrap import Interval, balanced_accuracy_counts, bootstrap, micro_f1_counts
from training.evaluation import ROWS, Evaluation
from training.metrics import HEADLINE, chexpert_auroc, headline, score_head
from training.predictions import Answers, QuestionSet, decide

CATEGORY_COPY = "category_copy"
GROUPS: dict[str, Head] = {
    "binary": Head.BINARY,
    "category": Head.CATEGORY,
    CATEGORY_COPY: Head.CATEGORY,
    "region": Head.REGION,
    "severity": Head.SEVERITY,
}
"""Column of the report -> answering head."""

BASELINE = "question_only"


def build_report(
    evaluation: Evaluation,
    counts_by_type: dict[str, dict[str, int]],
    provenance: dict,
    *,
    samples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict:
    """The report as one dictionary of JSON values.

    Args:
        counts_by_type: `predictions.question_fates` of the same split.
        provenance: what data, model and settings; kept as it is.
        samples, confidence, seed: of the patient-level bootstrap.
    """
    questions = evaluation.questions
    groups = {name: (head, _members(questions, name)) for name, head in GROUPS.items()}
    rows = {
        row: {
            name: _scores(questions, evaluation.answers[row], head, members) for name, (head, members) in groups.items()
        }
        for row in ROWS
    }
    _name_metrics_of_missing_rows(rows)
    settings = {"samples": samples, "confidence": confidence, "seed": seed}
    gain, interval = {}, {}
    for name, (head, members) in groups.items():
        model, baseline = (
            _headline_counts(questions, evaluation.answers[r], head, members) for r in ("model", BASELINE)
        )
        gain[name] = _as_json(head, bootstrap(model, baseline, **settings) if baseline is not None else None)
        interval[name] = _as_json(head, bootstrap(model, **settings))
    counts = Counter()
    for by_fate in counts_by_type.values():
        counts.update(by_fate)
    chexpert, mean_auroc = _chexpert(evaluation)
    return {
        "headline": _headline(rows, gain, mean_auroc),
        "rows": rows,
        "gain": gain,
        "interval": interval,
        "by_type": _by_type(evaluation),
        "chexpert": chexpert,
        "counts": dict(counts.most_common()),
        "counts_by_type": counts_by_type,
        "missing_rows": evaluation.missing,
        "provenance": provenance,
    }


def _members(questions: QuestionSet, group: str) -> np.ndarray:
    """Positions among the head's questions that belong to a column of the report."""
    types = questions.type[questions.of(GROUPS[group])]
    copies = np.array([t.copies for t in QUESTION_TYPES])[types]
    if GROUPS[group] != Head.CATEGORY:
        return np.arange(len(types))
    return np.flatnonzero(copies if group == CATEGORY_COPY else ~copies)


def _scores(questions: QuestionSet, answers: Answers | None, head: Head, members: np.ndarray) -> dict | None:
    if answers is None or answers[head] is None:
        return None
    probabilities = answers[head][members]
    return score_head(head, probabilities, decide(head, probabilities), questions.targets(head)[members])


def _name_metrics_of_missing_rows(rows: dict[str, dict[str, dict | None]]) -> None:
    """Rows without answers have the same metrics as the model's, all null."""
    for by_group in rows.values():
        for name, scores in by_group.items():
            if scores is None:
                by_group[name] = dict.fromkeys(rows["model"][name])


def _by_type(evaluation: Evaluation) -> dict[str, dict[str, dict]]:
    questions = evaluation.questions
    table = {}
    for number in np.unique(questions.type):
        kind = QUESTION_TYPES[number]
        members = np.flatnonzero(questions.type[questions.of(kind.head)] == number)
        by_row = {row: _scores(questions, evaluation.answers[row], kind.head, members) for row in ROWS}
        table[kind.name] = {row: dict.fromkeys(by_row["model"]) if s is None else s for row, s in by_row.items()}
    return table


def _headline_counts(
    questions: QuestionSet, answers: Answers | None, head: Head, members: np.ndarray
) -> np.ndarray | None:
    """(P, 2, C) per-patient counts of the head's headline metric; None without answers."""
    if answers is None or answers[head] is None:
        return None
    counts = micro_f1_counts if HEADS[head].multi_label else balanced_accuracy_counts
    _, patient = np.unique(questions.patient[questions.of(head)][members], return_inverse=True)
    return counts(patient, decide(head, answers[head][members]), questions.targets(head)[members])


def _as_json(head: Head, interval: Interval | None) -> dict:
    unknown = Interval(value=None, low=None, high=None, n_patients=0, resamples=0, dropped=0)
    return {"metric": HEADLINE[head]} | (interval or unknown).as_json()


def _headline(rows: dict, gain: dict, mean_auroc: float | None) -> dict:
    """Per column the model's headline metric beside its baseline's; `score` is the mean over the four heads."""
    heads = {}
    for name, head in GROUPS.items():
        metric = HEADLINE[head]
        heads[name] = {
            "metric": metric,
            "model": rows["model"][name][metric],
            BASELINE: rows[BASELINE][name][metric],
            "gain": gain[name]["value"],
            "low": gain[name]["low"],
            "high": gain[name]["high"],
        }
    own = {head.value: rows["model"][head.value] for head in HEADS}
    return {"score": headline(own), "heads": heads, "chexpert_mean_auroc": mean_auroc}


def _chexpert(evaluation: Evaluation) -> tuple[dict[str, dict], float | None]:
    """AUROC, positives and negatives of each label; uncertain and blank are left out, a blank No Finding is 0."""
    labels = evaluation.chexpert_labels.astype(np.float64)
    per_label, mean = chexpert_auroc(evaluation.chexpert, labels)
    negatives = labels == 0
    negatives[:, NO_FINDING] |= np.isnan(labels[:, NO_FINDING])
    table = {
        name: {"auroc": per_label[name], "n_pos": int((labels[:, c] == 1).sum()), "n_neg": int(negatives[:, c].sum())}
        for c, name in enumerate(CHEXPERT)
    }
    return table, mean
