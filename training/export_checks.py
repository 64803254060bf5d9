"""Whether exported graphs are the model: largest differences, agreement of decisions, and scores on a validation split."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from data.batch import TokenBatch
from data.label_space import HEADS, Head
from data.letterbox import letterbox
from data.mimic_cxr_dataset import VQADataset
from data.synthetic.cases import make_studies
from data.synthetic.images import draw_film, study_poses
from data.vocabulary import Vocabulary
from models.mimic_vqa_model import SSGVQA
from models.onnx_model import OnnxModel, probabilities
from models.scene_graph import no_graph
from training.metrics import HEADLINE, score_head
from training.predictions import AnswerTable, QuestionSet, decide
from utils.errors import CheckpointError

TOLERANCE = 1e-4
"""Largest difference of any output of the fp32 graphs from the model's; logits, features and probabilities alike"""
FILMS_OF_SAMPLES = (1, 2, 5)
"""Films of one call, in turns: sizes are free, and each film is to be itself beside any others"""
QUESTIONS_OF_A_FILM = 4
VISITS_AT_ONCE = 8
QUESTIONS = (
    "Is there {}?", "Where is the {}?", "How severe is the {}?", "Does the film show {} or any device beside it?",
    "{}?", "Describe all that is abnormal about the {}, and in which region of the film it can be seen.",
)  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """Some films and questions about them, for one call."""

    images: Tensor
    """(B, 1, S, S) float32 grey levels"""
    texts: list[str]
    """U distinct ones"""
    questions: TokenBatch
    question_of: Tensor
    image_of: Tensor
    """(Q,) int64 both"""


def generated_samples(
    side: int, longest: int, tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary, films: int
) -> list[Sample]:
    """Drawn films, and questions about names that the model knows."""
    studies = make_studies(films, seed=0)
    names = vocabulary.entities or ("finding",)
    samples, first = [], 0
    for size in _sizes(films):
        images, asked = [], []
        for number in range(first, first + size):
            body, poses = study_poses(studies[number], seed=0)
            images.append(letterbox(draw_film(studies[number], 0, body, poses[0], seed=0), side))
            for n in range(QUESTIONS_OF_A_FILM):
                place = number * QUESTIONS_OF_A_FILM + n
                text = QUESTIONS[place % len(QUESTIONS)].format(names[(7 * number + n) % len(names)])
                asked.append((number - first, text))
        asked = asked[1::2] + asked[::2]  # neither by film nor by text
        texts = list(dict.fromkeys(text for _, text in asked))
        encoded = tokenizer(texts, padding=True, truncation=True, max_length=longest, return_tensors="pt")
        samples.append(
            Sample(
                torch.from_numpy(np.stack(images))[:, None],
                texts,
                TokenBatch(encoded["input_ids"], encoded["attention_mask"]),
                torch.tensor([texts.index(text) for _, text in asked]),
                torch.tensor([film for film, _ in asked]),
            )
        )
        first += size
    return samples


def index_samples(dataset: VQADataset, films: int) -> list[Sample]:
    """Visits spread over a split."""
    epoch, visits = dataset.epoch(0), dataset.num_visits()
    chosen = np.unique(np.linspace(0, visits - 1, min(films, visits)).round().astype(np.int64))
    samples, first = [], 0
    for size in _sizes(len(chosen)):
        batch = dataset.batch(epoch, chosen[first : first + size]).on("cpu")
        codes = np.unique(dataset.index.questions["text"][batch.ids.question.numpy()])
        samples.append(
            Sample(batch.images, dataset.index.texts(codes), batch.questions, batch.question_of, batch.image_of)
        )
        first += size
    return samples


def _sizes(films: int) -> Iterator[int]:
    """`FILMS_OF_SAMPLES` in turns, in all so many films."""
    number = 0
    while films > 0:
        size = min(films, FILMS_OF_SAMPLES[number % len(FILMS_OF_SAMPLES)])
        yield size
        films, number = films - size, number + 1


@torch.inference_mode()
def compare(
    model: SSGVQA, tokenizer: PreTrainedTokenizerBase, onnx: OnnxModel, samples: list[Sample]
) -> dict[str, float]:
    """Largest absolute difference of each output, with the predicted graph and without one.

    CheckpointError: one is above `TOLERANCE` or not a number, or word pieces differ; says where.
    """
    worst: dict[str, float] = {}
    for number, sample in enumerate(samples, 1):
        where = f"call {number} of {len(samples)} ({len(sample.images)} films, {len(sample.question_of)} questions)"
        _check_tokens(tokenizer, onnx, sample, where)
        theirs = _from_onnx(onnx, sample)
        for name, ours in _from_model(model, sample).items():
            difference = float(np.abs(ours.numpy() - theirs[name]).max())
            if not difference <= TOLERANCE:
                raise CheckpointError(
                    f"the exported graphs are not the model: {name} differs by {difference:.1e} in {where}, more than"
                    f" {TOLERANCE:.0e}; nothing was written"
                )
            worst[name] = max(difference, worst.get(name, 0.0))
    return worst


