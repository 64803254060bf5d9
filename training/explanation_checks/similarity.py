"""How much two maps are alike."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import uniform_filter
from scipy.stats import spearmanr

WINDOW = 7
"""Pixels a side of the windows of SSIM"""


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation of the pixels of two (H, W) maps, in [-1, 1]; 0 where one is the same everywhere."""
    if a.max() == a.min() or b.max() == b.min():
        return 0.0
    return float(spearmanr(a.ravel(), b.ravel()).statistic)


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Mean structural similarity (Wang et al. 2004) of two (H, W) maps in [0, 1], at least 7 x 7; 1 for equal ones.

    Uniform windows of 7 x 7 that lie in the map as a whole, sample covariances, K1 = 0.01 and K2 = 0.03: as scikit-image
    computes it by default.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    bias = WINDOW**2 / (WINDOW**2 - 1)
    mean_a, mean_b = uniform_filter(a, WINDOW), uniform_filter(b, WINDOW)
    var_a = bias * (uniform_filter(a * a, WINDOW) - mean_a**2)
    var_b = bias * (uniform_filter(b * b, WINDOW) - mean_b**2)
    both = bias * (uniform_filter(a * b, WINDOW) - mean_a * mean_b)
    c1, c2 = 0.01**2, 0.03**2
    values = (2 * mean_a * mean_b + c1) * (2 * both + c2)
    values /= (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    edge = WINDOW // 2
    return float(values[edge:-edge, edge:-edge].mean())
