"""`report.json`: every metric of every row, with intervals over patients and paired differences.

    rows[row][group][metric]        binary, category, category_copy (questions that name their class), region, severity
    intervals[row][group][metric]   low, high, and dropped: resamples in which it is not defined (above 5 %: no interval)
    gain[group], interval[group]    headline metric: model minus question_only, with p; the model's own
    gains[row][group]               headline metric: model minus each other row
    by_type[type][row][metric]      question types that were evaluated
    type_gain[type]                 headline metric: model minus question_only, p adjusted over the types (`p_holm`)
    roc, confusion[head], worst_errors
    classes[group][class]           category, category_copy, region: positives, precision, recall, F1, AUROC, average precision
    chexpert[label]                 auroc, n_pos, n_neg over the studies' images; chexpert_radiologist likewise
    chexpert_intervals              labeller, radiologist -> label -> its interval; `mean`: over the labels that are defined
    confidence[group]               calibration, temperature, reliability, risk and coverage
    grounding                       where the model looks against the answer's boxes; null without --compute_attention
    consistency[check]              answers about one study that contradict each other; paraphrases[way][group] likewise
    findings[name][group], regions  the model's scores on the questions that name a finding or a region; likewise withheld
    strata[name][value][group]      the model's scores where something holds; groups with few questions are withheld
    compare                         differences to other answers, in `groups` and `types`; null without --compare
    audit                           what splits share, unknown names, and `leaks`
    counts[fate], counts_by_type    every question of the release's split: evaluated, or why not
    headline, missing_rows, provenance, settings
null is "not defined" or "not computed" (`missing_rows` says why; majority answers of a head without training questions),
never 0 or 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from data.label_space import HEADS, QUESTION_TYPES, Head
from training.audit import READS_THE_REPORT, leaks
from training.bootstrap import Interval, holm
from training.evaluation import ROWS, Evaluation
from training.metrics import HEADLINE, Scores, class_table, headline
from training.predictions import Predictions, QuestionSet
from training.report.chexpert import chexpert_tables
from training.report.confidence import confidence_of_groups
from training.report.consistency import consistency, paraphrase_agreement
from training.report.details import confusion, roc, worst_errors
from training.report.grounding import grounding
from training.report.groups import GROUPS, MULTI_LABEL, members_of
from training.report.scorer import Scored, Scorer
from training.report.strata import by_finding, by_region, strata

BASELINE = "question_only"
WITHOUT_IMAGE = ("question_only", "majority_text", "blank_image")
"""Rows whose answers cannot depend on the patient"""

Answered = dict[str, Predictions | None]
"""row -> its answers"""


@dataclass(frozen=True)
class Extras:
    """What a report can have beyond the answers."""

    radiologist: np.ndarray | None = None
    """(studies, 14) a radiologist's labels of the studies of `Evaluation.chexpert`, nan where there is none"""
    temperatures: Mapping[Head, float] = field(default_factory=dict)
    """fitted on another split"""
    strata: Mapping[str, np.ndarray] = field(default_factory=dict)
    """name -> (n,) value of each question"""
    other: Predictions | None = None
    """answers to compare with"""
    audit: dict = field(default_factory=dict)
    """`audit.audit_index`"""
    settings: dict = field(default_factory=dict)
    """the whole configuration"""


def build_report(
    evaluation: Evaluation,
    counts_by_type: dict[str, dict[str, int]],
    provenance: dict,
    *,
    samples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    extras: Extras | None = None,
) -> dict:
    """The report as one dictionary of JSON values.

    Args:
        counts_by_type: `predictions.question_fates` of the same split.
        provenance: what data, model and settings; kept as it is.
        samples, confidence, seed: of the patient-level bootstrap.
        extras: what a report can have beyond the answers.
    """
    extras = extras or Extras()
    questions = evaluation.questions
    answered = answers_of_rows(evaluation)
    scorer = Scorer(questions, samples=samples, confidence=confidence, seed=seed)
    members = {name: members_of(questions, name) for name in GROUPS}
    scored = {
        row: {name: scorer.score(answered[row], head, members[name], ranks=True) for name, head in GROUPS.items()}
        for row in ROWS
    }
    rows = {row: _scores(by_group, scored["model"]) for row, by_group in scored.items()}
    gains = {
        row: {name: _json(head, _gain(scorer, scored, "model", name, row)) for name, head in GROUPS.items()}
        for row in ROWS[1:]
    }
    counts = Counter()
    for by_fate in counts_by_type.values():
        counts.update(by_fate)
    chexpert, of_labeller = chexpert_tables(scorer, evaluation, evaluation.chexpert_labels)
    radiologist, of_radiologist = chexpert_tables(scorer, evaluation, extras.radiologist)
    model = answered["model"]
    paraphrased = {name: Predictions.of(questions, answers) for name, answers in evaluation.paraphrases.items()}
    by_type, type_gain = _by_type(scorer, questions, answered)
    return {
        "headline": _headline(rows, gains[BASELINE], of_labeller.get("mean", {}).get("value")),
        "rows": rows,
        "intervals": {row: _intervals(scorer, by_group) for row, by_group in scored.items()},
        "gain": gains[BASELINE],
        "gains": gains,
        "interval": {
            name: _json(head, scorer.interval(scored["model"][name], HEADLINE[head])) for name, head in GROUPS.items()
        },
        "by_type": by_type,
        "type_gain": type_gain,
        "classes": _classes(model),
        "roc": roc(model),
        "confusion": confusion(model),
        "worst_errors": worst_errors(model),
        "chexpert": chexpert,
        "chexpert_radiologist": radiologist,
        "chexpert_intervals": {"labeller": of_labeller, "radiologist": of_radiologist},
        "confidence": confidence_of_groups(model, extras.temperatures),
        "grounding": grounding(scorer, evaluation.looks, model) if evaluation.looks else None,
        "consistency": consistency(model),
        "paraphrases": paraphrase_agreement(model, paraphrased),
        "findings": by_finding(scorer, model, answered[BASELINE]),
        "regions": by_region(scorer, model, answered[BASELINE]),
        "strata": strata(scorer, model, answered[BASELINE], extras.strata),
        "compare": _compare(scorer, questions, model, extras.other) if extras.other else None,
        "audit": extras.audit | {"leaks": _leaks(scorer, scored, evaluation.graph)},
        "counts": dict(counts.most_common()),
        "counts_by_type": counts_by_type,
        "missing_rows": evaluation.missing,
        "provenance": provenance,
        "settings": extras.settings,
    }


