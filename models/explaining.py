"""Explanations: which parts of a film an answer depends on, or was read from.

    explainer = Explainer.from_pretrained("checkpoints/best_model")
    film = explainer.open("film.jpg")
    for one in explainer.explain(film, "Is there a pleural effusion?", ["layercam", "regions"]):
        print(one.method, one.head, one.target, one.map.shape)

What each method shows, and what it does not: docs/EXPLANATIONS.md.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.batch import TokenBatch
from data.frames import Frame, Pictures
from data.frontal import check_frontal, colourfulness
from data.images import as_stored, decode
from data.label_space import HEADS, REGIONS, Head, find_head
from models.cam_methods import CAM_METHODS
from models.captures import AttentionCapture, SimAttention, StageCapture, stage_strides
from models.devices import find_device
from models.explanation_methods import METHODS, REGION_POINTER, SIM_REGIONS
from models.film_maps import paint_regions, scaled, to_film
from models.hub_folder import model_directory
from models.mimic_vqa_model import SSGVQA
from models.probabilities import weights_sha256
from models.routing import Router
from models.trained import check_trained_record, check_trained_weights
from utils.errors import CheckpointError, UserError


@dataclass(frozen=True)
class FilmPixels:
    """A film as the index would store it."""

    pixels: np.ndarray
    """(h, w) uint8"""
    width: int
    height: int
    """Of the original, after orientation"""
    warning: str = ""
    """What whoever sees a map over it must know"""


@dataclass(frozen=True)
class Explanation:
    """One map over one film, of one answer to one question."""

    method: str
    """One of METHODS"""
    head: Head
    target: str
    """The class whose logit is explained"""
    logit: float
    probability: float
    """Softmax of a single-label head, sigmoid of a multi-label one; not calibrated"""
    map: np.ndarray
    """(H, W) float32 in [0, 1] over the film: what the method gives, divided by its maximum"""
    maximum: float
    """What the map was divided by, in the method's own unit; 0: the map is 0 everywhere, nothing speaks for the answer"""
    stride: int | None = None
    """Pixels of the square a cell of the map; None where the map is of regions"""
    regions: dict[str, float] | None = None
    """Share of each region, in all 1; None where the map is not of regions"""
    global_share: float | None = None
    """Attention to the feature map: the share of the global token, which the map cannot show"""
    layers: np.ndarray | None = None
    """SIM's attention by layer and head, mean over the question's tokens: (L, H, 26), or (L, H, h, w) over the square"""
    warnings: tuple[str, ...] = ()
    """Why the film or the question should have been refused, where it was explained by force"""

    @property
    def depends_on_target(self) -> bool:
        """Attention is the same whichever answer is explained."""
        return self.method in CAM_METHODS


@dataclass
class _Pass:
    """What one forward pass of one question about one film gives."""

    logits: dict[str, Tensor]
    """head name -> (classes,)"""
    question_type: Tensor
    looks: Tensor | None
    boxes: Tensor
    """(R, 4)"""
    grid: tuple[int, int]
    stage: StageCapture | None
    attention: AttentionCapture | None


