"""From index rows to batches: one item is one visit of an image with at most M of its questions.

An epoch is every question of the split once. Its order is a pure function of (seed, epoch), the augmentation of a visit of
(seed, epoch, visit): nothing depends on the number of processes or on where a run was cut. `data.loader` hands out the batches.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch

from configs.mimic_cxr_config import DataConfig, TrainingConfig
from data.batch import Batch, Ids, Targets
from data.feature_store import FeatureMaps
from data.frames import Augmentation, Frame, Pictures
from data.graph_statements import GraphWeights, graph_statements
from data.index import Index
from data.label_space import HEAD_INDEX, HEADS
from data.order import uniform
from data.token_table import TokenTable
from data.visits import (
    AUGMENTATION,
    GRAPH_DRAW,
    IMAGE_DRAW,
    BalancedDraw,
    BalancedWeights,
    Epoch,
    Selection,
    Visits,
    text_codes,
)
from utils.errors import DataError

__all__ = ["GraphWeights", "VQADataset", "unpack_targets"]


class VQADataset:
    """Questions of one split that pass the filters, grouped by study.

    Args:
        split: `train`, `validate` or `test`.
        train: random image of a study, random cut into visits, augmentation. False: the canonical image, questions in order.
        questions_per_image: M; `data.questions_per_image` when None.
        keep_tokens: keep the word pieces of the questions in the index's folder, so that the next start finds them.
    Raises:
        DataError: the split holds no question that passes the filters.
    """

    def __init__(
        self,
        index: Index,
        split: str,
        data: DataConfig,
        tokenizer,
        *,
        train: bool,
        weights: GraphWeights | None = None,
        seed: int = 0,
        questions_per_image: int | None = None,
        max_question_length: int = 64,
        keep_tokens: bool = True,
    ):
        self.index, self.split, self.data, self.train, self.seed = index, split, data, train, seed
        self.weights = weights or GraphWeights.of(TrainingConfig())
        self.questions_per_image = questions_per_image or data.questions_per_image
        self.selection = Selection(index, split, data, data.max_samples if train else 0, seed)
        self._balanced = BalancedWeights(self.selection)
        if not len(self.studies):
            stored = index.counts(split).get("target", 0)
            advice = (
                "loosen the filters" if stored else f"give {index.meta.get('dataset', 'the release')} a {split} split"
            )
            raise DataError(
                f"no {split} questions: the index has {stored:,} with a target, none passes "
                f"data.quality_grade {data.quality_grade!r} and data.question_types; {advice}"
            )
        self.token_table = TokenTable.of(index, tokenizer, max_question_length, keep_tokens)
        self.tokenizer = tokenizer
        self.image_features: np.ndarray | None = None
        """(images of the index, h, w, C) float16: given out instead of images"""
        self.text_states: np.ndarray | None = None
        """(word pieces of the token table, width) float16: given out beside the word pieces"""

    @property
    def studies(self) -> np.ndarray:
        """(S,) rows of the index's study table that have questions"""
        return self.selection.studies

    @property
    def num_questions(self) -> int:
        return int(self.selection.count.sum())

    @property
    def num_patients(self) -> int:
        return len(np.unique(self.index.studies["subject_id"][self.studies]))

    @cached_property
    def rows(self) -> np.ndarray:
        """(questions,) int64 rows of the index's question table, ascending. Training itself never makes this table."""
        return np.concatenate(list(self.selection.chunks()))

    @cached_property
    def text_codes(self) -> np.ndarray:
        """Codes of the distinct texts, ascending."""
        return text_codes(self.selection)

    def epoch(self, number: int) -> Epoch | BalancedDraw:
        """The visits of an epoch."""
        most = self.questions_per_image
        if self.train and self.data.draw == "balanced":
            return BalancedDraw(self.selection, most, self.seed, number, self._balanced)
        return Epoch(self.selection, most, self.seed, number if self.train else None)

    def num_visits(self) -> int:
        return len(Epoch(self.selection, self.questions_per_image, self.seed, None))

    def batch(self, epoch: Epoch | BalancedDraw, which: np.ndarray) -> Batch:
        """Collate the visits numbered `which` of an epoch."""
        visits = epoch.select(which)
        questions, rows = self.index.questions, visits.rows
        image_rows = self._image_rows(visits, epoch, which)
        augmentation = self._augmentation(epoch, which)
        frame = self._frame(image_rows, augmentation)
        tokens, question_of = self.token_table.encode(questions["text"][rows], self.text_states)
        heads = questions["head"][rows].astype(np.int64)
        draws = uniform(self.seed, GRAPH_DRAW, epoch.number, which).astype(np.float32) if self.train else None
        return Batch(
            images=self._images(image_rows, frame, augmentation),
            questions=tokens,
            question_of=torch.from_numpy(question_of),
            image_of=torch.from_numpy(visits.visit_of),
            head=torch.from_numpy(heads),
            type=torch.from_numpy(questions["type"][rows].astype(np.int64)),
            targets=unpack_targets(heads, questions["target"][rows]),
            graph=graph_statements(self.index, image_rows, frame, self.weights),
            chexpert=torch.from_numpy(self.index.studies["chexpert"][visits.study].astype(np.float32)),
            ids=Ids(torch.from_numpy(rows), torch.from_numpy(image_rows)),
            graph_draw=None if draws is None else torch.from_numpy(draws),
        )

    def _image_rows(self, visits: Visits, epoch: Epoch | BalancedDraw, which: np.ndarray) -> np.ndarray:
        """(n,) the image of each visit: in training any of its study."""
        studies = self.index.studies
        rows = studies["image_start"][visits.study].astype(np.int64)
        if not self.train:
            return rows
        return rows + (
            uniform(self.seed, IMAGE_DRAW, epoch.number, which) * studies["image_count"][visits.study]
        ).astype(np.int64)

    def _images(self, rows: np.ndarray, frame: Frame, augmentation: Augmentation | None) -> Pictures | FeatureMaps:
        if self.image_features is not None:
            return FeatureMaps(torch.from_numpy(self.image_features[rows]))
        blank = self.data.blank_images
        return Pictures.collect(self.index.pixels, rows, frame, self.data.image_size, augmentation, blank)

    def _augmentation(self, epoch: Epoch | BalancedDraw, which: np.ndarray) -> Augmentation | None:
        data = self.data
        if not (self.train and data.augmentation):
            return None
        draws = np.arange(Augmentation.DRAWS)[:, None]
        u = uniform(self.seed, AUGMENTATION, epoch.number, draws, which)
        return Augmentation.draw(
            u, data.rotate_degrees, data.scale_fraction, data.shift_fraction, data.intensity_fraction
        )

    def _frame(self, image_rows: np.ndarray, augmentation: Augmentation | None = None) -> Frame:
        images = self.index.images
        return Frame.letterbox(images["width"][image_rows], images["height"][image_rows], augmentation)

    def canonical_images(self, image_rows: np.ndarray) -> torch.Tensor:
        """Stored images (n,) as the model sees them, without augmentation: (n, 1, S, S) float32."""
        frame = self._frame(image_rows)
        blank = self.data.blank_images
        return Pictures.collect(self.index.pixels, image_rows, frame, self.data.image_size, blank=blank).render()

    def mean_image(self, most: int = 2000) -> torch.Tensor:
        """Mean of the split's canonical images, letter-boxed: (S, S) float32. Of more than `most`, evenly spaced ones are used."""
        rows = self.index.studies["image_start"][self.studies].astype(np.int64)
        rows = rows[:: max(1, len(rows) // most)]
        total = sum(
            self.canonical_images(some).double().sum((0, 1)) for some in np.array_split(rows, -(-len(rows) // 64))
        )
        return (total / len(rows)).float()


def unpack_targets(heads: np.ndarray, targets: np.ndarray) -> Targets:
    """Index codes (Q,) -> the target tensor of each head."""

    def single(own: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.where(own, targets.astype(np.int64), -1))

    def multi(own: np.ndarray, classes: int) -> torch.Tensor:
        bits = np.where(own, targets, 0).astype("<u4").view(np.uint8).reshape(-1, 4)
        return torch.from_numpy(np.unpackbits(bits, axis=1, count=classes, bitorder="little").astype(np.float32))

    found = {}
    for head, spec in HEADS.items():
        own = heads == HEAD_INDEX[head]
        found[head.value] = multi(own, len(spec.classes)) if spec.multi_label else single(own)
    return Targets(**found)
