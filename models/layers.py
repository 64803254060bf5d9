"""Small building blocks that the graph predictor and the fusions share.

Letters in shapes: N batch of sequences, L tokens that ask, K tokens that are read, D width.
No layer uses statistics over the batch, so that a question's answer does not depend on its neighbours.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAST_ODDS = 0.01
"""Probabilities of a graph are clipped to this far from 0 and 1 before their log odds are taken: a report's has 0 and 1."""


class Mlp(nn.Sequential):
    """Linear, GELU, dropout, linear."""

    def __init__(self, width: int, inner: int, out: int, dropout: float = 0.0):
        super().__init__(nn.Linear(width, inner), nn.GELU(), nn.Dropout(dropout), nn.Linear(inner, out))


def attend(query: Tensor, keys_values: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Fused multi-head attention of (N, L, W) queries over (N, K, 2W) keys and values; (N, L, W).

    `mask` is (N, K) bool, True where a key is real.
    """
    key, value = keys_values.chunk(2, dim=-1)
    if mask is not None:
        mask = mask[:, None, None, :]
    split = [x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value)]
    return F.scaled_dot_product_attention(*split, attn_mask=mask).transpose(1, 2).flatten(2)


def init_attention(*layers: nn.Linear) -> None:
    """Start queries, keys and values with unit variance: scores of variance 1 instead of PyTorch's 1/9.

    Attention that starts nearly uniform passes nearly no gradient to where it looks, and from random weights that is
    the longest phase of training.
    """
    for layer in layers:
        nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
        nn.init.zeros_(layer.bias)


class Attention(nn.Module):
    """Attention whose keys and values are projected apart, so that they can be computed once and shared."""

    def __init__(self, width: int, heads: int, memory_width: int | None = None):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.keys_values = nn.Linear(memory_width or width, 2 * width)
        self.out = nn.Linear(width, width)
        init_attention(self.query, self.keys_values)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        """(N, L, D) reads (N, K, memory width); `mask` (N, K) bool, True where the memory is real."""
        return self.out(attend(self.query(x), self.keys_values(memory), self.heads, mask))


class SelfBlock(nn.Module):
    """Pre-norm self-attention and feed-forward."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.feed_norm = nn.LayerNorm(width)
        self.feed = Mlp(width, 2 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None, first_only: bool = False) -> Tensor:
        """(N, L, D) -> (N, L, D), or (N, 1, D) with `first_only`: the first token's state, for the last layer."""
        read = self.norm(x)
        asking = read[:, :1] if first_only else read
        x = x[:, :1] if first_only else x
        x = x + self.dropout(self.attention(asking, read, mask))
        return x + self.dropout(self.feed(self.feed_norm(x)))


class CrossBlock(nn.Module):
    """Pre-norm: read a memory, then each other, then feed-forward."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.cross = Attention(width, heads)
        self.dropout = nn.Dropout(dropout)
        self.block = SelfBlock(width, heads, dropout)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """(N, L, D) reads (N, K, D); (N, L, D)."""
        return self.block(x + self.dropout(self.cross(self.norm(x), memory)))


class PositionEncoding(nn.Module):
    """Points in [0, 1]² of the image -> D: sines of several wavelengths, mixed by a learned layer; any image size."""

    WAVES = 8
    SHORTEST, LONGEST = 1 / 16, 2.0

    def __init__(self, width: int):
        super().__init__()
        steps = torch.linspace(math.log(self.LONGEST), math.log(self.SHORTEST), self.WAVES)
        self.register_buffer("frequencies", 2 * math.pi / steps.exp(), persistent=False)
        self.mix = nn.Linear(4 * self.WAVES, width)

    def forward(self, points: Tensor) -> Tensor:
        """(..., 2) x and y -> (..., D)."""
        angles = (points[..., None] * self.frequencies).flatten(-2)
        return self.mix(torch.cat([angles.sin(), angles.cos()], dim=-1))

    def grid(self, height: int, width: int) -> Tensor:
        """(height * width, D): the centres of the cells of a feature map, row by row."""
        device = self.frequencies.device
        y = (torch.arange(height, device=device) + 0.5) / height
        x = (torch.arange(width, device=device) + 0.5) / width
        points = torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], dim=-1)
        return self(points.flatten(0, 1))
