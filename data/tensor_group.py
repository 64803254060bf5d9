"""Dataclasses of tensors that move together."""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor


class TensorGroup:
    """A dataclass of tensors (or of such dataclasses, or None) that can move together."""

    def _map(self, function):
        values = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, TensorGroup):
                values[f.name] = value._map(function)
            else:
                values[f.name] = function(value) if isinstance(value, Tensor) else value
        return type(self)(**values)

    def to(self, device: torch.device | str, non_blocking: bool = True):
        return self._map(lambda t: t.to(device, non_blocking=non_blocking))

    def pin_memory(self):
        return self._map(lambda t: t.pin_memory())
