"""Model folders to upload: small, untrained, of either lineage."""

from __future__ import annotations

from pathlib import Path

import timm
import torch
from transformers import BertConfig, BertModel

from configs.mimic_cxr_config import Config
from data.label_space import HEADS
from data.vocabulary import Vocabulary
from models.encoders import build_tokenizer
from models.mimic_vqa_model import SSGVQA
from models.question_only import QuestionOnly
from tests.small_model import TEXTS
from tests.tiny_training import make_config
from training.metrics import HEADLINE

NAMES = Vocabulary(("pleural effusion", "nodule", "cardiomegaly"), ("heart", "left lung"))
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Is", "there", "the", "nodule", "effusion", "?", "lung"]


def encoder_folders(folder: Path) -> tuple[Path, Path]:
    """A BERT and a timm backbone as local folders, as published ones would be: (text, image)."""
    torch.manual_seed(1)
    text, visual = folder / "bert", folder / "convnext"
    BertModel(BertConfig(vocab_size=len(PIECES), **SMALL)).save_pretrained(text)
    (text / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    timm.models.save_for_hf(timm.create_model("test_convnext", num_classes=5), visual, safe_serialization=True)
    return text, visual


def pretrained_config(output_dir: Path, folder: Path, **training) -> Config:
    """Settings of a tiny run that starts from `encoder_folders` in `folder`."""
    text, visual = encoder_folders(folder)
    config = make_config(output_dir, **training)
    config.model.pretrained, config.model.text_kwargs, config.model.visual_kwargs = True, {}, {}
    config.model.text_encoder, config.model.visual_backbone = str(text), str(visual)
    return config


def metrics_of(step: int = 5, kind: str = "look-alike", name: str = "a generated look-alike release") -> dict:
    scores = {head.value: {"n": 40, HEADLINE[head]: 0.5} for head in HEADS}
    data = {"kind": kind, "name": name, "fingerprint": "ab" * 8, "filters": "grade A or better, views all", "notes": []}
    numbers = {"step": step, "questions_trained": 15_000_000, "parameters": 1000, "data": data}
    return numbers | {"validation": {"headline": 0.5, "chexpert_auroc": None, "heads": scores}}


def write_model(
    folder: Path, config: Config, credentialed: bool | None, vocabulary: Vocabulary = NAMES, **files
) -> Path:
    """A model folder with its control. `files`: name -> content, beside metrics.json and README.md."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(config.model, TEXTS)
    model = SSGVQA.build(config.model, vocabulary, tokenizer, config.data.image_size)
    model.credentialed = credentialed
    extra = {"metrics.json": metrics_of(), "README.md": "old card"} | files
    model.save_pretrained(folder, tokenizer, config, extra)
    control = QuestionOnly.build(config.model, tokenizer)
    control.credentialed = credentialed
    control.save_pretrained(folder / "question_only", tokenizer, config, {"metrics.json": {}})
    return folder


def public_model(place: Path) -> Path:
    """Of look-alike data."""
    return write_model(place / "run" / "best_model", make_config(place / "run"), False)


def credentialed_model(place: Path, **options) -> Path:
    """Of credentialed lineage, with the word pieces of an encoder from elsewhere."""
    return write_model(
        place / "run" / "best_model", pretrained_config(place / "run", place / "encoders"), True, **options
    )
