"""SSGVQA as three ONNX graphs: what is computed once for an image, once for a text, and for each question.

    image      (B, 1, S, S) grey levels -> features, predicted scene graph, CheXpert logits
    question   (U, T) word pieces -> their states, question-type logits
    fusion     those of both, and which question is about which image -> logits of the four heads

B images, U texts, T word pieces and Q questions are free. Padded texts are computed whole here, because a graph whose
sizes depend on the contents of a mask cannot be exported; results are the same up to rounding.
Letters in shapes: as in `models.sim`; h and w of the feature map, E entities.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from configs.fast_path import FastPath
from data.batch import SceneGraph, TokenBatch
from data.label_space import HEADS
from models.encoders import ImageFeatures
from models.mimic_vqa_model import SSGVQA
from models.packing import Packing, TokenStates
from utils.errors import ConfigError

EXPORTED = FastPath(packed_tokens=False, length_parts=False, grouped_attention=False, fused_attention=False)
"""The way of computing whose shapes follow from those of the inputs alone, and whose attention has no search for NaN"""
OPSET = 20
LARGE = 1.5e9
"""Bytes of weights from which they lie beside the graph: a file of ONNX ends at 2 GiB"""

IMAGES, TEXTS, PIECES, QUESTIONS = "images", "texts", "word_pieces", "questions"
"""Names of the free sizes: B, U, T, Q"""


class ImageGraph(nn.Module):
    """Image encoder and region predictor."""

    outputs = ("grid", "feature_map", "global_token", "boxes", "entity_probs", "chexpert")

    def __init__(self, model: SSGVQA):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 1, S, S) float32 grey levels 0..255 -> (B, N, D), (B, D, h, w), (B, D), (B, R, 4), (B, R, E), (B, 14)."""
        features = self.model.encode_images(images)
        graph = self.model.predict_graph(features).graph()
        chexpert = self.model.chexpert(features.pooled)
        found = features.grid, features.feature_map, features.global_token
        return *found, graph.boxes, graph.entity_probs, chexpert


class QuestionGraph(nn.Module):
    """Question encoder and question-type classifier."""

    outputs = ("states", "question_type")

    def __init__(self, model: SSGVQA):
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """(U, T) int64 both -> (U, T, D) states, arbitrary in padding, and (U, 28) logits."""
        texts = self.model.question_encoder.encode(TokenBatch(input_ids, attention_mask))
        return texts.padded(), self.model.question_type(texts.first())


class FusionGraph(nn.Module):
    """Interaction module, graph reader and heads, for the fusions that read a scene graph."""

    inputs = (
        "grid", "feature_map", "global_token", "boxes", "entity_probs", "exists",
        "states", "attention_mask", "question_of", "image_of",
    )  # fmt: skip
    outputs = (*(head.value for head in HEADS), "looks")

    def __init__(self, model: SSGVQA):
        super().__init__()
        self.model = model

    def forward(
        self,
        grid: Tensor,
        feature_map: Tensor,
        global_token: Tensor,
        boxes: Tensor,
        entity_probs: Tensor,
        exists: Tensor,
        states: Tensor,
        attention_mask: Tensor,
        question_of: Tensor,
        image_of: Tensor,
    ) -> tuple[Tensor, ...]:
        """Outputs of the two other graphs, (B,) bool and (Q,) int64 twice -> (Q, classes) of each head, (Q, R) shares."""
        features = ImageFeatures(grid, feature_map, global_token, pooled=global_token)  # which nobody reads here
        texts = TokenStates(states.flatten(0, 1), Packing.of(attention_mask, keep_padding=True))
        graph = SceneGraph(boxes, entity_probs, exists)
        logits, looks = self.model.answer_states(features, graph, texts, question_of, image_of)
        return *(logits[head.value] for head in HEADS), looks


class GlobalFusionGraph(nn.Module):
    """Fusion `none` and heads: no scene graph is read."""

    inputs = ("global_token", "states", "attention_mask", "question_of", "image_of")
    outputs = tuple(head.value for head in HEADS)

    def __init__(self, model: SSGVQA):
        super().__init__()
        self.model = model

    def forward(
        self, global_token: Tensor, states: Tensor, attention_mask: Tensor, question_of: Tensor, image_of: Tensor
    ) -> tuple[Tensor, ...]:
        """As `FusionGraph.forward`, without shares."""
        features = ImageFeatures(global_token, global_token, global_token, global_token)
        texts = TokenStates(states.flatten(0, 1), Packing.of(attention_mask, keep_padding=True))
        logits, _ = self.model.answer_states(features, None, texts, question_of, image_of)
        return tuple(logits[head.value] for head in HEADS)


