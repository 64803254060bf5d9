"""The answer heads, one a row of `label_space.HEADS`, and the CheXpert and question-type classifiers."""

from __future__ import annotations

from torch import Tensor, nn

from data.label_space import CHEXPERT, HEADS, QUESTION_TYPES
from models.layers import Mlp

UNSUPPORTED = len(QUESTION_TYPES)
"""Index of "unsupported" in the question-type classifier: the question is of none of the 27 types."""
NUM_QUESTION_TYPES = len(QUESTION_TYPES) + 1


class AnswerHeads(nn.ModuleDict):
    """binary 2, category 14, region 26, severity 4: a small network each."""

    def __init__(self, width: int, dropout: float):
        super().__init__({head.value: Mlp(width, width, len(spec.classes), dropout) for head, spec in HEADS.items()})

    def forward(self, state: Tensor) -> dict[str, Tensor]:
        """(Q, D) -> head name -> (Q, classes) logits; every head answers every question, routing is the caller's."""
        return {name: head(state) for name, head in self.items()}


class NodePointer(nn.Module):
    """The answer points at nodes: where the region head's own logits come from, and what the other heads read.

    "Where" questions teach it to point at the nodes in which the question found something; "how severe" questions, of which
    there are few, then read the right place. Without a graph all nodes are the same and nothing is added to the region
    logits.
    """

    def __init__(self, width: int):
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)

    def forward(self, state: Tensor, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """(Q, D) states and (Q, R, D) nodes -> (Q, R) logits and (Q, D) what the pointed-at nodes hold."""
        # the query goes through the key's matrix, which is cheaper than sending 26 nodes through it
        query = self.query(state) @ self.key.weight
        logits = (nodes @ query[..., None]).squeeze(-1) / nodes.shape[-1] ** 0.5
        held = (logits.softmax(-1)[:, None] @ nodes).squeeze(1)
        return logits, self.value(held)


def chexpert_head(width: int, hidden: int, dropout: float) -> nn.Module:
    """(B, width) pooled image features -> (B, 14) logits. It sees the image alone."""
    return Mlp(width, hidden, len(CHEXPERT), dropout)


def question_type_head(width: int) -> nn.Module:
    """(U, D) first token of the encoded question -> (U, 28) logits: the 27 types, then "unsupported"."""
    return nn.Linear(width, NUM_QUESTION_TYPES)
