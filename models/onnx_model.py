"""An exported model, run by ONNX Runtime on a CPU; PyTorch is not imported.

    model = OnnxModel.from_pretrained("exported", precision="int8")
    film = model.read_images(["film.jpg"])
    for answer in model.ask(film, ["Is there a pleural effusion?", "Where is the nodule?"]):
        print(answer.question, answer.head, answer.classes)

An image is encoded once for all its questions, and each text once for all images. Letters in shapes: as in
`models.onnx_graphs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.frontal import FrontalCheck, check_frontal, colourfulness
from data.images import decode, from_array
from data.label_space import HEADS, REGIONS, Head
from data.letterbox import letterbox
from models.onnx_folder import GRAPHS, PACKAGES_FILE, TOKENIZER, Manifest, file_of, read_manifest
from utils.errors import CheckpointError, DataError
from utils.packages import require
from utils.utils import get_logger

log = get_logger(__name__)

THRESHOLD = 0.5
"""Probability from which a class of a multi-label head is answered"""
SLOWER_FUSED = ("SkipLayerNormFusion",)
"""Optimisations of ONNX Runtime whose operator is slower on a CPU than those that it takes the place of"""
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Answer:
    """The answer to one question."""

    question: str
    type: str
    """The likeliest of the 27 question types, or `unsupported`"""
    head: Head | None
    """That answers (`models.routing`); None: there is no answer"""
    classes: tuple[str, ...] = ()
    """The answer: one class of binary and severity, any number of category and region"""
    probabilities: dict[str, float] | None = None
    """Of every class of the head; with the export's temperature where it has one"""
    looks: dict[str, float] | None = None
    """Share of each of the 26 regions in what the answer was read from, in all 1; None without a graph"""
    reason: str = ""
    """Why there is no answer"""


