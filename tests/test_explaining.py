"""Explanations: the maps are those of the papers, attention is what was read, the model stays as it is; the files."""

import json
import stat
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data.feature_store import FeatureMaps
from data.label_space import CHEXPERT, HEADS, QUESTION_TYPES, REGIONS, TYPE_INDEX, Head
from models import explanation_files
from models.cam_methods import CAM_METHODS, grad_cam, layer_cam
from models.captures import AttentionCapture, StageCapture, attention_shares, stage_strides
from models.explaining import Explainer, FilmPixels, default_stride, find_class
from models.explanation_methods import ATTENTION_METHODS, METHODS
from models.film_maps import scaled, to_film
from models.layers import attend
from models.routing import Router
from tests.small_model import TEXTS, VOCABULARY, build, built, small_tokenizer, tokens
from utils.errors import ConfigError, DataError, UserError

WIDTH, HEIGHT = 100, 160
FILM = FilmPixels(np.random.default_rng(3).integers(0, 256, (102, 64)).astype(np.uint8), WIDTH, HEIGHT)


def explainer(fusion="sim", **changes):
    model = build(fusion, **changes) if changes else built(fusion)
    return Explainer(model, small_tokenizer(), fingerprint="f" * 64)


def only(explanations):
    (one,) = explanations
    return one


# Class activation maps

ACTIVATIONS = torch.tensor([[[1.0, 2.0], [0.0, 4.0]], [[3.0, 1.0], [1.0, 0.0]]])
GRADIENTS = torch.tensor([[[1.0, -1.0], [2.0, 2.0]], [[-2.0, 0.0], [0.0, -2.0]]])


def test_grad_cam_by_hand():
    # mean gradients 1 and -1: channel one minus channel two, negative cells cut
    assert grad_cam(ACTIVATIONS, GRADIENTS).tolist() == [[0, 1], [0, 4]]


def test_layer_cam_by_hand():
    # only positive gradients weigh: 1 * 1, nothing, 2 * 0, 2 * 4
    assert layer_cam(ACTIVATIONS, GRADIENTS).tolist() == [[1, 0], [0, 8]]


@pytest.mark.parametrize("method", CAM_METHODS.values())
def test_what_speaks_against_a_class_is_cut(method):
    assert method(ACTIVATIONS, -GRADIENTS.abs()).max() == 0


def gradient_by_hand(model, question, head, number):
    """The backbone's map of the film, and the gradient of a logit with respect to it, by another way through the model."""
    with StageCapture(model.image_encoder, stage_strides(model)[-1]).listening() as stage:
        Explainer(model, small_tokenizer()).explain(FILM, question, ["sim-regions"], head)
    raw = stage.output.permute(0, 2, 3, 1).detach().requires_grad_()
    features = model.encode_images(FeatureMaps(raw))
    first = torch.zeros(1, dtype=torch.long)
    graph = model.predict_graph(features).graph()
    logits, _ = model.answer(features, graph, tokens(small_tokenizer(), [question]), first, first)
    (gradient,) = torch.autograd.grad(logits[head][0, number], raw)
    return raw[0].detach().permute(2, 0, 1), gradient[0].permute(2, 0, 1), float(logits[head][0, number].detach())


@pytest.mark.parametrize("head", list(HEADS))
@pytest.mark.parametrize("method", CAM_METHODS)
def test_any_logit_of_any_head_can_be_explained(head, method):
    number = len(HEADS[head].classes) - 1
    target = HEADS[head].classes[number]
    activations, gradient, logit = gradient_by_hand(built(), TEXTS[1], head.value, number)
    expected, most = scaled(to_film(CAM_METHODS[method](activations, gradient).numpy(), WIDTH, HEIGHT))
    one = only(explainer().explain(FILM, TEXTS[1], [method], head, target.upper(), stride=16))
    assert (one.head, one.target, one.stride, one.depends_on_target) == (head, target, 16, True)
    assert one.logit == pytest.approx(logit, abs=1e-4)
    assert one.maximum == pytest.approx(most, rel=1e-3)
    np.testing.assert_allclose(one.map, expected, atol=1e-3)


def test_finer_stages_have_finer_maps():
    assert explainer().strides == (4, 8, 16)
    assert default_stride(built()) == 8
    for stride in (4, 8, 16):
        one = only(explainer().explain(FILM, TEXTS[0], ["layercam"], "binary", stride=stride))
        assert one.stride == stride
        assert one.map.shape == (HEIGHT, WIDTH) and one.map.dtype == np.float32
        assert one.map.min() >= 0 and one.map.max() == 1
    with pytest.raises(UserError, match=r"--stride 5: .*maps of stride 4, 8, 16"):
        explainer().explain(FILM, TEXTS[0], ["layercam"], "binary", stride=5)


