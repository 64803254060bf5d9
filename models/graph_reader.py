"""Reads answers from the graph: which node a question points at, and the classes of what is found there."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from data.batch import SceneGraph
from data.label_space import CHEXPERT, NO_FINDING, SUPPORT_DEVICES, Head
from data.names import entity_classes
from data.vocabulary import RESERVED, Vocabulary
from models.layers import LEAST_ODDS
from models.sim import Fused

ASKED_AT_START = 2.0
"""Logit with which a question starts to ask about an entity: about all of them"""


class GraphReader(nn.Module):
    """Answers that stand in the graph: the regions that the question points at, and the classes of what is found there.

    The question asks about some entities and opens a gate to some nodes. What it finds behind them becomes a class by
    the same table (`data.names.entity_classes`) that makes the targets, and "No Finding" where it finds nothing. The
    region and category heads start from this evidence, and the state that all heads read is told of it: "where" questions
    teach the pointer, and "how severe" questions, of which there are few, then look at the right place.
    Without a graph all nodes are the same and hold nothing: the heads decide alone.
    """

    def __init__(self, width: int, num_entities: int):
        super().__init__()
        self.register_buffer("classes", torch.zeros(num_entities, len(CHEXPERT), dtype=torch.bool))
        label = torch.arange(len(CHEXPERT))
        self.register_buffer("is_none", label == NO_FINDING, persistent=False)
        self.register_buffer("is_finding", (label != NO_FINDING) & (label != SUPPORT_DEVICES), persistent=False)
        self.point = nn.Linear(width, width)
        self.gate = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.asked = nn.Linear(width, num_entities)
        self.told = nn.Linear(len(CHEXPERT), width, bias=False)
        self.trust = nn.Parameter(torch.ones(len(CHEXPERT)))
        nn.init.constant_(self.asked.bias, ASKED_AT_START)

    def name_classes(self, vocabulary: Vocabulary) -> None:
        """Fill the table: the CheXpert classes of each entity."""
        for number, name in enumerate(vocabulary.entities, start=RESERVED):
            for label in entity_classes(name) or ():
                self.classes[number, label] = True

    def forward(self, fused: Fused, graph: SceneGraph, image_of: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Fused questions and the (B, R, E) graph -> (Q, D) new states, and (Q, classes) logits to add by head name."""
        state, nodes = fused.state, fused.nodes
        # queries go through the key's matrix, which is cheaper than sending 26 nodes through it
        queries = self.key.weight.T @ torch.stack([self.point(state), self.gate(state)], dim=-1)
        point, gate = (nodes @ queries / nodes.shape[-1] ** 0.5).unbind(-1)
        held = (point.softmax(-1)[:, None] @ nodes).squeeze(1)
        asked = self.asked(state)
        if fused.named is not None:
            asked = asked + fused.named
        evidence = self._evidence(asked, gate, graph, image_of)
        state = state + self.value(held) + self.told(evidence)
        return state, {Head.REGION.value: point, Head.CATEGORY.value: evidence * self.trust}

    def _evidence(self, asked: Tensor, gate: Tensor, graph: SceneGraph, image_of: Tensor) -> Tensor:
        """(Q, 14) log odds that an entity of the class is asked about and present in a node behind the gate; 0 without graph."""
        present = graph.entity_probs.float().index_select(0, image_of)
        found = (gate.float().sigmoid()[..., None] * present).amax(1) * asked.float().sigmoid()
        probs = (found[..., None] * self.classes).amax(1)
        nothing = 1 - (probs * self.is_finding).amax(1)
        probs = torch.where(self.is_none, nothing[:, None], probs)
        odds = probs.clamp(LEAST_ODDS, 1 - LEAST_ODDS).logit()
        return odds * graph.exists.index_select(0, image_of)[:, None]
