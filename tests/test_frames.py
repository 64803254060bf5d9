"""Letter-boxing, augmentation, rendering and boxes."""

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.frames import Augmentation, Frame, Pictures


def augmentation_of(seed, *most):
    return Augmentation.draw(np.random.default_rng(seed).random(Augmentation.DRAWS), *most)


def shown(pixels, frame, size, augmentation=None):
    """(size, size) grey levels of one image."""
    if augmentation is not None:
        augmentation = Augmentation(*(np.array([getattr(augmentation, f.name)]) for f in fields(augmentation)))
    return (
        Pictures.collect([pixels], np.array([0]), Frame(frame.matrix[None]), size, augmentation).render()[0, 0].numpy()
    )


sides = st.integers(40, 400)
unit = st.floats(0.02, 0.98)


@st.composite
def boxes(draw):
    x1, x2 = sorted((draw(unit), draw(unit)))
    y1, y2 = sorted((draw(unit), draw(unit)))
    return np.array([[x1, y1, x2 + 0.01, y2 + 0.01]])


@given(sides, sides, boxes())
def test_letterbox_keeps_every_corner_and_the_way_back(width, height, box):
    frame = Frame.letterbox(width, height)
    whole = frame.boxes_in(np.array([[0, 0, 1, 1]]))[0]
    assert whole.min() >= 0 and whole.max() <= 1
    assert max(whole[2] - whole[0], whole[3] - whole[1]) == pytest.approx(1)
    assert (whole[2] - whole[0]) / (whole[3] - whole[1]) == pytest.approx(width / height)
    np.testing.assert_allclose(frame.boxes_out(frame.boxes_in(box)), box, atol=1e-9)


def test_letterbox_by_hand():
    # 200x100: scaled by 1/200, a band of a quarter above and below
    frame = Frame.letterbox(200, 100)
    np.testing.assert_allclose(frame.boxes_in(np.array([[0.5, 0.0, 1.0, 0.5]])), [[0.5, 0.25, 1.0, 0.5]])


@given(sides, sides, boxes(), st.integers(0, 10_000))
def test_pixels_and_boxes_move_together(width, height, box, seed):
    """A white rectangle drawn at a box is found where the box goes, with and without augmentation."""
    box[:, 2:] = np.minimum(np.maximum(box[:, 2:], box[:, :2] + 0.2), 1)
    pixels = np.zeros((height, width), np.uint8)
    x1, y1, x2, y2 = (box[0] * [width, height, width, height]).round().astype(int)
    pixels[y1:y2, x1:x2] = 255
    augmentation = augmentation_of(seed, 5, 0.1, 0.05, 0) if seed % 2 else None
    frame = Frame.letterbox(width, height, augmentation)
    rendered = shown(pixels, frame, 128, augmentation)
    expected = frame.boxes_in(np.array([[x1, y1, x2, y2]]) / [width, height, width, height])[0] * 128
    rows, columns = np.nonzero(rendered > 127)
    if len(rows) and expected[2] - expected[0] > 4 and expected[3] - expected[1] > 4:
        found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        # a turned rectangle thins out at its corners
        np.testing.assert_allclose(found, expected, atol=6 if augmentation else 2)


def test_nothing_is_mirrored():
    pixels = np.zeros((100, 100), np.uint8)
    pixels[:, :30] = 255
    for seed in range(50):
        frame = Frame.letterbox(100, 100, augmentation_of(seed, 5, 0.1, 0.05, 0.1))
        rendered = shown(pixels, frame, 64)
        assert rendered[:, :32].mean() > rendered[:, 32:].mean()


def test_large_reduction_averages_instead_of_skipping():
    """A one-pixel checkerboard becomes its mean grey."""
    pixels = (np.indices((1024, 1024)).sum(0) % 2 * 255).astype(np.uint8)
    rendered = shown(pixels, Frame.letterbox(1024, 1024), 64)
    assert abs(rendered.astype(float) - 127.5).max() < 8


@given(st.integers(0, 1000))
def test_intensity_keeps_order_of_grey_values(seed):
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    augmentation = augmentation_of(seed, 0, 0, 0, 0.1)
    levels = shown(pixels, Frame.letterbox(16, 16), 16, augmentation).ravel()
    assert (np.diff(levels) >= 0).all()


def test_without_augmentation_an_image_of_the_right_size_is_left_as_it_is():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32)).astype(np.uint8)
    np.testing.assert_allclose(shown(pixels, Frame.letterbox(32, 32), 32), pixels, atol=1e-2)


def test_bands_beside_the_image_stay_black_whatever_its_brightness():
    pixels = np.full((20, 40), 100, np.uint8)
    rendered = shown(pixels, Frame.letterbox(40, 20), 40, Augmentation(brightness=0.1))
    np.testing.assert_allclose(rendered[11:29], 125.5, atol=1e-3)
    assert rendered[:10].max() < 0.01 and rendered[30:].max() < 0.01


@given(st.lists(st.tuples(sides, sides), min_size=1, max_size=4), st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_an_image_is_rendered_the_same_alone_and_beside_others(sizes, seed):
    rng = np.random.default_rng(seed)
    images = [rng.integers(0, 256, (h, w)).astype(np.uint8) for w, h in sizes]
    width, height = np.array(sizes).T
    augmentation = Augmentation.draw(rng.random((Augmentation.DRAWS, len(sizes))), 5, 0.1, 0.05, 0.1)
    frame = Frame.letterbox(width, height, augmentation)
    together = Pictures.collect(images, np.arange(len(images)), frame, 48, augmentation).render()
    for i, image in enumerate(images):
        own = Augmentation(*(getattr(augmentation, f.name)[i] for f in fields(augmentation)))
        alone = shown(image, Frame.letterbox(*sizes[i], own), 48, own)
        np.testing.assert_allclose(together[i, 0].numpy(), alone, atol=0.05)
