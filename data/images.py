"""Images: decode, orient, resize once, store. How they come before the model is the business of `data.frames`."""

from __future__ import annotations

import io
import mmap
import os
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import ExifTags, Image, UnidentifiedImageError

from data.dicom import decode_dicom, is_dicom
from utils.errors import DataError

MAX_PIXELS = 100_000_000
"""Larger images are refused: the largest chest films have about 20 million pixels."""
MAX_BYTES = 2**28
MIN_SIDE = 16
"""Smaller images are refused: they stand in for something that was not there."""

STORE_FILES = {"raw": "pixels.u8", "jpeg": "images.jpeg"}
STORE_QUALITY = 90
"""Of stored JPEGs. 60 NIH films at 224 pixels lose 1.4 grey levels (RMS) at 90; at 95 1.1, in 1.5 times the space."""

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
_SCAN, _END = b"\xff\xda", b"\xff\xd9"
"""Markers in a JPEG: here pixels begin; here the image ends. Neither occurs among the pixels."""
_PNG_END = b"IEND\xaeB`\x82"
"""The last chunk of a PNG, which is empty, with its checksum."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> how the stored picture is to be turned. `ImageOps.exif_transpose` refuses some embedded previews."""
_SIDES_CHANGE = {_TURNS[orientation] for orientation in (5, 6, 7, 8)}
_GREY_MODES = {"L", "RGB", "RGBA", "LA", "P", "CMYK", "YCbCr", "1"}


def decode(path: Path, shorter_side: int = 0) -> tuple[np.ndarray, int, int]:
    """Decode an image file completely.

    Args:
        path: JPEG or PNG, 8 bit, or DICOM, whatever its name ends with; colour becomes luminance, alpha is ignored, EXIF
            orientation is applied; of DICOM see `data.dicom`.
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
        if is_dicom(data):
            return _resized(decode_dicom(data, MAX_PIXELS), shorter_side)
        _check_whole(data)
        with _open(data) as image:
            return _to_grey(image, shorter_side)
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"image {path}: not a JPEG or PNG image ({len(data)} bytes), nor DICOM") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"image {path}: more than {MAX_PIXELS:,} pixels") from error
    except Exception as error:  # damaged bytes make decoders raise anything
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"image {path}: {reason}") from error


def from_array(pixels: np.ndarray, shorter_side: int = 0) -> tuple[np.ndarray, int, int]:
    """As `decode`, of an image that is in memory: (h, w) uint8 grey levels, or (h, w, 3) uint8 colours.

    DataError: another shape or type, too large or too small.
    """
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3):
        raise DataError(
            f"image array of shape {pixels.shape} and type {pixels.dtype}: must be (h, w) or (h, w, 3) uint8; bring other "
            "ranges to 0..255 with an explicit window first"
        )
    if pixels.shape[0] * pixels.shape[1] > MAX_PIXELS:
        raise DataError(f"image array: more than {MAX_PIXELS:,} pixels")
    try:
        return _resized(np.asarray(Image.fromarray(pixels).convert("L")), shorter_side)
    except ValueError as error:
        raise DataError(f"image array: {error}") from error


def _resized(pixels: np.ndarray, shorter_side: int) -> tuple[np.ndarray, int, int]:
    height, width = pixels.shape
    if min(width, height) < MIN_SIDE:
        raise ValueError(f"{width}x{height} pixels are no film")
    if 0 < shorter_side < min(width, height):
        scale = shorter_side / min(width, height)
        size = round(width * scale), round(height * scale)
        pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
    return pixels, width, height


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
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    if shorter_side:
        # JPEG can be decoded at 1/2, 1/4, 1/8; twice the target keeps the resampling below free of aliasing
        image.draft("L", (2 * shorter_side, 2 * shorter_side))
    decoded = round(width / image.size[0])  # 1, 2, 4 or 8
    image = image.convert("L")
    if shorter_side and shorter_side < min(width, height):
        scale = shorter_side / min(width, height)
        size = round(width * scale), round(height * scale)
        # the last column and row of a JPEG decoded at a part of its size reach beyond the film
        image = image.resize(size, Image.Resampling.BICUBIC, box=(0, 0, width / decoded, height / decoded))
    if turn is not None:
        image = image.transpose(turn)
    if turn in _SIDES_CHANGE:
        width, height = height, width
    return np.asarray(image), width, height


class ImageStore:
    """Images of different sizes one behind the other in one memory-mapped file. Rows may share an image.

    `kind` is `raw`, a byte a pixel, or `jpeg`, a grey JPEG each: a sixth of the space, lossy, and 0.14 to
    0.18 ms to decode at 224 pixels.
    """

    def __init__(
        self,
        folder: Path,
        kind: str,
        offsets: np.ndarray,
        lengths: np.ndarray,
        widths: np.ndarray,
        heights: np.ndarray,
    ):
        path = folder / STORE_FILES[kind]
        expected = int((offsets.astype(np.int64) + lengths.astype(np.int64)).max(initial=0))
        actual = os.path.getsize(path) if path.exists() else -1
        if actual != expected:
            raise DataError(
                f"image store {path}: {actual} bytes instead of {expected}; delete the index and build it again"
            )
        self.path, self.kind = path, kind
        # a plain array: slices of a memmap object cost more than the copying of small images
        self._map = _mapped(path) if expected else None
        self._bytes = np.frombuffer(self._map or b"", dtype=np.uint8)
        self._offsets, self._lengths, self._widths, self._heights = offsets, lengths, widths, heights

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, row: int) -> np.ndarray:
        """Pixels (h, w) uint8 of image `row`; of a raw store without copying, not to be written to."""
        start, h, w = int(self._offsets[row]), int(self._heights[row]), int(self._widths[row])
        data = self._bytes[start : start + int(self._lengths[row])]
        return data.reshape(h, w) if self.kind == "raw" else self._decoded(data, row)

    def stored(self, row: int) -> np.ndarray:
        """The bytes of image `row` as they are kept."""
        start = int(self._offsets[row])
        return self._bytes[start : start + int(self._lengths[row])]

    def let_go(self) -> None:
        """Give back the memory of images that were looked at; they are read again when they are asked for."""
        if self._map and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def _decoded(self, data: np.ndarray, row: int) -> np.ndarray:
        try:
            return simplejpeg.decode_jpeg(data, "GRAY")[..., 0]
        except ValueError as error:
            raise DataError(f"image store {self.path}: image {row} is damaged; build the index again") from error


def _mapped(path: Path) -> mmap.mmap:
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def encode(pixels: np.ndarray, kind: str) -> bytes:
    """Pixels (h, w) uint8 as an image store of this kind keeps them."""
    if kind == "raw":
        return pixels.tobytes()
    return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels)[..., None], STORE_QUALITY, "GRAY")


def as_stored(pixels: np.ndarray, kind: str) -> np.ndarray:
    """Pixels (h, w) uint8 as a training was given them: a store of JPEGs loses a little."""
    return pixels if kind == "raw" else decode_stored(encode(pixels, kind))


def decode_stored(data: bytes) -> np.ndarray:
    """Pixels (h, w) uint8 of what `encode` made of them for a store of JPEGs."""
    return simplejpeg.decode_jpeg(data, "GRAY")[..., 0]
