"""Boxes that answers attend to against boxes that answers speak of."""

import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.frames import Augmentation, Frame
from data.label_space import REGIONS
from training.scoring.grounding import box_overlap, looked_at, overlap

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
@given(st.lists(st.integers(0, 1000), min_size=20, max_size=20), st.integers(1, 7))
def test_unions_are_exact_wherever_the_sides_lie(numbers, which):
    """Against counting on a raster that all sides fall on."""
    corners = np.sort(np.reshape(numbers, (5, 2, 2)), axis=1)
    boxes = np.zeros((R, 4))
    boxes[:5] = corners.reshape(5, 4) / 1000
    truth = np.zeros((1, R), bool)
    truth[0, :3] = [which & 1, which & 2, which & 4]
    attention = np.zeros((1, R))
    attention[0, 3:5] = 0.5
    x = y = (np.arange(1000) + 0.5) / 1000

    def raster(rows):
        inside = [((b[0] <= x) & (x < b[2]))[None] & ((b[1] <= y) & (y < b[3]))[:, None] for b in boxes[rows]]
        return np.any(inside, axis=0)

    ours, theirs = raster([3, 4]), raster(np.flatnonzero(truth[0]))
    found = overlap(attention, boxes, truth, boxes)
    both, either = (ours & theirs).sum(), (ours | theirs).sum()
    for value, whole in ((found.iou, either), (found.iop, ours.sum()), (found.iot, theirs.sum())):
        assert value[0] == pytest.approx(both / whole if whole else 0, abs=1e-9)


def test_pairs_of_boxes_by_hand():
    found = box_overlap(np.array([[0, 0, 0.5, 0.5], [0, 0, 0, 0]]), np.array([[0.25, 0, 0.75, 0.5], [0, 0, 1, 1]]))
    np.testing.assert_allclose([found.iou[0], found.iop[0], found.iot[0]], [1 / 3, 0.5, 0.5])
    assert found.hit.tolist() == [True, True] and found.iou[1] == found.iop[1] == 0


def test_regions_with_half_of_the_top_share_are_looked_at():
    attention = shares(heart=0.5, aorta=0.25, spine=0.2)
    assert [REGIONS[r] for r in np.flatnonzero(looked_at(attention)[0])] == ["heart", "aorta"]


def test_boxes_survive_letter_box_and_crop_on_real_films(shared_dir):
    """Into the model's square and back, with radiologists' boxes: IoU at least 0.98, whatever the film's shape."""
    with (shared_dir / "real" / "nih-chestxray14" / "boxes.csv").open() as file:
        x, y, w, h = np.array([[float(row[name]) for name in "xywh"] for row in csv.DictReader(file)]).T / 1024
    boxes = np.stack([x, y, x + w, y + h], axis=1)
    assert len(boxes) >= 50
    for width, height in ((1024, 1024), (2544, 3056), (3056, 2544), (640, 2000)):
        for crop in (
            None,
            Augmentation(0.0, 1.3, 0.04, -0.05, 0.0, 0.0),
            Augmentation(0.0, 0.8, -0.05, 0.02, 0.0, 0.0),
        ):
            frame = Frame.letterbox(width, height, crop)
            window = frame.boxes_out(np.array([[0.0, 0.0, 1.0, 1.0]]))[0]
            seen = np.concatenate([np.maximum(boxes[:, :2], window[:2]), np.minimum(boxes[:, 2:], window[2:])], axis=1)
            seen = seen[(seen[:, 2:] > seen[:, :2]).all(1)]  # a crop may leave out all of a box
            assert len(seen) >= 0.9 * len(boxes)
            back = box_overlap(frame.boxes_out(frame.boxes_in(seen)), seen)
            assert back.iou.min() >= 0.98 and back.hit.all()
