"""Boxes that answers attend to against boxes that answers speak of."""

import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.frames import Frame
from data.label_space import REGIONS
from training.scoring.grounding import area_masks, box_iou, looked_at, overlap

R = len(REGIONS)


def boxes_at(**named):
    boxes = np.zeros((R, 4))
    for name, box in named.items():
        boxes[REGIONS.index(name.replace("_", " "))] = box
    return boxes


def shares(**named):
    attention = np.zeros((1, R))
    for name, share in named.items():
        attention[0, REGIONS.index(name.replace("_", " "))] = share
    return attention


def chosen(*names):
    return np.isin(np.arange(R), [REGIONS.index(name) for name in names])[None]


def test_overlap_by_hand():
    ours = boxes_at(heart=(0, 0, 0.5, 0.5))
    truth = boxes_at(heart=(0.25, 0, 0.75, 0.5))
    found = overlap(shares(heart=1), ours, chosen("heart"), truth)
    assert found.iou[0] == pytest.approx(1 / 3) and found.iop[0] == found.iot[0] == pytest.approx(0.5)
    assert found.hit[0], "the centre (0.25, 0.25) lies just inside"


def test_several_regions_are_one_area():
    ours = boxes_at(left_lung=(0.5, 0, 1, 1), right_lung=(0, 0, 0.5, 1), heart=(0.4, 0.4, 0.6, 0.6))
    found = overlap(
        shares(left_lung=0.5, right_lung=0.4, heart=0.1), ours, chosen("left lung", "right lung", "heart"), ours
    )
    assert found.iou[0] == pytest.approx(1), "the heart lies inside both lungs and adds nothing"
    half = overlap(shares(left_lung=0.9, right_lung=0.1), ours, chosen("left lung", "right lung"), ours)
    assert half.iou[0] == pytest.approx(0.5) and half.iop[0] == 1 and half.iot[0] == pytest.approx(0.5)


def test_pointing_elsewhere_misses():
    ours = boxes_at(heart=(0.4, 0.4, 0.6, 0.6), spine=(0.9, 0.9, 1, 1))
    assert not overlap(shares(spine=1), ours, chosen("heart"), ours).hit[0]
    assert overlap(shares(spine=1), ours, chosen("heart"), ours).iou[0] == 0


@settings(max_examples=60)
@given(st.lists(st.integers(0, 160), min_size=8, max_size=8))
def test_the_raster_is_exact_for_boxes_on_its_grid(numbers):
    x = np.sort(np.reshape(numbers, (2, 2, 2)), axis=2) / 160
    boxes = x.transpose(0, 2, 1).reshape(2, 4)
    first, second = area_masks(boxes)
    exact = box_iou(boxes[0], boxes[1])
    union = (first | second).sum()
    assert (first & second).sum() / union == pytest.approx(exact) if union else exact == 0


def test_regions_with_half_of_the_top_share_are_looked_at():
    attention = shares(heart=0.5, aorta=0.25, spine=0.2)
    assert [REGIONS[r] for r in np.flatnonzero(looked_at(attention)[0])] == ["heart", "aorta"]


def test_boxes_survive_the_letter_box_on_real_films(shared_dir):
    """Into the model's square and back, with radiologists' boxes: IoU at least 0.98, whatever the film's shape."""
    with (shared_dir / "real" / "nih-chestxray14" / "boxes.csv").open() as file:
        x, y, w, h = np.array([[float(row[name]) for name in "xywh"] for row in csv.DictReader(file)]).T / 1024
    boxes = np.stack([x, y, x + w, y + h], axis=1)
    assert len(boxes) >= 50
    for width, height in ((1024, 1024), (2544, 3056), (3056, 2544), (640, 2000)):
        frame = Frame.letterbox(width, height)
        assert box_iou(boxes, frame.boxes_out(frame.boxes_in(boxes))).min() >= 0.98