@pytest.mark.parametrize("backbone", ["resnet10t", "vit_tiny_patch16_224"])
def test_other_backbones(backbone):
    model = build(visual_backbone=backbone)
    other = Explainer(model, small_tokenizer())
    assert stage_strides(model) == {"resnet10t": (2, 4, 8, 16)}.get(backbone, (16,))
    for stride in stage_strides(model):
        assert only(other.explain(FILM, TEXTS[0], ["layercam"], "region", stride=stride)).map.max() == 1


def test_a_frozen_backbone_is_explained_too():
    model = build()
    expected = Explainer(model, small_tokenizer()).explain(FILM, TEXTS[0], ["gradcam"], "binary")
    model.image_encoder.freeze()
    found = Explainer(model, small_tokenizer()).explain(FILM, TEXTS[0], ["gradcam"], "binary")
    np.testing.assert_allclose(only(found).map, only(expected).map, atol=1e-5)


# Attention


def test_shares_are_those_of_attention():
    query, keys_values = torch.randn(5, 12), torch.randn(7, 24)
    shares = attention_shares(query, keys_values, heads=3)
    read = shares @ keys_values.chunk(2, -1)[1].unflatten(-1, (3, -1)).transpose(0, 1)
    expected = attend(query[None], keys_values[None], 3)[0]
    torch.testing.assert_close(read.transpose(0, 1).flatten(1), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(shares.sum(-1), torch.ones(3, 5))


def test_attention_is_exactly_what_was_read():
    """With the captured weights, each layer's own values give what went into its output projection."""
    model = built()
    went_in, values = [], []
    handles = []
    for layer in model.fusion.layers:
        handles.append(layer.out.register_forward_pre_hook(lambda _, given: went_in.append(given[0])))
        for part in (layer.image, layer.nodes):
            handles.append(part.register_forward_hook(lambda _, given, out: values.append(out[0].chunk(2, -1)[1])))
    capture = AttentionCapture(model.fusion)
    try:
        with torch.no_grad(), capture.listening():
            features = model.encode_images(torch.randint(0, 256, (1, 1, 64, 64)))
            first = torch.zeros(1, dtype=torch.long)
            asked = tokens(small_tokenizer(), TEXTS[:1])
            model.answer(features, model.predict_graph(features).graph(), asked, first, first)
    finally:
        for handle in handles:
            handle.remove()
    weights = capture.weights()
    for number in range(len(model.fusion.layers)):
        read = []
        for shares, value in zip((weights.image[number], weights.nodes[number]), values[2 * number :], strict=False):
            by_head = shares @ value.unflatten(-1, (shares.shape[0], -1)).transpose(0, 1)
            read.append(by_head.transpose(0, 1).flatten(1))
        torch.testing.assert_close(torch.cat(read, dim=-1), went_in[number], atol=1e-5, rtol=1e-5)


def test_attention_maps():
    found = {one.method: one for one in explainer().explain(FILM, TEXTS[1], ATTENTION_METHODS, "region")}
    for name in ("regions", "sim-regions"):
        assert list(found[name].regions) == list(REGIONS)
        assert sum(found[name].regions.values()) == pytest.approx(1, abs=1e-5)
        assert found[name].maximum <= max(found[name].regions.values()) + 1e-6
    layers = found["sim-image"].layers
    assert layers.shape == (2, 4, 4, 4)
    assert layers.mean((0, 1)).sum() + found["sim-image"].global_share == pytest.approx(1, abs=1e-5)
    assert found["sim-regions"].layers.shape == (2, 4, 26)
    expected, _ = scaled(to_film(layers.mean((0, 1)), WIDTH, HEIGHT))
    np.testing.assert_allclose(found["sim-image"].map, expected, atol=1e-6)


def test_the_pointer_is_the_one_that_evaluation_scores():
    model, first = built(), torch.zeros(1, dtype=torch.long)
    seen = {}
    handle = model.image_encoder.register_forward_hook(lambda _, given, out: seen.update(images=given[0], features=out))
    try:
        one = only(Explainer(model, small_tokenizer()).explain(FILM, TEXTS[1], ["regions"], "region"))
    finally:
        handle.remove()
    features = seen["features"]
    with torch.no_grad():
        graph = model.predict_graph(features).graph()
        asked = tokens(small_tokenizer(), TEXTS[1:2])
        _, _, looks = model.answer_and_point(features, graph, asked, first, first)
    assert list(one.regions.values()) == pytest.approx(looks[0].tolist(), abs=1e-6)


def test_attention_does_not_depend_on_the_answer():
    first, second = (only(explainer().explain(FILM, TEXTS[1], ["sim-image"], "binary", t)) for t in ("no", "yes"))
    assert not first.depends_on_target
    assert np.array_equal(first.map, second.map)
    first, second = (only(explainer().explain(FILM, TEXTS[1], ["layercam"], "binary", t)) for t in ("no", "yes"))
    assert not np.array_equal(first.map, second.map)


@pytest.mark.parametrize(("fusion", "method"), [("concat", "sim-image"), ("none", "sim-regions"), ("none", "regions")])
def test_a_model_without_such_attention_says_so(fusion, method):
    with pytest.raises(UserError, match=r"model\.fusion"):
        explainer(fusion).explain(FILM, TEXTS[0], [method], "binary")
    assert only(explainer(fusion).explain(FILM, TEXTS[0], ["layercam"], "binary")).map.shape == (HEIGHT, WIDTH)


def test_several_questions_are_not_mixed_up():
    model, capture = built(), AttentionCapture(built().fusion)
    with torch.no_grad(), capture.listening():
        features = model.encode_images(torch.randint(0, 256, (2, 1, 64, 64)))
        both = torch.arange(2)
        model.answer(features, model.predict_graph(features).graph(), tokens(small_tokenizer(), TEXTS[:2]), both, both)
    with pytest.raises(ValueError, match="one question about one image"):
        capture.weights()


# The model, the question and the answer


def test_the_model_stays_as_it_is():
    model = build()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    Explainer(model, small_tokenizer()).explain(FILM, TEXTS[0], METHODS, "binary")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not model.training


def test_the_same_again_is_the_same():
    first, second = (explainer().explain(FILM, TEXTS[0], METHODS, "category") for _ in range(2))
    assert all(np.array_equal(a.map, b.map) and a.logit == b.logit for a, b in zip(first, second, strict=True))


def question_type(name):
    return torch.nn.functional.one_hot(torch.tensor(TYPE_INDEX[name]), len(QUESTION_TYPES) + 1).float()


def routed(model):
    return Explainer(model, small_tokenizer(), router=Router(VOCABULARY))


def test_the_head_is_the_one_that_would_answer():
    for question, head in (("How severe is the edema?", Head.SEVERITY), ("Where is the edema?", Head.REGION)):
        assert only(routed(build()).explain(FILM, question, ["regions"])).head == head
    with pytest.raises(UserError, match="name it"):
        explainer().explain(FILM, "Where is the edema?", ["regions"])


@pytest.mark.parametrize("head", [None, "binary"])
def test_what_should_not_be_answered_is_explained_by_force_alone(head):
    asked = FILM, "How old is the patient?", ["regions"], head
    with pytest.raises(UserError, match="the question .*; ask otherwise, or go on all the same with --force"):
        routed(build()).explain(*asked)
    one = only(routed(build()).explain(*asked, force=True))
    (warning,) = one.warnings
    assert warning.startswith("the question ") and warning.endswith("explained by force")
    assert explanation_files.description(one)["warnings"] == [warning]
    assert explanation_files.summary_lines([one])[0] == f"warning: {warning}"
    assert only(routed(build()).explain(FILM, "Where is the edema?", ["regions"], force=True)).warnings == ()


def test_without_head_and_target_the_models_own_answer_is_explained(monkeypatch):
    model, question = build(), "Show me the edema"
    with torch.no_grad():
        model.question_type.weight.zero_()
        model.question_type.bias.copy_(9 * question_type("B01_describe_all"))
    one = only(routed(model).explain(FILM, question, ["regions"]))
    assert one.head == Head.CATEGORY
    others = [
        only(Explainer(model, small_tokenizer()).explain(FILM, question, ["regions"], "category", name)).logit
        for name in CHEXPERT
    ]
    assert one.logit == max(others) and one.target == CHEXPERT[int(np.argmax(others))]
    assert one.probability == pytest.approx(1 / (1 + np.exp(-one.logit)))
    few = only(Explainer(model, small_tokenizer()).explain(FILM, question, ["regions"], "category", CHEXPERT[:3]))
    assert few.logit == max(others[:3])


def test_probabilities_of_a_single_label_head_are_one_in_all():
    both = [only(explainer().explain(FILM, TEXTS[0], ["regions"], "binary", t)).probability for t in ("no", "yes")]
    assert sum(both) == pytest.approx(1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"head": "category", "target": "pneumotorax"}, "did you mean Pneumothorax"),
        ({"head": "severity", "target": "zzz"}, "it has none, mild, moderate, severe"),
        ({"methods": ["gradcamera"]}, "--method gradcamera: must be one of gradcam"),
        ({"question": "  "}, "the question is empty"),
        ({"question": "left lung " * 40}, "word pieces, and the model reads 32"),
    ],
)
def test_mistakes_are_named(arguments, words):
    asked = {"question": TEXTS[0], "methods": ["layercam"], "head": "binary"} | arguments
    with pytest.raises(UserError, match=words):
        explainer().explain(FILM, **asked)


