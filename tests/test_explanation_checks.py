"""The checks of explanations can fail: a map that ignores film or weights does not pass, one that finds the box does."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from configs.mimic_cxr_config import DataConfig
from data.label_space import Head
from models.explaining import Explainer, Explanation, FilmPixels
from models.explanation_methods import METHODS
from tests.mini_index import write_mini_index
from tests.small_model import TEXTS, build, small_tokenizer
from training.explanation_checks import pointing, randomisation
from training.explanation_checks.items import Item, choose_items
from training.explanation_checks.means import PatientMeans
from training.explanation_checks.report import (
    CheckSettings,
    check_resolution,
    one_of_each_patient,
    passes,
    run_checks,
    table_lines,
)
from training.explanation_checks.similarity import rank_correlation, ssim
from utils.errors import DataError

GRADE = 4
SIDE = 64


def item(patient, box, pixels=None):
    film = FilmPixels(np.zeros((SIDE, SIDE), np.uint8) if pixels is None else pixels, SIDE, SIDE)
    return Item(patient, 0, film, TEXTS[0], Head.BINARY, ("yes",), np.array([box], dtype=float))


def means(items, samples=200):
    return PatientMeans(np.array([one.patient for one in items]), samples=samples, confidence=0.95, seed=0)


# Items


def study(number, boxes=((0, 0.1, 0.1, 0.5, 0.5), (8, 0.4, 0.4, 0.8, 0.8))):
    questions = [
        ("D02_has_finding", "Is there edema?", number % 2, GRADE),
        ("D03_where_is_finding", "Where is the nodule?", 0b100000001, GRADE),
        ("B03_is_abnormal", "Is it abnormal?", 1, GRADE),
    ]
    return {"split": "validate", "questions": questions, "boxes": list(boxes), "subject": 10_000_000 + number}


@pytest.fixture
def index(tmp_path):
    return write_mini_index(tmp_path / "index", [study(number) for number in range(8)], side=SIDE)


def test_items_are_questions_about_things_with_a_box(index):
    items = choose_items(index, DataConfig(), "validate", 100, seed=0)
    # the mini index has regions of "where" questions alone
    assert [one.text for one in items] == ["Where is the nodule?"] * 8
    assert items[0].classes == ("right lung", "heart") and items[0].head == Head.REGION
    np.testing.assert_allclose(items[0].boxes, [[0.1, 0.1, 0.5, 0.5], [0.4, 0.4, 0.8, 0.8]], atol=1e-6)
    assert items[3].film.pixels.shape == (SIDE, SIDE) and items[3].patient == 10_000_003
    assert len(choose_items(index, DataConfig(), "validate", 3, seed=0)) == 3
    assert (
        choose_items(index, DataConfig(), "validate", 3, 0)[0].image
        == choose_items(index, DataConfig(), "validate", 3, 0)[0].image
    )


def test_an_index_without_boxes_is_named(tmp_path):
    empty = write_mini_index(tmp_path / "bare", [study(0, boxes=())], side=SIDE)
    with pytest.raises(DataError, match="no question of the validate split"):
        choose_items(empty, DataConfig(), "validate", 10, 0)


def test_share_is_that_of_the_union():
    both = Item(1, 0, None, "", Head.BINARY, ("yes",), np.array([[0.1, 0.1, 0.5, 0.5], [0.4, 0.4, 0.8, 0.8]]))
    assert both.share == pytest.approx(0.16 + 0.16 - 0.01)
    assert both.hit((0.1, 0.1)) and both.hit((0.7, 0.7))
    assert not both.hit((0.8, 0.7)) and not both.hit((0.1, 0.7)) and not both.hit(None)


# Likeness


def test_rank_correlation():
    a = np.arange(64.0).reshape(8, 8)
    assert rank_correlation(a, a**3) == pytest.approx(1)
    assert rank_correlation(a, -a) == pytest.approx(-1)
    assert rank_correlation(a, np.ones((8, 8))) == 0
    # by hand: ranks 1 2 3 4 and 2 1 4 3 differ by 1 each: 1 - 6 * 4 / (4 * 15)
    assert rank_correlation(np.array([[1, 2], [3, 4]]), np.array([[5, 1], [9, 7]])) == pytest.approx(0.6)


def test_ssim_is_that_of_the_formula():
    rng = np.random.default_rng(0)
    a, b = rng.random((9, 8)), rng.random((9, 8))
    values = []
    for row in range(3):
        for column in range(2):
            x, y = (m[row : row + 7, column : column + 7].ravel() for m in (a, b))
            covariance = np.cov(x, y)
            top = (2 * x.mean() * y.mean() + 1e-4) * (2 * covariance[0, 1] + 9e-4)
            values.append(top / ((x.mean() ** 2 + y.mean() ** 2 + 1e-4) * (covariance[0, 0] + covariance[1, 1] + 9e-4)))
    assert ssim(a, b) == pytest.approx(np.mean(values))
    assert ssim(a, a) == pytest.approx(1)


def test_means_are_of_items_and_intervals_of_patients():
    found = PatientMeans(np.array([1, 1, 1, 2]), samples=500, confidence=0.95, seed=0).of(np.array([1.0, 1, 1, 0]))
    assert (found.value, found.n_patients) == (0.75, 2)
    assert (found.low, found.high) == (0, 1)  # either patient may be drawn twice


# The pointing game


class FakeExplainer:
    """Its maps are largest where `point(film)` says; the same everywhere where that is None."""

    def __init__(self, point):
        self.point = point

    def explain(self, film, question, methods, head, target, stride, shape):
        values = np.zeros(shape, np.float32)
        if (place := self.point(film)) is not None:
            values[int(place[1] * shape[0]), int(place[0] * shape[1])] = 1
        return [Explanation(m, head, "yes", 1.0, 0.7, values, 1.0) for m in methods]


def marked(patient, corner):
    """An item whose box is in one of four corners, with a bright pixel in it."""
    x, y = 0.75 * (corner % 2), 0.75 * (corner // 2)
    pixels = np.zeros((SIDE, SIDE), np.uint8)
    pixels[int((y + 0.1) * SIDE), int((x + 0.1) * SIDE)] = 255
    return item(patient, (x, y, x + 0.25, y + 0.25), pixels)


ITEMS = [marked(patient, patient % 4) for patient in range(24)]


def brightest(film):
    row, column = np.unravel_index(film.pixels.argmax(), film.pixels.shape)
    return (column + 0.5) / SIDE, (row + 0.5) / SIDE


def game(point):
    hits = pointing.play(FakeExplainer(point), ITEMS, ["layercam"], 8, seed=0)
    found = pointing.score(ITEMS, hits, means(ITEMS))
    return found, found["methods"]["layercam"]


def test_a_map_that_finds_the_box_passes():
    found, method = game(brightest)
    assert (method["hits"]["value"], method["passes"]) == (1, True)
    assert found["chance"]["value"] == pytest.approx(1 / 16)
    assert found["middle"]["value"] == 0
    assert method["gain_over"]["chance"]["value"] == pytest.approx(15 / 16)
    assert method["other_film"]["value"] < 0.5
    assert method["by_head"] == {"binary": 1.0}


@pytest.mark.parametrize(
    ("point", "empty"), [(lambda film: (0.1, 0.1), 0), (lambda film: (0.5, 0.5), 0), (lambda film: None, 24)]
)
def test_a_map_that_does_not_look_at_the_film_fails(point, empty):
    _, method = game(point)
    assert not method["passes"]
    assert method["empty_maps"] == empty
    assert method["hits"]["value"] <= 0.25


def test_a_map_that_finds_as_much_in_anothers_film_fails():
    """Better than chance and than the middle is not enough, if another film's map does as well."""
    same_place = [marked(patient, 0) for patient in range(24)]
    hits = pointing.play(FakeExplainer(brightest), same_place, ["layercam"], 8, seed=0)
    method = pointing.score(same_place, hits, means(same_place))["methods"]["layercam"]
    assert method["gain_over"]["chance"]["low"] > 0.9 and method["gain_over"]["middle"]["low"] == 1
    assert method["gain_over"]["other_film"]["value"] == 0 and not method["passes"]


