"""Letter-boxing with NumPy alone: what programs without PyTorch show the model, equal to `data.frames` up to rounding.

Where an image goes in the square, and when its blocks are averaged first, is said here for both.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

Numbers = float | np.ndarray

LEAST_SAMPLING = 0.6
"""Bilinear sampling of fewer output pixels than so many an input pixel would alias: blocks are averaged first."""


def sides(width: Numbers, height: Numbers) -> tuple[np.ndarray, np.ndarray]:
    """Width and height of the image in the square's frame ([0, 1]): the longer side fills it, the shorter one is centred."""
    width, height = np.asarray(width, dtype=np.float64), np.asarray(height, dtype=np.float64)
    longer = np.maximum(width, height)
    return width / longer, height / longer


def averaged(pixels: np.ndarray, side: float) -> np.ndarray:
    """Blocks of an image averaged, where it has far more pixels than the `side`² (a geometric mean) it will be shown with."""
    sampling = side / np.sqrt(pixels.shape[0] * pixels.shape[1])
    return pixels if sampling >= LEAST_SAMPLING else np.asarray(Image.fromarray(pixels).reduce(round(1 / sampling)))


def letterbox(pixels: np.ndarray, side: int, width: int = 0, height: int = 0) -> np.ndarray:
    """An image in the square that the model sees, sampled bilinearly, black beside it.

    Args:
        pixels: (h, w) uint8.
        side: S, pixels.
        width, height: of the original that `pixels` were made from, which decide the form; 0: those of `pixels`.
    Returns:
        (S, S) float32 grey levels 0..255.
    """
    x, y = sides(width or pixels.shape[1], height or pixels.shape[0])
    pixels = averaged(pixels, side * np.sqrt(float(x * y)))
    rows, columns = _samples(side, float(y), pixels.shape[0]), _samples(side, float(x), pixels.shape[1])
    return rows @ pixels.astype(np.float32) @ columns.T


def _samples(side: int, share: float, pixels: int) -> np.ndarray:
    """(S, pixels) float32 weights of the pixels along one side, which takes a `share` of the square; 0 beside the image."""
    centres = (np.arange(side) + 0.5) / side
    place = (centres - (0.5 - 0.5 * share)) / share * pixels - 0.5
    return np.clip(1 - np.abs(place[:, None] - np.arange(pixels)), 0, None).astype(np.float32)
