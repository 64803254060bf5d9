"""Frames of an image, and the one conversion of pixels and boxes between them.

Coordinates are continuous, origin top left. Boxes are x1 y1 x2 y2 in [0, 1] of a frame. A `Frame` takes the original image
to the square that the model sees, with or without augmentation; pixels follow on the device, in `Pictures.render`.
Letters in shapes: B images, S side of the square.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data.images import ImageStore
from data.letterbox import Numbers, averaged, sides
from data.tensor_group import TensorGroup

BLACK = 0.0, -0.5
"""Contrast and brightness with which nothing is seen, not even where the image ends"""


@dataclass(frozen=True)
class Augmentation:
    """Random changes of visits of images: numbers, or (B,) of them. Never mirrored: sides would swap."""

    degrees: Numbers = 0.0
    scale: Numbers = 1.0
    shift_x: Numbers = 0.0
    """of the square's side, to the right"""
    shift_y: Numbers = 0.0
    contrast: Numbers = 1.0
    brightness: Numbers = 0.0
    """of the full range"""

    DRAWS = 6
    """Random numbers that one takes"""

    @staticmethod
    def draw(u: np.ndarray, degrees: float, scale: float, shift: float, intensity: float) -> Augmentation:
        """From `DRAWS` uniform numbers in [0, 1), or (DRAWS, B) of them; the others are the largest deviations."""
        u = 2 * np.asarray(u) - 1
        return Augmentation(
            degrees=u[0] * degrees,
            scale=1 + u[1] * scale,
            shift_x=u[2] * shift,
            shift_y=u[3] * shift,
            contrast=1 + 2 * u[4] * intensity,
            brightness=u[5] * intensity,
        )


