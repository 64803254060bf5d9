"""A model of a few thousand weights and what it is fed, for the tests of models."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch
from transformers import PreTrainedTokenizerBase

from configs.mimic_cxr_config import ModelConfig
from data.batch import SceneGraph, SceneGraphTargets, TokenBatch
from data.label_space import REGIONS
from data.vocabulary import Vocabulary
from models.encoders import build_tokenizer
from models.mimic_vqa_model import SSGVQA

SIZE, IMAGES = 64, 3
VOCABULARY = Vocabulary(("effusion", "edema", "nodule", "tube", "fracture"), ("heart", "lung", "rib"))
TEXTS = ["Is there effusion in the left lung?", "Where is the nodule?", "How severe is edema?", "Is the heart normal?"]
FUSIONS = ("sim", "concat", "none")


def model_config(**changes) -> ModelConfig:
    """Settings of the small model."""
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


@cache
def small_tokenizer() -> PreTrainedTokenizerBase:
    """Word pieces of `TEXTS`."""
    return build_tokenizer(model_config(), TEXTS)


def build(fusion: str = "sim", **changes) -> SSGVQA:
    """A model in evaluation mode whose outputs depend on everything: no layer starts at zero."""
    torch.manual_seed(0)
    model = SSGVQA.build(model_config(fusion=fusion, **changes), VOCABULARY, small_tokenizer(), SIZE)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@cache
def built(fusion: str = "sim") -> SSGVQA:
    """`build`, once; for tests that leave the model as it is."""
    return build(fusion)


def tokens(tokenizer, texts=TEXTS, length: int | None = None) -> TokenBatch:
    """Encoded texts, padded to the longest or to `length`."""
    padding = {"padding": "max_length", "max_length": length} if length else {"padding": True}
    encoded = tokenizer(texts, return_tensors="pt", **padding)
    return TokenBatch(encoded["input_ids"], encoded["attention_mask"])


def images(count: int = IMAGES, size: int = SIZE, seed: int = 1) -> torch.Tensor:
    """(count, 1, size, size) uint8 of noise."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, size, size), dtype=torch.uint8, generator=generator)


# 9 questions: unsorted, uneven (1, 5 and 3 an image), texts shared between images
IMAGE_OF = torch.tensor([1, 2, 1, 0, 1, 2, 1, 2, 1])
QUESTION_OF = torch.tensor([0, 3, 1, 2, 0, 1, 3, 2, 2])


def some_graph(seed: int = 2, count: int = IMAGES) -> SceneGraph:
    """A graph of random boxes and findings; the second image has none."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, len(REGIONS), 2, 2, generator=generator).sort(dim=2).values
    probs = torch.rand(count, len(REGIONS), VOCABULARY.num_entities, generator=generator)
    return SceneGraph(corners.flatten(2), probs, torch.tensor([True, False, True]))


def some_targets(seed: int) -> SceneGraphTargets:
    """Random statements of a report, two of them about a union of regions."""
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


def assert_close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-4) -> None:
    """Equal up to `tolerance`, absolute or relative."""
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)
