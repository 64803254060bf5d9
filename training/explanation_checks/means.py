"""Means over items with intervals over patients, and paired differences of them."""

from __future__ import annotations

import numpy as np

from training.bootstrap import Interval, Resamples, interval


class PatientMeans:
    """Means of numbers of items, whose patients are resampled as a whole; all from the same resamples."""

    def __init__(self, patients: np.ndarray, *, samples: int, confidence: float, seed: int):
        """`patients`: (n,) of each item."""
        found, self._patient = np.unique(patients, return_inverse=True)
        self._resamples, self._confidence = Resamples(len(found), samples, seed), confidence

    def of(self, values: np.ndarray, difference: bool = False) -> Interval:
        """The mean of (n,) numbers; with `difference` they are differences, and there is a p-value."""
        patients = self._resamples.num_patients
        sums = np.bincount(self._patient, values, minlength=patients)
        counts = np.stack([sums, np.bincount(self._patient, minlength=patients)], axis=1)
        drawn = self._resamples.sums(counts)
        return interval(values.mean(), drawn[:, 0] / drawn[:, 1], self._confidence, patients, difference)
