"""The part of the report about CheXpert labels, which the auxiliary head reads from the image alone."""

from __future__ import annotations

import numpy as np

from data.label_space import CHEXPERT, NO_FINDING
from training.evaluation import Evaluation
from training.metrics import chexpert_auroc
from training.report.scorer import Scorer
from training.scoring.counts import mean_of_known
from training.scoring.ranking import auroc


def chexpert_tables(scorer: Scorer, evaluation: Evaluation, labels: np.ndarray | None) -> tuple[dict[str, dict], dict]:
    """AUROC of each label, and the intervals.

    Args:
        labels: (studies, 14) of the studies of `evaluation`: 1, 0, -1 uncertain, nan blank. Uncertain and blank are left out, but
            a blank No Finding is 0.
    Returns:
        label -> auroc, n_pos, n_neg; label -> interval, with that of their `mean` and the number of `labels` it is taken over.
        Nothing where one of the two is not there, or no label is stated at all.
    """
    probabilities = evaluation.chexpert
    if probabilities is None or labels is None or np.isnan(labels).all():
        return {}, {}
    labels = labels.astype(np.float64)
    values, mean = chexpert_auroc(probabilities, labels)
    labels[np.isnan(labels[:, NO_FINDING]), NO_FINDING] = 0
    patient = scorer.patients_of(evaluation.studies)
    table, intervals, each = {}, {}, []
    for c, name in enumerate(CHEXPERT):
        stated = np.isin(labels[:, c], (0, 1))
        positive = labels[stated, c] == 1
        table[name] = {"auroc": values[name], "n_pos": int(positive.sum()), "n_neg": int((~positive).sum())}
        if values[name] is not None:
            each.append(scorer.ranked(patient[stated], probabilities[stated, c], positive, auroc))
            patients = len(np.unique(patient[stated]))
            intervals[name] = scorer.of_drawn(values[name], each[-1], patients).as_json()
    if each:
        drawn = mean_of_known(np.stack(each, axis=1))
        intervals["mean"] = scorer.of_drawn(mean, drawn, len(np.unique(patient))).as_json() | {"labels": len(each)}
    return table, intervals
