"""A model of a few lines with the interface the evaluator uses, whose answers can be computed by hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from configs.mimic_cxr_config import DataConfig
from data.batch import SceneGraph, TokenBatch
from data.label_space import CHEXPERT, HEADS, REGIONS
from data.mimic_cxr_dataset import VQADataset
from models.scene_graph import GraphPrediction
from tests.mini_index import WordTokenizer, write_mini_index


@dataclass
class Features:
    pooled: Tensor


class StubModel(nn.Module):
    """Sees an image as its mean grey level g; in the graph it predicts every entity has the probability sigmoid(g).

    The answer's logit is a sum of one term each for the image, the graph (when it exists) and the text, so that a test
    can tell from an answer which image, graph and text it came from.
    """

    def __init__(self, num_entities: int):
        super().__init__()
        self.num_entities = num_entities
        self.scale = nn.Parameter(torch.ones(()))

    def encode_images(self, images: Tensor) -> Features:
        return Features(images.float().mean((1, 2, 3)) / 100)

    def predict_graph(self, features: Features) -> GraphPrediction:
        logits = features.pooled[:, None, None].expand(-1, len(REGIONS), self.num_entities)
        return GraphPrediction(torch.zeros(len(logits), len(REGIONS), 4), logits)

    def chexpert(self, pooled: Tensor) -> Tensor:
        return pooled[:, None].expand(-1, len(CHEXPERT))

    def answer(self, features, graph: SceneGraph, questions: TokenBatch, question_of, image_of):
        value = signature(features.pooled[image_of], graph, image_of) * self.scale
        value = value + (questions.input_ids * questions.attention_mask).sum(1)[question_of] / 1000
        logits = {}
        for head, spec in HEADS.items():
            logits[head.value] = value[:, None] * torch.linspace(-1, 1, len(spec.classes))
        return logits, None


def signature(features: Tensor, graph: SceneGraph, image_of: Tensor) -> Tensor:
    """20 (g - 0.2) for the image and 30 (p - 0.55) for its graph: positive for about half of the images."""
    return 20 * (features - 0.2) + 30 * (graph.entity_probs.mean((1, 2))[image_of] - 0.55) * graph.exists[image_of]


class StubQuestionOnly(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, questions: TokenBatch, question_of: Tensor) -> dict[str, Tensor]:
        odd = (questions.input_ids * questions.attention_mask).sum(1)[question_of] % 2
        value = (odd - 0.5) * self.scale
        return {head.value: value[:, None] * torch.linspace(-1, 1, len(spec.classes)) for head, spec in HEADS.items()}


@dataclass
class Setup:
    """Model and data sets of one evaluation."""

    model: StubModel
    question_only: StubQuestionOnly
    dataset: VQADataset
    train: VQADataset


A, UNRATED, B = 4, 0, 3  # grades
EFFUSION, HEART = 1 << CHEXPERT.index("Pleural Effusion"), 1 << REGIONS.index("heart")


def questions(n: int) -> list[tuple]:
    """Ten questions of all heads; the answer to yes/no follows the study's number."""
    return [
        ("D02_has_finding", "Is there effusion?", n % 2, A),
        ("D02_has_finding", "Is there a nodule?", n // 2 % 2, A),
        ("B13_has_devices", "Are there devices?", n // 3 % 2, A),
        ("B01_describe_all", "Describe the image.", EFFUSION << n % 2, A),
        ("D01_describe_finding", "Describe the effusion.", EFFUSION, A),
        ("D03_where_is_finding", "Where is the effusion?", HEART << n % 3, A),
        ("D04_how_severe_is_finding", "How severe is it?", 1 + n % 3, A),
        ("D02_has_finding", "Is there air?", 1, B),
        ("D02_has_finding", "Is there dust?", 1, UNRATED),
        ("C01_describe_region", "Describe the heart.", 0, A),
    ]


def studies(patients: list[int], split: str) -> list[dict]:
    """One study for each entry of `patients`; patients of different splits differ."""
    base = {"train": 10_000_100, "validate": 10_000_200, "test": 10_000_300}[split]
    labels = [[float(i % 2)] * 13 + [float("nan")] for i in range(len(patients))]
    return [
        {"split": split, "subject": base + p, "questions": questions(i), "chexpert": labels[i], "images": 1 + i % 2}
        for i, p in enumerate(patients)
    ]


def make_setup(path: Path, patients: list[int], findings: list = (), **data) -> Setup:
    """Four training studies and a validation study for each entry of `patients`; every report says `findings`."""
    tables = studies([0, 1, 2, 3], "train") + studies(patients, "validate")
    index = write_mini_index(path / "index", [study | {"findings": findings} for study in tables])
    config, tokenizer = DataConfig(image_size=16, **data), WordTokenizer()
    dataset, train = (
        VQADataset(index, split, config, tokenizer, train=False, questions_per_image=4)
        for split in ("validate", "train")
    )
    return Setup(StubModel(index.vocabulary.num_entities), StubQuestionOnly(), dataset, train)
