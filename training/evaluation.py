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
from data.frames import Frame
from data.index import Index
from data.label_space import CHEXPERT, HEADS, REGIONS, Head
from data.loader import make_loader, num_batches
from data.mimic_cxr_dataset import VQADataset
from data.token_table import TokenTable
from models.encoders import ImageFeatures
from models.mimic_vqa_model import SSGVQA
from models.probabilities import probabilities
from models.question_only import QuestionOnly
from models.scene_graph import no_graph, oracle_graph
from training.controls import majority, swap_between_patients
from training.predictions import Answers, AnswerTable, Predictions, QuestionSet, check_key
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

PARAPHRASES: dict[str, Callable[[str], str]] = {
    "in small letters, without a question mark": lambda text: text.lower().rstrip("?. "),
    "with an introduction": lambda text: f"Looking at this chest X-ray: {text[:1].lower()}{text[1:]}",
}
"""Ways to ask the same: an answer should not depend on them."""

OWN, OTHER = "own", "other"
TEXTS_PER_BATCH = 256
NO_SWAP = "one patient has more than half of the images: they cannot be swapped between patients"
NO_GRAPHS = "the data set has no scene graphs"
NOT_ASKED = "not computed: --controls none"
FROM_FILE = "not computed: the answers came from a file, and this row needs a model (--model_path)"


@dataclass
class Looks:
    """Where a model looked, question by question."""

    attention: np.ndarray
    """(n, 26) float32 shares of the regions, in all 1, in the order of the question set"""
    images: np.ndarray
    """(m,) rows of the index's image table, ascending"""
    boxes: np.ndarray
    """(m, 26, 4) float32 where the model has the regions of each image: x1 y1 x2 y2 in [0, 1] of the original"""


