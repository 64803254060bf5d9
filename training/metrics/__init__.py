"""Scores of predictions. What is not defined is None (shown as n/a), never 0 or 1; definitions are scikit-learn's.

`heads` scores the questions of one answer head; `counts` and `ranking` are the same metrics as functions of sums over patients,
which resamples need; `confidence` asks whether the probabilities mean what they say.
"""

from training.metrics.heads import HEADLINE, Scores, chexpert_auroc, headline, score_head

__all__ = ["HEADLINE", "Scores", "chexpert_auroc", "headline", "score_head"]
