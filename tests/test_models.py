"""The model: shapes, what each part may and may not depend on, and that everything learns."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.ops import roi_align

from configs.mimic_cxr_config import Config, ModelConfig
from data.batch import SceneGraph, SceneGraphTargets, TokenBatch
from data.label_space import HEADS, QUESTION_TYPES, REGIONS
from data.vocabulary import Vocabulary
from models.encoders import build_tokenizer, resolve_visual
from models.layers import attend
from models.mimic_vqa_model import SSGVQA, parameter_groups
from models.question_only import QuestionOnly
from models.scene_graph import PRIOR_BOXES, GraphPrediction, NodeEmbedding, box_numbers, oracle_graph, roi_features
from models.sim import QuestionGroups
from utils.errors import ConfigError

SIZE, IMAGES = 64, 3
VOCABULARY = Vocabulary(("effusion", "edema", "nodule", "tube", "fracture"), ("heart", "lung", "rib"))
TEXTS = ["Is there effusion in the left lung?", "Where is the nodule?", "How severe is edema?", "Is the heart normal?"]
FUSIONS = ("sim", "concat", "none")


def model_config(**changes) -> ModelConfig:
    small = ModelConfig(
        visual_backbone="test_convnext",
        visual_stride=16,
        pretrained=False,
        text_kwargs={"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
        hidden_dim=32,
        fusion_depth=2,
        fusion_heads=4,
        sim_inner_dim=16,
        graph_layers=1,
        drop_path=0.0,
        max_question_length=32,
    )
    return replace(small, **changes)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(model_config(), TEXTS)


_built: dict[str, SSGVQA] = {}


def build(tokenizer, fusion: str = "sim", **changes) -> SSGVQA:
    """A model in evaluation mode whose outputs depend on everything: no layer starts at zero."""
    torch.manual_seed(0)
    model = SSGVQA.build(model_config(fusion=fusion, **changes), VOCABULARY, tokenizer, SIZE)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(params=FUSIONS)
def model(request, tokenizer) -> SSGVQA:
    if request.param not in _built:
        _built[request.param] = build(tokenizer, request.param)
    return _built[request.param]


@pytest.fixture
def sim(tokenizer) -> SSGVQA:
    if "sim" not in _built:
        _built["sim"] = build(tokenizer, "sim")
    return _built["sim"]


def tokens(tokenizer, texts=TEXTS, length: int | None = None) -> TokenBatch:
    padding = {"padding": "max_length", "max_length": length} if length else {"padding": True}
    encoded = tokenizer(texts, return_tensors="pt", **padding)
    return TokenBatch(encoded["input_ids"], encoded["attention_mask"])


def images(count: int = IMAGES, size: int = SIZE, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, size, size), dtype=torch.uint8, generator=generator)


# 9 questions: unsorted, uneven (1, 5 and 3 an image), texts shared between images
IMAGE_OF = torch.tensor([1, 2, 1, 0, 1, 2, 1, 2, 1])
QUESTION_OF = torch.tensor([0, 3, 1, 2, 0, 1, 3, 2, 2])


def some_graph(seed: int = 2, count: int = IMAGES) -> SceneGraph:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, len(REGIONS), 2, 2, generator=generator).sort(dim=2).values
    probs = torch.rand(count, len(REGIONS), VOCABULARY.num_entities, generator=generator)
    return SceneGraph(corners.flatten(2), probs, torch.tensor([True, False, True]))


def some_targets(seed: int) -> SceneGraphTargets:
    generator = torch.Generator().manual_seed(seed)
    graph = some_graph(seed)
    present = (torch.rand(graph.entity_probs.shape, generator=generator) < 0.2).float()
    return SceneGraphTargets(
        boxes=graph.boxes,
        box_mask=torch.rand(IMAGES, len(REGIONS), generator=generator) < 0.5,
        present=present,
        weight=torch.ones_like(present),
        union_image=torch.tensor([0, 2]),
        union_entity=torch.tensor([3, 4]),
        union_regions=torch.rand(2, len(REGIONS), generator=generator) < 0.2,
        union_weight=torch.ones(2),
    )


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


# Shapes


def test_shapes_of_all_outputs(model, tokenizer):
    out = model(images(), tokens(tokenizer), QUESTION_OF, IMAGE_OF)
    assert {name: tuple(x.shape) for name, x in out.logits.items()} == {
        "binary": (9, 2),
        "category": (9, 14),
        "region": (9, 26),
        "severity": (9, 4),
    }
    assert list(out.logits) == [head.value for head in HEADS]
    assert out.chexpert.shape == (IMAGES, 14)
    assert out.question_type.shape == (len(TEXTS), len(QUESTION_TYPES) + 1) == (4, 28)
    assert out.graph.boxes.shape == (IMAGES, 26, 4) and out.graph.boxes.dtype == torch.float32
    assert out.graph.logits.shape == (IMAGES, 26, VOCABULARY.num_entities)
    features = model.encode_images(images())
    assert features.grid.shape == (IMAGES, 16, 32) and features.feature_map.shape == (IMAGES, 32, 4, 4)
    assert features.global_token.shape == (IMAGES, 32)


def test_other_image_sizes_work(sim, tokenizer):
    for size, cells in ((96, 36), (160, 100)):
        out = sim(images(size=size), tokens(tokenizer), QUESTION_OF, IMAGE_OF)
        assert out.logits["binary"].isfinite().all()
        assert sim.encode_images(images(size=size)).grid.shape[1] == cells


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_visual_stride_picks_the_stage(stride):
    spec = resolve_visual(model_config(visual_stride=stride), SIZE)
    assert spec.channels == {8: 32, 16: 48, 32: 64}[stride]
    assert spec.mean == pytest.approx(0.5) and spec.std == pytest.approx(0.5)


def test_backbones_with_other_layouts():
    """Channels-last maps, position tables with a size, and several maps of the same stride."""
    swin = resolve_visual(model_config(visual_backbone="swin_tiny_patch4_window7_224", visual_stride=32), 224)
    assert swin.channels_last and swin.channels == 768 and swin.kwargs == {"img_size": 224}
    assert not resolve_visual(model_config(visual_backbone="resnet18"), SIZE).channels_last
    assert resolve_visual(model_config(visual_backbone="vit_tiny_patch16_224"), 96).kwargs == {"img_size": 96}


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"visual_stride": 2}, "only strides 4, 8, 16, 32"),
        ({"visual_backbone": "no_such_model"}, "neither a folder nor a timm model"),
        ({"visual_kwargs": {"deepness": 3}}, "deepness"),
        ({"visual_backbone": "densenet121", "drop_path": 0.1}, "model.drop_path: 0"),
        ({"text_kwargs": {"hiden_size": 3}}, "hiden_size"),
        ({"max_question_length": 40, "text_kwargs": {"max_position_embeddings": 16}}, "16 positions"),
    ],
)
def test_what_cannot_be_built_is_explained(changes, part, tokenizer):
    with pytest.raises(ConfigError, match=part) as caught:
        SSGVQA.build(model_config(**changes), VOCABULARY, tokenizer, SIZE)
    assert "\n" not in str(caught.value)


# A question's answer depends on its image, its text and the graph, and on nothing else in the batch


@pytest.mark.parametrize("choice", ["predicted", "none", "mixed"])
def test_batch_is_the_sum_of_its_parts(model, tokenizer, choice):
    graph, batch = (some_graph() if choice == "mixed" else choice), tokens(tokenizer)
    whole = model(images(), batch, QUESTION_OF, IMAGE_OF, graph)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(3))
    shuffled = model(images(), batch, QUESTION_OF[order], IMAGE_OF[order], graph)
    for name, logits in whole.logits.items():
        close(shuffled.logits[name], logits[order])
    for q in range(9):
        i, u = int(IMAGE_OF[q]), int(QUESTION_OF[q])
        one = graph._map(lambda t, i=i: t[i : i + 1]) if choice == "mixed" else choice
        zero = torch.zeros(1, dtype=torch.long)
        alone = model(images()[i : i + 1], tokens(tokenizer, TEXTS[u : u + 1]), zero, zero, one)
        for name, logits in whole.logits.items():
            close(alone.logits[name][0], logits[q])
        close(alone.chexpert[0], whole.chexpert[i])
        close(alone.graph.boxes[0], whole.graph.boxes[i])
        close(alone.question_type[0], whole.question_type[u])


def test_padding_says_nothing(model, tokenizer):
    short, long = tokens(tokenizer), tokens(tokenizer, length=30)
    long.input_ids[long.attention_mask == 0] = 7
    a = model(images(), short, QUESTION_OF, IMAGE_OF)
    b = model(images(), long, QUESTION_OF, IMAGE_OF)
    for name in a.logits:
        close(a.logits[name], b.logits[name])
    close(a.question_type, b.question_type)


def test_images_and_texts_matter(model, tokenizer):
    base = model(images(), tokens(tokenizer), QUESTION_OF, IMAGE_OF).logits["binary"]
    other_image = model(images(seed=9), tokens(tokenizer), QUESTION_OF, IMAGE_OF).logits["binary"]
    other_text = model(images(), tokens(tokenizer), QUESTION_OF.roll(1), IMAGE_OF).logits["binary"]
    assert (base - other_image).abs().amax() > 1e-3 and (base - other_text).abs().amax() > 1e-3


def test_each_distinct_text_is_encoded_once(sim, tokenizer):
    seen = []
    hook = sim.question_encoder.model.register_forward_hook(
        lambda module, args, kwargs, out: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    encoded = []
    other = sim.image_encoder.backbone.register_forward_hook(lambda module, args, out: encoded.append(len(args[0])))
    sim(images(), tokens(tokenizer), QUESTION_OF, IMAGE_OF)
    hook.remove(), other.remove()
    assert len(seen) == 1 and seen[0][0] == len(TEXTS)
    assert encoded == [IMAGES]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_groups_hold_each_question_once_with_its_image(image_of):
    image_of = torch.tensor(image_of)
    groups = QuestionGroups.of(image_of, 5)
    assert torch.equal(groups.question[groups.slot], torch.arange(len(image_of)))
    assert len(set(groups.slot.tolist())) == len(image_of)
    assert torch.equal(groups.image[groups.slot // groups.size], image_of)
    assert len(groups.image) <= len(image_of) // groups.size + 5  # the bound that GPUs use


def test_attention_masks_keys():
    torch.manual_seed(0)
    query, keys_values = torch.randn(2, 3, 8), torch.randn(2, 5, 16)
    mask = torch.tensor([[True, True, False, True, False], [True] * 5])
    masked = attend(query, keys_values, 2, mask)
    close(masked[:1], attend(query[:1], keys_values[:1, [0, 1, 3]], 2), 1e-6)
    scores = torch.einsum("nld,nkd->nlk", query[..., :4], keys_values[..., :4]) / math.sqrt(4)
    close(attend(query, keys_values, 2)[..., :4], scores.softmax(-1) @ keys_values[..., 8:12], 1e-6)


# The graph


def test_predicted_mode_owes_nothing_to_the_report(sim, tokenizer):
    def run(targets, mode):
        graph = (lambda predicted: oracle_graph(targets, predicted)) if mode == "oracle" else mode
        return sim(images(), tokens(tokenizer), QUESTION_OF, IMAGE_OF, graph)

    for mode, same in (("predicted", True), ("oracle", False)):
        a, b = run(some_targets(4), mode), run(some_targets(5), mode)
        assert torch.equal(a.logits["binary"], b.logits["binary"]) == same
        assert torch.equal(a.chexpert, b.chexpert) and torch.equal(a.graph.logits, b.graph.logits)
        assert torch.equal(a.graph.boxes, b.graph.boxes)


@pytest.mark.parametrize("fusion", ["sim", "concat"])
def test_without_a_graph_boxes_and_findings_do_not_matter(tokenizer, fusion):
    model = _built.setdefault(fusion, build(tokenizer, fusion))
    answers = []
    for seed in (2, 3):
        graph = replace(some_graph(seed), exists=torch.tensor([False, False, True]))
        answers.append(model(images(), tokens(tokenizer), QUESTION_OF, IMAGE_OF, graph).logits["region"])
    none = model(images(), tokens(tokenizer), QUESTION_OF, IMAGE_OF, "none").logits["region"]
    without = IMAGE_OF != 2
    assert torch.equal(answers[0][without], answers[1][without])
    assert (answers[0] - answers[1])[~without].abs().amax() > 1e-3
    close(none[without], answers[0][without])


def test_every_graph_number_matters(sim, tokenizer):
    graph = replace(some_graph(), exists=torch.ones(IMAGES, dtype=torch.bool))
    base = sim(images(), tokens(tokenizer), QUESTION_OF, IMAGE_OF, graph).logits["region"]
    for name in ("boxes", "entity_probs"):
        value = getattr(graph, name).clone()
        value[:, 8] = value[:, 9]
        changed = sim(images(), tokens(tokenizer), QUESTION_OF, IMAGE_OF, replace(graph, **{name: value}))
        assert (changed.logits["region"] - base).abs().amax() > 1e-5


def test_a_node_is_134_numbers_as_designed():
    torch.manual_seed(0)
    embed = NodeEmbedding(ModelConfig(), VOCABULARY.num_entities, VOCABULARY.num_regions)
    graph = some_graph()
    nodes = embed(graph)
    assert nodes.shape == (IMAGES, 26, 134)
    assert torch.equal(nodes[..., :6], box_numbers(graph.boxes))
    assert torch.equal(nodes[0, :, 6:70], embed.region.weight[-26:])
    probs = graph.entity_probs[1, 8, 1:]
    by_hand = sum(p * e for p, e in zip(probs, embed.entity.weight[1:], strict=True)) / max(1.0, float(probs.sum()))
    close(nodes[1, 8, 70:], by_hand, 1e-5)
    # little evidence is not scaled up: the sum is divided by at least 1
    faint = replace(graph, entity_probs=torch.zeros_like(graph.entity_probs))
    faint.entity_probs[..., 3] = 0.25
    close(embed(faint)[0, 0, 70:], 0.25 * embed.entity.weight[3], 1e-6)
    # padding takes no part
    padded = replace(graph, entity_probs=graph.entity_probs.clone())
    padded.entity_probs[..., 0] = 1.0
    assert torch.equal(embed(padded), nodes)


def test_box_numbers_by_hand_and_clipped():
    boxes = torch.tensor([[0.1, 0.2, 0.5, 0.4], [0.0, 0.3, 1.0, 0.3], [0.2, 0.0, 0.2, 1.0]])
    numbers = box_numbers(boxes)
    close(numbers[0], torch.tensor([0.1, 0.2, 0.5, 0.4, 0.08, math.log(2)]), 1e-4)
    assert numbers[1, 5] == 3 and numbers[2, 5] == -3 and numbers[1, 4] == 0


def test_roi_features_are_those_of_roi_align():
    torch.manual_seed(0)
    extreme = torch.tensor([[0.0, 0, 1, 1], [0.3, 0.3, 0.3, 0.9]])
    boxes = torch.cat([some_graph().boxes, extreme.expand(3, -1, -1)], 1)
    feature_map = torch.randn(3, 8, 5, 7)
    rois = torch.cat(
        [torch.arange(3.0).repeat_interleave(28)[:, None], (boxes * torch.tensor([7.0, 5, 7, 5])).flatten(0, 1)], dim=1
    )
    expected = roi_align(feature_map, rois, 3, sampling_ratio=2, aligned=True).mean((2, 3)).view(3, 28, 8)
    close(roi_features(feature_map, boxes), expected, 1e-5)


def test_prior_boxes_are_anatomy_and_where_training_starts(tokenizer):
    assert set(PRIOR_BOXES) == set(REGIONS)
    for name, (x1, y1, x2, y2) in PRIOR_BOXES.items():
        assert 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1
        centre = (x1 + x2) / 2  # the patient's right is on the image's left
        assert not name.startswith("right ") or centre < 0.5
        assert not name.startswith("left ") or centre > 0.5
    model = SSGVQA.build(model_config(), VOCABULARY, tokenizer, SIZE).eval()
    prediction = model.predict_graph(model.encode_images(images()))
    close(prediction.boxes[0], torch.tensor([PRIOR_BOXES[name] for name in REGIONS]), 1e-5)
    assert prediction.logits[..., 2:].sigmoid().mean().item() == pytest.approx(0.02, abs=0.01)


def test_predicted_boxes_lie_in_the_image_and_learn_beyond_its_edge(sim):
    delta = torch.zeros(1, 26, 4)
    delta[..., 0], delta[..., 2] = 6.0, 4.0
    delta.requires_grad_()
    boxes = sim.region_predictor._boxes(delta)
    assert boxes.min() >= 0 and boxes.max() <= 1
    boxes[..., 2].sum().backward()
    assert (delta.grad[..., 0] > 0).all()


def test_padding_and_unknown_entities_are_never_predicted(sim):
    graph = sim.predict_graph(sim.encode_images(images())).graph()
    assert (graph.entity_probs[..., :2] == 0).all() and (graph.entity_probs[..., 2:] > 0).all()
    assert not graph.boxes.requires_grad and graph.entity_probs.requires_grad and graph.exists.all()


def test_oracle_graph_by_hand():
    targets = some_targets(6)
    targets.present[0, targets.union_regions[0], 3] = 1  # said twice is not twice as present
    targets.present[2, :, 4] = 0
    before = copy.deepcopy(targets)
    predicted = GraphPrediction(some_graph(7).boxes.requires_grad_(), torch.zeros(IMAGES, 26, 7))
    graph = oracle_graph(targets, predicted)
    for i in range(IMAGES):
        for r in range(26):
            source = targets if targets.box_mask[i, r] else predicted
            assert torch.equal(graph.boxes[i, r], source.boxes[i, r].detach())
    expected = targets.present.clone()
    expected[0, targets.union_regions[0], 3] = 1
    expected[2, targets.union_regions[1], 4] = 1
    assert torch.equal(graph.entity_probs, expected) and graph.exists.all() and not graph.boxes.requires_grad
    assert torch.equal(targets.present, before.present)


def test_unknown_graph_choice_is_refused(sim, tokenizer):
    with pytest.raises(ValueError, match="predicted"):
        sim(images(), tokens(tokenizer), QUESTION_OF, IMAGE_OF, "oracle")


# Learning


def total(out) -> torch.Tensor:
    parts = [*out.logits.values(), out.chexpert, out.graph.boxes, out.graph.logits[..., 2:], out.question_type]
    return sum(part.float().square().mean() for part in parts)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_gradient_reaches_every_parameter(fusion, tokenizer):
    model = build(tokenizer, fusion).train()

    def mixed(prediction):
        return replace(prediction.graph(), exists=torch.tensor([True, False, True]))

    total(model(images(), tokens(tokenizer), QUESTION_OF, IMAGE_OF, mixed)).backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_answers_teach_the_predicted_findings_but_not_the_boxes(sim, tokenizer):
    prediction = sim.predict_graph(sim.encode_images(images()))
    prediction = GraphPrediction(*(t.detach().requires_grad_() for t in (prediction.boxes, prediction.logits)))
    features = sim.encode_images(images())
    logits, _ = sim.answer(features, prediction.graph(), tokens(tokenizer), QUESTION_OF, IMAGE_OF)
    logits["binary"].sum().backward()
    sim.zero_grad()
    assert prediction.boxes.grad is None and prediction.logits.grad[..., 2:].abs().sum() > 0


def test_gradient_checkpointing_changes_nothing(tokenizer):
    grads = []
    for enable in (False, True, False):
        model = build(tokenizer, "sim", dropout=0.0).train()
        model.question_encoder.model.config.hidden_dropout_prob = 0.0
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        model.set_gradient_checkpointing(True)
        model.set_gradient_checkpointing(enable)
        total(model(images(), tokens(tokenizer), QUESTION_OF, IMAGE_OF)).backward()
        grads.append({n: p.grad for n, p in model.named_parameters()})
    for other in grads[1:]:
        for name, grad in grads[0].items():
            close(other[name], grad, 1e-5)


def test_a_few_steps_fit_a_few_answers(tokenizer):
    torch.manual_seed(0)
    settings = model_config(dropout=0.0)
    settings.text_kwargs = {**settings.text_kwargs, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = SSGVQA.build(settings, VOCABULARY, tokenizer, SIZE).train()
    answers = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1, 1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        out = model(images(), tokens(tokenizer), QUESTION_OF, IMAGE_OF)
        loss = nn.functional.cross_entropy(out.logits["binary"], answers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[-10:]) < 0.6 * losses[0]


def test_bf16_autocast_is_close(model, tokenizer):
    arguments = (images(), tokens(tokenizer), QUESTION_OF, IMAGE_OF, some_graph())
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(*arguments)
    full = model(*arguments)
    assert half.graph.boxes.dtype == half.graph.logits.dtype == torch.float32
    close(half.logits["binary"].float(), full.logits["binary"], 0.15)
    close(half.graph.boxes, full.graph.boxes, 0.05)


def test_bf16_training_step(model, tokenizer):
    model = copy.deepcopy(model).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(images(), tokens(tokenizer), QUESTION_OF, IMAGE_OF)
    total(out).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("pretrained", [True, False])
def test_parameter_groups(sim, pretrained):
    model = copy.deepcopy(sim)
    model.config = replace(model.config, pretrained=pretrained)
    training = Config().training
    groups = {g["name"]: g for g in parameter_groups(model, training)}
    everything = [id(p) for g in groups.values() for p in g["params"]]
    assert sorted(everything) == sorted(id(p) for p in model.parameters())
    assert all(p.ndim >= 2 for g in groups.values() if g["weight_decay"] for p in g["params"])
    fast = training.learning_rate * training.new_layer_lr_scale
    assert groups["new_decay"]["lr"] == pytest.approx(fast) and groups["new_decay"]["weight_decay"] == 0.01
    assert groups["new_no_decay"]["weight_decay"] == 0
    assert ("encoder_decay" in groups) == pretrained
    embedding = model.fusion.nodes.entity.weight
    assert any(p is embedding for p in groups["new_no_decay"]["params"])
    if pretrained:
        assert groups["encoder_decay"]["lr"] == training.learning_rate
        stem = next(model.image_encoder.backbone.parameters())
        assert any(p is stem for p in groups["encoder_decay"]["params"])
        assert any(p is model.image_encoder.project.weight for p in groups["new_decay"]["params"])
    torch.optim.AdamW(list(groups.values()))


# The text-only control


def test_question_only(tokenizer):
    torch.manual_seed(0)
    control = QuestionOnly.build(model_config(), tokenizer).eval()
    logits = control(tokens(tokenizer), QUESTION_OF)
    assert {n: tuple(x.shape) for n, x in logits.items()} == {
        "binary": (9, 2), "category": (9, 14), "region": (9, 26), "severity": (9, 4)
    }  # fmt: skip
    padded = control(tokens(tokenizer, length=30), QUESTION_OF)
    close(logits["region"], padded["region"])
    assert torch.equal(logits["binary"][0], logits["binary"][4])  # the same text
    control.train()
    sum(x.sum() for x in control(tokens(tokenizer), QUESTION_OF).values()).backward()
    assert all(p.grad is not None for p in control.parameters())
    assert {g["name"] for g in parameter_groups(control, Config().training)} == {"new_decay", "new_no_decay"}
