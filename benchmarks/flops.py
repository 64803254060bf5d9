"""Counting the floating-point operations of a piece of code: those of matrix products, convolutions and fused attention."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count, sdpa_backward_flop_count, sdpa_flop_count

COUNTED = "counted"
"""What `Variant.flops_of` says of figures from here"""


@dataclass
class Count:
    """A multiplication and an addition are two operations."""

    flops: float | None = None


def _attention(query, key, value, *args, out_shape=None, **kwargs) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(grad, query, key, value, *args, out_shape=None, **kwargs) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


def _convolution_backward(
    grad, x, weight, bias, stride, padding, dilation, transposed, output_padding, groups, wanted, out_shape, **kwargs
) -> int:
    """The gradients of input and weight each take as many operations as the convolution itself."""
    return sum(wanted[:2]) * conv_flop_count(x, weight, grad, transposed)


FORMULAS = {
    # PyTorch's formula takes the groups of a depthwise convolution for one, and counts a hundred times too many
    torch.ops.aten.convolution_backward: _convolution_backward,
    # fused attention on the CPU, which its counter does not know
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
"""Instead of those of PyTorch's counter, or beside them."""


@contextmanager
def counted_flops() -> Iterator[Count]:
    """Filled in when the block ends. Not for compiled code, which it would compile anew."""
    count = Count()
    with FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
        yield count
    count.flops = counter.get_total_flops()
