"""A look at the validation split while training: the model's own graph, one image a study, all metrics of each head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from data.batch import Batch
from data.label_space import HEAD_INDEX, HEADS
from data.loader import Layout, windows
from data.mimic_cxr_dataset import VQADataset
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


@torch.no_grad()  # not inference_mode: ZeRO-3 may gather weights here that training goes on with
def validate(
    engine: Engine,
    dataset: VQADataset,
    batch_size: int,
    max_questions: int = 0,
    num_workers: int = 0,
    between: Callable[[], None] = lambda: None,
) -> Validation:
    """Answer the questions of a data set, shared out over all processes, and score them: the same scores in each.

    Leaves the model in evaluation mode.

    Args:
        max_questions: stop after the window that reaches so many; 0: all.
        between: called between two batches, by all processes the same number of times.
    Raises:
        NonFiniteError: an answer is not a number.
    """
    engine.model.eval()
    processes, answers = engine.processes, _Answers()
    layout = Layout(batch_size * processes.world_size, batch_size, processes.rank, processes.world_size)
    seen = 0
    for window in windows(dataset, layout, num_workers=num_workers):
        between()
        for batch in window.batches:
            batch = batch.on(engine.device)
            with engine.autocast():
                outputs = engine.model(batch.images, batch.questions, batch.question_of, batch.image_of)
            if not batch.padding:
                answers.add(outputs, batch)
        seen += processes.sum(torch.tensor(float(window.questions))).item()
        if max_questions and seen >= max_questions:
            break
    return processes.from_main(_score(processes.gather(answers)))


class _Answers:
    """What one process has answered, in main memory."""

    def __init__(self):
        self.probabilities: dict[str, list[np.ndarray]] = {head.value: [] for head in HEADS}
        self.targets: dict[str, list[np.ndarray]] = {head.value: [] for head in HEADS}
        self.chexpert: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def add(self, outputs, batch: Batch) -> None:
        for head, spec in HEADS.items():
            own = batch.head_mask(HEAD_INDEX[head])
            logits = outputs.logits[head.value][own].float()
            values = logits.sigmoid() if spec.multi_label else logits.softmax(-1)
            self.probabilities[head.value].append(values.cpu().numpy())
            self.targets[head.value].append(getattr(batch.targets, head.value)[own].cpu().numpy())
        rows = zip(outputs.chexpert.float().sigmoid().cpu().numpy(), batch.chexpert.cpu().numpy(), strict=True)
        self.chexpert.update(zip(batch.ids.image.tolist(), rows, strict=True))  # a study of several visits counts once


def _score(of_processes: list[_Answers]) -> Validation:
    heads = {}
    for head in HEADS:
        values = np.concatenate([part for answers in of_processes for part in answers.probabilities[head.value]])
        truth = np.concatenate([part for answers in of_processes for part in answers.targets[head.value]])
        if not np.isfinite(values).all():
            raise NonFiniteError(
                f"{head.value} answers on the validation split are not numbers: training diverged; "
                "lower training.learning_rate or set training.precision to fp32"
            )
        heads[head.value] = score_head(head, values, decide(head, values), truth)
    chexpert = {image: row for answers in of_processes for image, row in answers.chexpert.items()}
    predicted, labels = (np.stack(column) for column in zip(*chexpert.values(), strict=True))
    return Validation(heads, chexpert_auroc(predicted, labels)[1])
