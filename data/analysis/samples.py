"""Films with their regions' boxes and the study's questions, for a page that stays on this machine (`--visualize_samples`)."""

from __future__ import annotations

import base64
import io
from html import escape

import numpy as np
from PIL import Image, ImageOps

from data.analysis.questions import target_words
from data.index import Index
from data.label_space import HEADS, QUESTION_TYPES, REGIONS
from utils.charts import GOOD, MODEL
from utils.page import banner, html_table

SIDE = 420
"""Longer side of a shown film in pixels"""
QUESTIONS = 25
"""Most questions that are shown of a study"""


def samples(index: Index, number: int, seed: int = 0) -> str:
    """HTML figures of random studies: the canonical film, the report's boxes, and questions with their targets."""
    studies = len(index.studies["split"])
    chosen = np.sort(np.random.default_rng(seed).permutation(studies)[:number])
    warning = (
        ""
        if not index.is_credentialed
        else banner("These films and questions are credentialed data: this file must stay where the data are.")
    )
    return warning + "".join(_study(index, int(study)) for study in chosen)


def _study(index: Index, study: int) -> str:
    first = int(index.studies["question_start"][study])
    rows = np.arange(first, first + int(index.studies["question_count"][study]))[:QUESTIONS]
    columns = {name: index.questions[name][rows] for name in ("text", "type", "head", "target")}
    body = [
        [index.text(text), target_words(list(HEADS)[head], int(target)), QUESTION_TYPES[kind].name]
        for text, kind, head, target in zip(*columns.values(), strict=True)
    ]
    table = html_table(["question", "target", "type"], body, text={0, 1})
    film = film_with_boxes(index, int(index.studies["image_start"][study]))
    return f'<div class="grid"><div>{film}</div><div>{table}</div></div>'


def film_with_boxes(index: Index, row: int) -> str:
    """The image `row` as SVG with the boxes of its regions, each of which says its name."""
    film = Image.fromarray(index.pixels[row])
    film = ImageOps.contain(film, (SIDE, SIDE))
    width, height = film.size
    buffer = io.BytesIO()
    film.save(buffer, "JPEG", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode()
    parts = [f'<image href="data:image/jpeg;base64,{data}" width="{width}" height="{height}"/>']
    start = int(index.images["box_start"][row])
    for place in range(start, start + int(index.images["box_count"][row])):
        x1, y1, x2, y2 = (float(v) for v in index.boxes["box"][place] * [width, height, width, height])
        name = REGIONS[index.boxes["region"][place]]
        colour = GOOD if name.startswith("left") else MODEL
        parts.append(
            f'<rect x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}" fill="none" stroke="{colour}" '
            f'stroke-width="1.5"><title>{escape(name)}</title></rect>'
        )
    return f'<svg viewBox="0 0 {width} {height}" style="max-width:{width}px" role="img" aria-label="film">{"".join(parts)}</svg>'
