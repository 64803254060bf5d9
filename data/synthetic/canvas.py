"""Soft shapes on a grid: polygons, lines and noise as float arrays, drawn with Pillow in pixel coordinates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from data.synthetic.anatomy import Pose

_SOFT = 1.6
"""Blur in units above which the shape of the kernel can be seen."""


class Canvas:
    """Draws frame shapes into (height, width) float32 arrays with values in [0, 1]."""

    def __init__(self, pose: Pose):
        self.pose = pose
        self.size = (pose.width, pose.height)
        self.unit = pose.half_width / 100
        """Pixels of one hundredth of the half chest width: the measure of line widths and blurs."""

    def fill(self, outlines: Iterable[np.ndarray], blur: float = 0.8, values: Sequence[float] = ()) -> np.ndarray:
        """Mask of filled outlines (later ones on top), of brightness 1 or `values`, softened by `blur` units."""
        image = Image.new("L", self.size, 0)
        draw = ImageDraw.Draw(image)
        for i, points in enumerate(self._points(list(outlines))):
            draw.polygon(points, fill=int(255 * values[i]) if values else 255)
        return self._soft(image, blur)

    def lines(self, paths: Sequence[tuple[np.ndarray, float, float]], blur: float = 0.4) -> np.ndarray:
        """Mask of polylines: (frame points, width in units, brightness in [0, 1]); later ones lie on top."""
        image = Image.new("L", self.size, 0)
        draw = ImageDraw.Draw(image)
        for points, (_, width, value) in zip(self._points([path[0] for path in paths]), paths, strict=True):
            draw.line(points, fill=int(255 * value), width=max(1, round(width * self.unit)))
        return self._soft(image, blur)

    def blob(self, x: float, y: float, rx: float, ry: float) -> np.ndarray:
        """exp(-d^2) around a frame point; the radii are in units of x (so that a circle is round in the film)."""
        pose = self.pose
        cx, cy = pose.pixels(np.array([[x, y]]))[0]
        dx = ((np.arange(pose.width, dtype=np.float32) - np.float32(cx)) / np.float32(rx * pose.half_width)) ** 2
        dy = ((np.arange(pose.height, dtype=np.float32) - np.float32(cy)) / np.float32(ry * pose.half_width)) ** 2
        return np.exp(-dy)[:, None] * np.exp(-dx)[None, :]

    def noise(self, rng: np.random.Generator, grain: float) -> np.ndarray:
        """Smooth noise with standard deviation about 1 and a grain of `grain` units."""
        cell = max(1.0, grain * self.unit)
        shape = (max(2, round(self.size[1] / cell) + 1), max(2, round(self.size[0] / cell) + 1))
        coarse = rng.standard_normal(shape, dtype=np.float32)
        return self.enlarge(coarse)

    def enlarge(self, array: np.ndarray) -> np.ndarray:
        """A coarser float array at the size of this canvas."""
        return np.asarray(Image.fromarray(array).resize(self.size, Image.Resampling.BICUBIC))

    def _points(self, outlines: list[np.ndarray]) -> list[list[float]]:
        """Pixel coordinates of many outlines, each as a flat list; one transformation for all, because calls cost."""
        pixels = self.pose.pixels(np.concatenate(outlines)) if outlines else np.zeros((0, 2))
        ends = np.cumsum([len(outline) for outline in outlines])[:-1]
        return [part.ravel().tolist() for part in np.split(pixels, ends)] if outlines else []

    def _soft(self, image: Image.Image, blur: float) -> np.ndarray:
        radius = blur * self.unit
        # A box costs a third; 1.6 of its radii look as soft.
        kernel = ImageFilter.GaussianBlur(radius) if blur > _SOFT else ImageFilter.BoxBlur(1.6 * radius)
        return np.asarray(image.filter(kernel), dtype=np.float32) * np.float32(1 / 255)
