"""Each idea that makes a step fast changes how it is computed, and neither the loss nor any gradient."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import BertModel, DistilBertConfig

from configs.fast_path import FAST_PATH, FastPath
from configs.mimic_cxr_config import Config, TrainingConfig, load_config
from data.batch import TokenBatch
from models import encoders, packing, scene_graph
from models.compiling import WARM_UP
from models.encoders import QuestionEncoder, text_model_from_config
from models.layers import Dropout
from models.mimic_vqa_model import SSGVQA
from models.packing import Packing
from models.question_only import QuestionOnly
from tests.small_model import (
    IMAGE_OF,
    QUESTION_OF,
    SIZE,
    TEXTS,
    assert_close,
    build,
    images,
    model_config,
    small_tokenizer,
    some_graph,
    tokens,
)
from training.engine import TorchEngine
from training.processes import single
from utils.errors import ConfigError

MORE_TEXTS = [*TEXTS, "Is there a fracture of the left lower rib in this image?"]
"""The last one is asked by nobody."""
COUNT = 4
"""Images, the last one without a question."""


@pytest.fixture(autouse=True)
def few_rows_are_enough_for_parts(monkeypatch):
    monkeypatch.setattr(packing, "LEAST_ROWS", 1)


def mixed_graph(prediction):
    """A graph partly of the model's own, partly of another origin, for all but one of the images."""
    own = prediction.graph()
    probs = torch.cat([own.entity_probs[:2], some_graph().entity_probs[:2]])
    return replace(own, entity_probs=probs, exists=torch.tensor([True, False, True, True]))


def learn(model: SSGVQA, off: list[str] = []):  # noqa: B006
    """Outputs, a loss over all of them, and its gradients by parameter name."""
    model.switch(FastPath.without(off))
    model.zero_grad(set_to_none=True)
    out = model(images(COUNT), tokens(small_tokenizer(), MORE_TEXTS), QUESTION_OF, IMAGE_OF, mixed_graph)
    parts = [*out.logits.values(), out.chexpert, out.graph.boxes, out.graph.logits[..., 2:], out.question_type]
    loss = sum(part.float().square().mean() for part in parts)
    loss.backward()
    return parts, loss, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_same(a, b, tolerance: float = 1e-4) -> None:
    """Results of `learn`: shapes, outputs, loss and every gradient, relative to their size.

    Gradients that are 0 but for rounding (of key biases, which no softmax notices) are held to the size of the others.
    """
    for one, other in zip(a[0], b[0], strict=True):
        assert one.shape == other.shape
        assert (one - other).norm() <= tolerance * one.norm()
    assert abs(a[1] - b[1]) <= tolerance * a[1]
    assert a[2].keys() == b[2].keys()
    whole = torch.stack([gradient.norm() for gradient in a[2].values()]).norm()
    for name, one in a[2].items():
        assert (one - b[2][name]).norm() <= tolerance * max(one.norm(), 1e-4 * whole), name


@cache
def plain(fusion: str):
    return learn(build(fusion))


# Equal results. Batch normalisation looks at the whole batch and knows how often each image is in it: the backbone here has
# none, and with one that has `shared_images` could not be without effect.


@pytest.mark.parametrize("off", [*([name] for name in FAST_PATH), list(FAST_PATH)], ids=[*FAST_PATH, "all"])
@pytest.mark.parametrize("fusion", ["sim", "concat", "none"])
def test_loss_and_gradients_are_the_same_without(fusion, off):
    assert_same(plain(fusion), learn(build(fusion), off))


def test_what_is_off_can_be_on_again():
    model = build()
    learn(model, list(FAST_PATH))
    assert_same(plain("sim"), learn(model))


@pytest.mark.parametrize("off", [[], ["packed_tokens"]], ids=["packed", "padded"])
def test_gradient_checkpointing_changes_nothing(off):
    model = build()
    model.set_gradient_checkpointing(True)
    dropout_off(model).train()
    assert_same(plain("sim"), learn(model, off))


def test_frozen_encoders_stay_without_gradient():
    model = build()
    for module in model.pretrained_modules():
        module.requires_grad_(False)
    gradients = learn(model)[2]
    assert not any(name.startswith("question_encoder.model") for name in gradients)
    assert all(torch.isfinite(g).all() for g in gradients.values())
    assert any(name.startswith("question_encoder.project") for name in gradients)


