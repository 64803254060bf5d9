"""How question, image and graph meet: the Scene-embedded Interaction Module, and two simpler fusions to compare with.

Every fusion maps (features, graph, token states) to one state of width D for each of Q questions, and to the nodes as
that question sees them. It does so for each question by itself: alone, beside others and in any order the result is
the same.

Letters in shapes: B images, N cells of the feature map, Q questions, U distinct questions, T tokens of the longest, P
tokens of all Q questions, packed; R = 26 nodes, D width, V groups of at most G tokens of one image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from configs.fast_path import ALL_ON, FastPath
from configs.mimic_cxr_config import ModelConfig
from data.batch import SceneGraph
from models.encoders import ImageFeatures
from models.grounding import Grounding
from models.layers import Attention, Dropout, Mlp, SelfBlock, Switchable, attend, init_attention, take
from models.packing import Packing, TokenStates
from models.scene_graph import NodeEmbedding, roi_features

SIM_HEADS = 4


@dataclass
class ImageGroups:
    """Tokens of questions in groups of one image each, so that image keys and values are not copied for each question."""

    size: int
    """G, most tokens of a group"""
    image: Tensor
    """(V,) int64 image of a group"""
    slot: Tensor | None
    """(P,) int64 slot of a token among V * G; nobody reads the others. None: the tokens fill the slots in order"""

    @staticmethod
    def of(image_of: Tensor, images: int, read_back: bool) -> ImageGroups:
        """Groups for the (P,) image numbers of tokens in any order, with any number of tokens an image.

        With `read_back` one for each image. To read a number back from a GPU would stall its queue; without it a group is
        as large as the mean, and there are as many as could be needed.
        """
        tokens, device = len(image_of), image_of.device
        count = torch.zeros(images, dtype=torch.long, device=device)
        count.scatter_add_(0, image_of, torch.ones_like(image_of))
        size = max(1, int(count.max()) if read_back else -(-tokens // images))
        order = image_of.argsort(stable=True)
        rank = torch.arange(tokens, device=device) - (count.cumsum(0) - count)[image_of[order]]
        place = torch.empty_like(image_of).scatter_(0, order, rank)
        needed = (count + size - 1) // size
        first = needed.cumsum(0) - needed
        slot = (first[image_of] + place // size) * size + place % size
        groups = int(needed.sum()) if read_back else tokens // size + images
        image = torch.zeros(groups, dtype=torch.long, device=device).scatter_(0, slot // size, image_of)
        return ImageGroups(size, image, slot)

    @staticmethod
    def each(packing: Packing, image_of: Tensor) -> ImageGroups:
        """A group for each of Q questions, with its padding."""
        return ImageGroups(packing.mask.shape[1], image_of, packing.place)

    def attend(self, query: Tensor, keys_values: Tensor, heads: int, fast: FastPath = ALL_ON) -> Tensor:
        """(P, D) queries over their image's (B, N, 2D) keys and values; (P, D)."""
        slots = query
        if self.slot is not None:
            slots = query.new_zeros(len(self.image) * self.size, query.shape[1]).index_copy_(0, self.slot, query)
        grouped = slots.unflatten(0, (self.image.shape[0], self.size))
        read = attend(grouped, keys_values.index_select(0, self.image), heads, fast=fast).flatten(0, 1)
        return read if self.slot is None else read.index_select(0, self.slot)


class NodeUpdate(Switchable):
    """The question's view of the graph: nodes read its tokens, then each other, at an inner width of 128."""

    def __init__(self, node_width: int, grounding_width: int, config: ModelConfig):
        super().__init__()
        inner = config.sim_inner_dim
        self.enter = nn.Linear(node_width, inner)
        self.ground = nn.Linear(grounding_width, inner, bias=False)
        self.question = Attention(inner, SIM_HEADS, memory_width=config.hidden_dim)
        self.question_norm = nn.LayerNorm(inner)
        self.nodes = Attention(inner, SIM_HEADS)
        self.nodes_norm = nn.LayerNorm(inner)
        self.feed = Mlp(inner, 2 * inner, inner)
        self.feed_norm = nn.LayerNorm(inner)
        self.leave = nn.Linear(inner, node_width)

    def forward(
        self, nodes: Tensor, grounding: Tensor, texts: TokenStates, question_of: Tensor, image_of: Tensor
    ) -> Tensor:
        """(B, R, 134) nodes, (Q, R, 3K) grounding and the tokens of U texts -> (Q, R, inner) states."""
        state = self.enter(nodes)
        # queries depend on the image, keys and values on the question: both are projected before they are copied
        query = self.question.query(state)
        keys_values = texts.packing.unpack(self.question.keys_values(texts.packed))
        read = attend(
            query.index_select(0, image_of),
            keys_values.index_select(0, question_of),
            SIM_HEADS,
            texts.packing.mask.index_select(0, question_of),
            self.fast,
        )
        state = state.index_select(0, image_of) + self.ground(grounding)
        state = self.question_norm(state + self.question.out(read))
        state = self.nodes_norm(state + self.nodes(state, state))
        return self.feed_norm(state + self.feed(state))

    def projected(self, state: Tensor, weight: Tensor) -> Tensor:
        """`linear(leave(state), weight)`: back to 134 numbers and on to the fusion's (D, 134) weight.

        The two matrices are multiplied first, as (Q, R, 134) updates would be the largest tensor of the model.
        """
        return nn.functional.linear(state, weight @ self.leave.weight, weight @ self.leave.bias)


