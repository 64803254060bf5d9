"""Weights and tokenizers from folders, cache or hub; model folders written and read back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from huggingface_hub.errors import OfflineModeIsEnabled
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer, BertConfig, BertForMaskedLM, BertModel

from configs.mimic_cxr_config import Config, ModelConfig
from data.batch import TokenBatch
from data.vocabulary import Vocabulary
from models import pretrained
from models.encoders import build_tokenizer
from models.mimic_vqa_model import SSGVQA
from models.question_only import QuestionOnly
from models.tokenizer import train_tokenizer
from utils.errors import CheckpointError, ConfigError

SIZE = 64
VOCABULARY = Vocabulary(("effusion", "edema"), ("heart", "lung"))
TEXTS = ["Is there effusion in the left lung?", "Where is the nodule?", "Is the Heart normal?"]
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
CASED = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Heart", "heart", "Is", "the", "normal", "?", "h", "##e"]


def config(**changes) -> Config:
    model = ModelConfig(
        visual_backbone="test_convnext",
        visual_stride=16,
        pretrained=False,
        text_kwargs=SMALL,
        hidden_dim=16,
        fusion_depth=1,
        fusion_heads=2,
        sim_inner_dim=8,
        graph_layers=1,
        max_question_length=24,
    )
    whole = Config(model=replace(model, **changes))
    whole.data.image_size = SIZE
    return whole


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory) -> Path:
    """A tiny BERT as Bio_ClinicalBERT is published: cased word pieces, and a head of the pretraining task beside it."""
    folder = tmp_path_factory.mktemp("text") / "bert"
    torch.manual_seed(1)
    bert = BertForMaskedLM(BertConfig(vocab_size=len(CASED), **SMALL))
    bert.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(CASED) + "\n")
    return folder


@pytest.fixture(scope="module")
def visual_folder(tmp_path_factory) -> Path:
    """A tiny timm model for colour images, as timm writes its folders."""
    folder = tmp_path_factory.mktemp("visual") / "convnext"
    torch.manual_seed(2)
    timm.models.save_for_hf(timm.create_model("test_convnext", num_classes=5), folder, safe_serialization=True)
    return folder


def run(model: SSGVQA, tokenizer):
    encoded = tokenizer(TEXTS, padding=True, return_tensors="pt")
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 1, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    questions = TokenBatch(encoded["input_ids"], encoded["attention_mask"])
    with torch.no_grad():
        return model.eval()(images, questions, torch.tensor([0, 1, 2, 2]), torch.tensor([1, 0, 0, 1]))


def same(a, b) -> bool:
    heads = all(torch.equal(a.logits[n], b.logits[n]) for n in a.logits)
    return heads and torch.equal(a.chexpert, b.chexpert) and torch.equal(a.graph.logits, b.graph.logits)


# Pretrained encoders


def test_local_folders_give_their_weights_and_a_model_folder_needs_them_no_more(text_folder, visual_folder, tmp_path):
    settings = config(
        pretrained=True, text_encoder=str(text_folder), visual_backbone=str(visual_folder), text_kwargs={}
    )
    tokenizer = build_tokenizer(settings.model, TEXTS)
    model = SSGVQA.build(settings.model, VOCABULARY, tokenizer, SIZE)

    stored = load_file(visual_folder / "model.safetensors")
    weights = model.image_encoder.backbone.state_dict()
    stem = stored["stem.0.weight"]
    assert weights["stem_0.weight"].shape[1] == 1  # grey: the sum over colours
    torch.testing.assert_close(weights["stem_0.weight"], stem.sum(1, keepdim=True))
    assert torch.equal(weights["stages_0.blocks.0.conv_dw.weight"], stored["stages.0.blocks.0.conv_dw.weight"])
    text = AutoModel.from_pretrained(text_folder, add_pooling_layer=False).state_dict()
    assert all(torch.equal(value, text[name]) for name, value in model.question_encoder.model.state_dict().items())
    assert not any("pooler" in name for name, _ in model.named_parameters())

    before = run(model, tokenizer)
    model.save_pretrained(tmp_path / "best", tokenizer, settings)
    away = text_folder.rename(tmp_path / "text_away"), visual_folder.rename(tmp_path / "visual_away")
    try:
        loaded, tokenizer, _, _ = SSGVQA.from_pretrained(tmp_path / "best")
        assert same(before, run(loaded, tokenizer))
    finally:
        away[0].rename(text_folder), away[1].rename(visual_folder)


def test_pretrained_weights_that_lack_the_encoder_are_refused(text_folder, tmp_path):
    BertModel(BertConfig(vocab_size=len(CASED), **SMALL)).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "encoder.layer.0.output" not in k}, tmp_path / "model.safetensors")
    (tmp_path / "vocab.txt").write_text((text_folder / "vocab.txt").read_text())
    settings = config(pretrained=True, text_encoder=str(tmp_path))
    with pytest.raises(ConfigError, match=r"lack .* tensors of the encoder"):
        QuestionOnly.build(settings.model, build_tokenizer(settings.model, []))


def test_tokenizer_and_weights_of_different_models_are_refused(text_folder, tmp_path):
    BertModel(BertConfig(vocab_size=7, **SMALL)).save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text((text_folder / "vocab.txt").read_text())
    settings = config(pretrained=True, text_encoder=str(tmp_path))
    with pytest.raises(ConfigError, match="13 word pieces, its weights 7"):
        QuestionOnly.build(settings.model, build_tokenizer(settings.model, []))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"text_encoder": "owner/no-such-text-encoder"}, "model.text_encoder"),
        ({"visual_backbone": "hf-hub:owner/no-such-backbone"}, "model.visual_backbone"),
        ({"visual_backbone": "convnext_base"}, "model.visual_backbone"),
    ],
)
@pytest.mark.parametrize("reason", [OfflineModeIsEnabled("offline"), ConnectionError("Name or service not known")])
def test_what_cannot_be_had_is_said_in_one_line_with_the_ways_on(
    changes, key, reason, monkeypatch, tmp_path, text_folder, visual_folder
):
    def unreachable(*args, **kwargs):
        raise reason

    monkeypatch.setattr(huggingface_hub, "model_info", unreachable)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    settings = config(
        **{
            "pretrained": True,
            "text_kwargs": {},
            "text_encoder": str(text_folder),
            "visual_backbone": str(visual_folder),
            **changes,
        }
    )
    with pytest.raises(ConfigError) as caught:
        SSGVQA.build(settings.model, VOCABULARY, build_tokenizer(settings.model, TEXTS), SIZE)
    message = str(caught.value)
    assert message.startswith(key) and "\n" not in message
    assert all(way in message for way in ("model.pretrained: false", "a local folder", "HF_HOME"))
    assert next(iter(changes.values())) in message


@pytest.mark.parametrize("content", [None, b"{}", b"not json"])
def test_a_folder_that_is_no_timm_model(content, tmp_path):
    if content is not None:
        (tmp_path / "config.json").write_bytes(content)
    settings = config(pretrained=True, visual_backbone=str(tmp_path))
    with pytest.raises(ConfigError, match="not a timm model folder"):
        SSGVQA.build(settings.model, VOCABULARY, train_tokenizer(TEXTS, 24), SIZE)


def test_damaged_weights_in_local_folders(text_folder, visual_folder, tmp_path):
    for source, key in ((text_folder, "text_encoder"), (visual_folder, "visual_backbone")):
        copy = tmp_path / key
        copy.mkdir()
        for file in source.iterdir():
            (copy / file.name).write_bytes(file.read_bytes()[: 100 if "safetensors" in file.name else None])
        folders = {"text_encoder": str(text_folder), "visual_backbone": str(visual_folder), key: str(copy)}
        settings = config(pretrained=True, text_kwargs={}, **folders)
        with pytest.raises(ConfigError, match=f"model.{key}.*cannot be loaded"):
            SSGVQA.build(settings.model, VOCABULARY, build_tokenizer(settings.model, TEXTS), SIZE)


# Tokenizers


def test_a_cased_vocabulary_is_not_lower_cased(text_folder):
    tokenizer = build_tokenizer(config(pretrained=True, text_encoder=str(text_folder)).model, [])
    assert tokenizer.tokenize("Is the Heart normal?") == ["Is", "the", "Heart", "normal", "?"]


def test_lower_casing_that_the_folder_asks_for_is_kept(text_folder, tmp_path):
    for name in ("vocab.txt", "config.json"):
        (tmp_path / name).write_text((text_folder / name).read_text())
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": true, "tokenizer_class": "BertTokenizer"}')
    tokenizer = build_tokenizer(config(pretrained=True, text_encoder=str(tmp_path)).model, [])
    assert tokenizer.tokenize("the Heart") == ["the", "heart"]


def test_trained_tokenizer_keeps_case_words_and_unknown_letters():
    tokenizer = train_tokenizer(TEXTS, 24)
    encoded = tokenizer("Is the Heart normal?")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(encoded) == ["[CLS]", "Is", "the", "Heart", "normal", "?", "[SEP]"]
    assert tokenizer.tokenize("hear") == ["h", "##e", "##a", "##r"]
    assert tokenizer.tokenize("Ω") == ["[UNK]"]
    assert tokenizer.pad_token_id == 0
    padded = tokenizer(["Is", "Is the Heart"], padding=True)
    assert padded["attention_mask"] == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]


def test_trained_tokenizer_is_bounded_and_the_same_in_every_process(tmp_path):
    texts = [f"word{i} Common" for i in range(300)]
    assert len(train_tokenizer(texts, 24, most=100)) == 100
    assert "Common" in train_tokenizer(texts, 24, most=100).get_vocab()
    expected = train_tokenizer(texts, 24, most=200).get_vocab()
    assert train_tokenizer(texts[::-1] + 9 * texts[250:], 24, most=200).get_vocab() == expected
    script = (
        "import json; from models.tokenizer import train_tokenizer;"
        "print(json.dumps(train_tokenizer([f'word{i} Common' for i in range(300)], 24, most=200).get_vocab()))"
    )
    root = Path(__file__).resolve().parent.parent
    other = subprocess.run(
        [sys.executable, "-c", script], cwd=root, env=os.environ, capture_output=True, text=True, check=True
    )
    assert json.loads(other.stdout.splitlines()[-1]) == expected


def test_trained_tokenizer_round_trip(tmp_path):
    tokenizer = train_tokenizer(TEXTS, 24)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded(TEXTS)["input_ids"] == tokenizer(TEXTS)["input_ids"]
    assert loaded.get_vocab() == tokenizer.get_vocab() and loaded.pad_token_id == 0


# Model folders


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "best_model"
    settings = config(drop_path=0.1)
    settings.training.learning_rate = 0.125
    tokenizer = build_tokenizer(settings.model, TEXTS)
    model = SSGVQA.build(settings.model, VOCABULARY, tokenizer, SIZE)
    model.save_pretrained(folder, tokenizer, settings, {"metrics.json": {"score": float("nan")}, "README.md": "card"})
    return folder, model, tokenizer, settings


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A copy to damage."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in saved[0].iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def test_round_trip_gives_identical_outputs(saved):
    folder, model, tokenizer, settings = saved
    loaded, loaded_tokenizer, loaded_settings, vocabulary = SSGVQA.from_pretrained(folder)
    assert same(run(model, tokenizer), run(loaded, loaded_tokenizer))
    assert loaded_settings == settings and vocabulary == VOCABULARY and not loaded.training
    assert {"model.safetensors", "config.yaml", "label_space.json", "vocabulary.json"} <= {
        f.name for f in folder.iterdir()
    }
    assert json.loads((folder / "metrics.json").read_text()) == {"score": None}
    assert (folder / "README.md").read_text() == "card"


def test_a_loaded_model_can_be_saved_again(saved, tmp_path):
    model, tokenizer, settings, _ = SSGVQA.from_pretrained(saved[0])
    model.save_pretrained(tmp_path / "again", tokenizer, settings)
    first, second = load_file(saved[0] / "model.safetensors"), load_file(tmp_path / "again" / "model.safetensors")
    assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
    assert [p.name for p in tmp_path.iterdir()] == ["again"]  # nothing half-written beside it


def test_saving_replaces_as_a_whole_or_not_at_all(saved, folder):
    _, model, tokenizer, settings = saved
    (folder / "old.txt").write_text("old")
    with pytest.raises(TypeError):
        model.save_pretrained(folder, tokenizer, settings, {"bad.json": {"x": object()}})
    assert (folder / "old.txt").exists() and SSGVQA.from_pretrained(folder)
    model.save_pretrained(folder, tokenizer, settings)
    assert not (folder / "old.txt").exists()


def test_a_model_without_vocabulary_is_not_saved(saved, tmp_path):
    _, model, tokenizer, settings = saved
    bare = SSGVQA(
        settings.model, 4, 30, SIZE, image_encoder=model.image_encoder, question_encoder=model.question_encoder
    )
    with pytest.raises(ValueError, match="no vocabulary"):
        bare.save_pretrained(tmp_path / "x", tokenizer, settings)


def edit_json(path: Path, **values) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def edit_weights(path: Path, change) -> None:
    weights = load_file(path)
    change(weights)
    save_file(weights, path)


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (lambda f: edit_json(f / "label_space.json", checksum="other"), "other classes or question types"),
        (lambda f: (f / "config.yaml").unlink(), "lacks config.yaml"),
        (lambda f: (f / "config.yaml").write_text("model: {hiden_dim: 3}"), "hiden_dim"),
        (lambda f: (f / "config.yaml").write_text("model: [unclosed"), "cannot be rebuilt"),
        (lambda f: (f / "vocabulary.json").write_text("{"), "cannot be read as JSON"),
        (lambda f: edit_json(f / "vocabulary.json", entities=["one"]), "has shape"),
        (lambda f: edit_json(f / "text_config.json", model_type="nothing"), "cannot be rebuilt"),
        (lambda f: edit_json(f / "visual_config.json", surprise=1), "cannot be rebuilt"),
        (lambda f: (f / "model.safetensors").write_bytes(b"short"), "cannot be read"),
        (lambda f: edit_weights(f / "model.safetensors", lambda w: w.pop("fusion.no_graph.weight")), "is missing"),
        (lambda f: edit_weights(f / "model.safetensors", lambda w: w.update(extra=torch.zeros(1))), "extra is not of"),
        (
            lambda f: edit_weights(f / "model.safetensors", lambda w: [w.pop(k) for k in list(w) if "heads" in k]),
            "and 13 more",
        ),
    ],
)
def test_damaged_model_folders_are_refused(folder, damage, part):
    damage(folder)
    with pytest.raises(CheckpointError, match=part) as caught:
        SSGVQA.from_pretrained(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_a_missing_model_folder(tmp_path):
    with pytest.raises(CheckpointError, match="no such folder"):
        SSGVQA.from_pretrained(tmp_path / "nowhere")


def test_question_only_round_trip(tmp_path):
    settings = config()
    tokenizer = build_tokenizer(settings.model, TEXTS)
    control = QuestionOnly.build(settings.model, tokenizer).eval()
    control.save_pretrained(tmp_path / "question_only", tokenizer, settings, {"metrics.json": {}})
    loaded, loaded_tokenizer, loaded_settings = QuestionOnly.from_pretrained(tmp_path / "question_only")
    encoded = loaded_tokenizer(TEXTS, padding=True, return_tensors="pt")
    questions = TokenBatch(encoded["input_ids"], encoded["attention_mask"])
    with torch.no_grad():
        a, b = control(questions, torch.tensor([0, 2])), loaded(questions, torch.tensor([0, 2]))
    assert all(torch.equal(a[n], b[n]) for n in a) and loaded_settings == settings
    with pytest.raises(CheckpointError, match=r"lacks vocabulary\.json"):
        SSGVQA.from_pretrained(tmp_path / "question_only")


def cached_snapshot(cache: Path, repository: str) -> Path:
    """Of a repository with one commit, as `huggingface_hub` lays it out."""
    cached = cache / f"models--{repository.replace('/', '--')}"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("a" * 40)
    (snapshot := cached / "snapshots" / ("a" * 40)).mkdir(parents=True)
    return snapshot


def test_cached_hub_files_need_no_network(tmp_path, monkeypatch, visual_folder, text_folder):
    for repository, source in (("owner/visual", visual_folder), ("owner/text", text_folder)):
        snapshot = cached_snapshot(tmp_path, repository)
        for file in source.iterdir():
            (snapshot / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(pretrained, "check_hub", lambda *a: pytest.fail("asked the network"))
    assert Path(huggingface_hub.hf_hub_download("owner/visual", "config.json", local_files_only=True)).is_file()
    for prefix in ("hf-hub", "hf_hub"):
        settings = config(pretrained=True, visual_backbone=f"{prefix}:owner/visual", text_encoder=str(text_folder))
        tokenizer = build_tokenizer(settings.model, [])
        model = SSGVQA.build(settings.model, VOCABULARY, tokenizer, SIZE)
        stored = load_file(visual_folder / "model.safetensors")["stages.0.blocks.0.conv_dw.weight"]
        assert torch.equal(model.image_encoder.backbone.state_dict()["stages_0.blocks.0.conv_dw.weight"], stored)


def test_no_service_is_asked_to_convert_an_encoder_that_is_a_pickle(tmp_path, monkeypatch, text_folder):
    """Bio_ClinicalBERT is published as one; transformers would tell a service its name at each load, also out of the cache."""
    snapshot = cached_snapshot(tmp_path, "owner/text")
    (snapshot / "config.json").write_bytes((text_folder / "config.json").read_bytes())
    torch.save(load_file(text_folder / "model.safetensors"), snapshot / "pytorch_model.bin")
    asked = []
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("transformers.modeling_utils.auto_conversion", lambda *args, **_: asked.append(args))
    monkeypatch.setattr(pretrained, "check_hub", lambda *a: pytest.fail("asked the network"))
    settings = config(pretrained=True, text_encoder="owner/text", text_kwargs={}).model
    assert pretrained.load_text_model(settings, lambda _: {"add_pooling_layer": False}) and not asked