def test_half_precision_is_close():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        packed, padded = (learn(build(), off) for off in ([], ["packed_tokens"]))
    assert_same(packed, padded, 0.05)


def test_unpacked_tables_may_be_wider_than_the_longest_question(monkeypatch):
    """As they are on a GPU."""
    monkeypatch.setitem(encoders.MULTIPLE, "cpu", 8)
    model = build()
    questions = tokens(small_tokenizer(), MORE_TEXTS)
    width = model.question_encoder.encode(questions).packing.mask.shape[1]
    assert width % 8 == 0 and width > questions.input_ids.shape[1]
    assert_same(plain("sim"), learn(model))


def dropout_off(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


# Each switch does what it says


def observed(off: list[str], monkeypatch) -> dict[str, object]:
    """How a forward pass computes."""
    model, seen = build(), {"fused": 0, "roi_align": 0, "dropout": 0, "in parts": 0}
    model.switch(FastPath.without(off))
    backbone = model.image_encoder.backbone

    def count(name: str, function):
        def counted(*args, **kwargs):
            seen[name] += 1
            return function(*args, **kwargs)

        return counted

    def note(module: nn.Module, function) -> None:
        module.register_forward_hook(lambda module, args, out: seen.update(function(args, out)))

    monkeypatch.setattr(F, "scaled_dot_product_attention", count("fused", F.scaled_dot_product_attention))
    monkeypatch.setattr(packing, "LEAST_ROWS", 1)
    monkeypatch.setattr(Packing, "in_parts", count("in parts", Packing.in_parts))
    monkeypatch.setattr(scene_graph, "roi_align", count("roi_align", scene_graph.roi_align))
    layer = next(module for module in model.fusion.modules() if isinstance(module, Dropout))
    layer.p = 0.5
    with monkeypatch.context() as within:
        within.setattr(F, "dropout", count("dropout", F.dropout))
        layer.train()(torch.ones(8))
    layer.eval()
    stem = next(module for module in backbone.modules() if isinstance(module, nn.Conv2d))
    note(stem, lambda args, out: {"images": len(args[0]), "channels": args[0].shape[1]})
    note(model.question_encoder.model.embeddings, lambda args, out: {"tokens": out.shape[:2].numel()})
    note(model.fusion.nodes, lambda args, out: {"nodes": len(out)})
    note(model.fusion.layers[0], lambda args, out: {"groups": len(args[4].image)})
    model(images(COUNT), tokens(small_tokenizer(), MORE_TEXTS), QUESTION_OF, IMAGE_OF)
    monkeypatch.undo()
    kernels = [p for p in backbone.parameters() if p.ndim == 4 and min(p.shape[1:]) > 1]
    return {**seen, "channels last": all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)}


MASK = tokens(small_tokenizer(), MORE_TEXTS).attention_mask
REAL, ASKED = int(MASK.sum()), len(QUESTION_OF)
COPIES = ASKED + 1  # and the one that nobody asks about
ONE_TABLE = {"in parts": 0, "fused": 11}
"""Attention calls where each layer has one table of tokens"""
EFFECTS = {
    "": {},
    "shared_images": {"images": COPIES, "nodes": COPIES, "groups": ASKED},
    "shared_questions": {"tokens": int(MASK[QUESTION_OF].sum() + MASK[-1].sum())},
    "packed_tokens": {"tokens": MASK.numel()} | ONE_TABLE,
    "short_padding": {"tokens": len(MASK) * model_config().max_question_length} | ONE_TABLE,
    "length_parts": ONE_TABLE,
    "late_nodes": {"nodes": ASKED},
    "grouped_attention": {"groups": ASKED},
    "roi_matrix": {"roi_align": 2},
    "fused_attention": {"fused": 0},
    "channels_last": {"channels last": False},
    "one_channel_stem": {"channels": 3},
    "quick_dropout": {"dropout": 1},
}


def test_there_is_an_effect_to_look_for_behind_every_switch():
    assert set(EFFECTS) - {""} == set(FAST_PATH)