def test_a_head_or_a_device_that_is_not_there_is_one_line():
    with pytest.raises(ConfigError, match="no head 'colour': must be binary, category, region, severity"):
        explainer().explain(FILM, TEXTS[0], ["regions"], "colour")
    with pytest.raises(ConfigError, match="device meat: cannot be used"):
        Explainer(built(), small_tokenizer(), device="meat")


def test_class_names_in_any_case():
    assert find_class(Head.REGION, " Left LUNG ") == REGIONS.index("left lung")


# Files


@pytest.fixture(scope="module")
def explained():
    return explainer().explain(FILM, TEXTS[0], METHODS, "category", "Pneumothorax")


def write(folder, explanations):
    return explanation_files.write(folder, FILM, TEXTS[0], explanations, "f" * 64, credentialed=False)


def test_files_hold_what_was_explained(tmp_path, explained):
    files = write(tmp_path / "new", explained)
    assert sorted(path.name for path in files) == sorted(path.name for path in (tmp_path / "new").iterdir())
    for one in explained:
        text = json.loads((tmp_path / "new" / f"{one.method}.json").read_text())
        assert (text["method"], text["head"], text["target"]) == (one.method, "category", "Pneumothorax")
        assert (text["logit"], text["model_sha256"], text["credentialed_model"]) == (one.logit, "f" * 64, False)
        assert (text["width"], text["height"], text["question"]) == (WIDTH, HEIGHT, TEXTS[0])
        with np.load(tmp_path / "new" / f"{one.method}.npz") as arrays:
            assert np.array_equal(arrays["map"], one.map)
            assert arrays["map"].dtype == np.float32 and arrays["map"].shape == (HEIGHT, WIDTH)
            assert ("layers" in arrays) == (one.layers is not None)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in files}
    assert modes == {0o600}


