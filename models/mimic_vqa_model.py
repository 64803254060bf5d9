"""SSGVQA: image encoder, question encoder, predicted scene graph, SIM and heads in one model.

    model = SSGVQA.build(config.model, vocabulary, tokenizer, config.data.image_size)
    outputs = model(batch.images, batch.questions, batch.question_of, batch.image_of)
    model.save_pretrained("best_model", tokenizer, config)
    model, tokenizer, config, vocabulary = SSGVQA.from_pretrained("best_model")

The graph is predicted from the pixels. A graph of another origin (the report's, another image's) enters only where a
caller passes one: `graph=` a `SceneGraph`, or a function of the prediction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from configs.mimic_cxr_config import Config, ModelConfig
from data.batch import SceneGraph, TokenBatch
from data.feature_store import FeatureMaps
from data.label_space import Head
from data.vocabulary import Vocabulary
from models import model_folder
from models.compiling import Compiled
from models.encoders import (
    ImageEncoder,
    ImageFeatures,
    QuestionEncoder,
    VisualSpec,
    build_text_model,
    resolve_visual,
    text_model_from_config,
)
from models.graph_reader import GraphReader
from models.heads import answer_heads, chexpert_head, question_type_head
from models.layers import Switchable, take
from models.packing import LengthOrder
from models.scene_graph import GraphPrediction, RegionPredictor, no_graph
from models.sim import SimFusion, build_fusion

GraphChoice = str | SceneGraph | Callable[[GraphPrediction], SceneGraph]


@dataclass
class Outputs:
    """What one forward pass gives. All heads answer all questions; which one counts is the routing table's business."""

    logits: dict[str, Tensor]
    """binary (Q, 2), category (Q, 14), region (Q, 26), severity (Q, 4)"""
    chexpert: Tensor
    """(B, 14) logits, from the image alone"""
    graph: GraphPrediction
    """the model's own graph, whichever one the answers were given from"""
    question_type: Tensor
    """(U, 28) logits of the distinct questions: 27 types, then "unsupported" """


@dataclass
class Copies:
    """Things that are computed once for every question about them, to compare with once for all."""

    original: Tensor
    """(C,) int64 the thing that a computed one is a copy of: one for each question, then those that none asks about"""
    of_question: Tensor
    """(Q,) int64 copy that belongs to a question"""
    first: Tensor
    """(n,) int64 a copy of each thing"""

    @staticmethod
    def of(thing_of: Tensor, things: int) -> Copies:
        """Copies of so many things for (Q,) numbers of them."""
        every = torch.arange(things, device=thing_of.device)
        original = torch.cat([thing_of, every[~torch.isin(every, thing_of)]])
        order = original.argsort(stable=True)
        first = order[torch.searchsorted(original[order], every)]
        return Copies(original, torch.arange(len(thing_of), device=thing_of.device), first)


