"""Does the model look where the answer is? Boxes of what it attends to against boxes of what the answer speaks of.

Boxes are of anatomical regions, not of lesions, as in the data set: several boxes are one area, their union in pixels, as its
authors compare them. Letters: R = 26 regions, q questions about one image, N pixels of the raster.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RASTER = 160
"""Pixels a side of the square on which areas are counted; the image fills it"""
SHARE_OF_TOP = 0.5
"""A region is looked at that has at least so much of what the most attended one has."""


@dataclass(frozen=True)
class Overlap:
    """Of some questions; (q,) each."""

    iou: np.ndarray
    """intersection over union of both areas"""
    iop: np.ndarray
    """intersection over the area looked at"""
    iot: np.ndarray
    """intersection over the answer's area"""
    hit: np.ndarray
    """bool: the centre of the most attended region's box lies in the answer's area (pointing game; Zhang et al. 2018)"""


def area_masks(boxes: np.ndarray, side: int = RASTER) -> np.ndarray:
    """(R, 4) boxes in [0, 1] -> (R, N) bool: the pixels whose centres they hold."""
    centres = (np.arange(side) + 0.5) / side
    x = (boxes[:, 0, None] <= centres) & (centres < boxes[:, 2, None])
    y = (boxes[:, 1, None] <= centres) & (centres < boxes[:, 3, None])
    return (y[:, :, None] & x[:, None, :]).reshape(len(boxes), -1)


def looked_at(attention: np.ndarray) -> np.ndarray:
    """(q, R) shares -> (q, R) bool."""
    return attention >= SHARE_OF_TOP * attention.max(1, keepdims=True)


def overlap(attention: np.ndarray, boxes: np.ndarray, answer: np.ndarray, true_boxes: np.ndarray) -> Overlap:
    """Of q questions about one image.

    Args:
        attention: (q, R) shares of the regions; boxes: (R, 4) where the model has them.
        answer: (q, R) bool regions that the answer speaks of, each with a box in `true_boxes`, (R, 4); at least one each.
    """
    ours, theirs = area_masks(boxes).astype(np.float32), area_masks(true_boxes).astype(np.float32)
    seen = (looked_at(attention).astype(np.float32) @ ours) > 0
    truth = (answer.astype(np.float32) @ theirs) > 0
    both, either = (seen & truth).sum(1), (seen | truth).sum(1)
    top = boxes[attention.argmax(1)]
    column, row = (np.clip(((top[:, i] + top[:, i + 2]) / 2 * RASTER).astype(int), 0, RASTER - 1) for i in (0, 1))
    return Overlap(
        iou=_share(both, either),
        iop=_share(both, seen.sum(1)),
        iot=_share(both, truth.sum(1)),
        hit=truth[np.arange(len(truth)), row * RASTER + column],
    )


def box_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(..., 4) pairs of boxes -> (...) intersection over union; 0 where both are empty."""
    low, high = np.maximum(boxes[..., :2], others[..., :2]), np.minimum(boxes[..., 2:], others[..., 2:])
    both = (high - low).clip(0).prod(-1)
    areas = sum((one[..., 2:] - one[..., :2]).clip(0).prod(-1) for one in (boxes, others))
    return _share(both, areas - both)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(np.shape(part)), where=np.asarray(whole) > 0)