class FusionLayer(Switchable):
    """The question's tokens read image and nodes, then each other."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.image = nn.Linear(width, 2 * width)
        self.nodes = nn.Linear(width, 2 * width)
        self.out = nn.Linear(2 * width, width)
        init_attention(self.query, self.image, self.nodes)
        self.dropout = Dropout(dropout)
        self.block = SelfBlock(width, heads, dropout)

    def forward(
        self, x: Tensor, packing: Packing, image: Tensor, nodes: Tensor, groups: ImageGroups, last: bool
    ) -> Tensor:
        """(P, D) tokens, (B, N + 1, D) image memory, (Q, R, D) nodes -> (P, D); `last` gives (Q, D), the first tokens'."""
        query = self.query(self.norm(x))
        from_image = groups.attend(query, self.image(image), self.heads, self.fast)
        from_nodes = packing.each(self._read_nodes, (query,), (self.nodes(nodes),))
        read = torch.cat([from_image, from_nodes], dim=-1)
        return self.block.packed(x + self.dropout(self.out(read)), packing, first_only=last)

    def _read_nodes(self, part: Packing, query: Tensor, keys_values: Tensor) -> Tensor:
        return part.pack(attend(part.unpack(query), keys_values, self.heads, fast=self.fast))


@dataclass
class Fused:
    """What a fusion makes of Q questions."""

    state: Tensor
    """(Q, D) the question after it has read image and graph"""
    nodes: Tensor | None = None
    """(Q, R, D) the graph's nodes, as the question sees them if the fusion is that fine"""
    named: Tensor | None = None
    """(Q, E) how strongly the question asks about each entity because it names it; added to a logit"""


class SimFusion(Switchable):
    """Scene-embedded Interaction Module: the graph is read in the light of the question, the question then reads both.

    What does not depend on the question (nodes, RoI features, keys and values of the image) is computed once an image.
    """

    def __init__(self, config: ModelConfig, num_entities: int, num_region_rows: int):
        super().__init__()
        width = config.hidden_dim
        self.checkpointing = False
        self.nodes = NodeEmbedding(config, num_entities, num_region_rows)
        self.grounding = Grounding(width, self.nodes)
        self.update = NodeUpdate(self.nodes.width, self.grounding.width, config)
        self.node_in = nn.Linear(self.nodes.width, width)
        self.roi_in = nn.Linear(width, width, bias=False)
        self.node_norm = nn.LayerNorm(width)
        self.no_graph = nn.Embedding(1, width)
        self.image_norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(
            FusionLayer(width, config.fusion_heads, config.dropout) for _ in range(config.fusion_depth)
        )
        self.norm = nn.LayerNorm(width)

    def forward(
        self, features: ImageFeatures, graph: SceneGraph, texts: TokenStates, question_of: Tensor, image_of: Tensor
    ) -> Fused:
        """The tokens of U texts, and (Q,) numbers of question and image."""
        entities, regions = self.grounding(self.nodes, texts.padded(), texts.packing.mask)
        grounding = self.grounding.of_nodes(entities, regions, graph, question_of, image_of)
        memory = self._run(self._node_memory, features, graph, grounding, texts, question_of, image_of)
        image = self.image_norm(torch.cat([features.grid, features.global_token[:, None]], dim=1))
        packing, source = texts.packing.select(question_of, texts.asked)
        if texts.packing.parts:
            packing = packing.in_parts()
        if self.fast.grouped_attention:
            of_token = image_of.index_select(0, packing.rows())
            groups = ImageGroups.of(of_token, len(image), read_back=of_token.device.type == "cpu")
        else:
            groups = ImageGroups.each(packing, image_of)
        state = texts.packed.index_select(0, source)
        for number, layer in enumerate(self.layers, start=1):
            state = self._run(layer, state, packing, image, memory, groups, number == len(self.layers))
        return Fused(self.norm(state), memory, self.grounding.named(entities, question_of))

    def _node_memory(
        self,
        features: ImageFeatures,
        graph: SceneGraph,
        grounding: Tensor,
        texts: TokenStates,
        question_of: Tensor,
        image_of: Tensor,
    ) -> Tensor:
        """(Q, R, D): [node 134 || RoI D] -> D, split so that only the node's update is computed for each question."""
        feature_map = features.feature_map
        if not self.fast.late_nodes:
            feature_map, graph = feature_map.index_select(0, image_of), take(graph, image_of)
            image_of = torch.arange(len(image_of), device=image_of.device)
        nodes = self.nodes(graph)
        update = self.update(nodes, grounding, texts, question_of, image_of)
        of_image = self.node_in(nodes) + self.roi_in(roi_features(feature_map, graph.boxes, self.fast.roi_matrix))
        of_question = self.update.projected(update, self.node_in.weight)
        memory = self.node_norm(of_image.index_select(0, image_of) + of_question)
        # 26 times the same token is one token to an attention
        exists = graph.exists.index_select(0, image_of)[:, None, None]
        return torch.where(exists, memory, self.no_graph.weight.to(memory.dtype))

    def parts_for_each_question(self) -> list[nn.Module]:
        """Where the time goes that each question takes."""
        return [self.grounding, self.update, *self.layers]

    def _run(self, function, *arguments):
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(function, *arguments, use_reentrant=False)
        return function(*arguments)


