"""Maps over films: the letter-boxing is undone exactly, and pictures show what they say."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data.frames import Frame
from models.film_maps import paint_regions, peak, scaled, to_film
from utils.overlays import LEGEND, LONGEST_SIDE, OPACITY, SHORTEST_SIDE, colours, overlay, png, shown_size, with_legend

sides = st.integers(16, 400)
shares = st.floats(0.01, 0.99)


# Geometry


@given(sides, sides, shares, shares)
def test_a_point_of_the_film_goes_to_the_square_and_back(width, height, x, y):
    frame = Frame.letterbox(width, height)
    there = frame.matrix @ [x, y, 1]
    assert ((there > 0) & (there < 1)).all()
    np.testing.assert_allclose(frame.inverse @ [*there, 1], [x, y], atol=1e-9)


@given(sides, sides, st.integers(4, 24))
def test_a_ramp_over_the_square_gives_each_pixel_its_place(width, height, cells):
    """A map whose cells hold their own x (or y) must give every pixel the place it was letter-boxed to."""
    centres = (np.arange(cells) + 0.5) / cells
    x = to_film(np.broadcast_to(centres, (cells, cells)), width, height)
    y = to_film(np.broadcast_to(centres[:, None], (cells, cells)), width, height)
    assert x.shape == y.shape == (height, width)
    longer = max(width, height)
    real_x = ((np.arange(width) + 0.5) + (longer - width) / 2) / longer
    real_y = ((np.arange(height) + 0.5) + (longer - height) / 2) / longer
    np.testing.assert_allclose(x[0], real_x.clip(centres[0], centres[-1]), atol=1e-5)
    np.testing.assert_allclose(y[:, 0], real_y.clip(centres[0], centres[-1]), atol=1e-5)


@given(sides, sides, shares, shares)
def test_the_pixel_under_a_cell_is_found_again(width, height, x, y):
    """The position of a pixel: film -> cell of the square -> map over the film -> its largest value."""
    cells = 8  # larger than a pixel
    place = Frame.letterbox(width, height).matrix @ [x, y, 1]
    column, row = (int(v * cells) for v in place)
    square = np.zeros((cells, cells))
    square[row, column] = 1
    found = peak(to_film(square, width, height))
    back = Frame.letterbox(width, height).matrix @ [*found, 1]
    pixel = 1 / max(width, height)
    assert np.abs(back * cells - [column + 0.5, row + 0.5]).max() <= 0.5 + cells * pixel


@given(sides, sides, st.floats(0.001, 5))
def test_a_map_without_differences_stays_one(width, height, value):
    np.testing.assert_allclose(to_film(np.full((7, 7), value), width, height), value, rtol=1e-5)


def test_bars_beside_the_film_are_not_in_its_map():
    square = np.zeros((8, 8))
    square[:2] = square[6:] = 1  # a film of 2:1 fills rows 2 to 5
    assert to_film(square, 400, 200)[60:140].max() == 0


def test_one_cell_and_another_shape():
    assert to_film(np.ones((1, 1)), 30, 20, (5, 6)).tolist() == np.ones((5, 6)).tolist()


def test_regions_are_painted_where_their_boxes_are():
    # 40 x 20: the film is the middle half of the square's height
    boxes = np.array([[0, 0.25, 0.5, 0.75], [0.25, 0.5, 1, 1]])
    painted = paint_regions(np.array([0.2, 0.8]), boxes, 40, 20)
    assert painted[0, 0] == pytest.approx(0.2)
    assert painted[15, 15] == pytest.approx(0.8)  # in both: the larger share
    assert painted[15, 35] == pytest.approx(0.8)
    assert painted[0, 39] == 0
    assert (painted == np.float32(0.2)).sum() == 20 * 20 - 10 * 10
    assert (painted == np.float32(0.8)).sum() == 30 * 10


def test_the_peak_of_a_box_is_its_middle_and_of_nothing_there_is_none():
    values = np.zeros((10, 20))
    values[2:5, 4:9] = 1
    assert peak(values) == (6.5 / 20, 3.5 / 10)
    values[9, 19] = 2
    assert peak(values) == (19.5 / 20, 9.5 / 10)
    assert peak(np.zeros((3, 3))) is None


def test_a_peak_of_two_places_is_one_of_them():
    values = np.zeros((5, 5))
    values[0, 0] = values[0, 1] = values[4, 4] = 1
    x, y = peak(values)
    assert values[int(y * 5), int(x * 5)] == 1


def test_scaling_keeps_zero_and_says_what_it_divided_by():
    values, most = scaled(np.array([[0.0, 1.0], [2.0, 4.0]]))
    assert (values.tolist(), most, values.dtype) == ([[0, 0.25], [0.5, 1]], 4.0, np.float32)
    nothing, most = scaled(np.zeros((2, 2)))
    assert (nothing.max(), most) == (0, 0)


# Pictures


def luminance(rgb):
    return rgb.astype(float) @ [0.2126, 0.7152, 0.0722]


def test_colours_get_lighter_all_the_way():
    table = colours(np.linspace(0, 1, 256))
    assert table[0].tolist() == [0, 0, 4]
    assert table[-1].tolist() == [0xFC, 0xFF, 0xA4]
    steps = np.diff(luminance(table))
    assert (steps > -0.5).all()
    assert np.array_equal(colours(np.array([-1, 2])), table[[0, -1]])


@given(st.integers(16, 6000), st.integers(16, 6000))
def test_a_picture_has_the_films_own_aspect(width, height):
    wide, high = shown_size(width, height)
    assert max(wide, high) <= LONGEST_SIDE
    assert abs(wide / high - width / height) <= (width / height) * (1 / wide + 1 / high)


def test_where_the_map_is_zero_the_film_is_untouched():
    film = np.random.default_rng(0).integers(0, 256, (40, 60)).astype(np.uint8)
    values = np.zeros((40, 60), np.float32)
    values[:, 30:] = 1
    shown = np.asarray(overlay(film, values, (60, 40)))
    assert np.array_equal(shown[:, :30], np.repeat(film[:, :30, None], 3, axis=2))
    expected = film[:, 30:, None] * (1 - OPACITY) + np.array([0xFC, 0xFF, 0xA4]) * OPACITY
    assert np.abs(shown[:, 30:] - expected).max() <= 0.51


def test_the_map_lies_on_the_film_where_it_belongs_at_any_size():
    values = np.zeros((10, 20), np.float32)
    values[2, 15] = 1
    shown = np.asarray(overlay(np.zeros((30, 60), np.uint8), values, (400, 200))).sum(2)
    row, column = np.unravel_index(shown.argmax(), shown.shape)
    assert (column / 400, row / 200) == (pytest.approx(15.5 / 20, abs=0.02), pytest.approx(2.5 / 10, abs=0.02))


@pytest.mark.parametrize("width", [64, 256, 1024])
def test_the_legend_is_below_the_film_and_stays_inside(width):
    picture = Image.new("RGB", (width, 50), (9, 9, 9))
    page = with_legend(
        picture, ("layercam: what speaks for the answer", "category: Pleural Effusion"), ("0", "1 = 0.3")
    )
    pixels = np.asarray(page)
    assert page.width == max(width, SHORTEST_SIDE) and page.height > 50 + LEGEND
    assert (pixels[:50, :width] == 9).all()
    assert (pixels[50:, -3:] == pixels[-1, -1]).all()  # no text is cut at the margin
    assert len(np.unique(pixels[50:].reshape(-1, 3), axis=0)) > 20  # text and colours


def test_a_png_holds_pixels_alone():
    with Image.open(io.BytesIO(png(Image.new("RGB", (8, 8))))) as image:
        assert image.format == "PNG" and image.info == {}
