"""Class activation maps: pure functions of the activations of a layer and the gradient of one logit with respect to them.

Letters in shapes: C channels, h and w of the layer's map. Every map is (h, w), float, at least 0, and not yet scaled: 0 means
that nothing there speaks for the logit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # so that a command line knows the names at once
    from torch import Tensor


def grad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Channels weighted by their mean gradient, summed, negative cells cut (Selvaraju et al. 2017, eq. 1 and 2).

    (C, h, w) activations and gradients -> (h, w).
    """
    return (gradients.mean((1, 2), keepdim=True) * activations).sum(0).relu()


def layer_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Activations weighted cell by cell by their positive gradients, summed, cut at 0 (Jiang et al. 2021, eq. 6 and 7).

    (C, h, w) activations and gradients -> (h, w). Made for early layers too, whose gradients differ within a channel.
    """
    return (gradients.relu() * activations).sum(0).relu()


CAM_METHODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gradcam": grad_cam,
    "layercam": layer_cam,
}
"""Name on the command line -> function"""