def test_films_of_one_patient_are_no_control():
    few = [marked(1, 0), marked(1, 1)]
    hits = pointing.play(FakeExplainer(brightest), few, ["layercam"], 8, seed=0)
    method = pointing.score(few, hits, means(few))["methods"]["layercam"]
    assert hits["layercam"].other is None and method["other_film"] is None and not method["passes"]


# Randomisation


def test_the_parts_have_every_weight_that_decides_an_answer():
    model = build()
    for fusion in ("sim", "concat", "none"):
        model = build(fusion)
        parts = randomisation.model_parts(model)
        covered = {id(p) for _, modules in parts for module in modules for p in module.parameters()}
        left = {name.split(".")[0] for name, p in model.named_parameters() if id(p) not in covered}
        assert left == {"chexpert", "question_type"}
        assert parts[0][0] == "answer heads" and parts[-1][0] == "image stem_0"


def test_weights_are_only_put_in_another_order():
    model = build()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in randomisation.randomised(model, seed=1):
        pass
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.flatten().sort().values, before[name].flatten().sort().values)
    moved = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
    assert any(name.startswith("image_encoder.backbone.stem_0") for name in moved)
    assert any(name.startswith("heads") for name in moved)


def noise_items(count=4):
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (count, SIDE, SIDE)).astype(np.uint8)
    return [item(10 + number, (0.1, 0.1, 0.5, 0.5), pixels) for number, pixels in enumerate(pictures)]


