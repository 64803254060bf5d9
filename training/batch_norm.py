"""Batch normalisation over all processes, on any device (`torch.nn.SyncBatchNorm` runs on GPUs only).

Without it each process would normalise by its own images, and the same global batch would train another model on two
processes than on one.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from training.processes import Processes


def share_batch_statistics(model: nn.Module, processes: Processes) -> int:
    """Let all batch norms of a model use the statistics of all processes in training; returns how many there are."""
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if processes.several:
        for layer in layers:
            layer.forward = partial(_forward, layer, type(layer).forward)
    return len(layers)


def _forward(layer: _BatchNorm, alone, x: Tensor) -> Tensor:
    if not layer.training:
        return alone(layer, x)
    y = _normalise(layer, x)
    for name in ("drop", "act"):  # of timm's BatchNormAct2d
        y = getattr(layer, name)(y) if hasattr(layer, name) else y
    return y


def _normalise(layer: _BatchNorm, x: Tensor) -> Tensor:
    values = x.float()
    over = [d for d in range(x.ndim) if d != 1]
    shape = [1, -1] + [1] * (x.ndim - 2)
    here = torch.full((1,), values.numel() / values.shape[1], device=x.device)
    total = _Sum.apply(torch.cat([values.sum(over), here]))
    count = total[-1].detach()
    mean = total[:-1] / count
    centred = values - mean.view(shape)
    variance = _Sum.apply(centred.square().sum(over)) / count
    with torch.no_grad():
        layer.num_batches_tracked += 1
        rate = layer.momentum if layer.momentum is not None else 1.0 / float(layer.num_batches_tracked)
        layer.running_mean.lerp_(mean.to(layer.running_mean.dtype), rate)
        unbiased = variance * (count / (count - 1).clamp(min=1))
        layer.running_var.lerp_(unbiased.to(layer.running_var.dtype), rate)
    scale = torch.rsqrt(variance + layer.eps)
    if layer.affine:
        scale = scale * layer.weight.float()
    y = centred * scale.view(shape)
    if layer.affine:
        y = y + layer.bias.float().view(shape)
    return y.to(x.dtype)


class _Sum(torch.autograd.Function):
    """Sum over processes. What follows adds to the loss of every process, so the gradient is a sum too."""

    @staticmethod
    def forward(ctx, values: Tensor) -> Tensor:
        return _summed(values)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return _summed(gradient)


def _summed(values: Tensor) -> Tensor:
    values = values.clone()
    dist.all_reduce(values)
    return values
