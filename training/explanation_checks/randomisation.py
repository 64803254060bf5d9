"""Cascading randomisation (Adebayo et al. 2018): a map that stays when the weights are random does not explain the model.

From the answer back to the pixels, one part of the model after the other loses what it has learned: each of its tensors is put
in random order, which keeps the size of what goes through. After each part the maps of the same answers are compared with the
trained model's.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from models.explaining import Explainer
from models.mimic_vqa_model import SSGVQA
from training.explanation_checks.items import Item
from training.explanation_checks.means import PatientMeans
from training.explanation_checks.similarity import rank_correlation, ssim

SIDE = 64
"""Pixels of the shorter side of the maps that are compared"""
MOST_ALIKE = 0.5
"""Bar: with all weights random, a map must have less than this mean absolute rank correlation with the trained model's, at the
upper end of its interval. Half: the map would be more the architecture's and the film's than the model's."""


def model_parts(model: SSGVQA) -> list[tuple[str, list[nn.Module]]]:
    """The parts that an answer is computed by, the last one first; together they have all weights that decide it."""
    encoder = model.image_encoder
    children = [
        (name, part) for name, part in encoder.backbone.named_children() if any(True for _ in part.parameters())
    ]
    parts = [
        ("answer heads", [model.heads]),
        ("graph reader", [model.reader] if model.reader is not None else []),
        ("fusion", [model.fusion]),
        ("scene graph", [model.region_predictor]),
        ("question encoder", [model.question_encoder]),
        ("image projection", [encoder.project, encoder.norm, encoder.position, encoder.global_token]),
        *((f"image {name}", [part]) for name, part in reversed(children)),
    ]
    return [(name, modules) for name, modules in parts if modules]


def randomised(model: SSGVQA, seed: int) -> Iterator[str]:
    """Put the weights of `model` in random order, part by part; yields the name of the part that was last."""
    generator = torch.Generator().manual_seed(seed)
    for name, modules in model_parts(model):
        with torch.no_grad():
            for parameter in (p for module in modules for p in module.parameters()):
                order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
                parameter.copy_(parameter.flatten()[order].view_as(parameter))
        yield name


def compare(
    explainer: Explainer, items: Sequence[Item], methods: Sequence[str], stride: int, seed: int, means: PatientMeans
) -> dict:
    """What the report says: for each method the likeness of maps after each part, and whether it `passes` the bar.

    Maps are of the class that the trained model finds most probable among the right ones. The model stays as it is: a copy of it
    is randomised.
    """
    trained = [_maps(explainer, item, item.classes, methods, stride) for item in items]
    targets = [target for target, _ in trained]
    model = copy.deepcopy(explainer.model)
    randomising = Explainer(model, explainer.tokenizer, device=str(explainer.device))
    parts = len(model_parts(model))
    table: dict[str, list[dict]] = {method: [] for method in methods}
    for part in tqdm(randomised(model, seed), total=parts, desc="randomising", unit="part", disable=None):
        random = [
            _maps(randomising, item, target, methods, stride)[1] for item, target in zip(items, targets, strict=True)
        ]
        for method in methods:
            pairs = [(own[method], new[method]) for (_, own), new in zip(trained, random, strict=True)]
            alike = np.array([rank_correlation(*pair) for pair in pairs])
            table[method].append(
                {
                    "part": part,
                    "rank_correlation": means.of(alike).as_json(),
                    "absolute_rank_correlation": means.of(np.abs(alike)).as_json(),
                    "ssim": means.of(np.array([ssim(*pair) for pair in pairs])).as_json(),
                    "empty_maps": sum(bool(new.max() == new.min()) for _, new in pairs),
                }
            )
    return {
        "items": len(items),
        "bar": MOST_ALIKE,
        "methods": {method: {"parts": rows, "passes": _passes(rows[-1])} for method, rows in table.items()},
    }


def _passes(last: dict) -> bool:
    high = last["absolute_rank_correlation"]["high"]
    return (
        high is not None and high < MOST_ALIKE and last["empty_maps"] < last["absolute_rank_correlation"]["n_patients"]
    )


def _maps(
    explainer: Explainer, item: Item, classes: str | Sequence[str], methods: Sequence[str], stride: int
) -> tuple[str, dict[str, np.ndarray]]:
    """The class that is explained, and method -> (h, w) map."""
    height, width = item.film.pixels.shape
    scale = SIDE / min(height, width)
    shape = max(SIDE, round(height * scale)), max(SIDE, round(width * scale))
    found = explainer.explain(item.film, item.text, methods, item.head, classes, stride, shape)
    return found[0].target, {one.method: one.map for one in found}
