"""One question per item, as such data sets are usually read: every item opens the film, parses two JSON files, tokenises.

Nothing is kept from one item to the next, so that a study with twenty questions is read twenty times.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from benchmarks.compose import Composition
from data.answers import Question, parse_question
from data.batch import Targets
from data.label_space import HEAD_INDEX, HEADS, Head

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet, which such programs normalise with"""
FILM_PIXELS = 2544 * 3056
"""Of an original film"""
FILM_NOISE = 1.3
"""Grey levels of grain that give enlarged films the size in bytes of original ones, about 1.5 MB"""


@dataclass
class QuestionItems:
    """A batch of Q single questions, each with an image of its own. N nodes, T word pieces."""

    pixels: Tensor
    """(Q, 3, S, S) float, normalised"""
    input_ids: Tensor
    """(Q, T) int64, padded to the same length always"""
    attention_mask: Tensor
    """(Q, T) int64"""
    boxes: Tensor
    """(Q, N, 4) float, x1 y1 x2 y2 in [0, 1] of the image, one node for each observation of the report"""
    region: Tensor
    """(Q, N) int64 row of the region names, from 1; 0: padding or unknown"""
    entity: Tensor
    """(Q, N) int64"""
    is_node: Tensor
    """(Q, N) bool"""
    head: Tensor
    """(Q,) int64"""
    targets: Targets
    chexpert: Tensor
    """(Q, 14) float"""

    def to(self, device: torch.device) -> QuestionItems:
        return replace(self, **{f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)})

    def head_mask(self, index: int) -> Tensor:
        """(Q,) bool: questions of the head with this index."""
        return self.head == index


class Files(Protocol):
    """Where the JSON files are read from."""

    def read(self, path: str) -> bytes:
        """Contents of `qa/p10/...` or `scene_data/p10/...`."""


@dataclass
class FolderFiles:
    folder: Path

    def read(self, path: str) -> bytes:
        return (self.folder / path).read_bytes()


class ZipFiles:
    """The archives of the release, opened once; each file is inflated when it is asked for."""

    def __init__(self, folder: Path):
        self.archives = {name: zipfile.ZipFile(folder / f"{name}.zip") for name in ("qa", "scene_data")}

    def read(self, path: str) -> bytes:
        return self.archives[path.split("/", 1)[0]].read(path)