class Explainer:
    """A trained model that is asked for its reasons, one question about one film at a time."""

    def __init__(
        self,
        model: SSGVQA,
        tokenizer,
        image_store_size: int = 0,
        fingerprint: str = "",
        device: str = "cpu",
        router: Router | None = None,
        image_store: str = "raw",
    ):
        """Made by `from_pretrained`, as a rule.

        Args:
            image_store_size: `data.image_store_size`.
            fingerprint: SHA-256 of the weights, kept for what is written.
            router: chooses the head of a question; without one, heads are to be named.
            image_store: `data.image_store`.
        """
        self.device = find_device(device)
        self.model, self.tokenizer, self.fingerprint = model.to(self.device).eval(), tokenizer, fingerprint
        self.router = router
        self._side, self._store = image_store_size or model.image_size, image_store

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str = "cpu") -> Explainer:
        """Of a model folder; CheckpointError as `SSGVQA.from_pretrained`, and for one that no training wrote."""
        folder = model_directory(folder)
        check_trained_record(folder)
        model, tokenizer, config, vocabulary = SSGVQA.from_pretrained(folder)
        check_trained_weights(model, folder)
        if config.data.blank_images:
            raise CheckpointError(
                f"{folder}: trained on black images (data.blank_images): no film has a part in its answers"
            )
        sha256 = weights_sha256(folder)
        router = Router.of_folder(folder, sha256, vocabulary)
        data = config.data
        return cls(model, tokenizer, data.image_store_size, sha256, device, router, data.image_store)

    @property
    def strides(self) -> tuple[int, ...]:
        """Those that `explain` takes, finest first; the last is the one of the map that the model reads."""
        return stage_strides(self.model)

    def open(self, path: str | Path, force: bool = False) -> FilmPixels:
        """A JPEG, PNG or DICOM file; DataError as `data.images.decode`, and for what is plainly no frontal chest film.

        `force`: open it even then.
        """
        pixels, width, height = decode(Path(path), self._side)
        frontal = check_frontal(pixels, colourfulness(path))
        if not force:
            frontal.refuse(f"image {path}")
        warning = "" if frontal.is_frontal else f"not a frontal chest film ({frontal.reason}): explained by force"
        return FilmPixels(as_stored(pixels, self._store), width, height, warning)

    def explain(
        self,
        film: FilmPixels,
        question: str,
        methods: Sequence[str] = METHODS,
        head: Head | str | None = None,
        target: str | Sequence[str] | None = None,
        stride: int | None = None,
        shape: tuple[int, int] | None = None,
        force: bool = False,
    ) -> list[Explanation]:
        """One explanation for each method, in their order.

        Args:
            methods: of METHODS.
            head: None: the one that would answer this question (`models.routing`).
            target: class of the head, in any case; of several the most probable one; None: of all of them.
            stride: of the stage that class activation maps are made from, one of `strides`; None: see `default_stride`.
            shape: (H, W) of the maps; None: the film's original pixels.
            force: explain the answer to a question that should not be answered as well, with a warning.
        Raises:
            ConfigError: an unknown head.
            UserError: an unknown method, class or stride; a question that should not be answered, that is empty or too long;
                attention of a model that has none.
        """
        check_methods(methods)
        question = " ".join(question.split())
        cams = [name for name in methods if name in CAM_METHODS]
        found = self._run(
            film, question, stride or self.strides[-1], bool(cams), any(m.startswith("sim-") for m in methods)
        )
        head, refusal = self._route(question, found.question_type, find_head(head), force)
        logits = found.logits[head.value]
        values = logits.detach()
        classes = find_classes(head, target)
        number = classes[int(values[classes].argmax())]
        answer = {
            "head": head,
            "target": HEADS[head].classes[number],
            "logit": float(values[number]),
            "probability": float((values.sigmoid() if HEADS[head].multi_label else values.softmax(-1))[number]),
            "warnings": tuple(filter(None, (film.warning, refusal))),
        }
        maps = self._cams(found, logits[number], cams)
        size = film.width, film.height, shape
        made = []
        for method in methods:
            values, more = maps[method] if method in maps else self._attention(method, found)
            if "regions" in more:
                values = paint_regions(values, found.boxes.cpu().numpy(), *size)
                more["regions"] = dict(zip(REGIONS, more["regions"].tolist(), strict=True))
            else:
                values = to_film(values, *size)
            values, maximum = scaled(values)
            made.append(Explanation(method=method, map=values, maximum=maximum, **answer, **more))
        return made

    def _route(self, question: str, question_type: Tensor, head: Head | None, force: bool) -> tuple[Head, str]:
        """The head that is asked, and why the question should not be answered: as `models.asking` has it."""
        if self.router is None:
            if head is None:
                raise UserError("which head answers this question is not known here: name it")
            return head, ""
        route = self.router.route(question, question_type, head)
        if route.reason and not force:
            raise UserError(
                f"the question {route.reason}; ask otherwise, or go on all the same with --force (force=True)"
            )
        return route.head, route.reason and f"the question {route.reason}: explained by force"

    def _run(self, film: FilmPixels, question: str, stride: int, with_stage: bool, with_attention: bool) -> _Pass:
        tokens = self._tokens(question).to(self.device)
        frame = Frame.letterbox([film.width], [film.height])
        pictures = Pictures.collect([film.pixels], np.array([0]), frame, self.model.image_size)
        images = pictures.render().to(self.device)
        stage = StageCapture(self.model.image_encoder, stride) if with_stage else None
        attention = AttentionCapture(self.model.fusion) if with_attention else None
        first = torch.zeros(1, dtype=torch.long, device=self.device)
        with ExitStack() as stack:
            for capture in filter(None, (stage, attention)):
                stack.enter_context(capture.listening())
            stack.enter_context(torch.set_grad_enabled(with_stage))
            # a frozen backbone has no gradient of its own to pass on
            features = self.model.encode_images(images.requires_grad_(with_stage))
            graph = self.model.predict_graph(features).graph()
            logits, question_type, looks = self.model.answer_and_point(features, graph, tokens, first, first)
        return _Pass(
            logits={name: values[0].float() for name, values in logits.items()},
            question_type=question_type[0].detach(),
            looks=None if looks is None else looks[0].detach().float(),
            boxes=graph.boxes[0].detach(),
            grid=tuple(features.feature_map.shape[-2:]),
            stage=stage,
            attention=attention,
        )

    def _tokens(self, question: str) -> TokenBatch:
        if not question:
            raise UserError("the question is empty; ask something, for example: Is there a pleural effusion?")
        encoded = self.tokenizer([question], return_tensors="pt")
        ids, longest = encoded["input_ids"], self.model.config.max_question_length
        if ids.shape[1] > longest:
            raise UserError(
                f"the question has {ids.shape[1]} word pieces, and the model reads {longest}; ask it shorter"
            )
        return TokenBatch(ids, encoded["attention_mask"])

    def _cams(self, found: _Pass, logit: Tensor, methods: list[str]) -> dict[str, tuple[np.ndarray, dict]]:
        """Method -> (h, w) map over the square, and what else there is to say."""
        if not methods:
            return {}
        stage = found.stage
        (gradient,) = torch.autograd.grad(logit, stage.output)
        activations, gradient = stage.image_map(stage.output.detach()), stage.image_map(gradient)
        stride = self.model.image_size // activations.shape[-1]
        return {m: (CAM_METHODS[m](activations, gradient).cpu().numpy(), {"stride": stride}) for m in methods}

    def _attention(self, method: str, found: _Pass) -> tuple[np.ndarray, dict]:
        """(R,) shares of regions or an (h, w) map over the square, and what else there is to say."""
        if method == REGION_POINTER:
            if found.looks is None:
                raise UserError("--method regions: this model reads no scene graph (model.fusion: none)")
            shares = found.looks.cpu().numpy()
            return shares, {"regions": shares}
        weights: SimAttention = found.attention.weights()
        if method == SIM_REGIONS:
            by_layer = weights.nodes.mean(2).cpu().numpy()
            shares = by_layer.mean((0, 1))
            return shares, {"regions": shares, "layers": by_layer}
        by_layer = weights.image.mean(2).cpu().numpy()
        height, width = found.grid
        cells = by_layer[..., :-1].reshape(*by_layer.shape[:2], height, width)
        return cells.mean((0, 1)), {
            "stride": self.model.image_size // width,
            "global_share": float(by_layer[..., -1].mean()),
            "layers": cells,
        }


