"""Graph dropout: in training some images are answered without a graph, and some with the report's.

So the evaluation rows `graph_none` and `graph_oracle` are no mere shift of distribution for the model.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from configs.mimic_cxr_config import TrainingConfig
from data.batch import SceneGraph, SceneGraphTargets
from models.scene_graph import GraphPrediction, oracle_graph

PREDICTED, NONE, ORACLE = 0, 1, 2
"""Which graph an image's questions are answered from."""


@dataclass
class GraphMix:
    """Graph dropout: the model's own graph for most images, none or the report's for the others."""

    choice: Tensor
    """(B,) PREDICTED, NONE or ORACLE"""
    targets: SceneGraphTargets

    def __call__(self, prediction: GraphPrediction) -> SceneGraph:
        own, report = prediction.graph(), oracle_graph(self.targets, prediction)
        oracle = (self.choice == ORACLE)[:, None, None]
        return SceneGraph(
            boxes=torch.where(oracle, report.boxes, own.boxes),
            entity_probs=torch.where(oracle, report.entity_probs, own.entity_probs),
            exists=self.choice != NONE,
        )


def draw_graphs(draw: Tensor, config: TrainingConfig) -> Tensor:
    """(B,) choice of the graph from uniform numbers in [0, 1), such as `Batch.graph_draw`."""
    choice = torch.full(draw.shape, PREDICTED, device=draw.device)
    choice[draw < config.graph_none_fraction] = NONE
    choice[draw >= 1 - config.graph_oracle_fraction] = ORACLE
    return choice
