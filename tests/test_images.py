"""Decoding, letter-boxing and boxes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data.images import Augmentation, Frame, ImageStore, adjust_intensity, decode
from utils.errors import DataError

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
    augmentation = Augmentation.draw(np.random.default_rng(seed), 5, 0.1, 0.05, 0) if seed % 2 else None
    frame = Frame.letterbox(width, height, augmentation)
    rendered = frame.render(pixels, 128)
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
        frame = Frame.letterbox(100, 100, Augmentation.draw(np.random.default_rng(seed), 5, 0.1, 0.05, 0.1))
        rendered = frame.render(pixels, 64)
        assert rendered[:, :32].mean() > rendered[:, 32:].mean()


def test_large_reduction_averages_instead_of_skipping():
    """A one-pixel checkerboard becomes its mean grey."""
    pixels = (np.indices((1024, 1024)).sum(0) % 2 * 255).astype(np.uint8)
    rendered = Frame.letterbox(1024, 1024).render(pixels, 64)
    assert abs(rendered.astype(float) - 127.5).max() < 8


@given(st.integers(0, 1000))
def test_intensity_keeps_order_of_grey_values(seed):
    augmentation = Augmentation.draw(np.random.default_rng(seed), 0, 0, 0, 0.1)
    levels = adjust_intensity(np.arange(256, dtype=np.uint8), augmentation).astype(int)
    assert (np.diff(levels) >= 0).all()


def _save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


def test_decode_grey_colour_and_orientation(tmp_path):
    grey = np.tile(np.arange(120, dtype=np.uint8), (80, 1))
    pixels, width, height = decode(_save(tmp_path / "g.png", grey))
    assert (width, height) == (120, 80)
    np.testing.assert_array_equal(pixels, grey)
    colour = np.repeat(grey[..., None], 3, axis=2)
    np.testing.assert_array_equal(decode(_save(tmp_path / "c.png", colour))[0], grey)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying, to be turned by 90 degrees
    pixels, width, height = decode(_save(tmp_path / "t.png", grey, exif=exif))
    assert (width, height) == (80, 120) and pixels.shape == (120, 80)


def test_decode_resizes_the_shorter_side_and_never_enlarges(tmp_path):
    path = _save(tmp_path / "a.jpg", np.full((300, 200), 90, np.uint8), quality=95)
    pixels, width, height = decode(path, 64)
    assert pixels.shape == (96, 64) and (width, height) == (200, 300)
    assert decode(path, 1000)[0].shape == (300, 200)


@pytest.mark.parametrize("kind", ["missing", "empty", "truncated", "text", "sixteen_bit", "folder"])
def test_bad_files_are_named_with_their_reason(tmp_path, kind):
    path = tmp_path / f"{kind}.jpg"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        noise = np.random.default_rng(0).integers(0, 255, (200, 200)).astype(np.uint8)
        whole = _save(tmp_path / "whole.jpg", noise).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "text":
        path.write_text("<html>not found</html>")
    elif kind == "sixteen_bit":
        Image.fromarray(np.full((50, 50), 40_000, np.uint16)).save(path, format="png")
    elif kind == "folder":
        path.mkdir()
    with pytest.raises(DataError, match=kind):
        decode(path, 32)


def test_store_reads_back_and_refuses_another_size(tmp_path):
    arrays = [np.arange(12, dtype=np.uint8).reshape(3, 4), np.full((2, 5), 7, np.uint8)]
    path = tmp_path / "pixels.u8"
    path.write_bytes(b"".join(a.tobytes() for a in arrays))
    table = np.array([0, 12], np.uint64), np.array([4, 5], np.uint32), np.array([3, 2], np.uint32)
    store = ImageStore(path, *table)
    for row, array in enumerate(arrays):
        np.testing.assert_array_equal(store[row], array)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="21 bytes instead of 22"):
        ImageStore(path, *table)