@pytest.mark.parametrize("name", EFFECTS)
def test_each_switch_does_what_it_says(name, monkeypatch):
    on, off = observed([], monkeypatch), observed([name] if name else [], monkeypatch)
    assert on["tokens"] == REAL < MASK.numel() and on["images"] == on["nodes"] == COUNT and on["fused"] > 0
    assert {key: value for key, value in off.items() if value != on[key]} == EFFECTS[name]


def test_attention_inside_the_image_encoder_is_switched_too():
    model = build(visual_backbone="vit_tiny_patch16_224", visual_kwargs={"depth": 3})
    inside = [module for module in model.image_encoder.backbone.modules() if hasattr(module, "fused_attn")]
    for off, fused in ((["fused_attention"], False), ([], True)):
        model.switch(FastPath.without(off))
        assert inside and all(module.fused_attn is fused for module in inside)


def test_token_efficiency_is_the_share_of_real_tokens_among_those_computed():
    model, questions = build(), tokens(small_tokenizer(), MORE_TEXTS)
    shares = {"": 1.0, "packed_tokens": REAL / MASK.numel(), "short_padding": REAL / (len(MASK) * 32)}
    for off, share in shares.items():
        model.switch(FastPath.without([off] if off else []))
        assert model.question_encoder.efficiency(questions) == pytest.approx(share)


# The setting


def test_the_engine_switches_what_the_configuration_names():
    model = build()
    TorchEngine(TrainingConfig(fast_path_off=["late_nodes", "channels_last"]), model, 10, single())
    assert model.fast == FastPath(late_nodes=False, channels_last=False) == model.fusion.fast
    assert model.fusion.layers[0].block.attention.fast == model.fast


def test_an_unknown_switch_is_refused_with_the_names_that_there_are():
    with pytest.raises(
        ConfigError, match=r"fast_path_off.* has no late_nods; the names are shared_images, .*roi_matrix"
    ):
        load_config(sets=["training.fast_path_off=[late_nods, late_nodes]"])
    loaded = load_config(sets=["training.fast_path_off=[late_nodes]"])
    assert FastPath.without(loaded.config.training.fast_path_off) == FastPath(late_nodes=False)


def test_a_backbone_without_a_stem_of_one_channel_says_so(monkeypatch):
    model = build()
    model.image_encoder._stem = None
    model.switch(FastPath())
    with pytest.raises(ConfigError, match="test_convnext has no one_channel_stem"):
        model.switch(FastPath(one_channel_stem=False))


def test_checkpoints_know_nothing_of_switches(tmp_path):
    folders = []
    for off in ([], list(FAST_PATH)):
        model = build()
        model.switch(FastPath.without(off))
        folders.append(tmp_path / str(len(off)))
        config = Config(model=model.config)
        config.data.image_size = SIZE
        model.save_pretrained(folders[-1], small_tokenizer(), config)
    weights = [load_file(folder / "model.safetensors") for folder in folders]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    for name in ("text_config.json", "config.yaml", "visual_config.json"):
        assert (folders[0] / name).read_text() == (folders[1] / name).read_text()
    assert "attn" not in (folders[0] / "text_config.json").read_text().replace("_attn_dropout", "")
    loaded, *_ = SSGVQA.from_pretrained(folders[1])
    assert loaded.fast == FastPath()
    assert_same(plain("sim"), learn(loaded))


# Text encoders


def encoder(kind: str) -> QuestionEncoder:
    torch.manual_seed(0)
    settings = model_config()
    if kind == "bert":
        return build().question_encoder
    text = DistilBertConfig(vocab_size=len(small_tokenizer()), dim=24, hidden_dim=32, n_layers=1, n_heads=2)
    return QuestionEncoder(text_model_from_config(text), settings).eval()


@pytest.mark.parametrize(("kind", "packs"), [("bert", True), ("distilbert", False)])
def test_states_of_real_tokens_are_the_same_packed_and_padded(kind, packs):
    """An encoder that cannot leave out padding computes it and says so."""
    model, questions = encoder(kind), tokens(small_tokenizer(), MORE_TEXTS)
    assert model.packs is packs and (model.efficiency(questions) == 1) is packs
    real = questions.attention_mask.bool()
    packed = model.encode(questions)
    assert len(packed.packed) == REAL
    model.switch(FastPath(packed_tokens=False))
    padded = model.encode(questions)
    assert len(padded.packed) == MASK.numel()
    assert_close(packed.padded()[real], padded.padded()[real], 1e-5)
    assert_close(packed.first(), padded.first(), 1e-5)
    one_by_one = [model.token_states(tokens(small_tokenizer(), [text])) for text in MORE_TEXTS]
    for keep_padding in (True, False):
        model.switch(FastPath(packed_tokens=not keep_padding))
        assert_close(model.token_states(questions), torch.cat(one_by_one), 1e-5)
    model.switch(FastPath(fused_attention=False))
    assert_close(model(questions)[real], padded.padded()[real], 1e-5)


