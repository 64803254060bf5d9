"""Image files as broken downloads, wrong conversions and unlucky disks leave them, each made from one good picture."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 96, 120


def film() -> np.ndarray:
    """(HEIGHT, WIDTH) uint8: a bright spot off the centre over noise, so that damage and turning show."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    spot = 150 * np.exp(-((x - 30) ** 2 + (y - 80) ** 2) / 400)
    noise = np.random.default_rng(0).integers(0, 40, (HEIGHT, WIDTH))
    return (spot + noise).astype(np.uint8)


def encoded(form: str, image: Image.Image | None = None, **options) -> bytes:
    """The film, or another picture, as a file of the form "JPEG", "PNG", "GIF" ..."""
    file = io.BytesIO()
    (image or Image.fromarray(film())).save(file, format=form, **options)
    return file.getvalue()


def jpeg() -> bytes:
    return encoded("JPEG", quality=95)


def png() -> bytes:
    return encoded("PNG")


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _deep_png(colour_type: int, channels: int) -> bytes:
    """A PNG with 16 bits a channel; Pillow itself writes only grey ones."""
    pixels = np.repeat(film()[..., None].astype(">u2") * 257, channels, axis=2)
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, colour_type, 0, 0, 0)
    parts = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(lines)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def _with_flipped_crc() -> bytes:
    data = bytearray(png())
    body = data.index(b"IDAT")
    (length,) = struct.unpack(">I", data[body - 4 : body])
    data[body + 4 + length] ^= 1
    return bytes(data)


def _jpeg_of_size(width: int, height: int) -> bytes:
    """The film's JPEG whose header claims another size."""
    data = bytearray(jpeg())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def _png_of_size(width: int, height: int) -> bytes:
    data = png()
    header = struct.pack(">II", width, height) + data[24:29]
    return data[:8] + _chunk(b"IHDR", header) + data[33:]


def _half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _zero_tail(data: bytes, share: float) -> bytes:
    zeros = int(len(data) * share)
    return data[:-zeros] + bytes(zeros)


def _with_thumbnail(data: bytes) -> bytes:
    """A JPEG with a small whole JPEG inside its header, as cameras write it."""
    segment = b"Exif\0\0" + encoded("JPEG", Image.fromarray(film()[:32, :32]))
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:]


def _frames(form: str) -> bytes:
    other = Image.fromarray(255 - film())
    return encoded(form, save_all=True, append_images=[other])


def _turned() -> Image.Image:
    """The film lying on its side, as a camera stores it with orientation 6."""
    return Image.fromarray(film()).transpose(Image.Transpose.ROTATE_90)


def _orientation(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


def _with_alpha(mode: str) -> Image.Image:
    image = Image.fromarray(film()).convert(mode)
    image.putalpha(Image.fromarray(255 - film()))
    return image


@dataclass(frozen=True)
class BadFile:
    """Damage of one kind: puts it in place of an image; and words of the message that names it."""

    put: Callable[[Path], object]
    reason: str
    kind: str = "image_unreadable"


def _content(make: Callable[[], bytes], reason: str) -> BadFile:
    return BadFile(lambda path: path.write_bytes(make()), reason)


NOT_AN_IMAGE = "not a JPEG or PNG image"
TOO_DEEP = "16 bits a channel"
BAD: dict[str, BadFile] = {
    "empty": _content(bytes, r"not a JPEG or PNG image \(0 bytes\)"),
    "random": _content(lambda: np.random.default_rng(1).bytes(5000), NOT_AN_IMAGE),
    "html": _content(lambda: b"<!DOCTYPE html><html><body>403 Forbidden</body></html>", NOT_AN_IMAGE),
    "gzip": _content(lambda: gzip.compress(jpeg(), mtime=0), NOT_AN_IMAGE),
    "zeros": _content(lambda: bytes(len(jpeg())), NOT_AN_IMAGE),
    "gif": _content(lambda: _frames("GIF"), NOT_AN_IMAGE),
    "tiff": _content(lambda: encoded("TIFF"), NOT_AN_IMAGE),
    "jpeg_header": _content(lambda: jpeg()[:100], "Truncated"),
    "jpeg_half": _content(lambda: _half(jpeg()), "truncated"),
    "jpeg_half_thumbnail": _content(lambda: _half(_with_thumbnail(jpeg())), "truncated"),
    "jpeg_no_end": _content(lambda: jpeg()[:-2], "truncated"),
    "jpeg_zero_tail": _content(lambda: _zero_tail(jpeg(), 0.2), "truncated"),
    "jpeg_short_zero_tail": _content(lambda: _zero_tail(jpeg(), 0.01), "truncated"),
    "jpeg_60000": _content(lambda: _jpeg_of_size(60_000, 60_000), "more than 100,000,000 pixels"),
    "jpeg_two": _content(lambda: _frames("MPO"), "holds 2 pictures"),
    "png_half": _content(lambda: _half(png()), "Truncated"),
    "png_no_end": _content(lambda: png()[:-12], "truncated"),
    "png_wrong_crc": _content(_with_flipped_crc, "checksum"),
    "png_60000": _content(lambda: _png_of_size(60_000, 60_000), "more than 100,000,000 pixels"),
    "png_grey16": _content(lambda: _deep_png(0, 1), TOO_DEEP),
    "png_rgb16": _content(lambda: _deep_png(2, 3), TOO_DEEP),
    "png_rgba16": _content(lambda: _deep_png(6, 4), TOO_DEEP),
    "png_frames": _content(lambda: _frames("PNG"), "holds 2 pictures"),
    "png_1x1": _content(lambda: encoded("PNG", Image.new("L", (1, 1))), "1x1 pixels are no film"),
    "folder": BadFile(Path.mkdir, "Is a directory"),
    "link_nowhere": BadFile(lambda path: path.symlink_to("nowhere"), "No such file", "image_missing"),
    "link_loop": BadFile(lambda path: path.symlink_to(path.name), "Too many levels of symbolic links"),
    "missing": BadFile(lambda path: None, "No such file", "image_missing"),
}

GOOD: dict[str, Callable[[], bytes]] = {
    "jpeg": jpeg,
    "jpeg_progressive": lambda: encoded("JPEG", quality=95, progressive=True),
    "jpeg_rgb": lambda: encoded("JPEG", Image.fromarray(film()).convert("RGB"), quality=95),
    "jpeg_cmyk": lambda: encoded("JPEG", Image.fromarray(film()).convert("RGB").convert("CMYK"), quality=95),
    "jpeg_turned": lambda: encoded("JPEG", _turned(), quality=95, exif=_orientation(6)),
    "jpeg_thumbnail": lambda: _with_thumbnail(jpeg()),
    "jpeg_padded": lambda: jpeg() + bytes(500),
    "png_named_jpg": png,
    "png_turned": lambda: encoded("PNG", _turned(), exif=_orientation(6)),
    "png_rgb": lambda: encoded("PNG", Image.fromarray(film()).convert("RGB")),
    "png_rgba": lambda: encoded("PNG", _with_alpha("RGBA")),
    "png_grey_alpha": lambda: encoded("PNG", _with_alpha("LA")),
    "png_palette": lambda: encoded("PNG", Image.fromarray(film()).convert("P")),
}
"""Unusual files that hold the film whole."""