def test_maps_of_randomised_weights_are_compared_and_the_model_stays():
    model, items = build(), noise_items()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = randomisation.compare(
        Explainer(model, small_tokenizer()), items, ["layercam", "regions"], 8, 0, means(items)
    )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for method in ("layercam", "regions"):
        rows = found["methods"][method]["parts"]
        assert [row["part"] for row in rows] == [name for name, _ in randomisation.model_parts(model)]
        assert rows[-1]["absolute_rank_correlation"]["value"] < 1
    # attention does not depend on the heads: exactly the same map
    assert found["methods"]["regions"]["parts"][0]["rank_correlation"]["value"] == pytest.approx(1)
    assert found["methods"]["regions"]["parts"][0]["ssim"]["value"] == pytest.approx(1)
    assert found["methods"]["layercam"]["parts"][0]["rank_correlation"]["value"] < 0.999


class EdgeDetector(Explainer):
    """Maps that are the film itself, whatever the model has learned: what the check is there to find."""

    def explain(self, film, question, methods, head=None, target=None, stride=None, shape=None):
        made = super().explain(film, question, methods, head, target, stride, shape)
        values = film.pixels.astype(np.float32) / 255
        return [Explanation(one.method, one.head, one.target, one.logit, one.probability, values, 1.0) for one in made]


def test_a_map_that_does_not_depend_on_the_weights_fails(monkeypatch):
    monkeypatch.setattr(randomisation, "Explainer", EdgeDetector)
    items = noise_items()
    found = randomisation.compare(EdgeDetector(build(), small_tokenizer()), items, ["layercam"], 8, 0, means(items))
    last = found["methods"]["layercam"]["parts"][-1]
    assert last["absolute_rank_correlation"]["value"] == pytest.approx(1)
    assert not found["methods"]["layercam"]["passes"]


def test_nothing_but_empty_maps_is_no_pass():
    row = {"absolute_rank_correlation": {"high": 0.0, "n_patients": 5}, "empty_maps": 5}
    assert not randomisation._passes(row)
    assert randomisation._passes(row | {"empty_maps": 4})
    assert not randomisation._passes({"absolute_rank_correlation": {"high": None, "n_patients": 1}, "empty_maps": 0})


# Together


def test_the_report_is_json_and_a_table(index):
    model = build()
    settings = CheckSettings(items=6, randomised_items=3, samples=100)
    report = run_checks(
        Explainer(model, small_tokenizer(), fingerprint="a" * 64), index, DataConfig(), METHODS, 8, settings
    )
    assert json.loads(json.dumps(report))["settings"]["items"] == 6
    assert report["pointing"]["items"] == 6 and report["randomisation"]["items"] == 3
    assert (
        report["model_sha256"] == "a" * 64 and report["synthetic"] and report["credentialed"]
    )  # the model's lineage is unknown
    lines = table_lines(report)
    assert all(any(line.startswith(name) for line in lines) for name in (*METHODS, "chance", "middle"))
    assert "1000000" not in "\n".join(lines)
    assert passes(report) == all(
        report[check]["methods"][name]["passes"] for check in ("pointing", "randomisation") for name in METHODS
    )
    report["pointing"]["methods"]["layercam"]["passes"] = False
    assert not passes(report)


def test_an_index_of_smaller_films_is_named(index):
    enough = item(1, (0, 0, 1, 1))
    check_resolution([enough], SIDE, index)
    small = FilmPixels(np.zeros((32, 48), np.uint8), 320, 480)
    with pytest.raises(
        DataError, match=r"films of 48 pixels, and the model sees 64: build one with data.image_store_size=64"
    ):
        check_resolution([enough, dataclasses.replace(enough, film=small)], SIDE, index)
    tiny = dataclasses.replace(
        enough, film=FilmPixels(np.zeros((32, 48), np.uint8), 48, 32)
    )  # the original is no larger
    check_resolution([tiny], SIDE, index)


def test_one_question_of_each_patient():
    items = [item(patient, (0, 0, 1, 1)) for patient in (3, 3, 3, 5, 7, 7)]
    chosen = one_of_each_patient(items, 10, seed=0)
    assert sorted(one.patient for one in chosen) == [3, 5, 7]
    assert len(one_of_each_patient(items, 2, seed=0)) == 2
