"""Metrics beyond a head's own (`training.metrics`): functions of sums over patients (`counts`, `ranking`), which resamples need;
whether probabilities mean what they say (`confidence`); whether the model looks where the answer is (`grounding`)."""