@dataclass(frozen=True)
class Frame:
    """Letter-boxing of w×h images into a square, then an optional augmentation, as one affine map each.

    `matrix`, (2, 3) or (B, 2, 3), takes a point of the original frame ([0, 1] of width, [0, 1] of height) to the square's
    frame ([0, 1]²). Nothing is cropped without augmentation: the longer side fills the square, the shorter one is centred.
    """

    matrix: np.ndarray

    @staticmethod
    def letterbox(width: Numbers, height: Numbers, augmentation: Augmentation | None = None) -> Frame:
        x, y = sides(width, height)
        zero = np.zeros_like(x)
        box = _matrix([[x, zero, 0.5 - 0.5 * x], [zero, y, 0.5 - 0.5 * y]])
        if augmentation is None:
            return Frame(box)
        angle = np.radians(augmentation.degrees)
        c, s = np.cos(angle) * augmentation.scale, np.sin(angle) * augmentation.scale
        # about the centre of the square
        turn = _matrix(
            [
                [c, -s, 0.5 - 0.5 * c + 0.5 * s + augmentation.shift_x],
                [s, c, 0.5 - 0.5 * s - 0.5 * c + augmentation.shift_y],
            ]
        )
        return Frame(turn[..., :2] @ box + np.concatenate([np.zeros_like(turn[..., :2]), turn[..., 2:]], axis=-1))

    @property
    def inverse(self) -> np.ndarray:
        """(..., 2, 3): from the square's frame to the original."""
        linear = np.linalg.inv(self.matrix[..., :2])
        return np.concatenate([linear, -linear @ self.matrix[..., 2:]], axis=-1)

    def boxes_in(self, boxes: np.ndarray, of: np.ndarray | None = None) -> np.ndarray:
        """Boxes (n, 4) of the original frame -> of the square's frame, clipped to it; `of` (n,) is the image of each."""
        return _map_boxes(self.matrix if of is None else self.matrix[of], boxes).clip(0, 1)

    def boxes_out(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (n, 4) of the square's frame -> of the original frame, clipped to it."""
        return _map_boxes(self.inverse, boxes).clip(0, 1)


def _matrix(rows: list[list[np.ndarray]]) -> np.ndarray:
    """Nested entries, numbers or (B,) -> (2, 3) or (B, 2, 3)."""
    return np.stack([np.stack(np.broadcast_arrays(*row), axis=-1) for row in rows], axis=-2)


def _map_boxes(matrix: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """The upright boxes around the mapped corners; (n, 4) -> (n, 4)."""
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    x = boxes[:, [0, 2, 0, 2]]
    y = boxes[:, [1, 1, 3, 3]]
    (a, b, e), (c, d, f) = ([matrix[..., row, column, None] for column in range(3)] for row in range(2))
    u, v = a * x + b * y + e, c * x + d * y + f
    return np.stack([u.min(1), v.min(1), u.max(1), v.max(1)], axis=1)


@dataclass
class Pictures(TensorGroup):
    """B stored images as they travel to the device, and how each is laid into the square there."""

    pixels: Tensor
    """(B, H, W) uint8, each in the upper left corner"""
    extent: Tensor
    """(B, 2) float32 width and height in `pixels`"""
    to_source: Tensor
    """(B, 2, 3) float32, from a point of the square ([0, 1]²) to pixels"""
    levels: Tensor
    """(B, 2) float32 contrast about the middle grey, then brightness of the full range"""
    size: int
    """S"""

    @staticmethod
    def collect(
        store: ImageStore,
        rows: np.ndarray,
        frame: Frame,
        size: int,
        augmentation: Augmentation | None = None,
        blank: bool = False,
    ) -> Pictures:
        """Read the images `rows` (B,) of a store, to be shown as `frame` says; `blank`: to be shown black."""
        shrink = size * np.sqrt(np.abs(np.linalg.det(frame.matrix[:, :, :2])))
        images = [averaged(store[row], side) for row, side in zip(rows, shrink, strict=True)]
        extent = np.array([image.shape[::-1] for image in images], dtype=np.float64)
        width, height = extent.max(0).astype(int)
        pixels = np.empty((len(images), height, width), dtype=np.uint8)
        for place, image in zip(pixels, images, strict=True):
            high, wide = image.shape
            place[:high, :wide], place[:high, wide:], place[high:] = image, 0, 0
        levels = np.zeros((len(images), 2))
        levels[:, 0] = 1 if augmentation is None else augmentation.contrast
        levels[:, 1] = 0 if augmentation is None else augmentation.brightness
        if blank:
            levels[:] = BLACK
        to_source = frame.inverse * extent[:, :, None]
        return Pictures(torch.from_numpy(pixels), *map(_float, (extent, to_source, levels)), size)

    def __len__(self) -> int:
        return len(self.pixels)

    def render(self) -> Tensor:
        """(B, 1, S, S) float32 grey levels 0..255; black outside the image. Sampled bilinearly, where the tensors are."""
        high, wide = self.pixels.shape[1:]
        contrast, brightness = (level[:, None, None] for level in self.levels.unbind(1))
        shown = (self.pixels * contrast + ((1 - contrast) * 127.5 + 255 * brightness)).clamp_(0, 255)
        # levels change inside the image alone
        shown *= torch.arange(wide, device=shown.device) < self.extent[:, 0, None, None]
        shown *= torch.arange(high, device=shown.device)[:, None] < self.extent[:, 1, None, None]
        # PyTorch counts pixels from -1 to 1. A point's place is a sum of its column's and its row's share
        per_pixel = torch.stack([self.to_source.new_full((), 2 / side) for side in (wide, high)])
        of_column, of_row, offset = (self.to_source * per_pixel[:, None]).unbind(-1)
        centres = ((torch.arange(self.size, device=shown.device) + 0.5) / self.size)[:, None]
        rows = centres * of_row[:, None] + (offset[:, None] - 1)
        grid = (centres * of_column[:, None])[:, None] + rows[:, :, None]
        return F.grid_sample(shown[:, None], grid, align_corners=False)


def _float(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.float32))
