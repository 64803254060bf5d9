"""How the questions of a validation split are routed: measured where an evaluation runs, used by `models.routing`.

Each distinct text is routed as it is and in other words (`training.evaluation.PARAPHRASES`), and counts as often as it is asked.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from data.label_space import HEADS, Head
from data.mimic_cxr_dataset import VQADataset
from data.token_table import TokenTable
from models.mimic_vqa_model import SSGVQA
from models.routing import Router, head_probabilities
from training.evaluation import PARAPHRASES, TEXTS_PER_BATCH
from training.predictions import QuestionSet

AS_ASKED = "as asked"
WORDINGS: dict[str, Callable[[str], str]] = {AS_ASKED: str} | PARAPHRASES
MOST_REFUSED = 0.01
"""Share of the validation split's questions, over all wordings, of which the classifier may be less sure than the threshold"""
REFUSED = "refused"


@torch.inference_mode()
def measure_routing(model: SSGVQA, dataset: VQADataset, questions: QuestionSet) -> dict:
    """For `routing.json`.

    Returns:
        threshold: least confidence of the classifier in a head, in [0, 1], where a question's form does not tell the head.
        questions, texts: how many were routed.
        heads, columns: names of the rows and columns of the tables.
        wordings: way of asking -> `confusion`, questions by their head (rows) and by where they are routed, the last column
            being refusals, and its `accuracy`; `classifier`: confusion and accuracy of the classifier alone.
    """
    codes, place = np.unique(questions.text, return_inverse=True)
    counts = np.zeros((len(codes), len(HEADS)), dtype=np.int64)
    np.add.at(counts, (place, questions.head), 1)
    of_wording = {
        name: type_logits(model, dataset, codes, None if name == AS_ASKED else rewrite)
        for name, rewrite in WORDINGS.items()
    }
    threshold = fit_threshold([head_probabilities(logits) for logits in of_wording.values()], counts)
    router = Router(model.vocabulary, threshold, measured=True)
    texts = dataset.index.texts(codes)
    tables = {}
    for name, rewrite in WORDINGS.items():
        alone = head_probabilities(of_wording[name])[:, :-1].argmax(1)
        routes = [router.route(rewrite(text), logits) for text, logits in zip(texts, of_wording[name], strict=True)]
        heads = list(Head)
        routed = np.array([len(heads) if route.reason else heads.index(route.head) for route in routes])
        tables[name] = _table(counts, routed, len(heads) + 1) | {"classifier": _table(counts, alone, len(heads))}
    return {
        "threshold": threshold,
        "questions": int(counts.sum()),
        "texts": len(codes),
        "heads": [head.value for head in HEADS],
        "columns": [*(head.value for head in HEADS), REFUSED],
        "wordings": tables,
    }


def type_logits(
    model: SSGVQA, dataset: VQADataset, codes: np.ndarray, rewrite: Callable[[str], str] | None
) -> torch.Tensor:
    """(n, 28) question-type logits of the texts with these codes, on the CPU."""
    length = dataset.token_table.max_length
    table = dataset.token_table
    if rewrite is not None:
        table = TokenTable.rewritten(dataset.index, dataset.tokenizer, length, rewrite)
    device = next(model.parameters()).device
    parts = []
    for start in range(0, len(codes), TEXTS_PER_BATCH):
        tokens, place = table.encode(codes[start : start + TEXTS_PER_BATCH])
        parts.append(model.question_types(tokens.to(device)).float().cpu()[torch.from_numpy(place)])
    return torch.cat(parts)


def fit_threshold(confidences: list[np.ndarray], counts: np.ndarray) -> float:
    """The confidence in the likeliest head that all but `MOST_REFUSED` of the questions reach.

    Args:
        confidences: of each wording, (texts, heads + 1) as `models.routing.head_probabilities` gives them.
        counts: (texts, heads) how often a text is asked.
    """
    weight = np.tile(counts.sum(1), len(confidences)).astype(np.float64)
    confidence = np.concatenate([of_heads[:, :-1].max(1) for of_heads in confidences])
    order = np.argsort(confidence, kind="stable")
    below = np.cumsum(weight[order]) / weight.sum()
    return float(confidence[order[np.searchsorted(below, MOST_REFUSED, side="right")]])


def _table(counts: np.ndarray, routed: np.ndarray, columns: int) -> dict:
    confusion = np.zeros((counts.shape[1], columns), dtype=np.int64)
    np.add.at(confusion.T, routed, counts)
    return {"confusion": confusion.tolist(), "accuracy": float(np.trace(confusion) / max(1, confusion.sum()))}
