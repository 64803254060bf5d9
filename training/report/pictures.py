"""Films with what the model looked at, for the page of one's own machine: `evaluate.py --with_images`."""

from __future__ import annotations

import base64
import io
from html import escape

import numpy as np
from PIL import Image

from data.label_space import HEADS, QUESTION_TYPES, REGIONS, Head
from training.evaluation import Evaluation
from training.predictions import Predictions
from training.report.details import names_of, right_answers, worst_errors
from training.report.grounding import region_boxes
from training.scoring.grounding import looked_at
from utils.charts import CAUTION, GOOD, MODEL

MOST = 8
"""Surest errors, and as many right answers"""
SIDE = 320
"""Longer side of a shown film"""


def pictures(evaluation: Evaluation, answered: Predictions) -> str:
    """HTML figures: the film, the boxes that the answer attends to (blue, the more attention the stronger) and the answer's."""
    questions, looks = evaluation.questions, evaluation.looks
    wrong = [error["row"] for error in worst_errors(answered)[:MOST]]
    rng = np.random.default_rng(0)
    right = rng.permutation(np.flatnonzero(right_answers(answered)))[:MOST].tolist()
    note = (
        '<p class="banner">These films and questions are credentialed data: this file must stay where the data are.</p>'
        if questions.index.is_credentialed
        else ""
    )
    legend = (
        f'<p class="small soft"><span style="color:{MODEL}">■</span> attended regions where the model has them, '
        f"<span style=\"color:{GOOD}\">■</span> the answer's regions by the report's graph.</p>"
    )
    figures = []
    for title, positions in (("Surest errors", wrong), ("Right answers, drawn at random", right)):
        shown = "".join(_figure(evaluation, answered, position, looks is not None) for position in positions)
        figures.append(f'<h3>{title}</h3><div class="grid">{shown}</div>')
    return note + legend + "".join(figures)


def _figure(evaluation: Evaluation, answered: Predictions, position: int, has_looks: bool) -> str:
    questions, index = evaluation.questions, evaluation.questions.index
    row = int(questions.image[position])
    film = Image.fromarray(index.pixels[row])
    film.thumbnail((SIDE, SIDE))
    width, height = film.size
    buffer = io.BytesIO()
    film.save(buffer, "JPEG", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode()
    parts = [f'<image href="data:image/jpeg;base64,{data}" width="{width}" height="{height}"/>']
    boxes, there = region_boxes(index, np.array([row]))
    mask = int(index.questions["regions"][questions.rows[position]])
    for region in range(len(REGIONS)):
        if mask >> region & 1 and there[0, region]:
            parts.append(_box(boxes[0, region], width, height, GOOD, 1.0, REGIONS[region]))
    if has_looks:
        attention = evaluation.looks.attention[position]
        own = evaluation.looks.boxes[np.searchsorted(evaluation.looks.images, row)]
        for region in np.flatnonzero(looked_at(attention[None])[0]):
            share = float(attention[region])
            parts.append(_box(own[region], width, height, MODEL, 0.4 + 0.6 * share, f"{REGIONS[region]} {share:.2f}"))
    head = list(HEADS)[questions.head[position]]
    place = questions.place[position]
    said, truth = (names_of(head, values[head][place]) for values in (answered.predictions, _targets(answered)))
    colour = GOOD if said == truth else CAUTION
    caption = (
        f"<b>{escape(index.text(questions.text[position]))}</b><br>{escape(said)} "
        f'<span style="color:{colour}">(truth: {escape(truth)})</span><br>'
        f'<span class="small soft">{QUESTION_TYPES[questions.type[position]].name}</span>'
    )
    svg = f'<svg viewBox="0 0 {width} {height}" style="max-width:{width}px" role="img" aria-label="film">{"".join(parts)}</svg>'
    return f'<figure style="margin:0">{svg}<figcaption>{caption}</figcaption></figure>'


def _targets(answered: Predictions) -> dict[Head, np.ndarray]:
    return {head: answered.questions.targets(head) for head in HEADS}


def _box(box: np.ndarray, width: int, height: int, colour: str, strength: float, title: str) -> str:
    x1, y1, x2, y2 = (float(v) for v in box * [width, height, width, height])
    return (
        f'<rect x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}" fill="none" stroke="{colour}" '
        f'stroke-width="2" stroke-opacity="{strength:.2f}"><title>{escape(title)}</title></rect>'
    )
