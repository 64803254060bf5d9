"""How a step is computed: devices, precision and processes. `build_engine` chooses plain PyTorch or DeepSpeed.

The trainer sees the `Engine` protocol only: it has no `if amp` and does not know which engine runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from configs.fast_path import FastPath
from configs.mimic_cxr_config import Config, TrainingConfig
from models.mimic_vqa_model import parameter_groups
from training.batch_norm import share_batch_statistics
from training.outcome import PendingOutcome, Readout, StepOutcome
from training.processes import Processes, single
from utils.allocator import keep_freed_memory
from utils.errors import ConfigError
from utils.hardware_utils import cpu_has_bf16

BF16_CAPABILITY = (8, 0)
"""CUDA compute capability (Ampere) from which bf16 runs on tensor cores."""

BUCKET = 16 * 2**20
"""Gradients that travel together: large enough for the network, small beside the model."""


@dataclass(frozen=True)
class Precision:
    """fp32, bf16 or fp16, and why."""

    name: str
    reason: str

    @property
    def dtype(self) -> torch.dtype:
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.name]


class Engine(Protocol):
    """One optimizer step as the trainer sees it: `begin`, `forward` and `backward` for every micro-batch, then `step`.

    Between `begin` and `step` gradients stay in this process, so that all processes can agree whether the window went
    well, or `discard` it together, before anything of it is exchanged.
    """

    model: nn.Module
    """The bare model: for saving, loading and evaluation."""
    processes: Processes
    device: torch.device
    precision: Precision
    kind: str
    """What the plan prints"""
    runs_ahead: bool
    """The host goes on while the device computes: it pays to settle a step when the next one is under way"""

    def forward(self, *args, **kwargs):
        """The model's forward pass in training, in the engine's precision."""

    def autocast(self) -> AbstractContextManager:
        """Context of a forward pass of the bare model."""

    def begin(self) -> None:
        """A window starts."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this process's share of the loss of a window."""

    def discard(self) -> None:
        """Forget the gradients of this window, in all processes."""

    def abandon(self) -> None:
        """The program is about to end in the middle of a window: nothing may be exchanged any more."""

    def step(self, loss: Tensor) -> PendingOutcome:
        """Sum the gradients over processes, clip, check and apply them, and clear them.

        The step is skipped, in all processes, when a gradient or `loss`, the window's over all processes, is not finite.
        The learning rate moves when an applied step is settled: by the caller, or by the engine before the next update.
        """

    def gathered(self) -> AbstractContextManager:
        """Context in which `model` has its whole weights in this process; all processes enter it together."""

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Fill the model."""

    def state_dict(self) -> EngineState:
        """Optimizer, schedule and scaler in a form that does not depend on engine or number of processes.

        All processes call it together; the tensors are copies in main memory, complete in the main process. Settles the
        last step.
        """

    def load_state_dict(self, state: EngineState) -> None:
        """Go on as the engine that gave this state."""


@dataclass
class EngineState:
    """What an optimizer has learnt beside the weights, by parameter name."""

    tensors: dict[str, Tensor]
    """`exp_avg/<parameter>` and `exp_avg_sq/<parameter>`, fp32"""
    numbers: dict
    """steps taken, schedule and loss scale: for JSON"""


MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's running means of gradient and squared gradient."""


