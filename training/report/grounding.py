"""The part of the report that asks whether the model looks where the answer is."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from data.index import Index
from data.label_space import REGIONS
from data.order import ranges
from training.evaluation import Looks
from training.predictions import Predictions, QuestionSet
from training.report.details import right_answers
from training.report.groups import GROUPS, members_of
from training.report.scorer import Scorer
from training.scoring.grounding import Overlap, box_overlap, overlap

IOU_STEPS = {"iou_at_30": 0.3, "iou_at_50": 0.5}
RIGHT_BOX = 0.3
"""IoU from which a box is right, as the data set's authors have it"""
NO_ATTENTION = "not computed: --compute_attention"
NO_NODES = "the model reads no scene graph, so that it looks at no region"


def grounding(scorer: Scorer, looks: Looks, answered: Predictions) -> dict:
    """`questions[group]`: measures of the boxes that answers look at, with intervals; `regions[name]`: of predicted boxes.

    Only questions whose answer speaks of a region with a box of its own in the image: `all` and each column of the report. A
    region that the release gives several boxes has the smallest box around them, as the index holds it.
    """
    questions = answered.questions
    boxes, has_box = region_boxes(questions.index, looks.images)
    position, measured = _measured(questions, looks, boxes, has_box)
    right = right_answers(answered)[position]
    numbers = _numbers(measured) | {"right_and_box_right": right & (measured.iou >= RIGHT_BOX)}
    groups = {"all": np.ones(len(position), dtype=bool)}
    groups |= {
        name: np.isin(position, questions.of(head)[members_of(questions, name)]) for name, head in GROUPS.items()
    }
    table = {}
    for name, chosen in groups.items():
        values = {metric: scorer.mean(position[chosen], value[chosen]) for metric, value in numbers.items()}
        table[name] = {"n": int(chosen.sum())} | {metric: one.as_json() for metric, one in values.items()}
    return {"questions": table, "regions": _regions(looks, boxes, has_box)}


def _numbers(measured: Overlap) -> dict[str, np.ndarray]:
    """What is averaged."""
    return {
        "mean_iou": measured.iou,
        "mean_iop": measured.iop,
        "mean_iot": measured.iot,
        **{name: measured.iou >= least for name, least in IOU_STEPS.items()},
        "pointing": measured.hit,
    }


def region_boxes(index: Index, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The report's boxes of image rows (m,): (m, 26, 4) in [0, 1] of the original, and (m, 26) whether there is one."""
    rows, image = ranges(index.images["box_start"][images], index.images["box_count"][images])
    boxes = np.zeros((len(images), len(REGIONS), 4), dtype=np.float32)
    there = np.zeros(boxes.shape[:2], dtype=bool)
    region = index.boxes["region"][rows]
    boxes[image, region], there[image, region] = index.boxes["box"][rows], True
    return boxes, there


def _measured(
    questions: QuestionSet, looks: Looks, boxes: np.ndarray, has_box: np.ndarray
) -> tuple[np.ndarray, Overlap]:
    """Positions of the questions that can be measured, and their overlaps."""
    image = np.searchsorted(looks.images, questions.image)
    mask = questions.index.questions["regions"][questions.rows].astype(np.int64)
    answer = (mask[:, None] >> np.arange(len(REGIONS)) & 1).astype(bool) & has_box[image]
    usable = np.flatnonzero(answer.any(1))
    usable = usable[np.argsort(image[usable], kind="stable")]
    parts = [
        overlap(looks.attention[some], looks.boxes[place], answer[some], boxes[place])
        for place, some in _by_image(image, usable)
    ]
    columns = ("iou", "iop", "iot", "hit")
    joined = {
        name: np.concatenate([getattr(part, name) for part in parts]) if parts else np.zeros(0) for name in columns
    }
    return usable, Overlap(**joined)


def _by_image(image: np.ndarray, positions: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Positions, which are sorted by image, of one image after the other."""
    for some in np.split(positions, np.flatnonzero(np.diff(image[positions])) + 1):
        if len(some):
            yield int(image[some[0]]), some


def _regions(looks: Looks, boxes: np.ndarray, has_box: np.ndarray) -> dict[str, dict[str, float | int | None]]:
    """Of the boxes of the predicted graph, all and by region: the same measures of pairs."""
    pairs = box_overlap(looks.boxes, boxes)
    numbers = _numbers(pairs)

    def means(chosen: np.ndarray) -> dict[str, float | int | None]:
        n = int(chosen.sum())
        return {"n": n} | {name: float(value[chosen].mean()) if n else None for name, value in numbers.items()}

    table = {"all": means(has_box)}
    for r, name in enumerate(REGIONS):
        own = np.zeros_like(has_box)
        own[:, r] = has_box[:, r]
        table[name] = means(own)
    return table
