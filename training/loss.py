"""The multi-task loss: the answer heads, CheXpert labels, the scene graph and the question type.

Letters in shapes as in `data.batch`. Every part is a *sum* over one micro-batch divided by a count of the whole
accumulated window, so that a window's loss and gradient do not depend on how it was cut into micro-batches (or over
processes): a head with three questions in 64 images weighs each of them the same, wherever they fall.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from configs.mimic_cxr_config import TrainingConfig
from data.batch import Batch, SceneGraphTargets
from data.label_space import HEAD_INDEX, HEADS, NO_FINDING, Head

QUESTION_TYPE, CHEXPERT, GRAPH_FINDING, GRAPH_BOX = "question_type", "chexpert", "graph_finding", "graph_box"
PARTS: tuple[str, ...] = (*(head.value for head in Head), CHEXPERT, GRAPH_FINDING, GRAPH_BOX, QUESTION_TYPE)
"""What is added up; each is reported as `<name>_loss`."""


@dataclass
class Losses:
    """What is optimised, and what is shown."""

    total: Tensor
    """scalar with a gradient"""
    parts: dict[str, Tensor]
    """Detached scalars: `loss`, `vqa_loss`, and `<part>_loss` of every part the window has a target for."""


class MultiTaskLoss:
    """Weighted sum of all parts; see `TrainingConfig` for the weights."""

    def __init__(self, config: TrainingConfig):
        self.config = config
        self.head_weights = {head: config.head_weight(head.value) for head in Head}

    def window_counts(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Denominator of every part over the micro-batches of one optimizer step. Cheap: looks at targets only."""
        counts = dict.fromkeys(PARTS, 0.0)
        for batch in batches:
            if batch.padding:
                continue
            for head, index in HEAD_INDEX.items():
                counts[head.value] += int(batch.head_mask(index).sum())
            counts[CHEXPERT] += int(chexpert_targets(batch.chexpert, self.config)[1].sum())
            counts[QUESTION_TYPE] += len(batch.head)
            # Were the weights of unstated cells in the denominator, the loss would be the mean of thousands of easy
            # negatives, and a stated cell would weigh less the larger the vocabulary is. As it is, they are a regulariser
            # of fixed strength beside a mean over statements.
            counts[GRAPH_FINDING] += float(_graph(batch).statement_weight(self.config.unstated_weight))
            counts[GRAPH_BOX] += int(_graph(batch).box_mask.sum())
        return counts

    def __call__(self, outputs, batch: Batch, counts: dict[str, float]) -> Losses:
        """Losses of one micro-batch.

        Args:
            outputs: `models.mimic_vqa_model.Outputs` for this batch.
            counts: `window_counts` of the window it belongs to.
        """
        graph = _graph(batch)
        sums = {head.value: head_loss(head, outputs.logits[head.value], batch) for head in Head}
        sums[CHEXPERT] = chexpert_loss(outputs.chexpert, batch.chexpert, self.config)
        sums[GRAPH_FINDING] = graph_finding_loss(outputs.graph.logits, graph)
        sums[GRAPH_BOX] = graph_box_loss(outputs.graph.boxes, graph)
        sums[QUESTION_TYPE] = question_type_loss(outputs.question_type, batch)
        # a part without any target in the window is an exact 0 that still reaches its parameters, and so is all of padding
        means = {
            name: value / counts[name] if counts[name] and not batch.padding else value * 0
            for name, value in sums.items()
        }
        vqa = sum(weight * means[head.value] for head, weight in self.head_weights.items())
        config = self.config
        total = (
            config.vqa_loss_weight * vqa
            + config.chexpert_loss_weight * means[CHEXPERT]
            + config.graph_finding_loss_weight * means[GRAPH_FINDING]
            + config.graph_box_loss_weight * means[GRAPH_BOX]
            + config.question_type_loss_weight * means[QUESTION_TYPE]
        )
        shown = {"loss": total, "vqa_loss": vqa} | {f"{name}_loss": value for name, value in means.items()}
        return Losses(total, {name: shown[name].detach() for name in part_names(counts)})


def part_names(counts: dict[str, float]) -> list[str]:
    """Names of `Losses.parts` for a window with these counts: the same in all its micro-batches and processes."""
    return ["loss", "vqa_loss", *(f"{name}_loss" for name, count in counts.items() if count)]


def head_loss(head: Head, logits: Tensor, batch: Batch) -> Tensor:
    """Sum over this head's own questions, of the mean over classes where several can be right; logits (Q, C)."""
    target = getattr(batch.targets, head.value)
    if not HEADS[head].multi_label:
        return F.cross_entropy(logits.float(), target, ignore_index=-1, reduction="sum")
    per_question = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none").mean(1)
    return (per_question * batch.head_mask(HEAD_INDEX[head])).sum()


