"""Pictures of a map over a film: the film in grey, the map in colour on it, a legend below. With Pillow alone.

Colours are those of "inferno" (Smith and van der Walt 2015, CC0): lightness rises evenly with the value, also for eyes that see
no red or green and on a grey print. Where the map is 0 the film is untouched.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont

INFERNO = (
    "000004 0d0829 280b53 470b6a 65156e 82206c 9f2a63 bc3754 d44842 e8602d f57d15 fc9f07 fac228 f3e55d fcffa4".split()
)
"""Colours at equal distances from 0 to 1"""
LONGEST_SIDE = 1024
"""Pixels of a picture; larger films are shown smaller"""
SHORTEST_SIDE = 256
"""Smaller films are shown larger, so that the legend can be read"""
OPACITY = 0.65
"""Of the colour where the map is 1"""
LEGEND, MARGIN, BAR = 64, 10, 12
"""Heights of the legend, of its margin and of its colour bar, in pixels"""
BACKGROUND, INK = (20, 20, 24), (235, 235, 235)


def colours(values: np.ndarray) -> np.ndarray:
    """(...) numbers in [0, 1] -> (..., 3) uint8; what lies outside is clipped."""
    table = np.array([[int(code[i : i + 2], 16) for i in (0, 2, 4)] for code in INFERNO], dtype=np.float64)
    place = np.clip(values, 0, 1) * (len(table) - 1)
    before = np.minimum(place.astype(np.int64), len(table) - 2)
    rest = (place - before)[..., None]
    return np.rint(table[before] * (1 - rest) + table[before + 1] * rest).astype(np.uint8)


def shown_size(width: int, height: int) -> tuple[int, int]:
    """Width and height in pixels that a film of this size is shown with: its own aspect, within the limits above."""
    scale = min(1.0, LONGEST_SIDE / max(width, height))
    scale = max(scale, min(SHORTEST_SIDE / min(width, height), LONGEST_SIDE / max(width, height)))
    return max(1, round(width * scale)), max(1, round(height * scale))


def overlay(film: np.ndarray, values: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """The map on the film.

    Args:
        film: (h, w) uint8.
        values: (H, W) in [0, 1] over the same film; rows and columns may be of another number.
        size: width and height of the picture.
    Returns:
        an RGB picture of this size.
    """
    grey = np.asarray(Image.fromarray(film).resize(size, Image.Resampling.BICUBIC), dtype=np.float32)[..., None]
    levels = Image.fromarray(np.asarray(values, dtype=np.float32)).resize(size, Image.Resampling.BILINEAR)
    levels = np.asarray(levels).clip(0, 1)
    opacity = OPACITY * levels[..., None]
    return Image.fromarray(np.rint(grey * (1 - opacity) + colours(levels) * opacity).astype(np.uint8))


def with_legend(picture: Image.Image, lines: tuple[str, str], ends: tuple[str, str]) -> Image.Image:
    """The picture with two lines of text below, and a colour bar with what its ends mean. Long lines are set smaller."""
    width = max(picture.width, SHORTEST_SIDE)
    page = Image.new("RGB", (width, picture.height + LEGEND + BAR + MARGIN), BACKGROUND)
    page.paste(picture)
    draw = ImageDraw.Draw(page)
    top = picture.height + MARGIN // 2
    for number, line in enumerate(lines):
        draw.text((MARGIN, top + 18 * number), line, fill=INK, font=_font(draw, line, width - 2 * MARGIN))
    top += 40
    bar = colours(np.linspace(0, 1, width - 2 * MARGIN))
    page.paste(Image.fromarray(np.broadcast_to(bar, (BAR, *bar.shape)).copy()), (MARGIN, top))
    draw.text((MARGIN, top + BAR + 2), ends[0], fill=INK, font=_font(draw, ends[0], width // 2))
    right = _font(draw, ends[1], width // 2)
    draw.text((width - MARGIN, top + BAR + 2), ends[1], fill=INK, font=right, anchor="ra")
    return page


def _font(draw: ImageDraw.ImageDraw, text: str, width: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """The largest one with which a text is not wider than `width`."""
    sizes = range(14, 6, -1)
    fonts = (ImageFont.load_default(size) for size in sizes)
    return next(
        (font for font in fonts if draw.textlength(text, font=font) <= width), ImageFont.load_default(sizes[-1])
    )


def png(picture: Image.Image) -> bytes:
    """A PNG file, without anything beside its pixels."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
