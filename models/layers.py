"""Small building blocks that the graph predictor and the fusions share.

Letters in shapes: N batch of sequences, L tokens that ask, K tokens that are read, D width.
No layer uses statistics over the batch, so that a question's answer does not depend on its neighbours.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.fast_path import ALL_ON, FastPath
from data.batch import TensorGroup
from models.packing import Packing

LEAST_ODDS = 0.01
"""Probabilities of a graph are clipped to this far from 0 and 1 before their log odds are taken: a report's has 0 and 1."""
DROPOUT_BITS = 16
"""Random bits that decide whether a number is dropped"""


class Mlp(nn.Sequential):
    """Linear, GELU, dropout, linear."""

    def __init__(self, width: int, inner: int, out: int, dropout: float = 0.0):
        super().__init__(nn.Linear(width, inner), nn.GELU(), Dropout(dropout), nn.Linear(inner, out))


class Switchable(nn.Module):
    """A module that can compute the same in more than one way."""

    fast: FastPath = ALL_ON

    def switch(self, fast: FastPath) -> None:
        """Compute in this way from now on, with all parts. Parameters keep their names and values."""
        for module in self.modules():
            if isinstance(module, Switchable):
                module.fast = fast
                module.switched()

    def switched(self) -> None:
        """Bring up to date what is not looked up in `fast` at each call; for this module alone."""


class Dropout(Switchable, nn.Dropout):
    """`nn.Dropout`, in less than half the time on a CPU, where random numbers are dear."""

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p, self.fast.quick_dropout) if self.training and self.p else x

    @staticmethod
    def take_the_place_of_others(model: nn.Module) -> None:
        """Of every `nn.Dropout` in a model that was not made here."""
        for module in model.modules():
            for name, child in module.named_children():
                if type(child) is nn.Dropout:
                    setattr(module, name, Dropout(child.p))


def dropout(x: Tensor, p: float, quick: bool) -> Tensor:
    """Zeros with probability `p`, to the nearest of 65,536 steps with `quick`; the others are scaled up to the same mean."""
    if not quick or x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, p)
    steps = 2**DROPOUT_BITS
    zeros = round(p * steps)
    if zeros == steps:
        return torch.zeros_like(x) * x
    # one draw of 64 bits for four numbers
    bits = torch.empty(-(-x.numel() * DROPOUT_BITS // 64), dtype=torch.int64).random_(-(2**63), None)
    kept = bits.view(torch.int16)[: x.numel()].view(x.shape) >= zeros - steps // 2
    return x * kept.to(x.dtype).mul_(steps / (steps - zeros))


def take(group: TensorGroup, index: Tensor) -> TensorGroup:
    """Of each tensor of a group the rows with these numbers."""
    return group._map(lambda tensor: tensor.index_select(0, index))


def dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    dropped: float = 0.0,
    scale: float | None = None,
    fast: FastPath = ALL_ON,
) -> Tensor:
    """(N, H, L, d) queries over (N, H, K, d) keys and values. `mask`: bool, broadcast to (N, H, L, K), True is read.

    `dropped`: probability with which what is read from a key is dropped.
    """
    # PyTorch has no fused kernel with dropout for a CPU
    if fast.fused_attention and not (dropped and fast.quick_dropout and query.device.type == "cpu"):
        return F.scaled_dot_product_attention(query, key, value, mask, dropped, scale=scale)
    scores = query * (scale or query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    shares = scores.softmax(-1)
    return (dropout(shares, dropped, fast.quick_dropout) if dropped else shares) @ value


def attend(
    query: Tensor, keys_values: Tensor, heads: int, mask: Tensor | None = None, fast: FastPath = ALL_ON
) -> Tensor:
    """Multi-head attention of (N, L, W) queries over (N, K, 2W) keys and values; (N, L, W).

    `mask` is (N, K) bool, True where a key is real.
    """
    key, value = keys_values.chunk(2, dim=-1)
    if mask is not None:
        mask = mask[:, None, None, :]
    split = [x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value)]
    return dot_product_attention(*split, mask, fast=fast).transpose(1, 2).flatten(2)


def masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """Mean over the real tokens: (U, T, D) and (U, T) -> (U, D)."""
    weight = mask[..., None].to(tokens.dtype)
    return (tokens * weight).sum(1) / weight.sum(1).clamp(min=1)


def init_attention(*layers: nn.Linear) -> None:
    """Start queries, keys and values with unit variance: scores of variance 1 instead of PyTorch's 1/9.

    Attention that starts nearly uniform passes nearly no gradient to where it looks, and from random weights that is
    the longest phase of training.
    """
    for layer in layers:
        nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
        nn.init.zeros_(layer.bias)


class Attention(Switchable):
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
        return self.out(attend(self.query(x), self.keys_values(memory), self.heads, mask, self.fast))

    def packed(self, x: Tensor, packing: Packing, first_only: bool = False) -> Tensor:
        """(P, D) packed tokens read the tokens of their own text; (P, D), or (N, D) with `first_only`."""

        def read(part: Packing, keys_values: Tensor, query: Tensor) -> Tensor:
            query = query[:, None] if first_only else part.unpack(query)
            found = attend(query, part.unpack(keys_values), self.heads, part.mask, self.fast)
            return found[:, 0] if first_only else part.pack(found)

        keys_values, query = self.keys_values(x), self.query(packing.first(x) if first_only else x)
        return self.out(
            packing.each(read, (keys_values,), (query,)) if first_only else packing.each(read, (keys_values, query))
        )


class SelfBlock(nn.Module):
    """Pre-norm self-attention and feed-forward."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.feed_norm = nn.LayerNorm(width)
        self.feed = Mlp(width, 2 * width, width)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None, first_only: bool = False) -> Tensor:
        """(N, L, D) -> (N, L, D), or (N, 1, D) with `first_only`: the first token's state, for the last layer."""
        read = self.norm(x)
        asking = read[:, :1] if first_only else read
        x = x[:, :1] if first_only else x
        x = x + self.dropout(self.attention(asking, read, mask))
        return x + self.dropout(self.feed(self.feed_norm(x)))

    def packed(self, x: Tensor, packing: Packing, first_only: bool = False) -> Tensor:
        """The same for (P, D) packed tokens; (P, D), or (N, D) with `first_only`."""
        read = self.attention.packed(self.norm(x), packing, first_only)
        x = (packing.first(x) if first_only else x) + self.dropout(read)
        return x + self.dropout(self.feed(self.feed_norm(x)))


class CrossBlock(nn.Module):
    """Pre-norm: read a memory, then each other, then feed-forward."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.cross = Attention(width, heads)
        self.dropout = Dropout(dropout)
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
