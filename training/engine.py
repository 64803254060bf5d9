"""The one place that knows about devices, precision and, behind `build_engine`, about several processes.

The trainer sees the `Engine` protocol only: it has no `if amp`, no `if rank`.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from configs.mimic_cxr_config import Config, TrainingConfig
from models.mimic_vqa_model import parameter_groups
from utils.errors import ConfigError

BF16_CAPABILITY = (8, 0)
"""CUDA compute capability (Ampere) from which bf16 runs on tensor cores."""


@dataclass(frozen=True)
class Precision:
    """fp32, bf16 or fp16, and why."""

    name: str
    reason: str

    @property
    def dtype(self) -> torch.dtype:
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.name]


@dataclass(frozen=True)
class StepOutcome:
    """What became of the gradients of one window."""

    applied: bool
    """False: the gradient was not finite and the weights are unchanged"""
    grad_norm: float
    """before clipping"""
    lr: float
    """of the layers that start from random weights"""


class Engine(Protocol):
    """One optimizer step as the trainer sees it: `autocast`, `backward` for every micro-batch, then `step`."""

    model: nn.Module
    """The bare model: for saving, loading and evaluation."""
    device: torch.device
    precision: Precision
    rank: int
    world_size: int
    is_main: bool

    def forward(self, *args, **kwargs):
        """The model's forward pass in training, through whatever wraps the model."""

    def autocast(self) -> AbstractContextManager:
        """Context of a forward pass."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this process's share of the loss of a window."""

    def step(self) -> StepOutcome:
        """Clip, check, apply (or skip), move the learning rate and clear the gradients."""

    def reduce_sum(self, values: Tensor) -> Tensor:
        """Sum over processes, on every process."""

    def state_dict(self) -> dict:
        """Optimizer, schedule and scaler: tensors, numbers, strings, lists and dictionaries only."""

    def load_state_dict(self, state: dict) -> None: ...


class TorchEngine:
    """One process on the CPU or on one GPU."""

    rank, world_size, is_main = 0, 1, True

    def __init__(self, config: TrainingConfig, model: nn.Module, total_steps: int, device: torch.device):
        self.device = device
        self.precision = choose_precision(config, device)
        # channels-last convolutions are faster on tensor cores and on oneDNN
        self.model = model.to(device, memory_format=torch.channels_last)
        if config.gradient_checkpointing:
            model.set_gradient_checkpointing(True)
        if config.compile:
            for encoder in model.pretrained_modules():
                encoder.compile()
        self.max_grad_norm = config.max_grad_norm
        self.optimizer = build_optimizer(config, self.model, device)
        self.scheduler = build_schedule(self.optimizer, total_steps, config.warmup_ratio)
        # gradients underflow in fp16 only; a disabled scaler passes everything through
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision.name == "fp16")

    def forward(self, *args, **kwargs):
        return self.model(*args, **kwargs)

    def autocast(self) -> AbstractContextManager:
        return torch.autocast(self.device.type, self.precision.dtype, enabled=self.precision.name != "fp32")

    def backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()

    def step(self) -> StepOutcome:
        lr = max(group["lr"] for group in self.optimizer.param_groups)
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.max_grad_norm).item()
        applied = math.isfinite(norm)
        if applied:
            self.scaler.step(self.optimizer)
            self.scheduler.step()
        self.scaler.update()  # after an overflow: a smaller scale
        self.optimizer.zero_grad(set_to_none=True)
        return StepOutcome(applied, norm, lr)

    def reduce_sum(self, values: Tensor) -> Tensor:
        return values

    def state_dict(self) -> dict:
        return {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.scaler.load_state_dict(state["scaler"])


def build_engine(config: Config, model: nn.Module, total_steps: int) -> Engine:
    """The engine for the hardware at hand."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return TorchEngine(config.training, model, total_steps, device)


def choose_precision(config: TrainingConfig, device: torch.device) -> Precision:
    """`training.precision` on this device. ConfigError when it asks for what the device cannot do."""
    if not config.fp16:
        return Precision("fp32", "training.fp16 is false")
    if config.precision != "auto":
        if config.precision == "fp16" and device.type != "cuda":
            raise ConfigError("training.precision = fp16 needs a GPU: use auto, bf16 or fp32 on this machine")
        return Precision(config.precision, "asked for by training.precision")
    if device.type != "cuda":
        return Precision("fp32", "no GPU")
    name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
    if capability >= BF16_CAPABILITY:
        return Precision("bf16", f"{name} computes bf16 on tensor cores")
    return Precision("fp16", f"{name} has no bf16 tensor cores; losses are scaled")


def scaled_learning_rate(config: TrainingConfig, world_size: int = 1) -> float:
    """Peak rate for this run's global batch: gradient noise falls with its square root, so the rate follows that."""
    return config.learning_rate * math.sqrt(global_batch(config, world_size) / config.reference_batch_size)


def global_batch(config: TrainingConfig, world_size: int = 1) -> int:
    """Image visits of one optimizer step."""
    return config.batch_size_per_gpu * config.gradient_accumulation_steps * world_size


def build_optimizer(config: TrainingConfig, model: nn.Module, device: torch.device, world_size: int = 1):
    """AdamW over `models.mimic_vqa_model.parameter_groups`, with the rate scaled to the global batch."""
    scaled = replace(config, learning_rate=scaled_learning_rate(config, world_size))
    return torch.optim.AdamW(parameter_groups(model, scaled), fused=device.type == "cuda")


def build_schedule(optimizer, total_steps: int, warmup_ratio: float) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up over `warmup_ratio` of the steps, then half a cosine down to 0 after the last one."""
    warmup = round(total_steps * warmup_ratio)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        progress = (step - warmup) / max(1, total_steps - warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
