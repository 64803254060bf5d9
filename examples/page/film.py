"""The film with the predicted regions, as SVG in the original's coordinates."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

from examples.page.evidence import Box, Picture, Region, Truth
from utils.overlays import OPACITY, colours

LONGEST_SIDE = 1024
"""Pixels that a film is shown with at most"""
LABEL_SHARE = 0.028
"""Height of a label as a share of the film's longer side"""
LETTER_SHARE = 0.64
"""Width of a letter as a share of its height, at most, in a bold sans serif font"""


def film_svg(
    picture: Picture, regions: Sequence[Region] = (), truth: Truth | None = None, layer: np.ndarray | None = None
) -> str:
    """The film; over it `layer`, a map of the whole film with (h, w) numbers in [0, 1], then boxes.

    Regions are drawn in groups of class `box-0`, `box-1`...: a style sheet lights them (see `views.STYLE`). Of `truth`
    the boxes of the regions that its answer speaks of are drawn.
    """
    width, height = picture.width, picture.height
    parts = [_image(_jpeg(picture.pixels), width, height, "film")]
    if layer is not None:
        parts.append(_image(_png(coloured(layer)), width, height, "map"))
    if truth is not None:
        boxes = [truth.boxes[name] for name in sorted(truth.regions) if name in truth.boxes]
        parts += [f'<rect class="truth" {_corners(box)}><title>in the report</title></rect>' for box in boxes]
    # large boxes first: a small one inside a large one stays within reach of the pointer
    order = sorted(range(len(regions)), key=lambda number: -_area(regions[number].box))
    parts += [_group(number, regions[number], width, height) for number in order]
    label = f"{picture.name}, {width} by {height} pixels, with {len(regions)} predicted regions"
    return (
        f'<svg class="film" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}" '
        f'style="aspect-ratio:{width}/{height}">{"".join(parts)}</svg>'
    )


def coloured(values: np.ndarray) -> np.ndarray:
    """(h, w) numbers in [0, 1] -> (h, w, 4) uint8 colours, clear where the map is 0."""
    opacity = np.rint(255 * OPACITY * np.clip(values, 0, 1)).astype(np.uint8)
    return np.concatenate([colours(values), opacity[..., None]], axis=-1)


def _group(number: int, region: Region, width: int, height: int) -> str:
    size = LABEL_SHARE * max(width, height)
    x1, y1, _, _ = region.box
    room = width - LETTER_SHARE * size * len(region.name)
    x, y = max(min(x1, room), 0), y1 - 0.3 * size if y1 > 1.4 * size else y1 + 1.1 * size
    return (
        f'<g class="region box-{number}" data-region="{number}"><rect {_corners(region.box)}>'
        f"<title>{escape(region.name)}</title></rect>"
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:.1f}">{escape(region.name)}</text></g>'
    )


def _corners(box: Box) -> str:
    x1, y1, x2, y2 = box
    return f'x="{x1:.1f}" y="{y1:.1f}" width="{max(x2 - x1, 0):.1f}" height="{max(y2 - y1, 0):.1f}"'


def _area(box: Box) -> float:
    return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)


def _image(data: str, width: int, height: int, kind: str) -> str:
    # pixels of a map are cells: they fill the film whatever their number
    return f'<image class="{kind}" href="{data}" width="{width}" height="{height}" preserveAspectRatio="none"/>'


def _jpeg(pixels: np.ndarray) -> str:
    film = Image.fromarray(pixels)
    film.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return _encoded(film, "jpeg", quality=90)


def _png(colours: np.ndarray) -> str:
    return _encoded(Image.fromarray(colours), "png")


def _encoded(image: Image.Image, kind: str, **options: int) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
