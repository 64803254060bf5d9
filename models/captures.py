"""What a forward pass computes on its way, taken by hooks: the model's code and its fast path stay as they are.

Letters in shapes: T tokens of the question, N cells of the feature map, R = 26 nodes, L fusion layers, H attention heads, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.encoders import ImageEncoder
from models.mimic_vqa_model import SSGVQA
from models.sim import FusionLayer, SimFusion
from utils.errors import UserError


@dataclass
class SimAttention:
    """Softmax weights of one question's tokens, exactly those that SIM reads with; over the last axis they are 1 in all."""

    image: Tensor
    """(L, H, T, N + 1) over the cells of the feature map, row by row, then the global token"""
    nodes: Tensor
    """(L, H, T, R) over the regions of the scene graph"""


def attention_shares(query: Tensor, keys_values: Tensor, heads: int) -> Tensor:
    """The softmax weights of `models.layers.attend`: (T, D) queries and (K, 2D) keys and values -> (H, T, K)."""
    key = keys_values.chunk(2, dim=-1)[0]
    query, key = (x.unflatten(-1, (heads, -1)).transpose(0, 1) for x in (query, key))
    return (query @ key.transpose(1, 2) * query.shape[-1] ** -0.5).softmax(-1)


class AttentionCapture:
    """Keeps the queries and keys of each layer of SIM while one question about one image goes through it.

    Fused kernels give no weights; from queries and keys they are computed once more, so that what is shown is what was read.
    """

    def __init__(self, fusion: nn.Module):
        if not isinstance(fusion, SimFusion):
            raise UserError(
                "this model has no Scene-embedded Interaction Module (model.fusion): it has no such attention"
            )
        self._layers: list[FusionLayer] = list(fusion.layers)
        self._kept: dict[nn.Module, Tensor] = {}

    @contextmanager
    def listening(self) -> Iterator[AttentionCapture]:
        """Within the block forward passes are listened to; the last one counts."""
        with ExitStack() as stack:
            for layer in self._layers:
                for part in (layer.query, layer.image, layer.nodes):
                    handle = part.register_forward_hook(lambda part, _, out: self._kept.__setitem__(part, out.detach()))
                    stack.callback(handle.remove)
            yield self

    def weights(self) -> SimAttention:
        """Of the pass that was listened to. ValueError when it was of several questions or images, or there was none."""
        read: dict[str, list[Tensor]] = {"image": [], "nodes": []}
        for layer in self._layers:
            query = self._kept[layer.query].float()
            for name, shares in read.items():
                memory = self._kept[getattr(layer, name)]
                if len(memory) != 1:
                    raise ValueError(f"{len(memory)} memories: attention is captured of one question about one image")
                shares.append(attention_shares(query, memory[0].float(), layer.heads))
        return SimAttention(torch.stack(read["image"]), torch.stack(read["nodes"]))


class StageCapture:
    """Keeps the output of one stage of the image backbone with its gradient path."""

    def __init__(self, encoder: ImageEncoder, stride: int):
        """`stride`: pixels a cell, one of `stage_strides`; UserError for others."""
        self._module, self._channels_last = stage_modules(encoder).get(stride), encoder.spec.channels_last
        if self._module is None:
            offered = ", ".join(map(str, stage_modules(encoder)))
            raise UserError(f"--stride {stride}: the image encoder of this model has maps of stride {offered}")
        self.output: Tensor | None = None
        """what the stage gave, in the backbone's own layout"""

    @contextmanager
    def listening(self) -> Iterator[StageCapture]:
        """Within the block forward passes are listened to; the last one counts."""

        def keep(module: nn.Module, given: tuple, out: Tensor | list[Tensor]) -> None:
            self.output = out[0] if isinstance(out, (list, tuple)) else out

        handle = self._module.register_forward_hook(keep)
        try:
            yield self
        finally:
            handle.remove()

    def image_map(self, values: Tensor) -> Tensor:
        """(1, C, h, w) or (1, h, w, C), as the stage gives it -> (C, h, w) float."""
        return (values[0].permute(2, 0, 1) if self._channels_last else values[0]).float()


def stage_modules(encoder: ImageEncoder) -> dict[int, nn.Module]:
    """Stride -> module of the backbone that gives the last map with it; coarsest last: the one that the model itself reads.

    Stages of convolutional and hierarchical backbones; of a plain transformer the last map alone.
    """
    backbone, found = encoder.backbone, {}
    named = dict(backbone.named_modules())
    stages = backbone.feature_info.info[: encoder.spec.stage + 1]
    last = stages[-1]["reduction"]
    for stage in stages:
        # timm puts the parts of a nested stage into the extractor under a flat name
        module = named.get(stage["module"], named.get(stage["module"].replace(".", "_")))
        if module is not None and stage["reduction"] < last:
            found[stage["reduction"]] = module
    return {**found, last: backbone}


def stage_strides(model: SSGVQA) -> tuple[int, ...]:
    """Pixels a cell of the maps that class activation maps can be made from, finest first."""
    return tuple(stage_modules(model.image_encoder))