@dataclass
class Evaluation:
    """What a report is made from."""

    questions: QuestionSet
    graph: str
    """Graph that the row `model` answers from, one of GRAPHS."""
    answers: dict[str, Answers | None]
    """Every one of ROWS."""
    chexpert: np.ndarray | None = None
    """(studies, 14) probabilities, from the image alone; None: answers of a file have none"""
    chexpert_labels: np.ndarray | None = None
    """(studies, 14) 1, 0, -1 uncertain, nan blank"""
    studies: np.ndarray | None = None
    """(studies,) rows of the index's study table, as in the two above"""
    given: Predictions | None = None
    """The answers of the row `model` where they came from a file"""
    looks: Looks | None = None
    """Where the row `model` looked; None: not asked for, or the model has no graph to look at"""
    paraphrases: dict[str, Answers] = field(default_factory=dict)
    """way of asking (PARAPHRASES) -> answers of the row `model` to the same questions in other words"""
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
    attention: bool = False,
) -> Evaluation:
    """Answer the questions of a split.

    Args:
        dataset: the split, in evaluation mode (`train=False`).
        question_only, train: the text-only control, and the training questions that majority answers and the blank
            image come from; both None: the row `model` alone.
        batch_size: image visits; it does not change the answers.
        seed: of the swap between patients.
        attention: keep where the row `model` looks.
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
    has_graphs = dataset.index.meta.get("has_graphs", True)
    if graph == "oracle" and not has_graphs:
        raise DataError(f"--graph oracle: {NO_GRAPHS}")
    if train is None or question_only is None:
        missing = dict.fromkeys(ROWS[1:], NOT_ASKED)
    else:
        rows["graph_none"] = (OWN, "none")
        if has_graphs:
            rows["graph_oracle"] = (OWN, "oracle")
        else:
            missing["graph_oracle"] = NO_GRAPHS
        if partner is None:
            missing |= dict.fromkeys(("shuffled_image", "graph_shuffled"), NO_SWAP)
        else:
            rows |= {"graph_shuffled": (OWN, "shuffled"), "shuffled_image": (OTHER, "shuffled")}
        answers |= _text_rows(model, question_only, dataset, train, questions)
    shown = None if partner is None else images[partner]
    looks = _LookTable(dataset, questions, images) if attention else None
    extras = _Extras(dataset, questions, looks, paraphrases=train is not None)
    of_images, chexpert = _image_rows(model, dataset, questions, rows, images, shown, batch_size, extras)
    studies = dataset.index.images["study"][images]
    return Evaluation(
        questions=questions,
        graph=graph,
        answers=answers | of_images,
        chexpert=chexpert,
        chexpert_labels=dataset.index.studies["chexpert"][studies],
        studies=studies,
        looks=looks.complete() if looks else None,
        paraphrases={name: table.complete(name) for name, table in extras.answers.items()},
        missing=missing,
        seconds=time.perf_counter() - start,
    )


def evaluate_given(
    given: Predictions, known: QuestionSet | None, question_only: QuestionOnly | None, dataset: VQADataset | None
) -> Evaluation:
    """As `evaluate` for answers that are there already: beside them only what needs no model but the text-only control.

    Args:
        known: the training questions that majority answers come from; None: without.
        question_only, dataset: the control and the questions with their word pieces; None: without.
    """
    start = time.perf_counter()
    questions = given.questions
    check_key(questions)
    answers: dict[str, Answers | None] = dict.fromkeys(ROWS)
    missing = dict.fromkeys(ROWS[1:], FROM_FILE if known else NOT_ASKED)
    if known:
        for row, by_text in (("majority_type", False), ("majority_text", True)):
            answers[row] = majority(known, questions, by_text=by_text)
            missing.pop(row)
    if question_only is not None:
        question_only.eval()
        device = _device(question_only)
        answers["question_only"] = _answer_texts("question_only", question_only, dataset, questions, device)
        missing.pop("question_only")
    seconds = time.perf_counter() - start
    return Evaluation(questions, "unknown", answers, given=given, missing=missing, seconds=seconds)


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
        for head, values in probabilities(logits).items():
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
    extras: _Extras,
) -> tuple[dict[str, Answers], np.ndarray]:
    """One pass over the split; each image is encoded once for all rows, and once more as another patient's partner.

    Args:
        rows: row -> the image it looks at, OWN or OTHER (another patient's), and one of GRAPHS.
        images: (n,) distinct image rows of the split, ascending; shown: (n,) the other patient's image for each.
        extras: what else is asked of the row `model`.
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
            if row == "model":
                answers = extras.answer(model, features[image], graphs[graph], batch, positions)
            else:
                answers = _answer(model, features[image], graphs[graph], batch)
            tables[row].add(positions, answers)
    return {row: table.complete(row) for row, table in tables.items()}, chexpert


def _batches(dataset: VQADataset, batch_size: int) -> Iterator[Batch]:
    loader = make_loader(dataset, batch_size, num_workers=dataset.data.num_workers)
    return tqdm(loader, total=num_batches(dataset, batch_size), desc="answering", unit="batch", disable=None)


def _answer(model: SSGVQA, features: ImageFeatures, graph: SceneGraph, batch: Batch) -> dict[Head, np.ndarray]:
    logits, _ = model.answer(features, graph, batch.questions, batch.question_of, batch.image_of)
    return probabilities(logits)


class _Extras:
    """The row `model` is asked more than its answers: in other words, and where it looks."""

    def __init__(self, dataset: VQADataset, questions: QuestionSet, looks: _LookTable | None, paraphrases: bool):
        self.answers: dict[str, AnswerTable] = {}
        self._looks, self._text = looks, questions.text
        self._tables: dict[str, TokenTable] = {}
        for name, rewrite in PARAPHRASES.items() if paraphrases else ():
            self.answers[name] = AnswerTable(questions)
            length = dataset.token_table.max_length
            self._tables[name] = TokenTable.rewritten(dataset.index, dataset.tokenizer, length, rewrite)

    def answer(
        self, model: SSGVQA, features: ImageFeatures, graph: SceneGraph, batch: Batch, positions: np.ndarray
    ) -> dict[Head, np.ndarray]:
        """The answers of the row; the rest is kept."""
        for name, table in self._tables.items():
            tokens, place = table.encode(self._text[positions])
            tokens, place = tokens.to(batch.head.device), torch.from_numpy(place).to(batch.head.device)
            logits, _ = model.answer(features, graph, tokens, place, batch.image_of)
            self.answers[name].add(positions, probabilities(logits))
        if self._looks is None:
            return _answer(model, features, graph, batch)
        asked = features, graph, batch.questions, batch.question_of, batch.image_of
        logits, _, attention = model.answer_and_point(*asked)
        self._looks.add(batch, positions, attention, graph)
        return probabilities(logits)


class _LookTable:
    """Collects where the model looks while batches come."""

    def __init__(self, dataset: VQADataset, questions: QuestionSet, images: np.ndarray):
        self._index, self._images = dataset.index, images
        self._attention = np.full((len(questions), len(REGIONS)), np.nan, dtype=np.float32)
        self._boxes = np.full((len(images), len(REGIONS), 4), np.nan, dtype=np.float32)

    def add(self, batch: Batch, positions: np.ndarray, attention: Tensor | None, graph: SceneGraph) -> None:
        if attention is None:
            return
        rows = batch.ids.image.cpu().numpy()
        self._attention[positions] = attention.float().cpu().numpy()
        sizes = (self._index.images[side][rows] for side in ("width", "height"))
        frame = Frame.letterbox(*sizes)
        boxes = graph.boxes.float().cpu().numpy()
        for image, row in enumerate(rows):
            self._boxes[np.searchsorted(self._images, row)] = Frame(frame.matrix[image]).boxes_out(boxes[image])

    def complete(self) -> Looks | None:
        """None where the model has no graph."""
        if np.isnan(self._attention).any() or np.isnan(self._boxes).any():
            return None
        return Looks(self._attention, self._images, self._boxes)


def _device(model: torch.nn.Module) -> torch.device:
    return next(model.parameters()).device