class ConcatFusion(Switchable):
    """One joint transformer over global token, feature map, nodes and question: simple, and dear for each question."""

    def __init__(self, config: ModelConfig, num_entities: int, num_region_rows: int):
        super().__init__()
        width = config.hidden_dim
        self.checkpointing = False
        self.nodes = NodeEmbedding(config, num_entities, num_region_rows)
        self.node_in = nn.Linear(self.nodes.width + width, width)
        self.no_graph = nn.Embedding(1, width)
        self.kind = nn.Embedding(4, width)
        self.in_norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(
            SelfBlock(width, config.fusion_heads, config.dropout) for _ in range(config.fusion_depth)
        )
        self.norm = nn.LayerNorm(width)

    def forward(
        self, features: ImageFeatures, graph: SceneGraph, texts: TokenStates, question_of: Tensor, image_of: Tensor
    ) -> Fused:
        """As `SimFusion.forward`; the nodes are those of the image, whatever is asked.

        Questions are padded to the longest: beside the tokens of the image that is little.
        """
        if not self.fast.late_nodes:
            features, graph = take(features, image_of), take(graph, image_of)
            image_of = torch.arange(len(image_of), device=image_of.device)
        of_image, real, nodes = self._image_part(features, graph)
        question = (texts.padded() + self.kind.weight[3]).index_select(0, question_of)
        state = self.in_norm(torch.cat([question, of_image.index_select(0, image_of)], dim=1))
        mask = torch.cat([texts.packing.mask.index_select(0, question_of), real.index_select(0, image_of)], dim=1)
        for number, layer in enumerate(self.layers, start=1):
            last = number == len(self.layers)
            if self.checkpointing and torch.is_grad_enabled():
                state = checkpoint(layer, state, mask, last, use_reentrant=False)
            else:
                state = layer(state, mask, last)
        return Fused(self.norm(state[:, 0]), nodes.index_select(0, image_of))

    def parts_for_each_question(self) -> list[nn.Module]:
        """As `SimFusion.parts_for_each_question`."""
        return list(self.layers)

    def _image_part(self, features: ImageFeatures, graph: SceneGraph) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 1 + N + R, D) tokens, their (B, 1 + N + R) mask, (B, R, D) nodes; without a graph one token is all nodes."""
        roi = roi_features(features.feature_map, graph.boxes, self.fast.roi_matrix)
        nodes = self.node_in(torch.cat([self.nodes(graph), roi], dim=-1))
        exists = graph.exists[:, None]
        nodes = torch.where(exists[..., None], nodes, self.no_graph.weight.to(nodes.dtype))
        first = torch.arange(nodes.shape[1], device=nodes.device) == 0
        kind = self.kind.weight
        parts = [features.global_token[:, None] + kind[0], features.grid + kind[1], nodes + kind[2]]
        real = torch.ones(features.grid.shape[0], 1 + features.grid.shape[1], dtype=torch.bool, device=nodes.device)
        return torch.cat(parts, dim=1), torch.cat([real, exists | first], dim=1), nodes


class GlobalFusion(nn.Module):
    """Question and one vector of the image, no graph: the floor of the fusions."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.checkpointing = False
        self.mix = Mlp(2 * config.hidden_dim, 2 * config.hidden_dim, config.hidden_dim, config.dropout)
        self.norm = nn.LayerNorm(config.hidden_dim)

    def forward(
        self, features: ImageFeatures, graph: SceneGraph, texts: TokenStates, question_of: Tensor, image_of: Tensor
    ) -> Fused:
        """As `SimFusion.forward`; the graph is not read, there are no nodes."""
        question = texts.first().index_select(0, question_of)
        image = features.global_token.index_select(0, image_of)
        return Fused(self.norm(self.mix(torch.cat([question, image], dim=-1))))

    def parts_for_each_question(self) -> list[nn.Module]:
        """As `SimFusion.parts_for_each_question`."""
        return [self.mix]


def build_fusion(config: ModelConfig, num_entities: int, num_region_rows: int) -> nn.Module:
    """The fusion that `model.fusion` names."""
    if config.fusion == "none":
        return GlobalFusion(config)
    fusion = {"sim": SimFusion, "concat": ConcatFusion}[config.fusion]
    return fusion(config, num_entities, num_region_rows)
