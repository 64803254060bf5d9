"""The scene graph: predicted from the pixels, turned into 134-number nodes, or taken from the report (`oracle`).

Letters in shapes: B images, R = 26 regions, E entities, D width, h and w of the feature map.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from configs.mimic_cxr_config import ModelConfig
from data.batch import SceneGraph, SceneGraphTargets, TensorGroup
from data.label_space import REGIONS
from data.vocabulary import PADDING, RESERVED
from models.encoders import ImageFeatures
from models.layers import CrossBlock, Mlp, PositionEncoding, Switchable

BOX_NUMBERS = 6
"""x1, y1, x2, y2, area, log aspect"""
LOG_ASPECT_LIMIT = 3.0
ROI_SAMPLES = 6
"""Samples a side of a box"""
NEVER = -1e4
"""Logit of padding and unknown: probability exactly 0, also in half precision"""
START_PROBABILITY = 0.02
"""Most entities are absent from most regions: where the entity logits start"""

PRIOR_BOXES: dict[str, tuple[float, float, float, float]] = {
    "right lung": (0.10, 0.12, 0.47, 0.80),
    "left lung": (0.53, 0.12, 0.90, 0.80),
    "right upper lobe": (0.13, 0.12, 0.46, 0.40),
    "right middle lobe": (0.14, 0.42, 0.46, 0.66),
    "right lower lobe": (0.10, 0.48, 0.47, 0.80),
    "left upper lobe": (0.54, 0.12, 0.87, 0.50),
    "left lower lobe": (0.53, 0.45, 0.90, 0.80),
    "mediastinum": (0.37, 0.08, 0.66, 0.75),
    "heart": (0.37, 0.45, 0.74, 0.78),
    "aorta": (0.46, 0.22, 0.62, 0.70),
    "trachea": (0.45, 0.03, 0.55, 0.32),
    "right hilum": (0.32, 0.36, 0.47, 0.54),
    "left hilum": (0.53, 0.34, 0.68, 0.52),
    "spine": (0.44, 0.05, 0.56, 0.98),
    "right costophrenic angle": (0.07, 0.68, 0.22, 0.84),
    "left costophrenic angle": (0.78, 0.68, 0.93, 0.84),
    "right hemidiaphragm": (0.10, 0.66, 0.47, 0.82),
    "left hemidiaphragm": (0.53, 0.68, 0.90, 0.84),
    "right chest wall": (0.02, 0.15, 0.17, 0.85),
    "left chest wall": (0.83, 0.15, 0.98, 0.85),
    "abdomen": (0.12, 0.78, 0.88, 0.99),
    "right clavicle": (0.10, 0.08, 0.48, 0.20),
    "left clavicle": (0.52, 0.08, 0.90, 0.20),
    "right shoulder": (0.01, 0.02, 0.20, 0.22),
    "left shoulder": (0.80, 0.02, 0.99, 0.22),
    "neck": (0.36, 0.00, 0.64, 0.10),
}
"""Where the 26 regions roughly lie in a frontal film (x1 y1 x2 y2; the patient's right is on the image's left): the
starting point of the predicted boxes."""


@dataclass
class GraphPrediction(TensorGroup):
    """The model's own graph before it is read."""

    boxes: Tensor
    """(B, R, 4) float32, x1 y1 x2 y2 in [0, 1]; the box loss reaches the predictor through them"""
    logits: Tensor
    """(B, R, E) float32; `NEVER` for padding and unknown"""

    def graph(self) -> SceneGraph:
        """As nodes are read: boxes as plain numbers, probabilities with their gradient."""
        exists = self.boxes.new_ones(self.boxes.shape[:1], dtype=torch.bool)
        return SceneGraph(self.boxes.detach(), self.logits.sigmoid(), exists)


def no_graph(like: SceneGraph) -> SceneGraph:
    """A graph of the same shapes that does not exist for any image."""
    return SceneGraph(like.boxes, like.entity_probs, torch.zeros_like(like.exists))


def oracle_graph(targets: SceneGraphTargets, predicted: GraphPrediction) -> SceneGraph:
    """The report's graph in the form of a predicted one: an upper bound, for the evaluator and for graph dropout.

    Boxes of the report where it has trustworthy ones, otherwise the predicted; p = 1 for what it states present, and
    in every region of an "in at least one of these regions" statement; 0 otherwise.
    """
    boxes = torch.where(targets.box_mask[..., None], targets.boxes, predicted.boxes.detach())
    present = targets.present.float().clone()
    image = targets.union_image[:, None].expand(-1, present.shape[1])
    region = torch.arange(present.shape[1], device=present.device).expand_as(image)
    entity = targets.union_entity[:, None].expand_as(image)
    present.index_put_((image, region, entity), targets.union_regions.to(present.dtype), accumulate=True)
    exists = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    return SceneGraph(boxes, present.clamp_(max=1), exists)