def test_packed_bert_is_bert():
    """The same states as transformers gives with its own attention."""
    model, questions = encoder("bert"), tokens(small_tokenizer(), MORE_TEXTS)
    own = BertModel(model.model.config, add_pooling_layer=False).eval()
    own.load_state_dict(model.model.state_dict())
    own.set_attn_implementation("eager")
    expected = own(questions.input_ids, questions.attention_mask).last_hidden_state
    real = questions.attention_mask.bool()
    model.project = nn.Identity()
    model.model.set_attn_implementation(encoders.PACKED_ATTENTION)
    assert_close(model(questions)[real], expected[real], 1e-5)


def test_the_text_only_control_switches_too():
    torch.manual_seed(0)
    control = QuestionOnly.build(model_config(), small_tokenizer()).eval()
    questions = tokens(small_tokenizer(), MORE_TEXTS)
    packed = control(questions, QUESTION_OF)
    control.switch(FastPath.without(["short_padding", "fused_attention"]))
    for head, logits in control(questions, QUESTION_OF).items():
        assert_close(packed[head], logits, 1e-5)


# Compilation


def sized_batch(seed: int, count: int) -> tuple[Tensor, TokenBatch, Tensor, Tensor]:
    """Arguments of a forward pass about so many images; all other sizes differ from seed to seed."""
    generator = torch.Generator().manual_seed(seed)

    def between(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=generator))

    distinct, width = between(2, 9), between(4, 12)
    asked = distinct + between(4, 20)  # more than one for each image
    lengths = torch.randint(2, width + 1, (distinct,), generator=generator)
    lengths[0] = width
    mask = (torch.arange(width) < lengths[:, None]).long()
    ids = torch.randint(5, 20, mask.shape, generator=generator) * mask
    question_of = torch.cat(
        [torch.arange(distinct), torch.randint(0, distinct, (asked - distinct,), generator=generator)]
    )
    return (
        images(count, seed=seed),
        TokenBatch(ids, mask),
        question_of,
        torch.randint(0, count, (asked,), generator=generator),
    )


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True], ids=["stored", "recomputed"])
def test_nothing_is_compiled_after_the_warm_up(checkpointing):
    compiled, calls = [], []

    def backend(graph, inputs):
        compiled.append(graph)

        def run(*args):
            calls.append(graph)
            return graph(*args)

        return run

    torch._dynamo.reset()
    model, same = (dropout_off(build()).train() for _ in range(2))
    if checkpointing:
        model.set_gradient_checkpointing(True)
    try:
        model.compile_parts(backend=backend)
        sizes = [3] * (WARM_UP + 8) + [2, 1, 3, 3]
        for number, count in enumerate(sizes):
            before, calls[:] = len(compiled), []
            batch = sized_batch(number, count)
            outputs = [m(*batch).logits["region"] for m in (model, same)]
            for out in outputs:
                out.square().mean().backward()
            assert_close(*outputs)
            if number >= WARM_UP:
                assert len(compiled) == before, f"pass {number}"
                assert len(calls) >= 8 or count < 3, "the compiled code is what runs"
        calls[:] = []
        with torch.no_grad():
            model.eval()(*sized_batch(1, 3))
        assert not calls, "evaluation runs without compiled code"
        for one, other in zip(model.parameters(), same.parameters(), strict=True):
            if other.grad is not None:
                assert_close(one.grad, other.grad, 1e-3)
    finally:
        torch._dynamo.reset()


def test_the_engine_compiles_when_it_is_asked_to(monkeypatch):
    asked = []
    monkeypatch.setattr(SSGVQA, "compile_parts", lambda model: asked.append(model))
    for compile_it in (False, True):
        model = build()
        TorchEngine(TrainingConfig(compile=compile_it), model, 10, single())
        assert asked == ([model] if compile_it else [])