class QuestionDataset(Dataset):
    """Questions of a composed release, in the order film 1, film 2, ..., then the second question of each.

    Args:
        films: folder with large films, from `write_films`; None: those of the look-alike release, which are small.
        pad: word pieces of every question.
    """

    def __init__(
        self, composition: Composition, count: int, tokenizer, pad: int, files: Files, films: Path | None = None
    ):
        self.release, self.tokenizer, self.pad, self.files = composition.release, tokenizer, pad, files
        self.side = composition.config.data.image_size
        self.films = films
        self.regions = {name: n for n, name in enumerate(self.release.region_names, start=1)}
        self.entities = {name: n for n, name in enumerate(self.release.entities, start=1)}
        self.image_of = image_rows(composition)
        studies = self.release.studies()
        self.places = [(studies[n % len(studies)], n // len(studies)) for n in range(count)]
        """(patient and study, number of the question in its file)"""

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, n: int) -> dict:
        (subject, study), _ = self.places[n]
        row = self.image_of[study]
        path = self.films / f"{row.dicom_id}.jpg" if self.films else self.release.image_path(row)
        with Image.open(path) as image:
            image = image.convert("RGB").resize((self.side, self.side), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255)
        pixels = (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(DEVIATION)[:, None, None]
        raw = self._raw(n)
        graph = json.loads(self.files.read(f"scene_data/{_stem(subject, study)}.scene_graph.json"))
        encoded = self.tokenizer(raw["question"], padding="max_length", truncation=True, max_length=self.pad)
        return {
            "pixels": pixels,
            "input_ids": torch.tensor(encoded["input_ids"]),
            "attention_mask": torch.tensor(encoded["attention_mask"]),
            "question": parse_question(raw),
            "chexpert": torch.tensor(self.release.chexpert.loc[study].to_numpy(), dtype=torch.float32),
            **self._nodes(graph, row),
        }

    def questions(self) -> list[Question]:
        """All questions with their targets."""
        return [parse_question(self._raw(n)) for n in range(len(self))]

    def _raw(self, n: int) -> dict:
        (subject, study), place = self.places[n]
        return json.loads(self.files.read(f"qa/{_stem(subject, study)}.qa.json"))["questions"][place]

    def _nodes(self, graph: dict, row) -> dict:
        """One node for each observation: its first box on this film, its first region, its first entity."""
        boxes, regions, entities = [], [], []
        for observation in graph["observations"].values():
            place = (observation.get("localization") or {}).get(row.dicom_id)
            if not place or not place["bboxes"]:
                continue
            x1, y1, x2, y2 = place["bboxes"][0]
            boxes.append([x1 / row.columns, y1 / row.rows, x2 / row.columns, y2 / row.rows])
            named = observation["regions"]
            regions.append(self.regions.get(named[0]["region"], 0) if named else 0)
            known = observation["obs_entities"]
            entities.append(self.entities.get(known[0], 0) if known else 0)
        if not boxes:
            boxes, regions, entities = [[0.0, 0.0, 1.0, 1.0]], [0], [0]
        boxes = torch.tensor(boxes, dtype=torch.float32).clamp(0, 1)
        return {"boxes": boxes, "region": torch.tensor(regions), "entity": torch.tensor(entities)}


def _stem(subject: int, study: int) -> str:
    return f"p{str(subject)[:2]}/p{subject}/s{study}"


def collate(items: Sequence[dict]) -> QuestionItems:
    """Items of a `QuestionDataset` as one batch; nodes are padded to the most."""
    most = max(len(item["boxes"]) for item in items)

    def padded(name: str) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence([item[name] for item in items], batch_first=True)

    stacked = {name: default_collate([item[name] for item in items]) for name in ("pixels", "input_ids", "chexpert")}
    questions = [item["question"] for item in items]
    return QuestionItems(
        **stacked,
        attention_mask=default_collate([item["attention_mask"] for item in items]),
        boxes=padded("boxes"),
        region=padded("region"),
        entity=padded("entity"),
        is_node=torch.arange(most) < torch.tensor([len(item["boxes"]) for item in items])[:, None],
        head=torch.tensor([q.head for q in questions]),
        targets=targets_of(questions),
    )


def targets_of(questions: Sequence[Question]) -> Targets:
    """The four target tensors, as `data.batch.Targets` describes them."""
    found = {}
    for head, spec in HEADS.items():
        own = [q.head == HEAD_INDEX[head] for q in questions]
        if spec.multi_label:
            bits = [
                [float(mine and q.target >> bit & 1) for bit in range(len(spec.classes))]
                for q, mine in zip(questions, own, strict=True)
            ]
            found[head.value] = torch.tensor(bits)
        else:
            found[head.value] = torch.tensor([q.target if mine else -1 for q, mine in zip(questions, own, strict=True)])
    return Targets(**found)


def answer_text(question: Question) -> str:
    """The names of the right classes: the answer in words, for models that write it."""
    head = next(head for head in Head if HEAD_INDEX[head] == question.head)
    spec = HEADS[head]
    if spec.multi_label:
        return ", ".join(name for bit, name in enumerate(spec.classes) if question.target >> bit & 1) or "none"
    return spec.classes[question.target]


def image_rows(composition: Composition) -> dict:
    """Study id -> row of the release's image table: its one frontal film."""
    images = composition.release.images
    frontal = images[images["view"].isin(("AP", "PA"))]
    wanted = {study for _, study in composition.release.studies()}
    return {row.study_id: row for row in frontal.itertuples() if row.study_id in wanted}


def write_films(composition: Composition, count: int, folder: Path) -> float:
    """Enlarge the first `count` films to the size of originals, unless they are there; returns their mean bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, rng, sizes = image_rows(composition), np.random.default_rng(0), []
    for _, study in composition.release.studies()[:count]:
        row, path = rows[study], folder / f"{rows[study].dicom_id}.jpg"
        if not path.exists():
            path.write_bytes(_enlarged(composition.release.image_path(row), rng))
        sizes.append(path.stat().st_size)
    return float(np.mean(sizes))


def _enlarged(path: Path, rng: np.random.Generator) -> bytes:
    with Image.open(path) as image:
        scale = (FILM_PIXELS / (image.width * image.height)) ** 0.5
        size = round(image.width * scale), round(image.height * scale)
        film = np.asarray(image.convert("L").resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
    film += FILM_NOISE * rng.standard_normal(film.shape, dtype=np.float32)
    buffer = io.BytesIO()
    Image.fromarray(film.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()
