"""From index rows to batches: one item is one visit of an image with at most M of its questions.

An epoch is every question of the split once. Its order is a pure function of (seed, epoch), the augmentation of a visit of
(seed, epoch, visit): nothing depends on the number of processes or on where a run was cut. `data.loader` hands out the batches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from configs.mimic_cxr_config import DataConfig, TrainingConfig
from data.batch import Batch, Ids, SceneGraphTargets, Targets, TokenBatch
from data.images import Augmentation, Frame, adjust_intensity
from data.index import SPLITS, Index
from data.label_space import CHEXPERT, GRADES, HEAD_INDEX, QUESTION_TYPES, REGIONS, TYPE_INDEX, Head
from data.vocabulary import RESERVED
from utils.errors import ConfigError, DataError

ABSENT, PRESENT, PRESENT_IN_ONE = 0, 1, 2
"""Kinds of a graph statement about a set of regions, as the index stores them."""


@dataclass(frozen=True)
class GraphWeights:
    """Weights of the cells of the graph loss that are not statements of the report."""

    unstated: float
    default: float

    @staticmethod
    def of(training: TrainingConfig) -> GraphWeights:
        return GraphWeights(training.unstated_weight, training.default_weight)


class TokenTable:
    """Word pieces of all distinct questions of a data set, made once; a batch takes the ones it needs."""

    def __init__(self, codes: np.ndarray, texts: list[str], tokenizer, max_length: int):
        if not texts:
            raise DataError("no questions to tokenise")
        encoded = tokenizer(texts, add_special_tokens=True, truncation=True, max_length=max_length)["input_ids"]
        self.lengths = np.array([len(ids) for ids in encoded], dtype=np.int64)
        self.ids = np.full((len(encoded), int(self.lengths.max())), tokenizer.pad_token_id, dtype=np.int32)
        for row, ids in enumerate(encoded):
            self.ids[row, : len(ids)] = ids
        self.num_cut = int((self.lengths >= max_length).sum())
        """Questions that fill the limit: at most so many were cut."""
        self._codes = np.sort(codes)
        self._row_of = np.argsort(codes)

    def encode(self, codes: np.ndarray) -> tuple[TokenBatch, np.ndarray]:
        """Distinct questions among `codes` (Q,), padded to the longest; and for each code its place among them (Q,)."""
        distinct, inverse = np.unique(codes, return_inverse=True)
        rows = self._row_of[np.searchsorted(self._codes, distinct)]
        lengths = self.lengths[rows]
        longest = int(lengths.max())
        mask = np.arange(longest)[None, :] < lengths[:, None]
        ids = torch.from_numpy(self.ids[rows, :longest].astype(np.int64))
        return TokenBatch(ids, torch.from_numpy(mask.astype(np.int64))), inverse.reshape(-1)


class VQADataset:
    """Questions of one split that pass the filters, grouped by study.

    Args:
        split: `train`, `validate` or `test`.
        train: random image of a study, random cut into visits, augmentation. False: the canonical image, questions in order.
        questions_per_image: M; `data.questions_per_image` when None.
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
    ):
        self.index, self.split, self.data, self.train, self.seed = index, split, data, train, seed
        self.weights = weights or GraphWeights.of(TrainingConfig())
        self.questions_per_image = questions_per_image or data.questions_per_image
        self.rows = self._select_rows()
        if not len(self.rows):
            raise DataError(
                f"no {split} questions: the index has {_split_size(index, split):,} with a target, none passes "
                f"data.quality_grade {data.quality_grade!r} and data.question_types; "
                f"{'make a release with a ' + split + ' split' if not _split_size(index, split) else 'loosen the filters'}"
            )
        if train and data.max_samples:
            self.rows = self._sample(data.max_samples)
        study = index.questions["study"][self.rows]
        self.studies, self.first, self.count = np.unique(study, return_index=True, return_counts=True)
        self.text_codes = np.unique(index.questions["text"][self.rows])
        self.token_table = TokenTable(self.text_codes, index.texts(self.text_codes), tokenizer, max_question_length)

    def _select_rows(self) -> np.ndarray:
        """Rows of the index's question table in this split that pass grade and type filters, in index order."""
        questions = self.index.questions
        in_split = self.index.studies["split"] == SPLITS.index(self.split)
        keep = in_split[questions["study"]] & passes_filters(self.index, self.data)
        return np.flatnonzero(keep)

    def _sample(self, most: int) -> np.ndarray:
        """The questions of randomly chosen studies (by seed), whole studies first, cut at `most`."""
        study = self.index.questions["study"][self.rows]
        rank = np.random.default_rng(self.seed).permutation(int(study.max()) + 1)[study]
        return np.sort(self.rows[np.argsort(rank, kind="stable")[:most]])

    @property
    def num_questions(self) -> int:
        return len(self.rows)

    @property
    def num_patients(self) -> int:
        return len(np.unique(self.index.studies["subject_id"][self.studies]))

    def visits(self, epoch: int) -> Visits:
        """The visits of an epoch, in order."""
        if not self.train:
            return _cut(np.arange(len(self.rows)), self.first, self.count, self.questions_per_image, self.studies)
        rng = np.random.default_rng([self.seed, epoch])
        if self.data.draw == "balanced":
            return self._balanced_visits(rng)
        shuffled = np.lexsort([rng.random(len(self.rows)), np.repeat(np.arange(len(self.studies)), self.count)])
        visits = _cut(shuffled, self.first, self.count, self.questions_per_image, self.studies)
        return visits.take(rng.permutation(len(visits.study)))

    def _balanced_visits(self, rng: np.random.Generator) -> Visits:
        """As many visits as an epoch has, questions drawn evenly over heads and, within a head, over question types."""
        heads, types = self.index.questions["head"][self.rows], self.index.questions["type"][self.rows]
        per_type = np.bincount(types, minlength=len(QUESTION_TYPES))
        head_of = np.zeros(len(QUESTION_TYPES), dtype=np.int64)
        head_of[types] = heads
        types_of_head = np.bincount(head_of[per_type > 0], minlength=len(HEAD_INDEX))
        weight = 1.0 / (per_type[types] * types_of_head[heads])
        of_study = np.add.reduceat(weight, self.first)
        visits = int(np.ceil(self.count / self.questions_per_image).sum())
        drawn = rng.choice(len(self.studies), size=visits, p=of_study / of_study.sum())
        members, starts = [], np.zeros(visits + 1, dtype=np.int64)
        for i, study in enumerate(drawn):
            inside = slice(self.first[study], self.first[study] + self.count[study])
            # the largest keys u^(1/w) are a draw without replacement in proportion to the weights
            keys = np.log(rng.random(self.count[study])) / weight[inside]
            chosen = np.argsort(keys)[::-1][: self.questions_per_image]
            members.append(np.sort(chosen) + self.first[study])
            starts[i + 1] = starts[i] + len(chosen)
        return Visits(self.studies[drawn], starts[:-1], np.diff(starts), np.concatenate(members))

    def num_visits(self) -> int:
        return int(np.ceil(self.count / self.questions_per_image).sum())

    def batch(self, visits: Visits, which: np.ndarray, epoch: int) -> Batch:
        """Collate the visits numbered `which` of an epoch."""
        members = [visits.members[visits.start[i] : visits.start[i] + visits.count[i]] for i in which]
        image_of = np.repeat(np.arange(len(which)), [len(m) for m in members])
        rows = self.rows[np.concatenate(members)]
        image_rows, frames, pixels, draws = self._render(visits.study[which], which, epoch)
        tokens, question_of = self.token_table.encode(self.index.questions["text"][rows])
        heads = self.index.questions["head"][rows].astype(np.int64)
        return Batch(
            images=torch.from_numpy(pixels)[:, None],
            questions=tokens,
            question_of=torch.from_numpy(question_of.astype(np.int64)),
            image_of=torch.from_numpy(image_of.astype(np.int64)),
            head=torch.from_numpy(heads),
            type=torch.from_numpy(self.index.questions["type"][rows].astype(np.int64)),
            targets=unpack_targets(heads, self.index.questions["target"][rows]),
            graph=graph_targets(self.index, image_rows, frames, self.weights),
            chexpert=torch.from_numpy(self.index.studies["chexpert"][visits.study[which]].astype(np.float32)),
            ids=Ids(torch.from_numpy(rows.astype(np.int64)), torch.from_numpy(image_rows.astype(np.int64))),
            graph_draw=torch.from_numpy(draws) if self.train else None,
        )

    def _render(self, studies: np.ndarray, which: np.ndarray, epoch: int):
        """Image rows (B,), their frames, letter-boxed pixels (B, S, S) uint8 and graph draws (B,) of some visits."""
        first, count = self.index.studies["image_start"][studies], self.index.studies["image_count"][studies]
        size, data = self.data.image_size, self.data
        rows, frames = first.astype(np.int64), []
        pixels = np.empty((len(studies), size, size), dtype=np.uint8)
        draws = np.zeros(len(studies), dtype=np.float32)
        for i, visit in enumerate(which):
            augmentation = None
            if self.train:
                rng = np.random.default_rng([self.seed, epoch, int(visit)])
                rows[i] += rng.integers(count[i])
                if data.augmentation:
                    augmentation = Augmentation.draw(
                        rng, data.rotate_degrees, data.scale_fraction, data.shift_fraction, data.intensity_fraction
                    )
                draws[i] = rng.random()
            stored = self.index.pixels[rows[i]]
            width, height = (self.index.images[k][rows[i]] for k in ("width", "height"))
            frame = Frame.letterbox(int(width), int(height), augmentation)
            pixels[i] = frame.render(stored, size)
            if augmentation is not None:
                pixels[i] = adjust_intensity(pixels[i], augmentation)
            frames.append(frame)
        return rows, frames, pixels, draws

    def mean_image(self, most: int = 2000) -> torch.Tensor:
        """Mean of the split's canonical images, letter-boxed: (S, S) uint8. Of more than `most`, evenly spaced ones are used."""
        rows = self.index.studies["image_start"][self.studies].astype(np.int64)
        rows = rows[:: max(1, len(rows) // most)]
        total = np.zeros((self.data.image_size,) * 2)
        for row in rows:
            width, height = (int(self.index.images[k][row]) for k in ("width", "height"))
            total += Frame.letterbox(width, height).render(self.index.pixels[row], self.data.image_size)
        return torch.from_numpy((total / len(rows)).round().astype(np.uint8))


@dataclass(frozen=True)
class Visits:
    """Visits of an epoch. `members[start[i] : start[i] + count[i]]` are places in `VQADataset.rows`."""

    study: np.ndarray
    """(V,) rows of the index's study table"""
    start: np.ndarray
    count: np.ndarray
    members: np.ndarray

    def take(self, order: np.ndarray) -> Visits:
        return Visits(self.study[order], self.start[order], self.count[order], self.members)


def _cut(order: np.ndarray, first: np.ndarray, count: np.ndarray, most: int, studies: np.ndarray) -> Visits:
    """Cut each study's questions into as few visits of at most `most` as possible, of nearly equal size."""
    pieces = -(-count // most)
    study = np.repeat(np.arange(len(studies)), pieces)
    piece = np.arange(len(study)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    start = first[study] + count[study] * piece // pieces[study]
    end = first[study] + count[study] * (piece + 1) // pieces[study]
    return Visits(studies[study], start, end - start, order)


def passes_filters(index: Index, data: DataConfig) -> np.ndarray:
    """(rows,) bool: questions of the index with a good enough grade and a wanted type."""
    if data.quality_grade == "all":
        lowest = 0
    elif data.quality_grade in GRADES[1:]:
        lowest = GRADES.index(data.quality_grade)
    else:
        raise ConfigError(
            f"data.quality_grade = {data.quality_grade!r}: must be one of {', '.join(GRADES[:0:-1])} or all"
        )
    keep = index.questions["grade"] >= lowest
    if data.question_types:
        unknown = [t for t in data.question_types if t not in TYPE_INDEX]
        if unknown:
            raise ConfigError(
                f"data.question_types: {unknown[0]!r} is no question type; they are {', '.join(TYPE_INDEX)}"
            )
        keep &= np.isin(index.questions["type"], [TYPE_INDEX[t] for t in data.question_types])
    return keep


def unpack_targets(heads: np.ndarray, targets: np.ndarray) -> Targets:
    """Index codes (Q,) -> the four target tensors."""

    def single(head: Head) -> torch.Tensor:
        return torch.from_numpy(np.where(heads == HEAD_INDEX[head], targets.astype(np.int64), -1))

    def multi(head: Head, classes: int) -> torch.Tensor:
        bits = (targets[:, None].astype(np.int64) >> np.arange(classes)) & 1
        return torch.from_numpy((bits * (heads == HEAD_INDEX[head])[:, None]).astype(np.float32))

    return Targets(
        binary=single(Head.BINARY),
        category=multi(Head.CATEGORY, len(CHEXPERT)),
        region=multi(Head.REGION, len(REGIONS)),
        severity=single(Head.SEVERITY),
    )


def graph_targets(
    index: Index, image_rows: np.ndarray, frames: list[Frame], weights: GraphWeights
) -> SceneGraphTargets:
    """What the report's graphs say about some images, in the frames the model sees them in."""
    images, num = len(image_rows), len(REGIONS)
    entities = index.vocabulary.num_entities
    boxes, box_mask = np.zeros((images, num, 4), np.float32), np.zeros((images, num), bool)
    present = np.zeros((images, num, entities), np.float32)
    weight = np.full((images, num, entities), weights.unstated, np.float32)
    unions = []
    for i, (row, frame) in enumerate(zip(image_rows, frames, strict=True)):
        start, count = int(index.images["box_start"][row]), int(index.images["box_count"][row])
        region = index.boxes["region"][start : start + count]
        boxes[i, region] = frame.boxes_in(index.boxes["box"][start : start + count])
        box_mask[i, region] = True
        start, count = int(index.images["finding_start"][row]), int(index.images["finding_count"][row])
        if not count:
            weight[i] = 0  # no graph: nothing is known, not even that nothing was stated
        part = {name: column[start : start + count] for name, column in index.findings.items()}
        unions += _apply_findings(part, present[i], weight[i], weights, i)
    weight[:, :, :RESERVED] = 0
    # a box that augmentation pushed out of the picture teaches nothing
    box_mask &= (boxes[..., 2] - boxes[..., 0] > 1e-3) & (boxes[..., 3] - boxes[..., 1] > 1e-3)
    boxes[~box_mask] = 0
    return SceneGraphTargets(
        boxes=torch.from_numpy(boxes),
        box_mask=torch.from_numpy(box_mask),
        present=torch.from_numpy(present),
        weight=torch.from_numpy(weight),
        union_image=torch.tensor([u[0] for u in unions], dtype=torch.int64),
        union_entity=torch.tensor([u[1] for u in unions], dtype=torch.int64),
        union_regions=torch.from_numpy(np.array([u[2] for u in unions], dtype=bool).reshape(-1, num)),
        union_weight=torch.tensor([u[3] for u in unions], dtype=torch.float32),
    )


def _apply_findings(findings: dict, present: np.ndarray, weight: np.ndarray, weights: GraphWeights, image: int) -> list:
    """Write one image's statements into its (R, E) cells; returns its at-least-one statements."""
    of_regions = ((findings["regions"][:, None] >> np.arange(len(REGIONS))) & 1).astype(bool)
    strength = np.where(findings["from_report"] == 1, 1.0, weights.default)
    unions = []
    # unions first, then negatives, then positives: a certain statement replaces a weaker one, positive wins over negative
    for n in np.flatnonzero(findings["kind"] == PRESENT_IN_ONE):
        entity = int(findings["entity"][n])
        if entity >= RESERVED:
            weight[of_regions[n], entity] = 0
            unions.append((image, entity, of_regions[n], strength[n]))
    for kind in (ABSENT, PRESENT):
        # weaker statements first, so that the report's own word stays
        for n in sorted(np.flatnonzero(findings["kind"] == kind), key=lambda k: strength[k]):
            cells = of_regions[n], findings["entity"][n]
            present[cells] = float(kind == PRESENT)
            weight[cells] = strength[n]
    return unions


def _split_size(index: Index, split: str) -> int:
    return index.counts(split).get("target", 0)