def _check_tokens(tokenizer: PreTrainedTokenizerBase, onnx: OnnxModel, sample: Sample, where: str) -> None:
    """The exported tokenizer gives the word pieces that the model learned with."""
    tokens = onnx.tokens(sample.texts)
    expected = sample.questions
    same = all(
        np.array_equal(tokens[name], getattr(expected, name).numpy()) for name in ("input_ids", "attention_mask")
    )
    if not same:
        raise CheckpointError(
            f"the exported tokenizer ({type(tokenizer).__name__}) gives other word pieces in {where}; nothing was written"
        )


def _from_model(model: SSGVQA, sample: Sample) -> dict[str, Tensor]:
    """What the model gives, by `<graph>.<output>`; of tokens the real ones."""
    features = model.encode_images(sample.images)
    graph = model.predict_graph(features).graph()
    named = {"grid": features.grid, "feature_map": features.feature_map, "global_token": features.global_token}
    named |= {"boxes": graph.boxes, "entity_probs": graph.entity_probs, "chexpert": model.chexpert(features.pooled)}
    found = {f"image.{name}": values for name, values in named.items()}
    real = sample.questions.attention_mask.bool()
    found["question.states"] = model.question_encoder(sample.questions)[real]
    asked = sample.questions, sample.question_of, sample.image_of
    for chosen, suffix in ((graph, ""), (no_graph(graph), " without a graph")):
        logits, question_type, looks = model.answer_and_point(features, chosen, *asked)
        found["question.question_type"] = question_type
        found |= {f"fusion.{head.value}{suffix}": logits[head.value] for head in HEADS}
        if looks is None:
            break
        found[f"fusion.looks{suffix}"] = looks
    return found


def _from_onnx(onnx: OnnxModel, sample: Sample) -> dict[str, np.ndarray]:
    """As `_from_model`, from graph to graph."""
    images = onnx.encode_images(sample.images.numpy())
    asked = {name: getattr(sample.questions, name).numpy() for name in ("input_ids", "attention_mask")}
    texts = onnx.encode_texts(asked)
    found = {f"image.{name}": values for name, values in images.items()}
    found["question.states"] = texts["states"][asked["attention_mask"] == 1]
    found["question.question_type"] = texts["question_type"]
    places = sample.question_of.numpy(), sample.image_of.numpy()
    for graph, suffix in (("predicted", ""), ("none", " without a graph")):
        answers = onnx.answer(images, texts, *places, graph)
        found |= {f"fusion.{name}{suffix}": values for name, values in answers.items()}
    return found


def agreement(one: OnnxModel, other: OnnxModel, samples: list[Sample]) -> dict[str, dict[str, float]]:
    """head -> share of equal decisions (a question, or a class of a multi-label head) and differences of probabilities."""
    answers = [
        {head: np.concatenate([_shares(model, sample)[head] for sample in samples]) for head in HEADS}
        for model in (one, other)
    ]
    found = {}
    for head in HEADS:
        a, b = (both[head] for both in answers)
        equal = decide(head, a) == decide(head, b)
        apart = np.abs(a - b)
        found[head.value] = {
            "n": int(equal.size),
            "share": float(equal.mean()),
            "mean_difference": float(apart.mean()),
            "largest_difference": float(apart.max()),
        }
    return found


def _shares(model: OnnxModel, sample: Sample) -> dict[Head, np.ndarray]:
    values = _from_onnx(model, sample)
    return {head: probabilities(head, values[f"fusion.{head.value}"]) for head in HEADS}


def accuracy(models: dict[str, OnnxModel], dataset: VQADataset, most: int) -> dict[str, dict]:
    """Headline scores on a split by head and precision, and the share of questions with the same answer.

    Args:
        models: precision -> export, fp32 first.
        most: questions; of more, whole visits spread over the split are asked; 0: all.
    """
    epoch = dataset.epoch(0)
    visits = np.arange(dataset.num_visits())
    if most and dataset.num_questions > most:
        wanted = max(1, math.floor(len(visits) * most / dataset.num_questions))
        visits = np.unique(np.linspace(0, len(visits) - 1, wanted).round().astype(np.int64))
    questions = QuestionSet(dataset.index, np.sort(epoch.select(visits).rows))
    tables = {name: AnswerTable(questions) for name in models}
    for start in range(0, len(visits), VISITS_AT_ONCE):
        batch = dataset.batch(epoch, visits[start : start + VISITS_AT_ONCE]).on("cpu")
        positions = np.searchsorted(questions.rows, batch.ids.question.numpy())
        sample = Sample(batch.images, [], batch.questions, batch.question_of, batch.image_of)
        for name, model in models.items():
            tables[name].add(positions, _shares(model, sample))
    answers = {name: table.complete(name) for name, table in tables.items()}
    return {head.value: _scores(head, answers, questions.targets(head)) for head in HEADS}


def _scores(head: Head, answers: dict[str, dict], targets: np.ndarray) -> dict:
    told = {name: decide(head, given[head]) for name, given in answers.items()}
    scores = {
        name: score_head(head, given[head], told[name], targets)[HEADLINE[head]] for name, given in answers.items()
    }
    same = None
    if "int8" in told and len(targets):
        equal = told["fp32"] == told["int8"]
        same = float((equal.all(1) if equal.ndim > 1 else equal).mean())
    return {"n": len(targets), "metric": HEADLINE[head], "scores": scores, "agreement": same}
