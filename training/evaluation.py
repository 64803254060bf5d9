"""Answers of the model and of its controls to the same questions in the same order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data.batch import Batch, SceneGraph, TokenBatch
from data.index import Index
from data.label_space import CHEXPERT, HEADS, Head
from data.loader import make_loader, num_batches
from data.mimic_cxr_dataset import VQADataset
from models.encoders import ImageFeatures
from models.mimic_vqa_model import SSGVQA
from models.question_only import QuestionOnly
from models.scene_graph import no_graph, oracle_graph
from training.controls import majority, swap_between_patients
from training.predictions import Answers, AnswerTable, QuestionSet, check_key
from utils.errors import DataError

ROWS: tuple[str, ...] = (
    "model",
    "majority_type",
    "majority_text",
    "question_only",
    "blank_image",
    "shuffled_image",
    "graph_none",
    "graph_shuffled",
    "graph_oracle",
)
"""The rows of every report."""

GRAPHS: tuple[str, ...] = ("predicted", "none", "shuffled", "oracle")
"""What the questions of a row are answered from."""

OWN, OTHER = "own", "other"
TEXTS_PER_BATCH = 256
NO_SWAP = "one patient has more than half of the images: they cannot be swapped between patients"
NOT_ASKED = "not computed: --controls none"


@dataclass
class Evaluation:
    """What a report is made from."""

    questions: QuestionSet
    graph: str
    """Graph that the row `model` answers from, one of GRAPHS."""
    answers: dict[str, Answers | None]
    """Every one of ROWS."""
    chexpert: np.ndarray
    """(studies, 14) probabilities, from the image alone"""
    chexpert_labels: np.ndarray
    """(studies, 14) 1, 0, -1 uncertain, nan blank"""
    missing: dict[str, str] = field(default_factory=dict)
    """row -> why it has no answers"""
    seconds: float = 0.0
    """Time of all rows together."""


def evaluate(
    model: SSGVQA,
    question_only: QuestionOnly | None,
    dataset: VQADataset,
    train: VQADataset | None,
    *,
    graph: str = "predicted",
    batch_size: int = 32,
    seed: int = 0,
) -> Evaluation:
    """Answer the questions of a split.

    Args:
        dataset: the split, in evaluation mode (`train=False`).
        question_only, train: the text-only control, and the training questions that majority answers and the blank
            image come from; both None: the row `model` alone.
        batch_size: image visits; it does not change the answers.
        seed: of the swap between patients.
    Raises:
        DataError: `graph="shuffled"` where images cannot be swapped between patients; a question id repeats in a study.
        NonFiniteError: an answer is not a number.
    """
    start = time.perf_counter()
    questions = QuestionSet(dataset.index, dataset.rows)
    check_key(questions)
    answers: dict[str, Answers | None] = dict.fromkeys(ROWS)
    missing = {}
    images = np.unique(questions.image)
    partner = swap_between_patients(_patients(dataset.index, images), seed)
    if graph == "shuffled" and partner is None:
        raise DataError(f"--graph shuffled: {NO_SWAP}")
    model.eval()
    rows = {"model": (OWN, graph)}
    if train is None or question_only is None:
        missing = dict.fromkeys(ROWS[1:], NOT_ASKED)
    else:
        rows |= {"graph_none": (OWN, "none"), "graph_oracle": (OWN, "oracle")}
        if partner is None:
            missing = dict.fromkeys(("shuffled_image", "graph_shuffled"), NO_SWAP)
        else:
            rows |= {"graph_shuffled": (OWN, "shuffled"), "shuffled_image": (OTHER, "shuffled")}
        answers |= _text_rows(model, question_only, dataset, train, questions)
    shown = None if partner is None else images[partner]
    of_images, chexpert = _image_rows(model, dataset, questions, rows, images, shown, batch_size)
    studies = dataset.index.images["study"][images]
    return Evaluation(
        questions=questions,
        graph=graph,
        answers=answers | of_images,
        chexpert=chexpert,
        chexpert_labels=dataset.index.studies["chexpert"][studies],
        missing=missing,
        seconds=time.perf_counter() - start,
    )


def _patients(index: Index, images: np.ndarray) -> np.ndarray:
    return index.studies["subject_id"][index.images["study"][images]]


# Rows that look at the question's text only


def _text_rows(
    model: SSGVQA, question_only: QuestionOnly, dataset: VQADataset, train: VQADataset, questions: QuestionSet
) -> dict[str, Answers]:
    """Majority answers, the text-only control, and the blank image: nothing in them depends on the image."""
    known = QuestionSet(train.index, train.rows)
    device = _device(model)
    blank = train.mean_image()[None, None].to(device)
    question_only.eval()
    with torch.inference_mode():
        features = model.encode_images(blank)
        graph = model.predict_graph(features).graph()

    def from_blank(tokens: TokenBatch, question_of: Tensor) -> dict[str, Tensor]:
        image_of = torch.zeros_like(question_of)
        return model.answer(features, graph, tokens, question_of, image_of)[0]

    return {
        "majority_type": majority(known, questions, by_text=False),
        "majority_text": majority(known, questions, by_text=True),
        "question_only": _answer_texts("question_only", question_only, dataset, questions, device),
        "blank_image": _answer_texts("blank_image", from_blank, dataset, questions, device),
    }


@torch.inference_mode()
def _answer_texts(
    row: str,
    answer: Callable[[TokenBatch, Tensor], dict[str, Tensor]],
    dataset: VQADataset,
    questions: QuestionSet,
    device: torch.device,
) -> Answers:
    """Answer every distinct text once, and give each question the answer of its text."""
    codes, text_of = np.unique(questions.text, return_inverse=True)
    parts: dict[Head, list[np.ndarray]] = {head: [] for head in HEADS}
    for start in range(0, len(codes), TEXTS_PER_BATCH):
        tokens, place = dataset.token_table.encode(codes[start : start + TEXTS_PER_BATCH])
        logits = answer(tokens.to(device), torch.from_numpy(place).to(device))
        for head, values in _probabilities(logits).items():
            parts[head].append(values)
    table = AnswerTable(questions)
    table.add(np.arange(len(questions)), {head: np.concatenate(values)[text_of] for head, values in parts.items()})
    return table.complete(row)


# Rows that look at images


@torch.inference_mode()
def _image_rows(
    model: SSGVQA,
    dataset: VQADataset,
    questions: QuestionSet,
    rows: dict[str, tuple[str, str]],
    images: np.ndarray,
    shown: np.ndarray | None,
    batch_size: int,
) -> tuple[dict[str, Answers], np.ndarray]:
    """One pass over the split; each image is encoded once for all rows, and once more as another patient's partner.

    Args:
        rows: row -> the image it looks at, OWN or OTHER (another patient's), and one of GRAPHS.
        images: (n,) distinct image rows of the split, ascending; shown: (n,) the other patient's image for each.
    Returns:
        answers of each row, and (n, 14) CheXpert probabilities of `images`.
    """
    device = _device(model)
    tables = {row: AnswerTable(questions) for row in rows}
    chexpert = np.full((len(images), len(CHEXPERT)), np.nan, dtype=np.float32)
    needed = {graph for _, graph in rows.values()}
    for batch in _batches(dataset, batch_size):
        image_place = np.searchsorted(images, batch.ids.image.numpy())
        positions = np.searchsorted(questions.rows, batch.ids.question.numpy())
        batch = batch.on(device)
        features = {OWN: model.encode_images(batch.images)}
        prediction = model.predict_graph(features[OWN])
        chexpert[image_place] = model.chexpert(features[OWN].pooled).float().sigmoid().cpu().numpy()
        graphs = {"predicted": prediction.graph()}
        graphs["none"] = no_graph(graphs["predicted"])
        if "oracle" in needed:
            graphs["oracle"] = oracle_graph(batch.graph, prediction)
        if "shuffled" in needed:
            pixels = dataset.canonical_images(shown[image_place])
            features[OTHER] = model.encode_images(pixels.to(device))
            graphs["shuffled"] = model.predict_graph(features[OTHER]).graph()
        for row, (image, graph) in rows.items():
            tables[row].add(positions, _answer(model, features[image], graphs[graph], batch))
    return {row: table.complete(row) for row, table in tables.items()}, chexpert


def _batches(dataset: VQADataset, batch_size: int) -> Iterator[Batch]:
    loader = make_loader(dataset, batch_size, num_workers=dataset.data.num_workers)
    return tqdm(loader, total=num_batches(dataset, batch_size), desc="answering", unit="batch", disable=None)


def _answer(model: SSGVQA, features: ImageFeatures, graph: SceneGraph, batch: Batch) -> dict[Head, np.ndarray]:
    logits, _ = model.answer(features, graph, batch.questions, batch.question_of, batch.image_of)
    return _probabilities(logits)


def _probabilities(logits: dict[str, Tensor]) -> dict[Head, np.ndarray]:
    """Softmax over the classes of a head, or a sigmoid for each class of a multi-label head; (q, classes) float32."""
    return {
        head: (values.float().sigmoid() if spec.multi_label else values.float().softmax(-1)).cpu().numpy()
        for head, spec in HEADS.items()
        for values in [logits[head.value]]
    }


def _device(model: torch.nn.Module) -> torch.device:
    return next(model.parameters()).device
