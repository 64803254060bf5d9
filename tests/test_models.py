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

from configs.mimic_cxr_config import Config
from data.label_space import HEADS, QUESTION_TYPES
from models.encoders import resolve_visual
from models.layers import attend
from models.mimic_vqa_model import SSGVQA, parameter_groups
from models.question_only import QuestionOnly
from models.scene_graph import GraphPrediction
from models.sim import ImageGroups
from tests.small_model import (
    FUSIONS,
    IMAGE_OF,
    IMAGES,
    QUESTION_OF,
    SIZE,
    TEXTS,
    VOCABULARY,
    assert_close,
    build,
    built,
    images,
    model_config,
    small_tokenizer,
    some_graph,
    tokens,
)
from utils.errors import ConfigError


@pytest.fixture
def tokenizer():
    return small_tokenizer()


@pytest.fixture(params=FUSIONS)
def model(request) -> SSGVQA:
    return built(request.param)


@pytest.fixture
def sim() -> SSGVQA:
    return built("sim")


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
        assert_close(shuffled.logits[name], logits[order])
    for q in range(9):
        i, u = int(IMAGE_OF[q]), int(QUESTION_OF[q])
        one = graph._map(lambda t, i=i: t[i : i + 1]) if choice == "mixed" else choice
        zero = torch.zeros(1, dtype=torch.long)
        alone = model(images()[i : i + 1], tokens(tokenizer, TEXTS[u : u + 1]), zero, zero, one)
        for name, logits in whole.logits.items():
            assert_close(alone.logits[name][0], logits[q])
        assert_close(alone.chexpert[0], whole.chexpert[i])
        assert_close(alone.graph.boxes[0], whole.graph.boxes[i])
        assert_close(alone.question_type[0], whole.question_type[u])


def test_padding_says_nothing(model, tokenizer):
    short, long = tokens(tokenizer), tokens(tokenizer, length=30)
    long.input_ids[long.attention_mask == 0] = 7
    a = model(images(), short, QUESTION_OF, IMAGE_OF)
    b = model(images(), long, QUESTION_OF, IMAGE_OF)
    for name in a.logits:
        assert_close(a.logits[name], b.logits[name])
    assert_close(a.question_type, b.question_type)


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
    batch = tokens(tokenizer)
    sim(images(), batch, QUESTION_OF, IMAGE_OF)
    hook.remove(), other.remove()
    assert seen == [(1, batch.attention_mask.sum())]
    assert encoded == [IMAGES]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.booleans())
@settings(max_examples=60, deadline=None)
def test_groups_hold_each_token_once_with_its_image(image_of, read_back):
    image_of = torch.tensor(image_of)
    groups = ImageGroups.of(image_of, 5, read_back)
    assert len(set(groups.slot.tolist())) == len(image_of)
    assert groups.slot.max() < len(groups.image) * groups.size
    assert torch.equal(groups.image[groups.slot // groups.size], image_of)
    if read_back:
        assert len(groups.image) == len(set(image_of.tolist()))


@pytest.mark.parametrize("read_back", [True, False])
def test_tokens_read_their_own_image_in_groups_as_they_do_alone(read_back):
    torch.manual_seed(0)
    image_of = torch.tensor([2, 0, 2, 2, 0, 2])
    query, keys_values = torch.randn(6, 8), torch.randn(4, 5, 16)
    read = ImageGroups.of(image_of, 4, read_back).attend(query, keys_values, heads=2)
    alone = attend(query[:, None], keys_values[image_of], heads=2)[:, 0]
    torch.testing.assert_close(read, alone)


def test_attention_masks_keys():
    torch.manual_seed(0)
    query, keys_values = torch.randn(2, 3, 8), torch.randn(2, 5, 16)
    mask = torch.tensor([[True, True, False, True, False], [True] * 5])
    masked = attend(query, keys_values, 2, mask)
    assert_close(masked[:1], attend(query[:1], keys_values[:1, [0, 1, 3]], 2), 1e-6)
    scores = torch.einsum("nld,nkd->nlk", query[..., :4], keys_values[..., :4]) / math.sqrt(4)
    assert_close(attend(query, keys_values, 2)[..., :4], scores.softmax(-1) @ keys_values[..., 8:12], 1e-6)


# Learning


def total(out) -> torch.Tensor:
    parts = [*out.logits.values(), out.chexpert, out.graph.boxes, out.graph.logits[..., 2:], out.question_type]
    return sum(part.float().square().mean() for part in parts)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_gradient_reaches_every_parameter(fusion, tokenizer):
    model = build(fusion).train()

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
        model = build("sim", dropout=0.0).train()
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
            assert_close(other[name], grad, 1e-5)


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
    assert_close(half.logits["binary"].float(), full.logits["binary"], 0.15)
    assert_close(half.graph.boxes, full.graph.boxes, 0.05)


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
    assert_close(logits["region"], padded["region"])
    assert torch.equal(logits["binary"][0], logits["binary"][4])  # the same text
    control.train()
    sum(x.sum() for x in control(tokens(tokenizer), QUESTION_OF).values()).backward()
    assert all(p.grad is not None for p in control.parameters())
    assert {g["name"] for g in parameter_groups(control, Config().training)} == {"new_decay", "new_no_decay"}