def roi_features(feature_map: Tensor, boxes: Tensor, matrix: bool = True) -> Tensor:
    """Mean feature inside each box: (B, D, h, w) and (B, R, 4) normalised boxes -> (B, R, D) float32.

    RoIAlign of one cell with 6 x 6 bilinear samples, the mean of a 3 x 3 grid with 2 x 2 samples a cell. As bilinear
    weights are a product of a row's and a column's, the mean is one matrix product: the same numbers as
    `torchvision.ops.roi_align(aligned=True)`, ten times faster backward, and deterministic on a GPU, where that is not.
    """
    height, width = feature_map.shape[-2:]
    with torch.autocast(feature_map.device.type, enabled=False):  # halves are too coarse for box corners
        if not matrix:
            scaled = boxes.float() * boxes.new_tensor([width, height, width, height])
            cells = roi_align(feature_map.float(), list(scaled), ROI_SAMPLES // 2, sampling_ratio=2, aligned=True)
            return cells.mean((2, 3)).unflatten(0, boxes.shape[:2])
        columns = _sample_weights(boxes[..., 0], boxes[..., 2], width)
        rows = _sample_weights(boxes[..., 1], boxes[..., 3], height)
        weights = (rows[..., :, None] * columns[..., None, :]).flatten(2)
        return weights @ feature_map.float().flatten(2).transpose(1, 2)


def _sample_weights(low: Tensor, high: Tensor, cells: int) -> Tensor:
    """(B, R) sides in [0, 1] -> (B, R, cells): weight of each cell in the mean of linear samples between the sides."""
    steps = (torch.arange(ROI_SAMPLES, device=low.device) + 0.5) / ROI_SAMPLES
    low, high = low.float()[..., None], high.float()[..., None]
    points = ((low + (high - low) * steps) * cells - 0.5).clamp(0, cells - 1)
    distance = (points[..., None] - torch.arange(cells, device=low.device)).abs()
    return (1 - distance).clamp(min=0).mean(-2)


def box_numbers(boxes: Tensor) -> Tensor:
    """(..., 4) -> (..., 6): the corners, area w·h, and log(w / h) clipped to [-3, 3]."""
    boxes = boxes.float()
    size = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    aspect = (size[..., :1] + 1e-6).log() - (size[..., 1:] + 1e-6).log()
    area = size[..., :1] * size[..., 1:]
    return torch.cat([boxes, area, aspect.clamp(-LOG_ASPECT_LIMIT, LOG_ASPECT_LIMIT)], dim=-1)


class RegionPredictor(Switchable):
    """26 queries read the feature map; each gives the box of its region and the probability of each entity there."""

    def __init__(self, config: ModelConfig, num_entities: int):
        super().__init__()
        width = config.hidden_dim
        prior = torch.tensor([PRIOR_BOXES[name] for name in REGIONS])
        centre, size = (prior[:, :2] + prior[:, 2:]) / 2, prior[:, 2:] - prior[:, :2]
        self.register_buffer("prior", torch.cat([centre, size], dim=1).logit(), persistent=False)
        self.query = nn.Embedding(len(REGIONS), width)
        nn.init.normal_(self.query.weight, std=0.02)
        self.position = PositionEncoding(width)
        self.memory_norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(
            CrossBlock(width, config.fusion_heads, config.dropout) for _ in range(config.graph_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.box = Mlp(width, width, 4)
        nn.init.zeros_(self.box[-1].weight)
        nn.init.zeros_(self.box[-1].bias)
        self.entity = Mlp(2 * width, width, num_entities, config.dropout)
        nn.init.normal_(self.entity[-1].weight, std=0.01)
        nn.init.constant_(self.entity[-1].bias, torch.tensor(START_PROBABILITY).logit().item())

    def forward(self, features: ImageFeatures) -> GraphPrediction:
        """The graph of each image, from its pixels alone."""
        memory = self.memory_norm(features.grid)
        queries = self.query.weight + self.position(self.prior[:, :2].sigmoid())
        state = queries.expand(memory.shape[0], -1, -1)
        for layer in self.layers:
            state = layer(state, memory)
        state = self.norm(state)
        boxes = self._boxes(self.box(state).float())
        roi = roi_features(features.feature_map, boxes.detach(), self.fast.roi_matrix)
        logits = self.entity(torch.cat([state, roi], dim=-1)).float()
        reserved = torch.full_like(logits[..., :RESERVED], NEVER)
        return GraphPrediction(boxes, torch.cat([reserved, logits[..., RESERVED:]], dim=-1))

    def _boxes(self, delta: Tensor) -> Tensor:
        """Corrections of the prior boxes -> corners. Clipped to the image, but the gradient passes the clip."""
        centre, size = (self.prior + delta).sigmoid().split(2, dim=-1)
        corners = torch.cat([centre - size / 2, centre + size / 2], dim=-1)
        return corners + (corners.clamp(0, 1) - corners).detach()


class NodeEmbedding(nn.Module):
    """A graph -> 26 nodes of 134 numbers: 6 box, 64 region embedding, 64 entity slice (the defaults)."""

    def __init__(self, config: ModelConfig, num_entities: int, num_region_rows: int):
        super().__init__()
        self.width = BOX_NUMBERS + config.region_embedding_dim + config.entity_embedding_dim
        self.region = nn.Embedding(num_region_rows, config.region_embedding_dim, padding_idx=PADDING)
        self.entity = nn.Embedding(num_entities, config.entity_embedding_dim, padding_idx=PADDING)

    @property
    def canonical(self) -> Tensor:
        """(R, 64) embeddings of the 26 nodes' regions."""
        return self.region.weight[-len(REGIONS) :]

    def forward(self, graph: SceneGraph) -> Tensor:
        """(B, R, 134) float32. The entity slice is the sum of p·e over entities, divided by max(1, sum of p)."""
        named = slice(PADDING + 1, None)  # padding takes no part, whatever its probability
        probs = graph.entity_probs[..., named].float()
        with torch.autocast(probs.device.type, enabled=False):
            total = probs.sum(-1, keepdim=True).clamp(min=1)
            entities = probs @ self.entity.weight[named] / total
        canonical = self.canonical.expand(probs.shape[0], -1, -1)
        return torch.cat([box_numbers(graph.boxes), canonical, entities], dim=-1)
