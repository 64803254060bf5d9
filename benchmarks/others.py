"""Training steps of the models that ours is compared with: the per-question design, ViLT and BLIP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from configs.mimic_cxr_config import TrainingConfig
from training.engine import autocast, choose_precision


class Other:
    """A model with its loss, trained in the precision that ours has.

    Args:
        loss: of the model and a batch of its own kind, which lies on the device.
        update: clip and apply the gradients too, with AdamW.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[nn.Module, Any], Tensor],
        training: TrainingConfig,
        device: torch.device,
        update: bool,
    ):
        self.model, self.loss, self.device = model.to(device).train(), loss, device
        self.precision = choose_precision(training, device)
        self.clip = training.max_grad_norm
        # GradScaler as ours has it: a disabled one passes everything through
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision.name == "fp16")
        self.optimizer = None
        if update:
            self.optimizer = torch.optim.AdamW(model.parameters(), lr=training.learning_rate, fused=True)

    def step(self, batch: Any) -> Tensor:
        """Forward, loss and backward, and the update if it was asked for; returns the loss."""
        torch.manual_seed(0)
        with autocast(self.precision, self.device):
            loss = self.loss(self.model, moved(batch, self.device))
        self.scaler.scale(loss).backward()
        if self.optimizer is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.model.zero_grad(set_to_none=True)
        return loss.detach()


def moved(batch: Any, device: torch.device) -> Any:
    """A batch on a device."""
    if isinstance(batch, dict):
        return {name: moved(value, device) if isinstance(value, Tensor) else value for name, value in batch.items()}
    return batch.to(device)