def test_older_results_are_not_written_over_unless_asked(tmp_path, explained):
    explanation_files.check_output(tmp_path, METHODS, overwrite=False)
    write(tmp_path, explained[:1])
    with pytest.raises(DataError, match=r"already holds gradcam.png, gradcam.npz, gradcam.json.*--overwrite"):
        explanation_files.check_output(tmp_path, METHODS, overwrite=False)
    explanation_files.check_output(tmp_path, METHODS[1:], overwrite=False)
    explanation_files.check_output(tmp_path, METHODS, overwrite=True)
    with pytest.raises(DataError, match="is a file"):
        explanation_files.check_output(tmp_path / "gradcam.json", METHODS, overwrite=True)


def test_a_write_that_breaks_off_leaves_no_description_and_no_half_file(tmp_path, explained, monkeypatch):
    write(tmp_path, explained[:1])

    def full(path, data):
        if path.suffix == ".npz":
            raise OSError(28, "No space left on device")
        path.write_bytes(data)

    monkeypatch.setattr(explanation_files, "write_atomic", full)
    with pytest.raises(DataError, match="cannot write to .*No space left"):
        write(tmp_path, explained[:1])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gradcam.npz", "gradcam.png"]


def test_a_map_of_nothing_says_so(tmp_path, explained):
    nothing = SimpleNamespace(**{**vars(explained[0]), "map": np.zeros((8, 8), np.float32), "maximum": 0.0})
    nothing.depends_on_target = True
    write(tmp_path, [nothing])
    assert json.loads((tmp_path / "gradcam.json").read_text())["peak"] is None
    assert "points nowhere" in explanation_files.summary_lines([nothing])[1]


def test_spaces_in_a_question_are_none_of_the_models_business():
    one, other = (
        only(explainer().explain(FILM, text, ["regions"], "binary"))
        for text in (" ".join(TEXTS[1].split()), "\n".join(TEXTS[1].split()))
    )
    assert one.logit == other.logit
    routed = Explainer(built("sim"), small_tokenizer(), router=Router(VOCABULARY))
    assert only(routed.explain(FILM, "How  severe is the   nodule?", ["regions"])).head == Head.SEVERITY
