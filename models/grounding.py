"""What a question names: its words matched with the names of the graph's entities and regions.

A question mostly says what it is about ("Is there *pleural effusion* in the *left lung*?"), and the graph's nodes are
about entities and regions with names of their own. These names go through the question encoder too, so that from the
first step on a question leans towards what it names, and an entity that training rarely asks about is found by its words.

Letters in shapes: B images, Q questions, U distinct questions, T tokens, R = 26 nodes, E entities, K heads, D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from data.batch import SceneGraph, TokenBatch
from data.label_space import REGIONS
from data.vocabulary import RESERVED, Vocabulary
from models.encoders import QuestionEncoder
from models.layers import LEAST_ODDS, masked_mean
from models.scene_graph import NodeEmbedding

GROUNDING_HEADS = 4
SHARPNESS = 16.0
"""Start of the factor on the cosine of a question's token and a name: a shared word is worth some e^8, chance words e^2."""

NAMED_AT_START = 4.0
"""Start of what `Grounding.named` gives to an entity that has all of the question's attention"""

NAMES_AT_ONCE = 64
"""Names of one batch of the encoder: a very long one pads only these"""


class Grounding(nn.Module):
    """Which entities and regions a question names, and what a graph's nodes say about them."""

    def __init__(self, width: int, nodes: NodeEmbedding):
        super().__init__()
        self.entity_query = nn.Linear(width, GROUNDING_HEADS * nodes.entity.embedding_dim)
        self.region_query = nn.Linear(width, GROUNDING_HEADS * nodes.region.embedding_dim)
        self.entity_sharpness = nn.Parameter(torch.full((GROUNDING_HEADS, 1), SHARPNESS))
        self.region_sharpness = nn.Parameter(torch.full((GROUNDING_HEADS, 1), SHARPNESS))
        self.named_weight = nn.Parameter(torch.full((1,), NAMED_AT_START))
        self.width = 3 * GROUNDING_HEADS

    def forward(self, nodes: NodeEmbedding, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(U, T, D) tokens with their (U, T) mask -> (U, K, E) and (U, K, R): each head's attention, 1 in all."""
        with torch.autocast(tokens.device.type, enabled=False):
            tokens = tokens.float()
            names = nodes.entity.weight[RESERVED:]
            entities = self._attention(self.entity_query(tokens), mask, names, self.entity_sharpness)
            regions = self._attention(self.region_query(tokens), mask, nodes.canonical, self.region_sharpness)
            return F.pad(entities, (RESERVED, 0)), regions

    def of_nodes(
        self, entities: Tensor, regions: Tensor, graph: SceneGraph, question_of: Tensor, image_of: Tensor
    ) -> Tensor:
        """(Q, R, 3K): how likely a node has the named entities, the log odds of that, and how much it is the named region."""
        with torch.autocast(entities.device.type, enabled=False):
            probs = graph.entity_probs.float().index_select(0, image_of)
            found = probs @ entities.transpose(1, 2).index_select(0, question_of)
            odds = found.clamp(LEAST_ODDS, 1 - LEAST_ODDS).logit() / math.log(1 / LEAST_ODDS - 1)
            return torch.cat([found, odds, regions.transpose(1, 2).index_select(0, question_of)], dim=-1)

    def named(self, entities: Tensor, question_of: Tensor) -> Tensor:
        """(Q, E) how strongly a question asks about each entity because it names it."""
        return self.named_weight * entities.mean(1).index_select(0, question_of)

    def _attention(self, query: Tensor, mask: Tensor, names: Tensor, sharpness: Tensor) -> Tensor:
        """(U, T, K * d) token queries and (N, d) names -> (U, K, N): each name has the sum of its exp(similarities)."""
        query = F.normalize(query.unflatten(-1, (GROUNDING_HEADS, -1)), dim=-1)
        alike = query @ F.normalize(names, dim=-1).T * sharpness
        return alike.masked_fill(~mask[..., None, None], -torch.inf).logsumexp(1).softmax(-1)

    @torch.no_grad()
    def start_from_names(
        self,
        nodes: NodeEmbedding,
        question_encoder: QuestionEncoder,
        tokenizer: PreTrainedTokenizerBase,
        vocabulary: Vocabulary,
    ) -> None:
        """Start entities and regions at their encoded names, and the queries so that they find them.

        A random projection keeps angles: what is close in the encoder's D numbers stays close in 64. A single name
        stays where it is: there is nothing to tell it from.
        """
        regions = [*vocabulary.regions, *REGIONS]
        pairs = (
            (self.entity_query, nodes.entity, vocabulary.entities),
            (self.region_query, nodes.region, regions),
        )
        for query, table, names in pairs:
            if len(names) < 2:
                continue
            encoded = encode_names(question_encoder, tokenizer, names)
            middle, size = encoded.mean(0), table.embedding_dim
            projection = torch.randn(size, encoded.shape[1]) / size**0.5
            at = (encoded - middle) @ projection.T
            table.weight[RESERVED:] = F.normalize(at, dim=-1) * size**0.5
            query.weight.copy_(projection.repeat(GROUNDING_HEADS, 1))
            query.bias.copy_((projection @ -middle).repeat(GROUNDING_HEADS))


def encode_names(question_encoder: QuestionEncoder, tokenizer: PreTrainedTokenizerBase, names: Sequence[str]) -> Tensor:
    """Mean token of each encoded name, without the special ones, which all names share: (N, D), N at least 1.

    A name with more tokens than the encoder or its tokenizer can take is cut.
    """
    positions = getattr(question_encoder.model.config, "max_position_embeddings", tokenizer.model_max_length)
    options = {"max_length": min(positions, tokenizer.model_max_length), "truncation": True, "padding": True}
    was_training = question_encoder.training
    question_encoder.eval()
    means = []
    for start in range(0, len(names), NAMES_AT_ONCE):
        some = list(names[start : start + NAMES_AT_ONCE])
        encoded = tokenizer(some, return_tensors="pt", return_special_tokens_mask=True, **options)
        ids, mask = encoded["input_ids"], encoded["attention_mask"]
        states = question_encoder(TokenBatch(ids, mask))
        means.append(masked_mean(states.float(), mask.bool() & ~encoded["special_tokens_mask"].bool()))
    question_encoder.train(was_training)
    return torch.cat(means)
