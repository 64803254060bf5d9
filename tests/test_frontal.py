"""The check for frontal chest films: what it passes and refuses, and that its measures are what they say."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data import frontal
from data.frontal import (
    LIKE_ENOUGH,
    MEASURES,
    against,
    check_frontal,
    coarse_film,
    colourfulness,
    constants,
    measure,
    template_score,
    without_border,
)
from data.images import decode
from scripts import fit_frontal_check
from tests.asking_model import drawn_film
from utils.errors import DataError

FILMS = range(6)
NO_TEMPLATE = np.zeros((16, 16))


@pytest.mark.parametrize("number", FILMS)
def test_look_alike_films_pass(number):
    found = check_frontal(drawn_film(number))
    assert found.is_frontal, found.reason
    assert found.reason == ""
    assert set(found.measures) == set(MEASURES)


@pytest.mark.parametrize("number", FILMS)
def test_spoilt_films_are_refused(number):
    film = drawn_film(number)
    refused = [
        not check_frontal(np.ascontiguousarray(other)).is_frontal
        for other in (np.rot90(film), np.rot90(film, 3), film[::-1], 255 - film)
    ]
    assert sum(refused) >= 3, refused


def test_drawn_images_and_nothing_at_all_are_refused():
    refused = [not check_frontal(pixels).is_frontal for pixels in fit_frontal_check.drawn(40)]
    assert np.mean(refused) > 0.8
    for grey in (0, 128, 255):
        found = check_frontal(np.full((64, 80), grey, np.uint8))
        assert (found.is_frontal, found.reason) == (False, "nothing is to be seen in it")


def test_a_film_in_colour_is_refused_and_the_reason_says_so():
    found = check_frontal(drawn_film(), colour=80.0)
    assert (found.is_frontal, found.reason) == (False, "it is in colour")
    assert check_frontal(drawn_film(), colour=2.7).is_frontal


def test_size_and_brightness_hardly_matter():
    film = drawn_film(1)
    chance = check_frontal(film).probability
    large = np.asarray(Image.fromarray(film).resize((900, 780)))
    darker = np.uint8(film * 0.8 + 10)
    assert check_frontal(large).is_frontal
    assert check_frontal(darker).is_frontal
    assert check_frontal(large).probability == pytest.approx(chance, abs=0.25)


def test_a_black_frame_is_not_part_of_the_film():
    film = drawn_film()
    framed = np.zeros((film.shape[0] + 60, film.shape[1] + 100), np.uint8)
    framed[20:-40, 70:-30] = film
    inner = without_border(framed)
    assert inner.shape[0] <= film.shape[0] + 2
    assert inner.shape[1] <= film.shape[1] + 2
    assert check_frontal(framed).is_frontal
    plain = np.full((50, 50), 7, np.uint8)
    assert without_border(plain).shape == (50, 50)


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(16, 200), st.integers(16, 200))
def test_any_image_has_a_finite_chance(seed, height, width):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, int(rng.integers(1, 257)), (height, width), dtype=np.uint8)
    found = check_frontal(pixels, float(rng.uniform(0, 100)))
    assert 0 <= found.probability <= 1
    assert np.isfinite(list(found.measures.values())).all()
    assert bool(found.reason) != found.is_frontal


def test_measures_of_an_image_by_hand():
    half = np.zeros((64, 128), np.uint8)
    half[:, 64:] = 200
    half[::2] += 20  # lines, so that neither half is a plain border
    values = measure(half, NO_TEMPLATE, -1.5)
    assert values["template"] == -1.5
    assert values["symmetry"] == pytest.approx(-1, abs=0.01)
    assert values["balance"] == pytest.approx(-2, abs=0.02)
    assert values["aspect"] == pytest.approx(np.log(2))
    assert values["black"] == pytest.approx(0.25)
    assert values["white"] == 0
    assert values["levels"] == pytest.approx(2)


def test_the_template_says_no_more_than_enough():
    assert template_score(np.ones((16, 16)), np.ones((16, 16)), 0.0) == LIKE_ENOUGH
    assert template_score(np.ones((16, 16)), -np.ones((16, 16)), 1.0) == -255.0
    film = drawn_film()
    np.testing.assert_allclose([coarse_film(film).mean(), coarse_film(film).std()], [0, 1], atol=1e-5)


def test_only_what_is_beyond_the_usual_spread_counts():
    centre, scale = np.array([1.0]), np.array([2.0])
    np.testing.assert_allclose(
        against(np.array([[1.0], [3.0], [-1.0], [5.0]]), centre, scale)[:, 0], [0, 0, 0, np.log(2)]
    )


def test_colourfulness(tmp_path):
    red = np.zeros((40, 40, 3), np.uint8)
    red[..., 0] = 90
    assert colourfulness(red) == pytest.approx((60 + 30 + 30) / 3)
    Image.fromarray(red).save(tmp_path / "red.png")
    assert colourfulness(tmp_path / "red.png") == pytest.approx(40)
    Image.fromarray(red[..., 0]).save(tmp_path / "grey.png")
    (tmp_path / "text.png").write_text("no image")
    for path in (tmp_path / "grey.png", tmp_path / "text.png", tmp_path / "nowhere.png"):
        assert colourfulness(path) == 0


def test_the_shipped_constants_are_of_these_measures(tmp_path):
    fitted = constants()
    assert (fitted.weights >= 0).all()
    assert fitted.scale.min() > 0
    assert fitted.template.shape == (16, 16)
    other = tmp_path / "other.json"
    stored = json.loads(frontal.CONSTANTS.read_text())
    stored["measures"].pop("levels")
    other.write_text(json.dumps(stored))
    with pytest.raises(ValueError, match="of other measures"):
        constants(other)


# Fitting


@pytest.fixture
def folders(tmp_path):
    """Ten films and ten others."""
    for name in ("films", "others"):
        (tmp_path / name).mkdir()
    others = fit_frontal_check.drawn(40)
    for number in range(8):
        Image.fromarray(drawn_film(number)).save(tmp_path / "films" / f"{number}.png")
        for k in range(3):
            Image.fromarray(next(others)).save(tmp_path / "others" / f"{number}-{k}.png")
    (tmp_path / "others" / "notes.txt").write_text("no image")
    return tmp_path


def test_a_fit_tells_films_from_others_and_is_written_as_it_is_read(folders, monkeypatch, capsys):
    target = folders / "frontal_check.json"
    monkeypatch.setattr(fit_frontal_check, "DRAWN", 24)
    args = fit_frontal_check.parse(["--films", str(folders / "films"), "--others", str(folders / "others")])
    found = fit_frontal_check.collect(args)
    fitted = fit_frontal_check.fit(list(found.fitting.values()))
    fit_frontal_check.write(fitted, target)
    read = frontal.constants(target)
    np.testing.assert_allclose(read.weights, fitted.weights, atol=1e-4)
    np.testing.assert_allclose(read.template, fitted.template, atol=1e-3)
    films = next(group for group in found.fitting.values() if group.is_film)
    assert (fit_frontal_check.probabilities(films, fitted) > 0.5).all()
    lines = fit_frontal_check.table([*found.held_out.values()], fitted)
    assert any("false acceptances" in line for line in lines)
    assert any(
        "1 more cannot be read" in line for line in lines + fit_frontal_check.table([*found.fitting.values()], fitted)
    )


def test_patients_are_in_one_half():
    halves = {fit_frontal_check.fits(Path(f"{patient:08d}_{n:03d}.png")) for patient in (7,) for n in range(9)}
    assert len(halves) == 1
    assert 30 < sum(fit_frontal_check.fits(Path(f"{n:08d}_000.png")) for n in range(100)) < 70


def test_what_a_fit_needs(capsys):
    for argv, match in (([], "at least one folder"), (["--films", "x", "--write"], "a fit needs")):
        with pytest.raises(SystemExit) as stop:
            fit_frontal_check.parse(argv)
        assert stop.value.code == 2
        assert match in capsys.readouterr().err
    with pytest.raises(DataError, match="nowhere: no such folder"):
        fit_frontal_check.image_files("nowhere")


# Real films


def test_real_films_pass_and_other_images_do_not(shared_dir):
    films = sorted((shared_dir / "real" / "nih-chestxray14" / "jpg512").glob("*.jpg"))[::40]
    passed = [check_frontal(decode(path, 224)[0], colourfulness(path)).is_frontal for path in films]
    assert np.mean(passed) >= 0.95
    odd = shared_dir / "real" / "odd-images" / "pillow"
    for name in ("hopper_orientation_2.jpg", "pil_sample_rgb.jpg", "pil_sample_cmyk.jpg"):
        assert not check_frontal(decode(odd / name, 224)[0], colourfulness(odd / name)).is_frontal, name