class TorchEngine:
    """Plain PyTorch: one process, or data parallelism over several, on CPUs or GPUs.

    The gradients of a window are summed over processes once, in `step`. `DistributedDataParallel` does it inside the
    last backward pass, where a process that runs out of memory leaves all others waiting.

    The device itself decides whether an update is applied, so the host never waits for it to finish a step before it
    hands over the next one.
    """

    def __init__(self, config: TrainingConfig, model: nn.Module, total_steps: int, processes: Processes):
        self.processes, self.device = processes, processes.device
        self.runs_ahead = self.device.type == "cuda"
        self.precision = choose_precision(config, self.device)
        self.model = prepare_model(config, model, processes)
        self.kind = "plain PyTorch" if not processes.several else "PyTorch data parallelism"
        self.max_grad_norm = config.max_grad_norm
        self.optimizer = build_optimizer(config, self.model, processes.world_size)
        self.scheduler = build_schedule(self.optimizer, total_steps, config.warmup_ratio)
        # gradients underflow in fp16 only; a disabled scaler passes everything through
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision.name == "fp16")
        self._names = parameter_names(self.model)
        self._last: PendingOutcome | None = None

    def forward(self, *args, **kwargs):
        with self.autocast():
            return self.model(*args, **kwargs)

    def autocast(self) -> AbstractContextManager:
        return autocast(self.precision, self.device)

    def begin(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()

    def discard(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def abandon(self) -> None:
        pass

    def step(self, loss: Tensor) -> PendingOutcome:
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        if self.processes.several:
            sum_gradients(parameters, self.processes)
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(parameters, self.max_grad_norm).double()
        loss = loss.to(norm.device, torch.float64, non_blocking=True)
        self._settle_last()  # the rate of this update depends on what became of the one before
        lr = highest_rate(self.optimizer)
        self.optimizer.found_inf = (~(norm.isfinite() & loss.isfinite())).float()  # 1: the fused AdamW does nothing
        self.optimizer.step()
        self.scaler.update()  # after an overflow: a smaller scale
        self.optimizer.zero_grad(set_to_none=True)
        scale = self.scaler.scale(torch.ones_like(norm))
        self._last = PendingOutcome(partial(self._outcome, Readout(torch.stack([norm, loss, scale])), lr))
        return self._last

    def _outcome(self, numbers: Readout, lr: float) -> StepOutcome:
        norm, loss, scale = numbers.read()
        applied = math.isfinite(norm) and math.isfinite(loss)
        if applied:
            self.scheduler.step()
        overflow = self.scaler.is_enabled() and not applied and math.isfinite(loss) and scale > 1
        return StepOutcome(applied, norm, lr, overflow)

    def _settle_last(self) -> None:
        if self._last is not None:
            self._last.settle()

    def gathered(self) -> AbstractContextManager:
        return nullcontext()

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        self.model.load_state_dict(weights)

    def state_dict(self) -> EngineState:
        self._settle_last()
        tensors, steps = {}, torch.zeros(())
        for parameter, name in self._names.items():
            state = self.optimizer.state.get(parameter)
            if state:
                tensors |= {f"{moment}/{name}": copy_to_cpu(state[moment]) for moment in MOMENTS}
                steps = state["step"]
        scaler = self.scaler.state_dict()
        return EngineState(
            tensors, engine_numbers(float(steps), self.scheduler, scaler.get("scale"), scaler.get("_growth_tracker"))
        )

    def load_state_dict(self, state: EngineState) -> None:
        self._settle_last()
        groups = self.optimizer.state_dict()["param_groups"]
        index = {p: i for i, p in enumerate(p for group in self.optimizer.param_groups for p in group["params"])}
        stored = {}
        for parameter, name in self._names.items():
            if f"{MOMENTS[0]}/{name}" in state.tensors:
                # laid out in memory like the parameter: the fused AdamW insists on it
                moments = {m: torch.empty_like(parameter).copy_(state.tensors[f"{m}/{name}"]) for m in MOMENTS}
                stored[index[parameter]] = {"step": torch.tensor(state.numbers["steps"]), **moments}
        self.optimizer.load_state_dict({"state": stored, "param_groups": groups})
        load_schedule(self.scheduler, state.numbers)
        if self.scaler.is_enabled() and state.numbers["loss_scale"]:
            scaler = {"scale": state.numbers["loss_scale"], "_growth_tracker": state.numbers["good_steps"]}
            self.scaler.load_state_dict(self.scaler.state_dict() | scaler)


def build_engine(config: Config, model: nn.Module, total_steps: int, processes: Processes | None = None) -> Engine:
    """The engine for the processes at hand: DeepSpeed for several, unless it is switched off or the stage is 0.

    ConfigError when DeepSpeed is wanted and cannot be had.
    """
    processes = processes or single()
    if processes.several and config.deepspeed.enabled and config.deepspeed.stage > 0:
        from training.deepspeed_engine import DeepSpeedEngine

        return DeepSpeedEngine(config, model, total_steps, processes)
    return TorchEngine(config.training, model, total_steps, processes)


# What both engines share


def prepare_model(config: TrainingConfig, model: nn.Module, processes: Processes) -> nn.Module:
    """Move a model to its device and switch on what the configuration asks for."""
    if processes.device.type == "cpu":
        keep_freed_memory()
    model = model.to(processes.device)
    model.switch(FastPath.without(config.fast_path_off))
    if processes.several:  # processors of different kinds may have drawn them with other last digits
        for tensor in (*model.parameters(), *model.buffers()):
            dist.broadcast(tensor.data, src=0)
    share_batch_statistics(model, processes)
    if config.gradient_checkpointing:
        model.set_gradient_checkpointing(True)
    if config.compile:
        model.compile_parts()
    return model


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager:
    """Weights stay fp32; operations that gain from it compute in bf16 or fp16."""
    return torch.autocast(device.type, precision.dtype, enabled=precision.name != "fp32")


def parameter_names(model: nn.Module) -> dict[nn.Parameter, str]:
    """Trained parameter -> name."""
    return {p: name for name, p in model.named_parameters() if p.requires_grad}


def sum_gradients(parameters: list[nn.Parameter], processes: Processes) -> None:
    """Replace gradients by their sums over processes, some megabytes at a time; a missing one counts as zeros."""
    for bucket in _buckets(parameters):
        for p in bucket:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        flat = torch.cat([p.grad.reshape(-1) for p in bucket])
        with processes.exchange():
            dist.all_reduce(flat)
        for p, total in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
            p.grad.copy_(total.view(p.shape))


def _buckets(parameters: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    bucket, size = [], 0
    for p in parameters:
        bucket.append(p)
        size += p.numel()
        if size >= BUCKET:
            yield bucket
            bucket, size = [], 0
    if bucket:
        yield bucket


def copy_to_cpu(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32, copy=True).contiguous()


def highest_rate(optimizer) -> float:
    """Learning rate of the layers that start from random weights."""
    return max(group["lr"] for group in optimizer.param_groups)


def engine_numbers(steps: float, scheduler, loss_scale: float | None, good_steps: int | None) -> dict:
    """The numbers of an `EngineState`. `good_steps`: in a row, since the loss scale changed."""
    return {
        "steps": steps,
        "schedule_step": scheduler.last_epoch,
        "loss_scale": loss_scale,
        "good_steps": good_steps or 0,
    }


def load_schedule(scheduler, numbers: dict) -> None:
    """Put a schedule and the rates of its optimizer behind so many steps."""
    scheduler.last_epoch = numbers["schedule_step"]
    factors = [factor(scheduler.last_epoch) for factor in scheduler.lr_lambdas]
    rates = [base * factor for base, factor in zip(scheduler.base_lrs, factors, strict=True)]
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler._last_lr = rates


def choose_precision(config: TrainingConfig, device: torch.device) -> Precision:
    """`training.precision` on this device. ConfigError when it asks for what the device cannot do."""
    if not config.fp16:
        return Precision("fp32", "training.fp16 is false")
    if config.precision != "auto":
        if config.precision == "fp16" and device.type != "cuda":
            raise ConfigError("training.precision = fp16 needs a GPU: use auto, bf16 or fp32 on this machine")
        reason = "asked for by training.precision"
        if config.precision == "bf16" and device.type == "cpu" and not cpu_has_bf16():
            reason += ", though this processor has no instructions for it and is faster with fp32"
        return Precision(config.precision, reason)
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


def build_optimizer(config: TrainingConfig, model: nn.Module, world_size: int = 1):
    """AdamW over `models.mimic_vqa_model.parameter_groups`, with the rate scaled to the global batch.

    Fused: one pass over the memory, and an update that the device can leave out by itself (`found_inf`).
    """
    scaled = replace(config, learning_rate=scaled_learning_rate(config, world_size))
    return torch.optim.AdamW(parameter_groups(model, scaled), fused=True)


def build_schedule(optimizer, total_steps: int, warmup_ratio: float) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up over `warmup_ratio` of the steps, then half a cosine down to 0 after the last one."""
    warmup = round(total_steps * warmup_ratio)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        progress = (step - warmup) / max(1, total_steps - warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
