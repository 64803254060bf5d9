"""What the report's graphs say about some images, in the frames that the model sees them in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from configs.mimic_cxr_config import TrainingConfig
from data.batch import GraphStatements
from data.frames import Frame
from data.index import Index
from data.label_space import REGIONS
from data.order import ranges
from data.vocabulary import RESERVED

ABSENT, PRESENT, PRESENT_IN_ONE = 0, 1, 2
"""Kinds of a graph statement about a set of regions, as the index stores them."""
_RANK = np.array([2, 4, 0])
"""Of kinds, where several speak of one cell: positive wins over negative, and both over "in one of several regions"; the
report's own word, one more, over a rule."""


@dataclass(frozen=True)
class GraphWeights:
    """Weights of the cells of the graph loss that are not statements of the report."""

    unstated: float
    default: float

    @staticmethod
    def of(training: TrainingConfig) -> GraphWeights:
        return GraphWeights(training.unstated_weight, training.default_weight)


def graph_statements(index: Index, image_rows: np.ndarray, frame: Frame, weights: GraphWeights) -> GraphStatements:
    """Boxes and findings of the images `image_rows` (B,), whose frames `frame` holds."""
    images, findings = index.images, index.findings
    rows, image = ranges(images["finding_start"][image_rows], images["finding_count"][image_rows])
    entity, kind = findings["entity"][rows].astype(np.int64), findings["kind"][rows]
    regions = ((findings["regions"][rows][:, None] >> np.arange(len(REGIONS), dtype=np.uint32)) & 1).astype(bool)
    from_report = findings["from_report"][rows] == 1
    strength = np.where(from_report, 1.0, weights.default).astype(np.float32)
    union = (kind == PRESENT_IN_ONE) & (entity >= RESERVED)
    cell, statement = _stated_cells(image, regions, entity, kind, from_report, union, index.vocabulary.num_entities)
    silent = (entity < RESERVED) | union
    boxes, box_mask = _boxes(index, image_rows, frame)
    return GraphStatements(
        boxes=torch.from_numpy(boxes),
        box_mask=torch.from_numpy(box_mask),
        cell=torch.from_numpy(cell),
        cell_present=torch.from_numpy((kind[statement] == PRESENT).astype(np.float32)),
        cell_weight=torch.from_numpy(np.where(silent, 0, strength)[statement].astype(np.float32)),
        # without a graph nothing is known, not even that nothing was stated
        unstated=torch.from_numpy(
            np.where(images["finding_count"][image_rows], weights.unstated, 0).astype(np.float32)
        ),
        entities=index.vocabulary.num_entities,
        union_image=torch.from_numpy(image[union]),
        union_entity=torch.from_numpy(entity[union]),
        union_regions=torch.from_numpy(regions[union]),
        union_weight=torch.from_numpy(strength[union]),
    )


def _stated_cells(
    image: np.ndarray,
    regions: np.ndarray,
    entity: np.ndarray,
    kind: np.ndarray,
    from_report: np.ndarray,
    union: np.ndarray,
    entities: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Every cell that a statement speaks of, once, and the statement that counts there: the report's own word if it can."""
    speaks = union | (kind != PRESENT_IN_ONE)
    statement, region = np.nonzero(regions & speaks[:, None])
    cell = (image[statement] * len(REGIONS) + region) * entities + entity[statement]
    # one sort of whole numbers instead of one by three keys
    rank = (_RANK[kind] + from_report)[statement]
    cell, rest = np.divmod(np.sort((cell * 6 + rank) * len(kind) + statement), 6 * max(1, len(kind)))
    last = np.append(cell[1:] != cell[:-1], True)[: len(cell)]
    return cell[last], rest[last] % max(1, len(kind))


def _boxes(index: Index, image_rows: np.ndarray, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """(B, R, 4) float32 and (B, R) bool; zeros where there is no box."""
    images = index.images
    rows, image = ranges(images["box_start"][image_rows], images["box_count"][image_rows])
    boxes = np.zeros((len(image_rows), len(REGIONS), 4), dtype=np.float32)
    mask = np.zeros(boxes.shape[:2], dtype=bool)
    region = index.boxes["region"][rows]
    boxes[image, region] = frame.boxes_in(index.boxes["box"][rows], image)
    mask[image, region] = True
    # a box that augmentation pushed out of the picture teaches nothing
    mask &= (boxes[..., 2] - boxes[..., 0] > 1e-3) & (boxes[..., 3] - boxes[..., 1] > 1e-3)
    boxes[~mask] = 0
    return boxes, mask
