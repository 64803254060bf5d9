"""Images: decode, orient, resize once, store; and the one conversion of boxes between image frames.

Coordinates of boxes are continuous: x1 y1 x2 y2 in [0, 1] of a frame, origin top left. `Frame` maps the original image to
the square model input, with or without augmentation, for pixels and boxes alike.
"""

from __future__ import annotations

import io
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from utils.errors import DataError

MAX_PIXELS = 100_000_000
"""Larger images are refused: the largest chest films have about 20 million pixels."""
MAX_BYTES = 2**28
MIN_SIDE = 16
"""Smaller images are refused: they stand in for something that was not there."""

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
_SCAN, _END = b"\xff\xda", b"\xff\xd9"
"""Markers in a JPEG: here pixels begin; here the image ends. Neither occurs among the pixels."""
_PNG_END = b"IEND\xaeB`\x82"
"""The last chunk of a PNG, which is empty, with its checksum."""
_GREY_MODES = {"L", "RGB", "RGBA", "LA", "P", "CMYK", "YCbCr", "1"}


def decode(path: Path, shorter_side: int = 0) -> tuple[np.ndarray, int, int]:
    """Decode an image file completely.

    Args:
        path: JPEG or PNG, 8 bit, whatever its name ends with; colour becomes luminance, alpha is ignored, EXIF
            orientation is applied.
        shorter_side: resize so that the shorter side has this many pixels (never enlarging); 0 keeps the size.
    Returns:
        pixels (h, w) uint8, and width and height of the original after orientation.
    Raises:
        DataError: missing, damaged, not an image, not 8 bit, too large or too small; names the file and the reason. The
            `__cause__` of a missing file is a FileNotFoundError.
    """
    try:
        # bytes first: Pillow opens lazily, and a file that vanishes half-way would be reported as a broken image
        data = _read(path)
        _check_whole(data)
        with _open(data) as image:
            return _to_grey(image, shorter_side)
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"image {path}: not a JPEG or PNG image ({len(data)} bytes)") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"image {path}: more than {MAX_PIXELS:,} pixels") from error
    except Exception as error:  # damaged bytes make decoders raise anything
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"image {path}: {reason}") from error


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_BYTES:
            raise ValueError(f"{size:,} bytes are more than {MAX_BYTES:,}")
        return file.read()


def _open(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))


def _check_whole(data: bytes) -> None:
    """An error for damage and loss that Pillow decodes without a word."""
    if data.startswith(_JPEG) and data.rfind(_END) < data.rfind(_SCAN):
        raise ValueError("truncated: the end of the JPEG is missing")
    if data.startswith(_PNG):
        with _open(data) as image:
            image.verify()  # the checksums
        if _PNG_END not in data:
            raise ValueError("truncated: the end of the PNG is missing")
        if data[24] > 8:
            raise ValueError(f"{data[24]} bits a channel are not 8; convert it with an explicit window first")


def _to_grey(image: Image.Image, shorter_side: int) -> tuple[np.ndarray, int, int]:
    if image.mode not in _GREY_MODES:
        # `.convert("L")` would saturate 16-bit values silently
        raise ValueError(f"pixel mode {image.mode} is not 8 bit; convert it with an explicit window first")
    if getattr(image, "is_animated", False):
        raise ValueError(f"holds {image.n_frames} pictures: which one is meant is not known")
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width}x{height} pixels are more than {MAX_PIXELS:,}")
    if min(width, height) < MIN_SIDE:
        raise ValueError(f"{width}x{height} pixels are no film")
    turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    if shorter_side:
        # JPEG can be decoded at 1/2, 1/4, 1/8; twice the target keeps the resampling below free of aliasing
        image.draft("L", (2 * shorter_side, 2 * shorter_side))
    image = ImageOps.exif_transpose(image).convert("L")
    if turned:
        width, height = height, width
    if shorter_side and shorter_side < min(width, height):
        scale = shorter_side / min(width, height)
        image = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
    return np.asarray(image), width, height


