"""The part of the report that asks whether probabilities mean what they say."""

from __future__ import annotations

from collections.abc import Mapping

from data.label_space import HEADS, Head
from training.predictions import Predictions
from training.scoring.confidence import calibration, risk_coverage, tempered, whole_answers


def confidence_of_heads(answered: Predictions | None, temperatures: Mapping[Head, float] | None = None) -> dict:
    """head -> `raw` and, with temperatures fitted on another split, `tempered` calibration; risk and coverage.

    A head without probabilities is left out.
    """
    table = {}
    for head in HEADS:
        if answered is None or answered.probabilities.get(head) is None:
            continue
        probabilities, predictions = answered.probabilities[head], answered.predictions[head]
        targets = answered.questions.targets(head)
        table[head.value] = {"raw": calibration(head, probabilities, predictions, targets)}
        if temperatures and head in temperatures:
            milder = tempered(head, probabilities, temperatures[head])
            found = calibration(head, milder, predictions, targets)
            table[head.value]["tempered"] = {"temperature": temperatures[head]} | found
        curve = risk_coverage(whole_answers(head, probabilities, predictions, targets))
        table[head.value]["risk_coverage"] = curve.as_json() if curve else None
    return table
