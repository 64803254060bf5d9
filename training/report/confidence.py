"""The part of the report that asks whether probabilities mean what they say."""

from __future__ import annotations

from collections.abc import Mapping

from data.label_space import Head
from training.predictions import Predictions
from training.report.groups import GROUPS, members_of
from training.scoring.confidence import calibration, risk_coverage, tempered, whole_answers


def confidence_of_groups(answered: Predictions | None, temperatures: Mapping[Head, float] | None = None) -> dict:
    """group -> `raw` and, with temperatures fitted on another split, `tempered` calibration; risk and coverage.

    A head without probabilities is left out.
    """
    table = {}
    for name, head in GROUPS.items():
        if answered is None or answered.probabilities.get(head) is None:
            continue
        members = members_of(answered.questions, name)
        probabilities, predictions = answered.probabilities[head][members], answered.predictions[head][members]
        targets = answered.questions.targets(head)[members]
        table[name] = {"raw": calibration(head, probabilities, predictions, targets)}
        if temperatures and head in temperatures:
            milder = tempered(head, probabilities, temperatures[head])
            found = calibration(head, milder, predictions, targets)
            table[name]["tempered"] = {"temperature": temperatures[head]} | found
        curve = risk_coverage(whole_answers(head, probabilities, predictions, targets))
        table[name]["risk_coverage"] = curve.as_json() if curve else None
    return table
