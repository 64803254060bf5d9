"""What one would take from transformers instead: ViLT and BLIP for visual question answering, with random weights.

Each question is an item with an image of its own, as these models are fine-tuned; image sizes, text lengths and losses are
theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import BlipConfig, BlipForQuestionAnswering, ViltConfig, ViltForQuestionAnswering

from benchmarks.as_written import QuestionDataset, answer_text, image_rows
from benchmarks.compose import Composition
from data.answers import Question
from data.label_space import HEAD_INDEX, HEADS

PUBLISHED_SIDE = 384
VILT_STRIDE, VILT_LONGEST = 32, 1333 / 800
"""ViLT's images: the shorter side is scaled to 384, the longer one is limited, both are cut to a multiple of the stride"""


@dataclass(frozen=True)
class Example:
    """One question for a peer."""

    film: Image.Image
    text: str
    question: Question


def examples(composition: Composition, dataset: QuestionDataset) -> list[Example]:
    """The questions of a data set with their films, decoded."""
    rows, found = image_rows(composition), []
    for ((_, study), _), question in zip(dataset.places, dataset.questions(), strict=True):
        with Image.open(composition.release.image_path(rows[study])) as film:
            found.append(Example(film.convert("L"), question.text, question))
    return found


def vilt() -> nn.Module:
    """ViLT-B/32 as published, with one class for each class of our heads."""
    return ViltForQuestionAnswering(ViltConfig(num_labels=sum(len(spec.classes) for spec in HEADS.values())))


def blip() -> nn.Module:
    """BLIP-base as published."""
    return BlipForQuestionAnswering(BlipConfig())


def vilt_size(width: int, height: int, side: int = PUBLISHED_SIDE) -> tuple[int, int]:
    """(width, height) that ViLT's own preprocessing gives an image."""
    scale = min(side / min(width, height), int(side * VILT_LONGEST) / max(width, height))
    return tuple(int(length * scale + 0.5) // VILT_STRIDE * VILT_STRIDE for length in (width, height))


def vilt_batch(examples: Sequence[Example], tokenizer, size: tuple[int, int] | None = None) -> dict[str, Tensor]:
    """Inputs of `vilt`; `size` is (width, height), by default ViLT's own choice for the first film."""
    size = size or vilt_size(*examples[0].film.size)
    texts = [example.text for example in examples]
    length = ViltConfig().max_position_embeddings
    encoded = tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    pixels = _pixels(examples, size)
    return {
        "input_ids": encoded["input_ids"],
        "attention_mask": encoded["attention_mask"],
        "pixel_values": pixels,
        "pixel_mask": torch.ones(len(pixels), *pixels.shape[2:], dtype=torch.long),
        "labels": torch.stack([_multi_hot(example.question) for example in examples]),
    }


def blip_batch(examples: Sequence[Example], tokenizer, side: int = PUBLISHED_SIDE) -> dict[str, Tensor]:
    """Inputs of `blip`: square images, texts padded to the longest, answers in words."""
    encoded = tokenizer([example.text for example in examples], padding=True, return_tensors="pt")
    answers = tokenizer([answer_text(example.question) for example in examples], padding=True, return_tensors="pt")
    ids, real = answers["input_ids"], answers["attention_mask"]
    return {
        "input_ids": encoded["input_ids"],
        "attention_mask": encoded["attention_mask"],
        "pixel_values": _pixels(examples, (side, side)),
        "decoder_input_ids": ids,
        "decoder_attention_mask": real,
        "labels": ids.masked_fill(real == 0, -100),
        "interpolate_pos_encoding": side != PUBLISHED_SIDE,
    }


def peer_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The model's own."""
    with torch.device(next(model.parameters()).device):  # BLIP makes a mask where tensors are made by default
        return model(**batch).loss


def _pixels(examples: Sequence[Example], size: tuple[int, int]) -> Tensor:
    """(Q, 3, h, w) in [-1, 1]."""
    resized = [np.array(example.film.convert("RGB").resize(size, Image.Resampling.BICUBIC)) for example in examples]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def _multi_hot(question: Question) -> Tensor:
    """(classes of all heads,) 1 where a class is right."""
    parts = []
    for head, spec in HEADS.items():
        part = torch.zeros(len(spec.classes))
        if HEAD_INDEX[head] == question.head:
            for bit in range(len(part)):
                part[bit] = float(question.target >> bit & 1 if spec.multi_label else question.target == bit)
        parts.append(part)
    return torch.cat(parts)