def chexpert_targets(labels: Tensor, config: TrainingConfig) -> tuple[Tensor, Tensor]:
    """Labels (B, 14: 1, 0, -1 uncertain, nan blank) -> targets in [0, 1] and bool mask of those that count, (B, 14)."""
    blank, uncertain = labels.isnan(), labels == -1
    target = labels.nan_to_num(0.0).clamp(min=0.0)
    counts = ~blank if config.chexpert_blank == "ignore" else torch.ones_like(blank)
    counts[:, NO_FINDING] = True  # only ever 1 or blank: without blanks as zeros the column would have no negatives
    if config.chexpert_uncertain == "ignore":
        counts &= ~uncertain
    else:
        target[uncertain] = {"zeros": 0.0, "ones": 1.0, "soft": 0.5}[config.chexpert_uncertain]
    return target, counts


def chexpert_loss(logits: Tensor, labels: Tensor, config: TrainingConfig) -> Tensor:
    """Sum over the labels that count; logits (B, 14)."""
    target, counts = chexpert_targets(labels, config)
    return (F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none") * counts).sum()


def graph_finding_loss(logits: Tensor, graph: SceneGraphTargets) -> Tensor:
    """Weighted sum over cells and over "present in at least one of these regions" statements; logits (B, R, E)."""
    logits = logits.float()
    cells = F.binary_cross_entropy_with_logits(logits, graph.present, reduction="none") * graph.weight
    of_statement = logits[graph.union_image, :, graph.union_entity]  # (K, R)
    unions = -log_at_least_one(of_statement, graph.union_regions) * graph.union_weight
    return cells.sum() + unions.sum()


def log_at_least_one(logits: Tensor, mask: Tensor) -> Tensor:
    """log(1 - prod over the masked r of (1 - p_r)), without cancellation at either end. (K, R), (K, R) bool -> (K,)

    The event "at least one" is split by the first region that has it: 1 - prod(1-p_r) = sum_r p_r · prod_{s<r} (1-p_s).
    All terms are positive, so their logarithms can be summed at any size of p.
    """
    none_so_far = (F.logsigmoid(-logits) * mask).cumsum(1)
    none_before = F.pad(none_so_far[:, :-1], (1, 0))
    first_here = (F.logsigmoid(logits) + none_before).masked_fill(~mask, -torch.inf)
    return first_here.logsumexp(1)


def graph_box_loss(boxes: Tensor, graph: SceneGraphTargets) -> Tensor:
    """Sum over the known boxes of L1 (sum of the four corners' differences) + generalised IoU loss; boxes (B, R, 4)."""
    boxes = boxes.float()
    distance = (boxes - graph.boxes).abs().sum(-1)
    overlap = generalised_iou_loss(boxes, graph.boxes)
    return ((distance + overlap) * graph.box_mask).sum()


def generalised_iou_loss(boxes: Tensor, others: Tensor) -> Tensor:
    """1 - generalised IoU of pairs of boxes, (..., 4) corners -> (...) in [0, 2] (Rezatofighi et al., CVPR 2019).

    The numbers of `torchvision.ops.generalized_box_iou_loss`, which selects overlapping pairs by a mask: a GPU would have
    to be waited for.
    """
    shared = _area(torch.maximum(boxes[..., :2], others[..., :2]), torch.minimum(boxes[..., 2:], others[..., 2:]))
    hull = _area(torch.minimum(boxes[..., :2], others[..., :2]), torch.maximum(boxes[..., 2:], others[..., 2:]))
    union = _area(boxes[..., :2], boxes[..., 2:]) + _area(others[..., :2], others[..., 2:]) - shared
    return 1 - shared / (union + 1e-7) + (hull - union) / (hull + 1e-7)


def _area(low: Tensor, high: Tensor) -> Tensor:
    """Of boxes between two corners (..., 2); 0 where they are crossed."""
    width, height = (high - low).clamp(min=0).unbind(-1)  # `prod` would ask for zeros in its backward pass
    return width * height


def question_type_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Sum over questions of the cross-entropy of their type; logits (U, types + 1) of the distinct texts.

    Over questions, not over texts: how many distinct texts there are depends on how a window is cut into micro-batches.
    """
    return F.cross_entropy(logits.float().index_select(0, batch.question_of), batch.type, reduction="sum")


def _graph(batch: Batch) -> SceneGraphTargets:
    if batch.graph is None:
        raise ValueError("a training batch needs scene-graph targets")
    return batch.graph