class SSGVQA(Switchable):
    """Visual question answering on chest X-rays from pixels and a scene graph that is itself read from the pixels."""

    compiled: Compiled | None = None
    credentialed: bool | None = None
    """Whether credentialed data went into the weights; None: nobody has said"""

    def __init__(
        self,
        config: ModelConfig,
        num_entities: int,
        num_region_rows: int,
        image_size: int,
        text_config=None,
        visual_spec: VisualSpec | None = None,
        *,
        image_encoder: ImageEncoder | None = None,
        question_encoder: QuestionEncoder | None = None,
    ):
        """Random weights, except in encoders that are given. `text_config` is not needed with a `question_encoder`."""
        super().__init__()
        self.config = config
        self.image_size = image_size
        self.vocabulary: Vocabulary | None = None
        spec = visual_spec or (image_encoder.spec if image_encoder else resolve_visual(config, image_size))
        self.image_encoder = image_encoder or ImageEncoder(config, spec)
        self.question_encoder = question_encoder or QuestionEncoder(text_model_from_config(text_config), config)
        width = config.hidden_dim
        self.region_predictor = RegionPredictor(config, num_entities)
        self.fusion = build_fusion(config, num_entities, num_region_rows)
        self.heads = answer_heads(config)
        self.reader = GraphReader(width, num_entities) if config.fusion != "none" else None
        self.chexpert = chexpert_head(2 * width, width, config.dropout)
        self.question_type = question_type_head(width)

    @classmethod
    def build(
        cls, config: ModelConfig, vocabulary: Vocabulary, tokenizer: PreTrainedTokenizerBase, image_size: int
    ) -> SSGVQA:
        """A model to train: pretrained encoders or, with `pretrained: false`, random ones.

        ConfigError when weights cannot be had or do not fit the configuration.
        """
        spec = resolve_visual(config, image_size)
        model = cls(
            config,
            vocabulary.num_entities,
            vocabulary.num_regions,
            image_size,
            image_encoder=ImageEncoder(config, spec, pretrained=config.pretrained),
            question_encoder=QuestionEncoder(build_text_model(config, tokenizer), config),
        )
        model.vocabulary = vocabulary
        if model.reader is not None:
            model.reader.name_classes(vocabulary)
        if isinstance(model.fusion, SimFusion):
            model.fusion.grounding.start_from_names(model.fusion.nodes, model.question_encoder, tokenizer, vocabulary)
        return model

    def encode_images(self, images: Tensor | FeatureMaps) -> ImageFeatures:
        """(B, 1, S, S) grey levels, or stored features -> what all questions about these images share."""
        return self.image_encoder(images)

    def predict_graph(self, features: ImageFeatures) -> GraphPrediction:
        """The scene graph of each image, from its pixels."""
        return self.region_predictor(features)

    def question_types(self, questions: TokenBatch) -> Tensor:
        """(U, 28) logits of the types of U texts, which no image is needed for: 27 types, then "unsupported"."""
        return self.question_type(self.question_encoder.encode(questions).first())

    def answer(
        self, features: ImageFeatures, graph: SceneGraph, questions: TokenBatch, question_of: Tensor, image_of: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Answer Q questions: head name -> (Q, classes) logits, and (U, 28) question-type logits.

        `question_of` and `image_of`, (Q,) int64, may have any order; each of the U texts is encoded once.
        """
        return self.answer_and_point(features, graph, questions, question_of, image_of)[:2]

    def answer_and_point(
        self, features: ImageFeatures, graph: SceneGraph, questions: TokenBatch, question_of: Tensor, image_of: Tensor
    ) -> tuple[dict[str, Tensor], Tensor, Tensor | None]:
        """As `answer`, and where each question looks: (Q, 26) shares of the graph's nodes, in all 1; None without a graph."""
        if not self.question_encoder.in_parts(question_of.device) or questions.states is not None:
            return self._answer(features, graph, questions, question_of, image_of)
        order = LengthOrder.of(questions.attention_mask, question_of)
        questions = replace(
            questions,
            input_ids=questions.input_ids.index_select(0, order.texts),
            attention_mask=questions.attention_mask.index_select(0, order.texts),
        )
        image_of = image_of.index_select(0, order.questions)
        logits, question_type, looks = self._answer(features, graph, questions, order.question_of, image_of)
        logits = {head: order.undo_questions(values) for head, values in logits.items()}
        looks = None if looks is None else order.undo_questions(looks)
        return logits, order.undo_texts(question_type), looks

    def _answer(
        self, features: ImageFeatures, graph: SceneGraph, questions: TokenBatch, question_of: Tensor, image_of: Tensor
    ) -> tuple[dict[str, Tensor], Tensor, Tensor | None]:
        if self.fast.shared_questions:
            texts = self.question_encoder.encode(questions)
            first = texts.first()
        else:
            copies = Copies.of(question_of, len(questions.input_ids))
            ids, mask = (t.index_select(0, copies.original) for t in (questions.input_ids, questions.attention_mask))
            texts, question_of = self.question_encoder.encode(TokenBatch(ids, mask)), copies.of_question
            first = texts.first().index_select(0, copies.first)
        fused = self.fusion(features, graph, texts, question_of, image_of)
        question_type = self.question_type(first)
        if self.reader is None:
            return self.heads(fused.state), question_type, None
        state, evidence = self.reader(fused, graph, image_of)
        logits = self.heads(state)
        for head, from_graph in evidence.items():
            logits[head] = logits[head] + from_graph
        return logits, question_type, evidence[Head.REGION.value].softmax(-1)

    def forward(
        self,
        images: Tensor | FeatureMaps,
        questions: TokenBatch,
        question_of: Tensor,
        image_of: Tensor,
        graph: GraphChoice = "predicted",
    ) -> Outputs:
        """One pass over B images and Q questions.

        `graph` is "predicted", "none", a `SceneGraph`, or a function that makes one from the prediction (graph dropout
        in training, where some images are given the report's graph or none).
        """
        if self.training and self.compiled:
            self.compiled.before_pass((len(images), *questions.input_ids.shape, len(question_of)))
        if not self.fast.shared_images:
            return self._forward_copies(images, questions, question_of, image_of, graph)
        features = self.encode_images(images)
        prediction = self.predict_graph(features)
        chosen = choose_graph(graph, prediction)
        logits, question_type = self.answer(features, chosen, questions, question_of, image_of)
        return Outputs(logits, self.chexpert(features.pooled), prediction, question_type)

    def _forward_copies(
        self,
        images: Tensor | FeatureMaps,
        questions: TokenBatch,
        question_of: Tensor,
        image_of: Tensor,
        graph: GraphChoice,
    ) -> Outputs:
        """`forward` with an image of its own for each question."""
        copies = Copies.of(image_of, len(images))
        each = take(images, copies.original) if isinstance(images, FeatureMaps) else images[copies.original]
        features = self.encode_images(each)
        prediction = take(self.predict_graph(features), copies.first)
        chosen = take(choose_graph(graph, prediction), copies.original)
        logits, question_type = self.answer(features, chosen, questions, question_of, copies.of_question)
        pooled = features.pooled.index_select(0, copies.first)
        return Outputs(logits, self.chexpert(pooled), prediction, question_type)

    def set_gradient_checkpointing(self, enable: bool) -> None:
        """Recompute activations of encoders and fusion in the backward pass: less memory, a third more time."""
        self.image_encoder.set_gradient_checkpointing(enable)
        self.question_encoder.set_gradient_checkpointing(enable)
        self.fusion.checkpointing = enable

    def compile_parts(self, **options) -> None:
        """`torch.compile` what takes most of the time; see `models.compiling`. `options` are those of `torch.compile`."""
        # the sizes of parts differ with every batch, and each would be compiled
        self.switch(replace(self.fast, length_parts=False))
        of_images = [self.image_encoder.backbone, self.region_predictor]
        of_questions = [self.question_encoder.model, *self.fusion.parts_for_each_question()]
        if self.reader is not None:
            of_questions.append(self.reader)
        self.compiled = Compiled(of_images, of_questions, **options)

    def pretrained_modules(self) -> list[nn.Module]:
        """The parts that start from pretrained weights unless `pretrained` is false."""
        return [self.image_encoder.backbone, *([self.question_encoder.model] if self.config.text_pretrained else [])]

    def save_pretrained(
        self,
        folder: str | Path,
        tokenizer: PreTrainedTokenizerBase,
        config: Config,
        extra_files: dict[str, object] | None = None,
        weights: dict[str, Tensor] | None = None,
    ) -> None:
        """Write a model folder, complete or not at all. `extra_files`: name -> text, bytes or something for JSON.

        `weights`: a copy that `model_folder.copy_weights` made earlier, instead of those of now.
        """
        if self.vocabulary is None:
            raise ValueError("this model was not made by build() or from_pretrained(): it has no vocabulary to save")
        description = {
            "vocabulary.json": self.vocabulary.as_json(),
            "text_config.json": self.question_encoder.model.config.to_dict(),
            "visual_config.json": self.image_encoder.spec.as_json(),
        }
        model_folder.write(
            folder, self, tokenizer, config, description, extra_files or {}, weights, credentialed=self.credentialed
        )

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> tuple[SSGVQA, PreTrainedTokenizerBase, Config, Vocabulary]:
        """Load a model folder, on the CPU and in evaluation mode. Needs no network.

        CheckpointError when a file is missing or damaged, or when weights or label space are not this model's.
        """
        stored = model_folder.read(folder, ("vocabulary.json", "text_config.json", "visual_config.json"))
        config = stored.config
        with model_folder.explained(folder):
            vocabulary = Vocabulary.from_json(stored.json["vocabulary.json"])
            model = cls(
                config.model,
                vocabulary.num_entities,
                vocabulary.num_regions,
                config.data.image_size,
                model_folder.text_config(stored.json["text_config.json"]),
                VisualSpec(**stored.json["visual_config.json"]),
            )
        model.vocabulary, model.credentialed = vocabulary, stored.credentialed
        stored.load_weights(model)
        return model.eval(), stored.tokenizer, config, vocabulary


def choose_graph(graph: GraphChoice, prediction: GraphPrediction) -> SceneGraph:
    """The graph that answers are given from; see `SSGVQA.forward`."""
    if isinstance(graph, SceneGraph):
        return graph
    if callable(graph):
        return graph(prediction)
    if graph == "predicted":
        return prediction.graph()
    if graph == "none":
        return no_graph(prediction.graph())
    raise ValueError(f'graph = {graph!r}: must be "predicted", "none", a SceneGraph or a function of the prediction')


def parameter_groups(model: nn.Module, training) -> list[dict]:
    """AdamW groups of an `SSGVQA` or `QuestionOnly`, for its `config.training`; keys params, lr, weight_decay, name.

    Pretrained encoders learn with `learning_rate`, all that starts from random weights with `new_layer_lr_scale` times
    it. Only weight matrices and kernels decay: no norms, biases, layer scales or embeddings.
    """
    pretrained = model.pretrained_modules() if model.config.pretrained else []
    encoder = {id(p) for module in pretrained for p in module.parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    seen: set[int] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen or not parameter.requires_grad:
                continue
            seen.add(id(parameter))
            decays = name == "weight" and parameter.ndim >= 2 and not isinstance(module, nn.Embedding)
            groups.setdefault((id(parameter) in encoder, decays), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": training.learning_rate * (1.0 if is_encoder else training.new_layer_lr_scale),
            "weight_decay": training.weight_decay if decays else 0.0,
            "name": f"{'encoder' if is_encoder else 'new'}_{'decay' if decays else 'no_decay'}",
        }
        for (is_encoder, decays), parameters in sorted(groups.items(), reverse=True)
    ]
