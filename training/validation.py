"""A look at the validation split while training: the model's own graph, one image a study, all metrics of each head."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch

from data.label_space import HEAD_INDEX, HEADS, Head
from data.mimic_cxr_dataset import VQADataset, make_loader
from training.engine import Engine
from training.metrics import Scores, chexpert_auroc, headline, score_head
from training.predictions import decide
from utils.errors import NonFiniteError


@dataclass(frozen=True)
class Validation:
    """Scores of one look."""

    heads: dict[str, Scores]
    chexpert_auroc: float | None
    """mean over the labels where it is defined"""

    @property
    def headline(self) -> float | None:
        return headline(self.heads)

    def numbers(self) -> dict[str, float]:
        """`val/...` names for the trackers; what is undefined is left out."""
        values = {f"{head}_{metric}": value for head, scores in self.heads.items() for metric, value in scores.items()}
        values |= {"chexpert_auroc": self.chexpert_auroc, "headline": self.headline}
        return {f"val/{name}": value for name, value in values.items() if value is not None}

    def as_json(self) -> dict:
        return {"headline": self.headline, "chexpert_auroc": self.chexpert_auroc, "heads": self.heads}


@torch.inference_mode()
def validate(
    engine: Engine, dataset: VQADataset, batch_size: int, max_questions: int = 0, num_workers: int = 0
) -> Validation:
    """Answer the questions of a data set and score them. Leaves the model in evaluation mode.

    Args:
        max_questions: stop after the batch that reaches so many; 0: all.
    Raises:
        NonFiniteError: an answer is not a number.
    """
    engine.model.eval()
    probabilities: dict[Head, list[np.ndarray]] = defaultdict(list)
    targets: dict[Head, list[np.ndarray]] = defaultdict(list)
    chexpert: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    seen = 0
    for batch in make_loader(dataset, batch_size, num_workers=num_workers):
        batch = batch.to(engine.device)
        with engine.autocast():
            outputs = engine.model(batch.images, batch.questions, batch.question_of, batch.image_of)
        for head, spec in HEADS.items():
            own = batch.head_mask(HEAD_INDEX[head])
            logits = outputs.logits[head.value][own].float()
            values = logits.sigmoid() if spec.multi_label else logits.softmax(-1)
            probabilities[head].append(values.cpu().numpy())
            targets[head].append(getattr(batch.targets, head.value)[own].cpu().numpy())
        rows = zip(outputs.chexpert.float().sigmoid().cpu().numpy(), batch.chexpert.cpu().numpy(), strict=True)
        chexpert.update(zip(batch.ids.image.tolist(), rows, strict=True))  # a study of several visits counts once
        seen += len(batch.head)
        if max_questions and seen >= max_questions:
            break
    return _score(probabilities, targets, chexpert)


def _score(probabilities, targets, chexpert) -> Validation:
    heads = {}
    for head in HEADS:
        values, truth = np.concatenate(probabilities[head]), np.concatenate(targets[head])
        if not np.isfinite(values).all():
            raise NonFiniteError(
                f"{head.value} answers on the validation split are not numbers: training diverged; "
                "lower training.learning_rate or set training.precision to fp32"
            )
        heads[head.value] = score_head(head, values, decide(head, values), truth)
    predicted, labels = (np.stack(column) for column in zip(*chexpert.values(), strict=True))
    return Validation(heads, chexpert_auroc(predicted, labels)[1])
