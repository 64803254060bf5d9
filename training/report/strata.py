"""The model where something holds: what is asked about, grade, view, number of findings, and what a patient table adds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Set
from functools import cache

import numpy as np

from data.index import Index
from data.label_space import GRADES, REGIONS, Head
from data.names import region_set
from data.order import ranges
from data.scene_graph import AT_LEAST_ONE, PRESENT
from training.metrics import HEADLINE
from training.predictions import Predictions, QuestionSet
from training.report.groups import GROUPS, members_of
from training.report.scorer import Scorer

LEAST = 20
"""Groups with fewer questions are withheld, and groups by what patients are with fewer patients: they say nothing, and may say
who is in them."""

Labels = np.ndarray
"""(n,) of str, one for each question of a set; '' where nothing is known"""


def strata(
    scorer: Scorer,
    answered: Predictions | None,
    baseline: Predictions | None,
    more: Mapping[str, Labels] | None = None,
) -> dict[str, dict[str, dict[str, dict]]]:
    """stratum -> value -> group -> all `scores`; of the headline `metric` its `value`, `low`, `high` and `gain` over the baseline.

    Args:
        more: further strata, which say what patients are, such as sex and age.
    """
    if answered is None:
        return {}
    table: dict[str, dict[str, dict[str, dict]]] = {}
    known, of_patients = known_strata(answered.questions), dict(more or {})
    for name, labels in (known | of_patients).items():
        least_patients = LEAST if name in of_patients else 1
        found = {
            str(value): _of_groups(scorer, answered, baseline, labels == value, least_patients)
            for value in np.unique(labels[labels != ""])
        }
        table[name] = {value: heads for value, heads in found.items() if heads}
    return {name: values for name, values in table.items() if len(values) > 1}


def by_finding(
    scorer: Scorer, answered: Predictions | None, baseline: Predictions | None
) -> dict[str, dict[str, dict]]:
    """finding -> group -> as in `strata`: the questions whose text names it, by the release's names of entities."""
    if answered is None:
        return {}
    entities = {name.lower() for name in answered.questions.index.vocabulary.entities}
    named = [names & entities for names in answered.questions.names]
    return _by_name(scorer, answered, baseline, named)


def by_region(scorer: Scorer, answered: Predictions | None, baseline: Predictions | None) -> dict[str, dict[str, dict]]:
    """canonical region -> group -> as in `strata`: the questions whose text names it, or a whole that it is part of."""
    if answered is None:
        return {}
    regions = cache(lambda names: {REGIONS[i] for name in names for i in region_set(name) or ()})
    return _by_name(scorer, answered, baseline, [regions(names) for names in answered.questions.names])


def _by_name(
    scorer: Scorer, answered: Predictions, baseline: Predictions | None, named: list[Set[str]]
) -> dict[str, dict[str, dict]]:
    """Most asked first."""
    positions: dict[str, list[int]] = defaultdict(list)
    for position, names in enumerate(named):
        for name in names:
            positions[name].append(position)
    table = {}
    for name, own in sorted(positions.items(), key=lambda item: (-len(item[1]), item[0])):
        chosen = np.zeros(len(named), dtype=bool)
        chosen[own] = True
        table[name] = _of_groups(scorer, answered, baseline, chosen)
    return table


def _of_groups(
    scorer: Scorer,
    answered: Predictions,
    baseline: Predictions | None,
    chosen: np.ndarray,
    least_patients: int = 1,
) -> dict[str, dict]:
    groups = {}
    for name, head in GROUPS.items():
        members = members_of(answered.questions, name)
        members = members[chosen[answered.questions.of(head)[members]]]
        if not len(members):
            continue
        metric = HEADLINE[head]
        if len(members) < LEAST:
            groups[name] = {"metric": metric, "withheld": f"fewer than {LEAST} questions"}
            continue
        patients = answered.questions.patient[answered.questions.of(head)[members]]
        if len(np.unique(patients)) < least_patients:
            groups[name] = {"metric": metric, "withheld": f"fewer than {least_patients} patients"}
            continue
        model, other = (scorer.score(one, head, members) for one in (answered, baseline))
        own, gain = scorer.interval(model, metric), scorer.gain(model, other, metric)
        groups[name] = {
            "scores": model.scores,
            "metric": metric,
            "value": own.value,
            "low": own.low,
            "high": own.high,
            "gain": {"value": gain.value, "low": gain.low, "high": gain.high},
        }
    return groups


def known_strata(questions: QuestionSet) -> dict[str, Labels]:
    """What the index knows of each question."""
    index = questions.index
    findings = _present(index)[questions.image]
    return {
        "grade": np.array([grade or "unrated" for grade in GRADES])[index.questions["grade"][questions.rows]],
        "view": np.array([view or "unknown" for view in index.views(questions.image)]),
        "answer": np.where(index.questions["from_report"][questions.rows] == 1, "from the report", "by rule"),
        "findings stated present": _quartiles(findings),
        "frequency of the region": _region_frequency(questions),
    }


def _present(index: Index) -> np.ndarray:
    """(images,) statements of the report's graph that something is there."""
    rows, image = ranges(index.images["finding_start"], index.images["finding_count"])
    there = np.isin(index.findings["kind"][rows], (PRESENT, AT_LEAST_ONE))
    return np.bincount(image[there], minlength=len(index.images["finding_count"]))


def _quartiles(numbers: np.ndarray) -> Labels:
    """Ranges of numbers with about as many questions each."""
    edges = np.unique(np.quantile(numbers, [0, 0.25, 0.5, 0.75, 1]).astype(np.int64)) if len(numbers) else np.zeros(0)
    if len(edges) < 2:
        return np.full(len(numbers), "", dtype="<U16")
    place = np.searchsorted(edges[1:-1], numbers, side="left")
    low = np.concatenate([[edges[0]], edges[1:-1] + 1])
    names = np.array([f"{a} to {b}" if a != b else str(a) for a, b in zip(low, edges[1:], strict=True)])
    return names[place]


def _region_frequency(questions: QuestionSet) -> Labels:
    """Region questions by how often the rarest region of their answer is one: rare, middle, frequent thirds of the regions."""
    labels = np.full(len(questions), "", dtype="<U16")
    targets = questions.targets(Head.REGION).astype(bool)
    count = targets.sum(0)
    rank = np.empty(len(REGIONS), dtype=np.int64)
    rank[np.argsort(count, kind="stable")] = np.arange(len(REGIONS))
    rarest = np.where(targets, rank, len(REGIONS)).min(1, initial=len(REGIONS))
    third = np.minimum(rarest * 3 // len(REGIONS), 2)
    names = np.array(["rare", "middle", "frequent"])[third]
    labels[questions.of(Head.REGION)] = np.where(rarest < len(REGIONS), names, "")
    return labels