def answers_of_rows(evaluation: Evaluation) -> Answered:
    """With the decisions of each row: those of a file are its own."""
    answered = {
        row: None if answers is None else Predictions.of(evaluation.questions, answers)
        for row, answers in evaluation.answers.items()
    }
    return answered | ({"model": evaluation.given} if evaluation.given else {})


def _scores(by_group: dict[str, Scored | None], like: dict[str, Scored | None]) -> dict[str, Scores]:
    """Rows without answers have the same metrics as the model's, all null."""
    return {
        name: dict.fromkeys(like[name].scores if like[name] else ()) if scored is None else scored.scores
        for name, scored in by_group.items()
    }


def _gain(scorer: Scorer, scored: dict[str, dict[str, Scored | None]], row: str, group: str, over: str) -> Interval:
    return scorer.gain(scored[row][group], scored[over][group], HEADLINE[GROUPS[group]])


def _leaks(scorer: Scorer, scored: dict[str, dict[str, Scored | None]], graph: str) -> list[str]:
    """`audit.leaks`: the model and the swapped images against the best row that sees no image; and the report's graph."""
    own, blind = {}, {}
    for name, head in GROUPS.items():
        values = {row: scored[row][name].scores[HEADLINE[head]] for row in WITHOUT_IMAGE if scored[row][name]}
        defined = {row: value for row, value in values.items() if value is not None}
        if defined:
            best = max(defined, key=defined.get)
            own[name], blind[name] = (
                _gain(scorer, scored, row, name, best).as_json() for row in ("model", "shuffled_image")
            )
    return ([READS_THE_REPORT] if graph == "oracle" else []) + leaks(own, blind)


def _intervals(scorer: Scorer, by_group: dict[str, Scored | None]) -> dict[str, dict[str, dict]]:
    table: dict[str, dict[str, dict]] = {}
    for name, scored in by_group.items():
        found = {metric: scorer.interval(scored, metric) for metric in (scored.drawn if scored else ())}
        table[name] = {
            metric: {"low": one.low, "high": one.high, "dropped": one.dropped} for metric, one in found.items()
        }
    return table


def _by_type(scorer: Scorer, questions: QuestionSet, answered: Answered) -> tuple[dict, dict]:
    """Scores of each type and row, and each type's gain over the text-only control."""
    table, gains = {}, {}
    for number in np.unique(questions.type):
        kind = QUESTION_TYPES[number]
        members = np.flatnonzero(questions.type[questions.of(kind.head)] == number)
        scored = {row: scorer.score(answered[row], kind.head, members) for row in ROWS}
        table[kind.name] = {
            row: dict.fromkeys(scored["model"].scores) if one is None else one.scores for row, one in scored.items()
        }
        metric = HEADLINE[kind.head]
        gains[kind.name] = {
            **_json(kind.head, scorer.gain(scored["model"], scored[BASELINE], metric)),
            "model": _json(kind.head, scorer.interval(scored["model"], metric)),
        }
    for gain, adjusted in zip(gains.values(), holm([gain.get("p") for gain in gains.values()]), strict=True):
        gain["p_holm"] = adjusted
    return table, gains


def _classes(answered: Predictions | None) -> dict[str, dict[str, Scores]]:
    """For each column with several answers."""
    if answered is None:
        return {}
    table = {}
    for name in MULTI_LABEL:
        head, members = GROUPS[name], members_of(answered.questions, name)
        probabilities = answered.probabilities[head]
        table[name] = class_table(
            head,
            None if probabilities is None else probabilities[members],
            answered.predictions[head][members],
            answered.questions.targets(head)[members],
        )
    return table


def _json(head: Head, interval: Interval) -> dict:
    return {"metric": HEADLINE[head]} | interval.as_json()


def _headline(rows: dict, gain: dict, mean_auroc: float | None) -> dict:
    """Per column the model's headline metric beside its baseline's; `score` is the mean over the heads."""
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


def _compare(scorer: Scorer, questions: QuestionSet, model: Predictions, other: Predictions) -> dict:
    """`groups` and `types`: headline metric of the model minus that of other answers; p adjusted over the types."""
    groups, types = {}, {}
    for name, head in GROUPS.items():
        members = members_of(questions, name)
        both = [scorer.score(one, head, members) for one in (model, other)]
        groups[name] = _json(head, scorer.gain(*both, HEADLINE[head]))
    for number in np.unique(questions.type):
        kind = QUESTION_TYPES[number]
        members = np.flatnonzero(questions.type[questions.of(kind.head)] == number)
        both = [scorer.score(one, kind.head, members) for one in (model, other)]
        types[kind.name] = _json(kind.head, scorer.gain(*both, HEADLINE[kind.head]))
    for gain, adjusted in zip(types.values(), holm([gain.get("p") for gain in types.values()]), strict=True):
        gain["p_holm"] = adjusted
    return {"groups": groups, "types": types}
