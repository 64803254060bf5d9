"""Batches to measure with: the index's own or, where there is none, made-up tensors of the shapes that the settings give."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from configs.data_sets import external_setting
from configs.mimic_cxr_config import Config
from data.batch import Batch, Ids, SceneGraphTargets, TokenBatch
from data.index import Index, open_index
from data.index.build import configured_release, index_path
from data.index.store import META
from data.label_space import CHEXPERT, HEAD_INDEX, QUESTION_TYPES, REGIONS
from data.loader import Window
from data.mimic_cxr_dataset import VQADataset, unpack_targets
from data.vocabulary import RESERVED, Vocabulary

ENTITIES, REGION_NAMES = 230, 310
"""Names of the data set, about: see `data.names`."""
TOKENS = (10, 20)
"""Word pieces of a made-up question, fewest and most: template questions are short."""
LOOKED_AT = 10_000
"""Visits of an epoch among which the largest are looked for."""
STATEMENTS = 10
"""Findings of a made-up image."""


class Source(Protocol):
    """Where batches come from."""

    text: str
    """what is measured with, for the report"""

    def ordinary(self, size: int, count: int) -> list[Window]:
        """`count` windows of one batch of `size` visits, as training sees them: for timing."""

    def worst(self, size: int) -> Window:
        """One batch of the `size` visits that need most memory."""


class IndexSource:
    """The configured training questions. A larger batch than there are visits has some of them several times."""

    def __init__(self, dataset: VQADataset):
        self.dataset, self.epoch = dataset, dataset.epoch(0)
        self._order = self._largest_first()
        kind = ", generated look-alike data" if dataset.index.is_synthetic else ""
        self.text = f"{dataset.num_questions:,} training questions of {dataset.index.path}{kind}"

    def ordinary(self, size: int, count: int) -> list[Window]:
        return [self._window(np.arange(n * size, (n + 1) * size) % len(self._order)) for n in range(count)]

    def worst(self, size: int) -> Window:
        return self._window(np.resize(self._order, size))

    def _window(self, which: np.ndarray) -> Window:
        return Window([self.dataset.batch(self.epoch, which)], len(which))

    def _largest_first(self) -> np.ndarray:
        """Numbers of visits: one with the longest text, then by their questions."""
        which = np.arange(min(len(self.epoch), LOOKED_AT))
        visits = self.epoch.select(which)
        lengths = self.dataset.token_table.lengths[self.dataset.index.questions["text"][visits.rows]]
        count = np.bincount(visits.visit_of, minlength=len(which))
        longest = np.maximum.reduceat(lengths, np.cumsum(count) - count)
        order = np.lexsort([-longest, -count])
        leader = int(longest.argmax())
        return np.concatenate([[leader], order[order != leader]])


@dataclass
class MadeUpSource:
    """Tensors of random numbers. Every question has a text of its own, which real batches need not have."""

    config: Config
    questions_per_visit: float
    """mean"""

    @property
    def text(self) -> str:
        return (
            f"made-up tensors: {self.questions_per_visit:.1f} questions a visit, {TOKENS[0]} to {TOKENS[1]} word pieces "
            "each, all different"
        )

    def ordinary(self, size: int, count: int) -> list[Window]:
        wanted = np.full(size, int(self.questions_per_visit))
        wanted[: round(size * (self.questions_per_visit % 1))] += 1
        return [Window([made_up_batch(self.config, wanted, TOKENS, seed)], size) for seed in range(count)]

    def worst(self, size: int) -> Window:
        wanted = np.full(size, self.config.data.questions_per_image)
        return Window([made_up_batch(self.config, wanted, TOKENS[1:] * 2)], size)


def made_up_batch(config: Config, questions: np.ndarray, tokens: tuple[int, int], seed: int = 0) -> Batch:
    """A batch of one image for each entry of `questions`, with so many questions, of `tokens` word pieces each."""
    rng, images, count = np.random.default_rng(seed), len(questions), int(questions.sum())
    kinds = [i for i, kind in enumerate(QUESTION_TYPES) if kind.head is not None]
    types = rng.choice(kinds, count)
    heads = np.array([HEAD_INDEX[QUESTION_TYPES[kind].head] for kind in types], dtype=np.int64)
    side = config.data.image_size
    labels = rng.choice([1.0, 0.0, -1.0, np.nan], (images, len(CHEXPERT)))
    return Batch(
        images=torch.from_numpy(rng.integers(0, 256, (images, 1, side, side), dtype=np.uint8)),
        questions=_made_up_tokens(rng, count, [min(n, config.model.max_question_length) for n in tokens]),
        question_of=torch.arange(count),
        image_of=torch.from_numpy(np.repeat(np.arange(images), questions)),
        head=torch.from_numpy(heads),
        type=torch.from_numpy(types.astype(np.int64)),
        targets=unpack_targets(heads, rng.integers(0, 2, count)),
        graph=_made_up_graph(rng, images, config.training.unstated_weight),
        chexpert=torch.from_numpy(labels.astype(np.float32)),
        ids=Ids(torch.arange(count), torch.arange(images)),
        graph_draw=torch.from_numpy(rng.random(images, dtype=np.float32)),
    )


def _made_up_tokens(rng: np.random.Generator, count: int, tokens: list[int]) -> TokenBatch:
    lengths = rng.integers(tokens[0], tokens[1] + 1, count)
    mask = (np.arange(lengths.max())[None] < lengths[:, None]).astype(np.int64)
    ids = rng.integers(0, 200, mask.shape) * mask  # few enough for every vocabulary
    return TokenBatch(torch.from_numpy(ids), torch.from_numpy(mask))


def _made_up_graph(rng: np.random.Generator, images: int, unstated: float) -> SceneGraphTargets:
    regions, entities = len(REGIONS), RESERVED + ENTITIES
    corners = np.sort(rng.random((images, regions, 2, 2), dtype=np.float32), axis=2)
    present = np.zeros((images, regions, entities), np.float32)
    weight = np.full_like(present, unstated)
    weight[:, :, :RESERVED] = 0
    image = np.repeat(np.arange(images), STATEMENTS)
    cell = image, rng.integers(0, regions, len(image)), rng.integers(RESERVED, entities, len(image))
    present[cell] = weight[cell] = 1
    return SceneGraphTargets(
        boxes=torch.from_numpy(corners.reshape(images, regions, 4)),
        box_mask=torch.ones(images, regions, dtype=torch.bool),
        present=torch.from_numpy(present),
        weight=torch.from_numpy(weight),
        union_image=torch.arange(images),
        union_entity=torch.full((images,), RESERVED),
        union_regions=torch.ones(images, regions, dtype=torch.bool),
        union_weight=torch.ones(images),
    )


def made_up_vocabulary() -> Vocabulary:
    """As many names as the data set has, about."""
    return Vocabulary(tuple(f"entity {i}" for i in range(ENTITIES)), tuple(f"region {i}" for i in range(REGION_NAMES)))


def find_index(config: Config) -> tuple[Index | None, str]:
    """The index of the configured release, or None; and, where there is something to say, a note. Builds nothing.

    DataError: the folders that are named hold no release.
    """
    data = config.data
    if setting := external_setting(data):
        return None, f"data.{setting} is not read here: made-up questions stand in for it"
    if data.mimic_cxr_path or data.mimic_qa_path:
        identity = configured_release(data)[1]
        path = index_path(data, identity)
        if not os.path.exists(path / META):
            return None, f"no index in {path}: build it with setup_data.py to measure with the data themselves"
        index = open_index(path)
        if index.fingerprint != identity["fingerprint"]:
            return index, f"the index in {path} was built from other data or settings"
        return index, ""
    if data.index_dir and os.path.exists(Path(data.index_dir) / META):
        return open_index(data.index_dir), "no data folders given: the index is taken as it is"
    return None, "no data given (--mimic_cxr_path, --mimic_qa_path or data.index_dir)"
