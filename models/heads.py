"""The answer heads, one a row of `label_space.HEADS`, and the CheXpert and question-type classifiers."""

from __future__ import annotations

from torch import Tensor, nn

from configs.mimic_cxr_config import ModelConfig
from data.label_space import CHEXPERT, HEADS, QUESTION_TYPES
from models.layers import Mlp

UNSUPPORTED = len(QUESTION_TYPES)
"""Index of "unsupported" in the question-type classifier: the question is of none of the 27 types."""
NUM_QUESTION_TYPES = len(QUESTION_TYPES) + 1


class AnswerHeads(nn.ModuleDict):
    """A small network for each head: binary 2, category 14, region 26, severity 4 classes."""

    def __init__(self, width: int, dropout: float):
        super().__init__({head.value: Mlp(width, width, len(spec.classes), dropout) for head, spec in HEADS.items()})

    def forward(self, state: Tensor) -> dict[str, Tensor]:
        """(Q, D) -> head name -> (Q, classes) logits; every head answers every question, routing is the caller's."""
        return {name: head(state) for name, head in self.items()}


class JointHead(nn.Module):
    """One network for the classes of all heads, to compare with."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.sizes = {head.value: len(spec.classes) for head, spec in HEADS.items()}
        self.network = Mlp(width, width, sum(self.sizes.values()), dropout)

    def forward(self, state: Tensor) -> dict[str, Tensor]:
        """As `AnswerHeads.forward`."""
        return dict(zip(self.sizes, self.network(state).split(list(self.sizes.values()), dim=-1), strict=True))


def answer_heads(config: ModelConfig) -> nn.Module:
    """The heads that `model.joint_head` asks for."""
    return (JointHead if config.joint_head else AnswerHeads)(config.hidden_dim, config.dropout)


def chexpert_head(width: int, hidden: int, dropout: float) -> nn.Module:
    """(B, width) pooled image features -> (B, 14) logits. It sees the image alone."""
    return Mlp(width, hidden, len(CHEXPERT), dropout)


def question_type_head(width: int) -> nn.Module:
    """(U, D) first token of the encoded question -> (U, 28) logits: the 27 types, then "unsupported"."""
    return nn.Linear(width, NUM_QUESTION_TYPES)
