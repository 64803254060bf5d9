"""Does the model look where the answer is? Boxes of what it attends to against boxes of what the answer speaks of.

Boxes are of anatomical regions, not of lesions, as in the data set: several boxes are one area, their union, as its
authors compare them. Letters: R = 26 regions, q questions about one image, N cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SHARE_OF_TOP = 0.5
"""A region is looked at that has at least so much of what the most attended one has."""


@dataclass(frozen=True)
class Overlap:
    """Of some questions, or pairs of boxes; (q,) each."""

    iou: np.ndarray
    """intersection over union of both areas"""
    iop: np.ndarray
    """intersection over the area looked at"""
    iot: np.ndarray
    """intersection over the answer's area"""
    hit: np.ndarray
    """bool: the centre of the most attended region's box lies in the answer's area (pointing game; Zhang et al. 2018)"""


@dataclass(frozen=True)
class Cells:
    """The rectangles that the sides of some boxes cut the image into: a box is a set of whole cells, unions are exact."""

    x: np.ndarray
    y: np.ndarray
    """(columns + 1,), (rows + 1,) ascending sides"""

    @staticmethod
    def of(*boxes: np.ndarray) -> Cells:
        """Of (..., 4) boxes."""
        sides = np.concatenate([one.reshape(-1, 4) for one in boxes]).astype(np.float64)
        return Cells(np.unique(sides[:, [0, 2]]), np.unique(sides[:, [1, 3]]))

    @property
    def areas(self) -> np.ndarray:
        """(N,)"""
        return np.outer(np.diff(self.y), np.diff(self.x)).ravel()

    def inside(self, boxes: np.ndarray) -> np.ndarray:
        """(R, 4) -> (R, N) bool: the cells of each box; none of one without area."""
        boxes = boxes.astype(np.float64)
        x = (boxes[:, 0, None] <= self.x[:-1]) & (self.x[1:] <= boxes[:, 2, None])
        y = (boxes[:, 1, None] <= self.y[:-1]) & (self.y[1:] <= boxes[:, 3, None])
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
    cells = Cells.of(boxes, true_boxes)
    ours, theirs = (cells.inside(some).astype(np.float32) for some in (boxes, true_boxes))
    seen = (looked_at(attention).astype(np.float32) @ ours) > 0
    truth = (answer.astype(np.float32) @ theirs) > 0
    both, either = (seen & truth) @ cells.areas, (seen | truth) @ cells.areas
    hits = centre_inside(boxes[attention.argmax(1)][:, None], true_boxes[None])
    return Overlap(
        iou=_share(both, either),
        iop=_share(both, seen @ cells.areas),
        iot=_share(both, truth @ cells.areas),
        hit=(hits & answer).any(1),
    )


def centre_inside(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(..., 4) pairs of boxes -> (...) bool: does the centre of the first lie in the second?"""
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    return ((others[..., :2] <= centre) & (centre < others[..., 2:])).all(-1)


def box_overlap(boxes: np.ndarray, others: np.ndarray) -> Overlap:
    """(..., 4) pairs of boxes, the first looked at, the second true -> (...) each; 0 where an area is empty."""
    low, high = np.maximum(boxes[..., :2], others[..., :2]), np.minimum(boxes[..., 2:], others[..., 2:])
    both = (high - low).clip(0).prod(-1)
    ours, theirs = ((one[..., 2:] - one[..., :2]).clip(0).prod(-1) for one in (boxes, others))
    return Overlap(
        iou=_share(both, ours + theirs - both),
        iop=_share(both, ours),
        iot=_share(both, theirs),
        hit=centre_inside(boxes, others),
    )


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(np.shape(part)), where=np.asarray(whole) > 0)