class OnnxModel:
    """Answers questions with the three graphs of an export."""

    def __init__(self, manifest: Manifest, precision: str, threads: int = 0):
        """`threads` of ONNX Runtime; 0: as many as there are cores. See `from_pretrained`."""
        require("onnxruntime", "tokenizers", file=PACKAGES_FILE)
        from tokenizers import Tokenizer

        self.manifest, self.precision = manifest, precision
        self._sessions = {name: _session(manifest.folder / file_of(name, precision), threads) for name in GRAPHS}
        self._router = manifest.router()
        self._tokenizer = Tokenizer.from_file(str(manifest.folder / TOKENIZER))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(manifest.values["tokenizer"]["max_length"])

    @classmethod
    def from_pretrained(cls, folder: str | Path, precision: str = "fp32", threads: int = 0) -> OnnxModel:
        """Load an export; `precision` is fp32 or int8.

        CheckpointError: missing or damaged files. ConfigError: no graphs of that precision, or packages are missing.
        """
        return cls(read_manifest(folder, precision), precision, threads)

    def run(self, graph: str, values: Arrays) -> Arrays:
        """Outputs of one of the graphs by name; of `values` those that it takes are used."""
        session = self._sessions[graph]
        found = session.run(None, {one.name: values[one.name] for one in session.get_inputs()})
        return dict(zip((one.name for one in session.get_outputs()), found, strict=True))

    def letterboxed(self, image: str | Path | np.ndarray) -> np.ndarray:
        """A film's file, or its (h, w) uint8 grey levels -> (1, S, S) float32 grey levels as the model sees them.

        DataError: not an image, damaged, too large or too small (`data.images.decode`).
        """
        if isinstance(image, np.ndarray):
            if image.ndim != 2 or image.dtype != np.uint8 or not image.size:
                raise DataError(f"an image of shape {image.shape} and type {image.dtype}: must be (h, w) of uint8")
            pixels, width, height = image, image.shape[1], image.shape[0]
        else:
            pixels, width, height = decode(Path(image), self.manifest.shorter_side)
        return letterbox(pixels, self.manifest.image_size, width, height)[None]

    def read_images(self, images: Sequence[str | Path | np.ndarray], force: bool = False) -> Arrays:
        """Encode films: files or (h, w) uint8 arrays. For `ask` and `answer`.

        `force`: also what is plainly no frontal chest film, which is a DataError otherwise.
        """
        if not len(images):
            raise DataError("no film: give one image at least")
        squares = [self.letterboxed(image) for image in images]
        if not force:
            for number, image in enumerate(images):
                name = f"array {number}" if isinstance(image, np.ndarray) else f"image {image}"
                self._frontal(image).refuse(name)
        return self.encode_images(np.stack(squares))

    def _frontal(self, image: str | Path | np.ndarray) -> FrontalCheck:
        side = self.manifest.shorter_side
        pixels = from_array(image, side)[0] if isinstance(image, np.ndarray) else decode(Path(image), side)[0]
        return check_frontal(pixels, colourfulness(image))

    def encode_images(self, images: np.ndarray) -> Arrays:
        """(B, 1, S, S) float32 grey levels 0..255, letter-boxed -> outputs of the image graph."""
        return self.run("image", {"images": images})

    def tokens(self, texts: Sequence[str]) -> Arrays:
        """input_ids and attention_mask, (U, T) int64, of U texts; too long ones are cut, which is logged."""
        encoded = self._tokenizer.encode_batch(list(texts))
        cut = sum(bool(one.overflowing) for one in encoded)
        if cut:
            longest = self.manifest.values["tokenizer"]["max_length"]
            log.warning("%d of %d questions have more than %d word pieces and are cut", cut, len(texts), longest)
        shape = len(encoded), max(len(one.ids) for one in encoded)
        ids = np.full(shape, self.manifest.values["tokenizer"]["pad_id"], dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        for row, one in enumerate(encoded):
            ids[row, : len(one.ids)], mask[row, : len(one.ids)] = one.ids, 1
        return {"input_ids": ids, "attention_mask": mask}

    def encode_texts(self, tokens: Arrays) -> Arrays:
        """input_ids and attention_mask, (U, T) int64 -> outputs of the question graph, and the mask."""
        return self.run("question", tokens) | {"attention_mask": tokens["attention_mask"]}

    def answer(
        self, images: Arrays, texts: Arrays, question_of: np.ndarray, image_of: np.ndarray, graph: str = "predicted"
    ) -> Arrays:
        """Answer Q questions about encoded images and texts; `question_of` and `image_of`, (Q,) int64, say which.

        Args:
            graph: `predicted`, or `none`: without a scene graph, as a control.
        Returns:
            head -> (Q, classes) logits; `looks`, (Q, 26), where a graph is read.
        """
        if graph not in ("predicted", "none"):
            raise ValueError(f"graph = {graph!r}: must be predicted or none")
        exists = np.full(len(images["boxes"]), graph == "predicted")
        places = {"exists": exists, "question_of": question_of, "image_of": image_of}
        return self.run("fusion", images | texts | places)

    def ask(self, images: Arrays, questions: Sequence[str], image_of: Sequence[int] | None = None) -> list[Answer]:
        """Answers to questions about encoded films; `image_of`: film of each question, the first for all if None.

        DataError: no question, an empty one, or a film that was not encoded.
        """
        if isinstance(questions, str):
            raise DataError("questions must be a list of texts, not one text")
        if not questions or not all(text.strip() for text in questions):
            raise DataError("an empty question: each needs a text")
        films = len(images["boxes"])
        if image_of is not None and (len(image_of) != len(questions) or not all(0 <= n < films for n in image_of)):
            raise DataError(f"image_of must hold a number from 0 to {films - 1} for each of {len(questions)} questions")
        distinct = list(dict.fromkeys(questions))
        texts = self.encode_texts(self.tokens(distinct))
        places = {text: place for place, text in enumerate(distinct)}
        question_of = np.array([places[text] for text in questions], dtype=np.int64)
        film = np.zeros_like(question_of) if image_of is None else np.asarray(image_of, dtype=np.int64)
        answers = self.answer(images, texts, question_of, film)
        types = texts["question_type"][question_of]
        return [
            self._answer(text, types[row], {k: v[row] for k, v in answers.items()})
            for row, text in enumerate(questions)
        ]

    def _answer(self, text: str, question_type: np.ndarray, values: Arrays) -> Answer:
        route = self._router.route(text, question_type)
        if route.reason:
            return Answer(text, route.type, None, reason=route.reason)
        head = route.head
        names = HEADS[head].classes
        shares = probabilities(head, values[head.value], self.manifest.temperature(head.value) or 1.0)
        chosen = np.flatnonzero(shares >= THRESHOLD) if HEADS[head].multi_label else [shares.argmax()]
        looks = values.get("looks")
        return Answer(
            question=text,
            type=route.type,
            head=head,
            classes=tuple(names[i] for i in chosen),
            probabilities=dict(zip(names, shares.tolist(), strict=True)),
            looks=None if looks is None else dict(zip(REGIONS, looks.tolist(), strict=True)),
        )


def probabilities(head: Head | str, logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """(..., classes) logits -> probabilities: a softmax over the classes, or a sigmoid of each of a multi-label head."""
    values = logits.astype(np.float64) / temperature
    if HEADS[Head(head)].multi_label:
        return 0.5 * (1 + np.tanh(0.5 * values))  # the sigmoid, without overflow
    powers = np.exp(values - values.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def _session(path: Path, threads: int):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # threads that wait asleep do not take the cores of other programs, nor of the two other graphs
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=list(SLOWER_FUSED)
        )
    except Exception as error:  # its exceptions have no common root
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: ONNX Runtime {onnxruntime.__version__} cannot load it ({reason})") from error