@dataclass(frozen=True)
class Augmentation:
    """Random change of one visit of an image. Never mirrored: sides would swap."""

    degrees: float = 0.0
    scale: float = 1.0
    shift_x: float = 0.0
    """of the square's side, to the right"""
    shift_y: float = 0.0
    contrast: float = 1.0
    brightness: float = 0.0
    """of the full range"""

    @staticmethod
    def draw(rng: np.random.Generator, degrees: float, scale: float, shift: float, intensity: float) -> Augmentation:
        """A random augmentation; each argument is the largest deviation."""
        u = rng.uniform(-1, 1, size=6)
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
    """Letter-boxing of a w×h image into a square, then an optional augmentation, as one affine map.

    `matrix` (2, 3) takes a point of the original frame ([0, 1] of width, [0, 1] of height) to the square's frame ([0, 1]²).
    Nothing is cropped without augmentation: the longer side fills the square, the shorter one is centred.
    """

    matrix: np.ndarray

    @staticmethod
    def letterbox(width: int, height: int, augmentation: Augmentation | None = None) -> Frame:
        longer = max(width, height)
        box = np.array(
            [[width / longer, 0, 0.5 - 0.5 * width / longer], [0, height / longer, 0.5 - 0.5 * height / longer]]
        )
        if augmentation is None:
            return Frame(box)
        angle = math.radians(augmentation.degrees)
        c, s = math.cos(angle) * augmentation.scale, math.sin(angle) * augmentation.scale
        # about the centre of the square
        turn = np.array(
            [
                [c, -s, 0.5 - 0.5 * c + 0.5 * s + augmentation.shift_x],
                [s, c, 0.5 - 0.5 * s - 0.5 * c + augmentation.shift_y],
            ]
        )
        return Frame(turn @ np.vstack([box, [0, 0, 1]]))

    def boxes_in(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (n, 4) of the original frame -> of the square's frame, clipped to it."""
        return _map_boxes(self.matrix, boxes).clip(0, 1)

    def boxes_out(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (n, 4) of the square's frame -> of the original frame, clipped to it."""
        linear = np.linalg.inv(self.matrix[:, :2])
        back = np.hstack([linear, -linear @ self.matrix[:, 2:]])
        return _map_boxes(back, boxes).clip(0, 1)

    def render(self, pixels: np.ndarray, size: int) -> np.ndarray:
        """Pixels (h, w) uint8 of the whole image -> (size, size) uint8; black outside the image."""
        height, width = pixels.shape
        linear = np.linalg.inv(self.matrix[:, :2])
        offset = -linear @ self.matrix[:, 2]
        to_source = np.array([width, height])
        rows = linear * to_source[:, None] / size
        moved = offset * to_source
        image = Image.fromarray(pixels)
        shrink = 1 / (abs(np.linalg.det(rows)) ** 0.5)
        if shrink < 0.6:  # bilinear sampling alone would alias: average blocks first
            factor = round(1 / shrink)
            image = image.reduce(factor)
            rows = rows * (np.array(image.size) / to_source)[:, None]
            moved = moved * (np.array(image.size) / to_source)
        coefficients = (*rows[0], moved[0], *rows[1], moved[1])
        return np.asarray(
            image.transform((size, size), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
        )


def _map_boxes(matrix: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """The upright boxes around the mapped corners; (n, 4) -> (n, 4)."""
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    x = boxes[:, [0, 2, 0, 2]]
    y = boxes[:, [1, 1, 3, 3]]
    u = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]
    v = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]
    return np.stack([u.min(1), v.min(1), u.max(1), v.max(1)], axis=1)


def adjust_intensity(pixels: np.ndarray, augmentation: Augmentation) -> np.ndarray:
    """Contrast about the middle grey, then brightness; uint8 -> uint8."""
    levels = (np.arange(256) - 127.5) * augmentation.contrast + 127.5 + 255 * augmentation.brightness
    return levels.clip(0, 255).astype(np.uint8)[pixels]


class ImageStore:
    """Images of different sizes one behind the other in one memory-mapped file of uint8. Rows may share pixels."""

    def __init__(self, path: Path, offsets: np.ndarray, widths: np.ndarray, heights: np.ndarray):
        ends = offsets.astype(np.int64) + widths.astype(np.int64) * heights.astype(np.int64)
        expected = int(ends.max(initial=0))
        actual = os.path.getsize(path) if path.exists() else -1
        if actual != expected:
            raise DataError(
                f"image store {path}: {actual} bytes instead of {expected}; delete the index and build it again"
            )
        self._pixels = np.memmap(path, dtype=np.uint8, mode="r") if expected else np.zeros(0, np.uint8)
        self._offsets, self._widths, self._heights = offsets, widths, heights

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, row: int) -> np.ndarray:
        """Pixels (h, w) uint8 of image `row`, without copying."""
        start, h, w = int(self._offsets[row]), int(self._heights[row]), int(self._widths[row])
        return self._pixels[start : start + h * w].reshape(h, w)