def default_stride(model: SSGVQA) -> int:
    """Of class activation maps: the next finer stage than the map that the model reads, where its backbone has one.

    On the look-alike data it points better than the coarse map, and stages before it no better (docs/EXPLANATIONS.md).
    """
    return stage_strides(model)[-2:][0]


def find_classes(head: Head, names: str | Sequence[str] | None) -> list[int]:
    """Numbers of classes of a head; None: all."""
    if names is None:
        return list(range(len(HEADS[head].classes)))
    return [find_class(head, name) for name in ([names] if isinstance(names, str) else names)]


def find_class(head: Head, name: str) -> int:
    """Number of a class of a head, named in any case; UserError with the nearest name, or all of them."""
    classes = HEADS[head].classes
    small = [one.lower() for one in classes]
    wanted = name.strip().lower()
    if wanted in small:
        return small.index(wanted)
    near = difflib.get_close_matches(wanted, small, n=1)
    hint = f"did you mean {classes[small.index(near[0])]}?" if near else f"it has {', '.join(classes)}"
    raise UserError(f"--target {name}: no class of the {head.value} head; {hint}")


def check_methods(names: Sequence[str]) -> None:
    """UserError for a name that is none of METHODS."""
    for name in names:
        if name not in METHODS:
            raise UserError(f"--method {name}: must be one of {', '.join(METHODS)}")
