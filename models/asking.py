"""Ask a trained model about one film: encode it once, then any number of questions.

    asker = Asker.from_pretrained("checkpoints/best_model")
    film = asker.film("film.png")
    for answer in asker.ask(film, ["Is there a pleural effusion?", "Where is the nodule?"]):
        print(answer.text, answer.probability)

The graph that answers are given from is always the model's own. Nothing untrained answers: see `Asker.from_pretrained`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from configs.mimic_cxr_config import Config
from data import images
from data.batch import SceneGraph, TokenBatch
from data.frames import Frame, Pictures
from data.frontal import FrontalCheck, check_frontal, colourfulness
from data.label_space import CHEXPERT, HEADS, REGIONS, Head, find_head
from data.vocabulary import RESERVED, Vocabulary
from models.answers import Answer, Box, Look, QuestionOnlyAnswer, Region
from models.devices import find_device
from models.encoders import ImageFeatures
from models.hub_folder import CONTROL, model_directory
from models.mimic_vqa_model import SSGVQA
from models.probabilities import decide, probabilities, read_temperatures, sureness, tempered, weights_sha256
from models.question_only import QuestionOnly
from models.routing import Route, Router
from models.trained import check_trained_record, check_trained_weights
from utils.errors import CheckpointError, DataError

__all__ = ["Answer", "Asker", "Box", "Film", "Look", "QuestionOnlyAnswer", "Region"]

TEXTS_AT_ONCE = 256


@dataclass(frozen=True)
class Film:
    """An image that a model has looked at. All tensors have a batch of one and are on the model's device."""

    name: str
    """File name without folders; empty for an array"""
    width: int
    height: int
    """of the original image after orientation, in pixels"""
    frame: Frame
    """from [0, 1] of the original to the square that the model sees"""
    picture: Tensor
    """(1, 1, S, S) float32 grey levels 0..255: the square itself"""
    features: ImageFeatures
    graph: SceneGraph
    """the model's own: boxes in [0, 1] of the square, entity probabilities"""
    regions: tuple[Region, ...]
    """the graph's 26 nodes, in the order of `label_space.REGIONS`"""
    chexpert: dict[str, float]
    """14 classes -> probability in [0, 1], from the image alone"""
    frontal: FrontalCheck
    forced: bool = False
    """`frontal` says that this is no frontal chest film, and it is to be answered all the same"""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What whoever reads an answer about this film must know."""
        return (f"not a frontal chest film ({self.frontal.reason}): answered by force",) if self.forced else ()

    def to_pixels(self, boxes: np.ndarray) -> np.ndarray:
        """(n, 4) boxes in [0, 1] of the square -> x1 y1 x2 y2 in pixels of the original image, clipped to it."""
        return self.frame.boxes_out(boxes) * np.array([self.width, self.height, self.width, self.height])


class Asker:
    """One loaded model with everything that belongs to its answers. Made by `from_pretrained`."""

    def __init__(
        self,
        model: SSGVQA,
        tokenizer: PreTrainedTokenizerBase,
        config: Config,
        vocabulary: Vocabulary,
        router: Router,
        temperatures: dict[Head, float] | None = None,
        question_only: QuestionOnly | None = None,
        sha256: str = "",
    ):
        self.model, self.tokenizer, self.config, self.vocabulary = model, tokenizer, config, vocabulary
        self.router, self.temperatures, self.question_only = router, temperatures or {}, question_only
        self.sha256 = sha256
        self.device = next(model.parameters()).device

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str = "auto") -> Asker:
        """Load a model folder such as `checkpoints/best_model`, with `temperature.json`, `routing.json` and `question_only/`.

        Args:
            device: `cpu`, `cuda`, `cuda:1`..., or `auto`: the first GPU that there is.
        Raises:
            CheckpointError: missing, damaged, never trained, trained without images, or with a control of another tokenizer.
            ConfigError: there is no such device.
        """
        folder, place = model_directory(folder), find_device(device)
        check_trained_record(folder)
        model, tokenizer, config, vocabulary = SSGVQA.from_pretrained(folder)
        check_trained_weights(model, folder)
        if config.data.blank_images:
            raise CheckpointError(
                f"{folder}: was trained on black images (data.blank_images): it cannot answer about a film"
            )
        control = None
        if (folder / CONTROL).is_dir():
            control, other, _ = QuestionOnly.from_pretrained(folder / CONTROL)
            if other.get_vocab() != tokenizer.get_vocab():
                raise CheckpointError(
                    f"{folder / CONTROL}: reads other word pieces than the model; copy both from one training"
                )
            control = control.to(place)
        sha256 = weights_sha256(folder)
        router = Router.of_folder(folder, sha256, vocabulary)
        temperatures = read_temperatures(folder, sha256)
        return cls(model.to(place), tokenizer, config, vocabulary, router, temperatures, control, sha256)

    # Films

    @torch.inference_mode()
    def film(self, source: str | Path | np.ndarray, force: bool = False) -> Film:
        """Look at an image, prepared as in training.

        Args:
            source: path of a JPEG, PNG or DICOM file, as `data.images.decode` reads it; or (h, w) or (h, w, 3) uint8.
            force: look at it even if it is plainly no frontal chest film; the answers then carry a warning.
        Raises:
            DataError: it cannot be read, or is no frontal chest film.
        """
        name, pixels, width, height, colour = self._pixels(source)
        frontal = check_frontal(pixels, colour)
        if not force:
            frontal.refuse(f"image {source if name else 'array'}")
        frame = Frame.letterbox(*(np.array([side]) for side in (width, height)))
        size = self.config.data.image_size
        picture = (
            Pictures.collect([images.as_stored(pixels, self.config.data.image_store)], np.array([0]), frame, size)
            .to(self.device)
            .render()
        )
        features = self.model.encode_images(picture)
        graph = self.model.predict_graph(features).graph()
        chexpert = self.model.chexpert(features.pooled).float().sigmoid()[0].cpu().numpy()
        self._check_numbers(chexpert, graph.boxes, graph.entity_probs)
        film = Film(
            name=name,
            width=width,
            height=height,
            frame=Frame(frame.matrix[0]),
            picture=picture,
            features=features,
            graph=graph,
            regions=(),
            chexpert=dict(zip(CHEXPERT, map(float, chexpert), strict=True)),
            frontal=frontal,
            forced=not frontal.is_frontal,
        )
        return replace(film, regions=self._regions(film))

    def _pixels(self, source: str | Path | np.ndarray) -> tuple[str, np.ndarray, int, int, float]:
        """File name, grey levels at the size that an image store keeps, original width and height, colourfulness."""
        side = self.config.data.image_store_size or self.config.data.image_size
        if isinstance(source, np.ndarray):
            return "", *images.from_array(source, side), colourfulness(source)
        path = Path(source)
        if path.is_dir():
            raise DataError(f"image {path}: is a folder; give one image")
        return path.name, *images.decode(path, side), colourfulness(path)

    def _regions(self, film: Film) -> tuple[Region, ...]:
        boxes = film.to_pixels(film.graph.boxes[0].float().cpu().numpy())
        present = film.graph.entity_probs[0, :, RESERVED:].float().cpu().numpy()
        return tuple(
            Region(name, Box(*map(float, box)), dict(zip(self.vocabulary.entities, map(float, row), strict=True)))
            for name, box, row in zip(REGIONS, boxes, present, strict=True)
        )

    # Questions

    def tokens(self, questions: Sequence[str]) -> TokenBatch:
        """Word pieces of texts, padded to the longest and cut at the model's limit; on its device."""
        limit = self.config.model.max_question_length
        options = {"padding": True, "truncation": True, "max_length": limit, "return_tensors": "pt"}
        encoded = self.tokenizer(list(questions), **options)
        return TokenBatch(encoded["input_ids"], encoded["attention_mask"]).to(self.device)

    def ask(
        self, film: Film, questions: Sequence[str] | str, head: Head | str | None = None, force: bool = False
    ) -> list[Answer]:
        """Answer questions about a film, in their order. The image is not encoded again.

        Args:
            head: that is to answer all of them; None: each by its words (`models.routing`).
            force: answer what should be refused as well. `supported` and `reason` stay as they are, and a warning is added.
        Raises:
            ConfigError: there is no such head. DataError: a question is empty. CheckpointError: an answer is not a number.
        """
        texts = [questions] if isinstance(questions, str) else list(questions)
        texts = [" ".join(text.split()) for text in texts]
        if not all(texts):
            raise DataError("a question is empty: write what is to be answered")
        wanted = find_head(head)
        answers = []
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            answers += self._ask(film, texts[start : start + TEXTS_AT_ONCE], wanted, force)
        return answers

    @torch.inference_mode()
    def _ask(self, film: Film, texts: list[str], wanted: Head | None, force: bool) -> list[Answer]:
        tokens = self.tokens(texts)
        question_of = torch.arange(len(texts), device=self.device)
        image_of = torch.zeros_like(question_of)
        asked = film.features, film.graph, tokens, question_of, image_of
        logits, types, looks = self.model.answer_and_point(*asked)
        values = probabilities(logits)
        self._check_numbers(*values.values())
        control = probabilities(self.question_only(tokens, question_of)) if self.question_only else None
        shares = None if looks is None else looks.float().cpu().numpy()
        answers = []
        for row, text in enumerate(texts):
            route = self.router.route(text, types[row], wanted)
            of_head = values[route.head][row : row + 1]
            of_control = None if control is None else control[route.head][row : row + 1]
            of_looks = () if shares is None else self._looks(film, shares[row])
            answers.append(self._answer(film, text, route, of_head, of_control, of_looks, force))
        return answers

    def _answer(
        self,
        film: Film,
        text: str,
        route: Route,
        values: np.ndarray,
        control: np.ndarray | None,
        looks: tuple[Look, ...],
        force: bool,
    ) -> Answer:
        head = route.head
        refused = Answer(
            question=text,
            head=head,
            supported=not route.reason,
            reason=route.reason,
            type=route.type,
            routed=route.probability,
            warnings=film.warnings,
        )
        if route.reason and not force:
            return refused
        warnings = [*film.warnings, *self._text_warnings(text)]
        if route.reason:
            warnings.append("should not be answered, and is answered by force")
        calibrated = head in self.temperatures
        if calibrated:
            values = tempered(head, values, self.temperatures[head])
        decided = decide(head, values)
        return replace(
            refused,
            texts=answer_texts(head, decided[0]),
            probability=float(sureness(head, values, decided)[0]),
            probabilities=_named(head, values[0]),
            calibrated=calibrated,
            looks=looks,
            question_only=None if control is None else _control_answer(head, control),
            warnings=tuple(warnings),
        )

    def _looks(self, film: Film, shares: np.ndarray) -> tuple[Look, ...]:
        """Where a question looked, most first."""
        order = np.argsort(-shares, kind="stable")
        return tuple(Look(film.regions[i].name, float(shares[i]), film.regions[i].box) for i in order)

    def _text_warnings(self, text: str) -> list[str]:
        ids = self.tokenizer(text)["input_ids"]
        limit = self.config.model.max_question_length
        found = [f"only the first {limit} word pieces of the question are read"] if len(ids) > limit else []
        if unknown := self._unread_words(text):
            found.append(f"words that the model has never read: {', '.join(unknown)}")
        return found

    def _unread_words(self, text: str) -> list[str]:
        """Words of which the tokenizer has no longer piece than a letter: one made from the training questions has no more."""
        words = dict.fromkeys(re.findall(r"[^\W\d_]{3,}", text))
        pieces = {word: self.tokenizer.tokenize(word) for word in words}
        unknown = self.tokenizer.unk_token
        return [
            word for word, found in pieces.items() if all(p == unknown or len(p.removeprefix("##")) == 1 for p in found)
        ]

    def _check_numbers(self, *values: np.ndarray | Tensor) -> None:
        if not all(bool(torch.isfinite(torch.as_tensor(value)).all()) for value in values):
            raise CheckpointError(
                "the model's answers are not numbers: its weights are damaged, or its training diverged"
            )


def _named(head: Head, row: np.ndarray) -> dict[str, float]:
    return dict(zip(HEADS[head].classes, map(float, row), strict=True))


def _control_answer(head: Head, values: np.ndarray) -> QuestionOnlyAnswer:
    decided = decide(head, values)
    return QuestionOnlyAnswer(
        answer_texts(head, decided[0]), float(sureness(head, values, decided)[0]), _named(head, values[0])
    )


def answer_texts(head: Head, decided: np.ndarray | np.integer) -> tuple[str, ...]:
    """The names of what `decide` gave for one question. Empty where a head with several classes finds none of them."""
    classes = HEADS[head].classes
    if not HEADS[head].multi_label:
        return (classes[int(decided)],)
    return tuple(name for name, chosen in zip(classes, decided, strict=True) if chosen)