@dataclass(frozen=True)
class Graph:
    """One of the three, with an example of its inputs."""

    name: str
    module: nn.Module
    example: dict[str, Tensor]
    free: dict[str, dict[int, str]]
    """input -> its free sides"""


def graphs_of(model: SSGVQA) -> list[Graph]:
    """The three graphs. Examples have different sizes, none of them 1, so that no size is taken for a constant."""
    images, texts, pieces, questions = 3, 4, 7, 9
    side = model.image_size
    image = {"images": torch.linspace(0, 255, images * side * side).reshape(images, 1, side, side)}
    mask = (torch.arange(pieces) < torch.arange(pieces, pieces - texts, -1)[:, None]).long()
    question = {"input_ids": torch.ones_like(mask), "attention_mask": mask}
    modules = ImageGraph(model), QuestionGraph(model)
    made = {
        **dict(zip(ImageGraph.outputs, modules[0](**image), strict=True)),
        **dict(zip(QuestionGraph.outputs, modules[1](**question), strict=True)),
        "attention_mask": mask,
        "exists": torch.arange(images) != 1,
        "question_of": torch.arange(questions) % texts,
        "image_of": torch.arange(questions) % images,
    }
    fusion = (FusionGraph if model.reader is not None else GlobalFusionGraph)(model)
    of_texts = {0: TEXTS, 1: PIECES}
    sides = {"states": of_texts, "attention_mask": of_texts, "question_of": {0: QUESTIONS}, "image_of": {0: QUESTIONS}}
    return [
        Graph("image", modules[0], image, {"images": {0: IMAGES}}),
        Graph("question", modules[1], question, {"input_ids": of_texts, "attention_mask": of_texts}),
        Graph(
            "fusion",
            fusion,
            {name: made[name] for name in fusion.inputs},
            {name: sides.get(name, {0: IMAGES}) for name in fusion.inputs},
        ),
    ]


def write_graphs(model: SSGVQA, folder: Path) -> None:
    """Write image.onnx, question.onnx and fusion.onnx of a model on the CPU.

    ConfigError: an encoder of another library does what the exporter cannot express.
    """
    large = sum(p.nbytes for p in model.parameters()) > LARGE
    with exportable(model), torch.no_grad():
        for graph in graphs_of(model):
            _write(graph, folder / f"{graph.name}.onnx", large)


def _write(graph: Graph, path: Path, large: bool) -> None:
    dims = {name: torch.export.Dim(name) for name in (IMAGES, TEXTS, PIECES, QUESTIONS)}
    shapes = {name: {side: dims[size] for side, size in sides.items()} for name, sides in graph.free.items()}
    try:
        with _quiet():
            program = torch.onnx.export(
                graph.module,
                kwargs=graph.example,
                dynamic_shapes=shapes,
                input_names=list(graph.example),
                output_names=list(graph.module.outputs),
                opset_version=OPSET,
                custom_translation_table={torch.ops.aten.logsumexp.default: _logsumexp},
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # whatever the exporter meets in code that is not ours
        reason = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        raise _cannot(graph, reason[0]) from error
    for value in program.model.graph.inputs:
        for side, size in graph.free[value.name].items():
            if isinstance(value.shape[side], int):
                raise _cannot(graph, f"it would work for {value.shape[side]} {size} only")
    program.save(path, external_data=large)


def _logsumexp(values, dim, keepdim: bool = False):
    """aten::logsumexp for ONNX Runtime, whose ReduceLogSumExp is several times slower than its steps; not for all -inf."""
    from onnxscript import opset20 as op

    most = op.ReduceMax(values, dim, keepdims=1)
    found = op.Add(op.Log(op.ReduceSum(op.Exp(op.Sub(values, most)), dim, keepdims=1)), most)
    return found if keepdim else op.Squeeze(found, dim)


def _cannot(graph: Graph, reason: str) -> ConfigError:
    return ConfigError(
        f"the {graph.name} graph cannot be exported to ONNX ({reason}): an encoder of this model does what the exporter does"
        " not know; use the model folder with PyTorch, or train with another model.visual_backbone or model.text_encoder"
    )


@contextmanager
def exportable(model: SSGVQA) -> Iterator[None]:
    """For a block, a model in evaluation mode that computes as `EXPORTED`."""
    fast, training = model.fast, model.training
    model.eval()
    model.switch(EXPORTED)
    try:
        yield
    finally:
        model.switch(fast)
        model.train(training)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on sizes that are named alike, and on constants that it did not fold."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
