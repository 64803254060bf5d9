"""A model is asked about a film: the same answers as the evaluation would give, boxes on the original, refusals that hold."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

from data import images
from data.frames import Frame, Pictures
from data.label_space import HEADS, REGIONS, Head
from models import asking
from models.answers import Answer
from models.asking import Asker, Film, answer_texts, find_device
from models.explaining import Explainer
from models.mimic_vqa_model import SSGVQA
from models.probabilities import decide, read_temperatures, sureness, tempered, weights_sha256
from tests.asking_model import HEADS_AT, asking_config, calibrate, drawn_film, write_film, write_model
from tests.small_model import SIZE, VOCABULARY, model_config, small_tokenizer
from tests.test_dicom import film as dicom_film
from utils.errors import CheckpointError, ConfigError, DataError

ASKED = ["Is there effusion in the left lung?", "Where is the nodule?", "How severe is edema?", "What is abnormal?"]
HEADS_OF_ASKED = [Head.BINARY, Head.REGION, Head.SEVERITY, Head.CATEGORY]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_model(tmp_path_factory.mktemp("model") / "best_model")
    calibrate(folder)
    return folder


@pytest.fixture(scope="module")
def asker(folder):
    return Asker.from_pretrained(folder, "cpu")


@pytest.fixture(scope="module")
def film(asker):
    return asker.film(drawn_film())


@pytest.fixture
def copy(folder, tmp_path):
    """The model folder, to be spoilt."""
    return shutil.copytree(folder, tmp_path / "best_model")


# Answers


def test_answers_are_those_of_the_model_divided_by_the_temperature(asker, film):
    answers = asker.ask(film, ASKED)
    assert [answer.head for answer in answers] == HEADS_OF_ASKED
    side = asker.config.data.image_size
    pixels, width, height = images.from_array(drawn_film(), side)
    frame = Frame.letterbox(np.array([width]), np.array([height]))
    picture = Pictures.collect([pixels], np.array([0]), frame, side).render()
    tokens = asker.tokens(ASKED)
    with torch.inference_mode():
        outputs = asker.model(picture, tokens, torch.arange(4), torch.zeros(4, dtype=torch.long))
    for row, answer in enumerate(answers):
        logits = outputs.logits[answer.head.value][row].double() / HEADS_AT[answer.head.value]
        expected = logits.sigmoid() if HEADS[answer.head].multi_label else logits.softmax(-1)
        assert list(answer.probabilities) == list(HEADS[answer.head].classes)
        np.testing.assert_allclose(list(answer.probabilities.values()), expected.numpy(), atol=1e-4)
        assert answer.calibrated
        assert answer.supported
    assert not any(answer.warnings for answer in answers[:3])


def test_many_questions_at_once_are_answered_like_one(asker, film, monkeypatch):
    together = asker.ask(film, ASKED)
    alone = [asker.ask(film, text)[0] for text in ASKED]
    monkeypatch.setattr(asking, "TEXTS_AT_ONCE", 3)
    for parts in (alone, asker.ask(film, ASKED)):
        for one, other in zip(together, parts, strict=True):
            assert one.texts == other.texts
            np.testing.assert_allclose(list(one.probabilities.values()), list(other.probabilities.values()), atol=1e-5)


def test_an_image_is_encoded_once(asker, monkeypatch):
    count = []
    encode = asker.model.encode_images
    monkeypatch.setattr(asker.model, "encode_images", lambda image: count.append(1) or encode(image))
    film = asker.film(drawn_film())
    asker.ask(film, ASKED)
    asker.ask(film, ASKED[0])
    assert len(count) == 1


def test_without_temperatures_answers_are_not_calibrated(copy):
    calibrated = Asker.from_pretrained(copy, "cpu")
    (copy / "temperature.json").unlink()
    plain = Asker.from_pretrained(copy, "cpu")
    film = plain.film(drawn_film())
    one, other = plain.ask(film, ASKED[0])[0], calibrated.ask(film, ASKED[0])[0]
    assert not one.calibrated
    assert one.texts == other.texts, "a temperature changes no answer"
    assert one.probability != pytest.approx(other.probability)


def test_temperatures_of_other_weights_are_not_used(copy):
    stored = json.loads((copy / "temperature.json").read_text())
    (copy / "temperature.json").write_text(json.dumps(stored | {"model_sha256": "0" * 64}))
    asker = Asker.from_pretrained(copy, "cpu")
    assert not asker.ask(asker.film(drawn_film()), ASKED[0])[0].calibrated


@pytest.mark.parametrize("text", ["{", "[1]", '{"binary": 1}', '{"model_sha256": "x", "binary": -1}'])
def test_damaged_temperatures_stop_with_a_line(copy, text):
    (copy / "temperature.json").write_text(text.replace('"x"', f'"{weights_sha256(copy)}"'))
    with pytest.raises(CheckpointError, match=r"temperature\.json cannot be read .*: delete it"):
        read_temperatures(copy, weights_sha256(copy))


def test_the_control_beside_the_model_answers_without_the_film(asker, film, copy):
    answer = asker.ask(film, ASKED[0])[0]
    other = asker.ask(asker.film(drawn_film(1)), ASKED[0])[0]
    assert answer.question_only == other.question_only
    assert set(answer.question_only.probabilities) == {"no", "yes"}
    shutil.rmtree(copy / "question_only")
    assert Asker.from_pretrained(copy, "cpu").ask(film, ASKED[0])[0].question_only is None


def test_where_it_looked(asker, film):
    for answer in asker.ask(film, ASKED):
        assert sorted(look.region for look in answer.looks) == sorted(REGIONS)
        weights = [look.weight for look in answer.looks]
        assert sum(weights) == pytest.approx(1, abs=1e-4)
        assert weights == sorted(weights, reverse=True)
        assert answer.looks[0].box == next(r.box for r in film.regions if r.name == answer.looks[0].region)


def test_a_model_that_reads_no_graph_looks_at_nothing(tmp_path):
    asker = Asker.from_pretrained(write_model(tmp_path / "m", control=False, fusion="none"), "cpu")
    answer = asker.ask(asker.film(drawn_film()), ASKED[0])[0]
    assert answer.is_answered
    assert answer.looks == ()


def test_a_given_head_answers_whatever_the_words_ask(asker, film):
    answer = asker.ask(film, "Is there effusion?", head="severity")[0]
    assert answer.head == Head.SEVERITY
    assert answer.texts[0] in HEADS[Head.SEVERITY].classes
    with pytest.raises(ConfigError, match="no head 'colour': must be binary, category, region, severity"):
        asker.ask(film, "Is there effusion?", head="colour")


def test_unsupported_questions_are_refused_and_answered_by_force_with_a_warning(asker, film):
    text = "Has the effusion changed since the last film?"
    refused = asker.ask(film, text)[0]
    assert not refused.is_answered
    assert refused.text.startswith("I cannot answer this: the question asks about change over time")
    assert (refused.probability, refused.probabilities, refused.looks, refused.question_only) == (None, {}, (), None)
    forced = asker.ask(film, text, force=True)[0]
    assert forced.is_answered
    assert not forced.supported
    assert forced.reason == refused.reason
    assert "should not be answered, and is answered by force" in forced.warnings
    assert not asker.ask(film, text, head="binary")[0].is_answered, "a head makes no question answerable"


def test_empty_questions_and_long_ones(asker, film):
    with pytest.raises(DataError, match="a question is empty"):
        asker.ask(film, ["Is there edema?", "  "])
    assert asker.ask(film, []) == []
    answer = asker.ask(film, "Is there effusion " + "in the left lung " * 30)[0]
    assert any("only the first 32 word pieces" in warning for warning in answer.warnings)


def test_words_that_were_never_read_are_named(asker, film):
    assert asker.ask(film, "Is there bizarre effusion?")[0].warnings == (
        "words that the model has never read: bizarre",
    )


def test_answers_as_json_are_plain_and_say_what_there_is(asker, film):
    for answer in asker.ask(film, [*ASKED, "What is the weather?"]):
        stored = json.loads(json.dumps(answer.as_json(), allow_nan=False))
        assert stored["answer"] == answer.text
        assert stored["answered"] == answer.is_answered
        assert stored["head"] == answer.head.value


@given(st.lists(st.floats(0, 1, width=32), min_size=14, max_size=14), st.floats(0.05, 20))
def test_a_temperature_changes_how_sure_an_answer_is_and_never_the_answer(values, temperature):
    values = np.array([values], dtype=np.float32)
    values[np.abs(values - 0.5) < 1e-3] = 0.75  # rounding may tip what is on the edge
    cooled = tempered(Head.CATEGORY, values, temperature)
    np.testing.assert_array_equal(decide(Head.CATEGORY, cooled), decide(Head.CATEGORY, values))
    assert sureness(Head.CATEGORY, cooled, decide(Head.CATEGORY, cooled))[0] >= 0.5


def test_an_answer_is_as_sure_as_its_least_sure_class():
    values = np.full((1, 26), 0.1)
    values[0, 3], values[0, 5] = 0.9, 0.6
    decided = decide(Head.REGION, values)
    assert answer_texts(Head.REGION, decided[0]) == (REGIONS[3], REGIONS[5])
    assert sureness(Head.REGION, values, decided)[0] == pytest.approx(0.6)
    nothing = Answer("q", Head.REGION, True, "", "D03_where_is_finding", 1.0, probability=0.9)
    assert nothing.text == "none of the 26 regions"


# Films


def test_the_same_film_as_png_jpeg_dicom_and_array(asker, tmp_path):
    small = np.asarray(Image.fromarray(drawn_film()).resize((200, 224)))
    Image.fromarray(small).save(tmp_path / "a.png")
    Image.fromarray(small).save(tmp_path / "a.jpg", quality=100, subsampling=0)
    Image.fromarray(small).convert("RGB").save(tmp_path / "rgb.png")
    for kind, values in (("MONOCHROME2", small), ("MONOCHROME1", 255 - small)):
        window = {"WindowCenter": 2056, "WindowWidth": 4097}
        deep = np.uint16(np.round(values.astype(float) * 16))
        (tmp_path / f"{kind}.dcm").write_bytes(dicom_film(deep, bits=12, kind=kind, **window))
    reference = asker.film(small)
    assert reference.name == ""
    for name in ("a.png", "a.jpg", "rgb.png", "MONOCHROME1.dcm", "MONOCHROME2.dcm"):
        film = asker.film(tmp_path / name)
        assert (film.name, film.width, film.height) == (name, 200, 224)
        assert (film.picture - reference.picture).abs().mean() < 2.5, name
    assert asker.film(np.stack([small] * 3, axis=-1)).picture.equal(reference.picture)


def test_pixels_are_those_of_an_image_store_of_jpegs_where_training_had_one(tmp_path):
    kinds = {}
    for kind in ("raw", "jpeg"):
        asker = Asker.from_pretrained(write_model(tmp_path / kind, control=False, image_store=kind), "cpu")
        kinds[kind] = asker.film(drawn_film()).picture
        explained = Explainer.from_pretrained(tmp_path / kind).open(write_film(tmp_path / "film.png"))
    side = asker.config.data.image_size
    pixels, width, height = images.from_array(drawn_film(), side)
    pixels = images.decode_stored(images.encode(pixels, "jpeg"))
    frame = Frame.letterbox(np.array([width]), np.array([height]))
    assert np.array_equal(explained.pixels, pixels), "what is explained is what was asked about"
    assert kinds["jpeg"].equal(Pictures.collect([pixels], np.array([0]), frame, side).render())
    assert not kinds["jpeg"].equal(kinds["raw"])


@settings(max_examples=30)
@given(
    st.integers(20, 4000),
    st.integers(20, 4000),
    st.tuples(*[st.floats(0, 1)] * 4).filter(lambda b: b[0] < b[2] and b[1] < b[3]),
)
def test_boxes_come_out_in_pixels_of_the_original(width, height, box):
    frame = Frame.letterbox(width, height)
    film = Film("", width, height, frame, None, None, None, (), {}, None)
    x1, y1, x2, y2 = film.to_pixels(frame.boxes_in(np.array([box])))[0]
    np.testing.assert_allclose(
        [x1, y1, x2, y2],
        [box[0] * width, box[1] * height, box[2] * width, box[3] * height],
        atol=1e-6 * max(width, height),
    )


def test_boxes_of_a_tall_film_by_hand():
    film = Film("", 100, 200, Frame.letterbox(100, 200), None, None, None, (), {}, None)
    # the film fills x from 0.25 to 0.75 of the square
    np.testing.assert_allclose(
        film.to_pixels(np.array([[0.25, 0.0, 0.5, 0.5], [0, 0, 1, 1]])), [[0, 0, 50, 100], [0, 0, 100, 200]]
    )


def test_regions_of_a_film_lie_on_it(film):
    assert [region.name for region in film.regions] == list(REGIONS)
    for region in film.regions:
        assert 0 <= region.box.x1 <= region.box.x2 <= film.width
        assert 0 <= region.box.y1 <= region.box.y2 <= film.height
        assert set(region.entities) == set(VOCABULARY.entities)
    found = replace(film.regions[0], entities={"a": 0.6, "b": 0.9, "c": 0.4})
    assert list(found.findings()) == ["b", "a"]


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (np.zeros((50, 50), np.uint16), "type uint16: must be"),
        (np.zeros((50, 50, 4), np.uint8), r"shape \(50, 50, 4\)"),
        (np.zeros((50,), np.uint8), r"shape \(50,\)"),
        (np.zeros((8, 50), np.uint8), "no film"),
    ],
)
def test_arrays_that_are_no_film(asker, array, match):
    with pytest.raises(DataError, match=match):
        asker.film(array)


def test_files_that_are_no_film(asker, tmp_path):
    (tmp_path / "a.png").write_text("text")
    Image.fromarray(np.full((64, 64), 40000, np.uint16)).save(tmp_path / "deep.png")
    for name, match in (
        ("a.png", "not a JPEG or PNG"),
        ("no.png", "No such file"),
        ("", "is a folder"),
        ("deep.png", "16"),
    ):
        with pytest.raises(DataError, match=match):
            asker.film(tmp_path / name)


def test_what_is_no_frontal_film_is_refused_and_looked_at_by_force(asker, tmp_path):
    path = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300), dtype=np.uint8)).save(path)
    with pytest.raises(DataError, match=r"noise\.png: not a frontal chest film \(.*\); .*--force"):
        asker.film(path)
    film = asker.film(path, force=True)
    assert "not a frontal chest film" in asker.ask(film, ASKED[0])[0].warnings[0]
    assert not asker.film(drawn_film(), force=True).warnings, "a film needs no force"


# Models that must not answer


def test_untrained_models_are_refused(copy, tmp_path):
    (copy / "metrics.json").unlink()
    with pytest.raises(CheckpointError, match="no record of a training"):
        Asker.from_pretrained(copy)
    (copy / "metrics.json").write_text('{"step": 0}')
    with pytest.raises(CheckpointError, match="no record of a training"):
        Asker.from_pretrained(copy)
    (copy / "metrics.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"metrics\.json: cannot be read"):
        Asker.from_pretrained(copy)
    fresh = SSGVQA.build(model_config(), VOCABULARY, small_tokenizer(), SIZE)
    fresh.save_pretrained(tmp_path / "fresh", small_tokenizer(), asking_config(), {"metrics.json": {"step": 9}})
    with pytest.raises(CheckpointError, match="no training has changed them"):
        Asker.from_pretrained(tmp_path / "fresh")


def test_a_checkpoint_of_a_training_may_be_asked(copy):
    (copy / "metrics.json").rename(copy / "training_state.json")
    assert Asker.from_pretrained(copy, "cpu")


def test_a_model_of_black_images_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="trained on black images"):
        Asker.from_pretrained(write_model(tmp_path / "m", control=False, blank_images=True))


def test_folders_that_hold_no_model(copy, tmp_path):
    with pytest.raises(CheckpointError, match="no such folder"):
        Asker.from_pretrained(tmp_path / "nowhere")
    (copy / "vocabulary.json").unlink()
    with pytest.raises(CheckpointError, match=r"lacks vocabulary\.json"):
        Asker.from_pretrained(copy)


def test_weights_that_are_no_numbers_give_no_answer(copy):
    weights = load_file(copy / "model.safetensors")
    weights["heads.binary.3.bias"][:] = float("nan")
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    asker = Asker.from_pretrained(copy, "cpu")
    with pytest.raises(CheckpointError, match="not numbers"):
        asker.ask(asker.film(drawn_film()), ASKED[0])


def test_an_explanation_goes_to_the_head_that_answers(tmp_path):
    folder = write_model(tmp_path / "model", control=False)
    stored = {"threshold": 0.875, "model_sha256": weights_sha256(folder)}
    (folder / "routing.json").write_text(json.dumps(stored))
    for one in (Asker.from_pretrained(folder, "cpu"), Explainer.from_pretrained(folder)):
        assert (one.router.threshold, one.router.measured) == (0.875, True)


def test_devices():
    assert find_device("cpu").type == "cpu"
    for name in ("cuda:99", "abacus", "meta"):
        with pytest.raises(ConfigError, match=f"device {name}: cannot be used"):
            find_device(name)


def test_a_film_on_disk_is_read_from_its_path(asker, tmp_path):
    assert asker.film(write_film(tmp_path / "film.png")).name == "film.png"
