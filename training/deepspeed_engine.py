"""DeepSpeed ZeRO stages 1 to 3 behind the `Engine` protocol. Imported only when several processes use it.

Weights are fp32 and operations run under autocast, exactly as in the plain engine: no half-precision copy of the model
exists whose types could fail to match, and both engines compute the same numbers. Gradients are exchanged once a window
(`coalesce_grad_reduction`). What the optimizer has learnt is saved by parameter name, complete, as in the plain
engine, so a run goes on with another number of processes or another engine; no shards, no pickles.
"""

from __future__ import annotations

import json
import math
import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from configs.mimic_cxr_config import Config
from training.engine import (
    MOMENTS,
    EngineState,
    autocast,
    build_optimizer,
    build_schedule,
    choose_precision,
    copy_to_cpu,
    engine_numbers,
    highest_rate,
    load_schedule,
    parameter_names,
    prepare_model,
)
from training.outcome import PendingOutcome, StepOutcome
from training.processes import Processes
from utils.errors import ConfigError
from utils.utils import get_logger

log = get_logger(__name__)

FIRST_SCALE, GROWTH_INTERVAL = 2.0**16, 2000
"""Of the loss scale in fp16, as in `torch.amp.GradScaler`."""

OURS = ("optimizer", "scheduler", "bf16", "fp16", "torch_autocast", "amp", "data_types")
"""Sections that would contradict the project's own settings."""


class DeepSpeedEngine:
    """One of several processes under ZeRO."""

    runs_ahead = False  # DeepSpeed waits for the device in each step

    def __init__(self, config: Config, model: nn.Module, total_steps: int, processes: Processes):
        training = config.training
        deepspeed = import_deepspeed(processes.device)
        self._zero = deepspeed.zero
        self.processes, self.device = processes, processes.device
        self.precision = choose_precision(training, self.device)
        # ZeRO lays all weights out in flat tensors
        self.model = prepare_model(training, model, processes).to(memory_format=torch.contiguous_format)
        self.stage = config.deepspeed.stage
        self.kind = f"DeepSpeed {deepspeed.__version__} ZeRO-{self.stage}"
        self._names = parameter_names(self.model)
        self._engine, self._optimizer, _, self.scheduler = deepspeed.initialize(
            model=_UnderAutocast(self.model, self.precision, self.device),
            optimizer=build_optimizer(training, self.model, processes.world_size),
            lr_scheduler=lambda optimizer: build_schedule(optimizer, total_steps, training.warmup_ratio),
            config=completed(config),
            dist_init_required=False,
        )
        if self.stage == 3:
            _keep_whole_beside_the_encoders(self._optimizer, self.model)
            self._gather_persistent()
        # DeepSpeed would link what the optimizer makes in its first step, and only for the first group of parameters
        self._make_moments(0.0)
        self._window = None
        self._scale, self._good_steps = None, 0
        if self.precision.name == "fp16":
            self._set_scale(FIRST_SCALE)

    def forward(self, *args, **kwargs):
        return self._engine(*args, **kwargs)

    def autocast(self) -> AbstractContextManager:
        return autocast(self.precision, self.device)

    def begin(self) -> None:
        self._window = self._engine.coalesce_grad_reduction()
        self._window.__enter__()

    def backward(self, loss: Tensor) -> None:
        # DeepSpeed averages over processes; the loss of a window is a sum over them
        self._engine.backward(loss * self.processes.world_size, scale_wrt_gas=False)

    def discard(self) -> None:
        # the window can only be left through the exchange, in which all processes need the same gradients
        with self.gathered():
            for parameter in self._names:
                parameter.grad = torch.zeros_like(parameter)
        self._exchange()
        self._optimizer.zero_grad(set_to_none=True)

    def abandon(self) -> None:
        if self._window is not None:  # left open, it would exchange gradients when Python clears it away
            self._engine._flush_coalesced_reduction_zero12 = lambda optimizer: None
            self._engine._flush_coalesced_reduction_zero3 = lambda optimizer: None
            self._exchange()

    def step(self, loss: Tensor) -> PendingOutcome:
        lr = highest_rate(self._optimizer)
        self._fill_missing()
        if not loss.isfinite():  # DeepSpeed's own check then skips the step in all processes, and counts it
            next(iter(self._names)).grad.fill_(math.nan)
        self._exchange()
        skipped = self._engine.skipped_steps
        self._engine.step()
        applied = self._engine.skipped_steps == skipped
        if not applied:
            self._gather_persistent()
        norm = float(self._engine.get_global_grad_norm())
        self._adapt_scale(applied)
        overflow = self._scale is not None and not applied and bool(loss.isfinite()) and self._scale > 1
        outcome = StepOutcome(applied, norm, lr, overflow)
        return PendingOutcome(lambda: outcome)

    def _fill_missing(self) -> None:
        for parameter in self._names:
            if parameter.grad is None and parameter.numel():
                parameter.grad = torch.zeros_like(parameter)

    def _exchange(self) -> None:
        window, self._window = self._window, None
        window.__exit__(None, None, None)
        self._engine.set_gradient_accumulation_boundary(True)

    def _set_scale(self, scale: float) -> None:
        self._scale = scale
        self._optimizer.override_loss_scale(scale)

    def _adapt_scale(self, applied: bool) -> None:
        if self._scale is None:
            return
        self._good_steps = self._good_steps + 1 if applied else 0
        if not applied:
            self._set_scale(max(1.0, self._scale / 2))
        elif self._good_steps == GROWTH_INTERVAL:
            self._good_steps = 0
            self._set_scale(2 * self._scale)

    def gathered(self) -> AbstractContextManager:
        if self.stage < 3:
            return nullcontext()
        return self._zero.GatheredParameters([p for p in self.model.parameters() if not p.ds_persist])

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        if self.stage == 3:
            with self._zero.GatheredParameters(list(self.model.parameters()), modifier_rank=0):
                self.model.load_state_dict(weights)
            self._gather_persistent()
        else:
            self.model.load_state_dict(weights)
        self._optimizer.refresh_fp32_params()

    def _gather_persistent(self) -> None:
        """Under ZeRO-3: make what is never shared out whole again, where DeepSpeed leaves its parts behind."""
        if self.stage == 3 and self._optimizer.persistent_parameters:
            self._optimizer.persistent_parameters[0].all_gather(self._optimizer.persistent_parameters)

    def state_dict(self) -> EngineState:
        from deepspeed.utils import safe_get_full_optimizer_state

        tensors, steps = {}, self._steps()
        if steps:
            for parameter, name in self._names.items():
                for moment in MOMENTS:
                    whole = safe_get_full_optimizer_state(parameter, moment)
                    if self.processes.is_main:
                        tensors[f"{moment}/{name}"] = copy_to_cpu(whole)
        return EngineState(tensors, engine_numbers(steps, self.scheduler, self._scale, self._good_steps))

    def load_state_dict(self, state: EngineState) -> None:
        load_schedule(self.scheduler, state.numbers)
        if self._scale is not None and state.numbers["loss_scale"]:
            self._set_scale(state.numbers["loss_scale"])
            self._good_steps = state.numbers["good_steps"]
        self._make_moments(state.numbers["steps"])
        for parameter, name in self._names.items():
            for moment in MOMENTS if state.tensors else ():
                self._set_moment(parameter, moment, state.tensors[f"{moment}/{name}"])

    def _partitions(self) -> list[Tensor]:
        """The flat tensors that the optimizer really works on: this process's part of all parameters."""
        zero = self._optimizer
        return zero.fp32_partitioned_groups_flat if self.stage == 3 else zero.single_partition_of_fp32_groups

    def _steps(self) -> float:
        state = self._optimizer.optimizer.state
        return max((float(state[p]["step"]) for p in self._partitions() if "step" in state.get(p, {})), default=0.0)

    def _make_moments(self, steps: float) -> None:
        """Give the optimizer the state that it would make in its first step, as if it had taken so many."""
        adam = self._optimizer.optimizer
        for partition in self._partitions():
            counter = torch.tensor(steps, device=partition.device)
            adam.state[partition] = {"step": counter} | {moment: torch.zeros_like(partition) for moment in MOMENTS}
        if self.stage < 3:
            self._optimizer._hp_optimizer_states_linked = False
            self._optimizer._lazy_init_hp_params_optimizer_state()

    def _set_moment(self, parameter: nn.Parameter, moment: str, whole: Tensor) -> None:
        from deepspeed.utils import (
            safe_get_local_optimizer_state,
            safe_set_full_optimizer_state,
            safe_set_local_optimizer_state,
        )

        whole = whole.to(self.device)
        if self.stage < 3:
            safe_set_full_optimizer_state(parameter, whole, moment)
            return
        # a parameter's parts have equal sizes, so the last one may reach beyond its end
        size = safe_get_local_optimizer_state(parameter, moment).numel()
        padded = nn.functional.pad(whole.flatten(), (0, size * self.processes.world_size - whole.numel()))
        part = padded.narrow(0, size * self.processes.rank, size)
        safe_set_local_optimizer_state(parameter, part, moment)


def _keep_whole_beside_the_encoders(optimizer, model: nn.Module) -> None:
    """Under ZeRO-3, share out the encoders' weights only, which are nine tenths of all.

    ZeRO-3 brings weights together where a module takes and returns tensors. Fusion and heads use weights across modules
    and return dataclasses, which it cannot see.
    """
    backbones = {p for module in model.pretrained_modules() for p in module.parameters()}
    for parameter in model.parameters():
        if parameter not in backbones:
            parameter.is_external_param = True  # never released between forward and backward pass
            if not parameter.ds_persist:
                parameter.ds_persist = True
                optimizer.persistent_parameters.append(parameter)


class _UnderAutocast(nn.Module):
    """The model as DeepSpeed calls it. DeepSpeed switches any outer autocast off, so it has to be inside."""

    def __init__(self, model: nn.Module, precision, device: torch.device):
        super().__init__()
        self.model, self._precision, self._device = model, precision, device

    def forward(self, *args, **kwargs):
        with autocast(self._precision, self._device):
            return self.model(*args, **kwargs)


def import_deepspeed(device: torch.device):
    """The library, set up so that it compiles nothing. ConfigError when it is missing or too old."""
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
        import deepspeed
        from deepspeed import ops
    except ImportError as error:
        raise ConfigError(
            f"deepspeed.enabled: DeepSpeed cannot be imported ({error}); pip install -r requirements.txt, or train with "
            "plain data parallelism: --set deepspeed.enabled=false"
        ) from error
    if not hasattr(deepspeed.DeepSpeedEngine, "coalesce_grad_reduction"):
        raise ConfigError(
            f"deepspeed.enabled: DeepSpeed {deepspeed.__version__} is too old: pip install -r requirements.txt, or "
            "--set deepspeed.enabled=false"
        )
    # would be compiled at the first use, for a minute, to speed up exchanges between CPUs; gloo does them as well
    ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.utils.logger.setLevel("WARNING")
    return deepspeed


def completed(config: Config) -> dict:
    """`deepspeed.config_path` with this run's values in place of "auto".

    `deepspeed.stage` replaces the stage of the file. ConfigError when the file is unreadable, or sets something else that
    the project's own configuration decides otherwise.
    """
    path, training = Path(config.deepspeed.config_path), config.training
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"deepspeed.config_path = {path}: cannot be read as JSON ({error})") from error
    if not isinstance(settings, dict) or not isinstance(settings.get("zero_optimization", {}), dict):
        raise ConfigError(
            f"deepspeed.config_path = {path}: must hold one JSON object, with an object zero_optimization"
        )
    for section in OURS:
        if section in settings:
            raise ConfigError(f"{path}: remove {section!r}: training.* of the project's configuration decides it")
    zero = settings.setdefault("zero_optimization", {})
    _fill(settings, "train_micro_batch_size_per_gpu", training.batch_size_per_gpu, "training.batch_size_per_gpu", path)
    _fill(
        settings,
        "gradient_accumulation_steps",
        training.gradient_accumulation_steps,
        "training.gradient_accumulation_steps",
        path,
    )
    _fill(settings, "gradient_clipping", training.max_grad_norm, "training.max_grad_norm", path)
    zero["stage"] = config.deepspeed.stage
    if settings.pop("train_batch_size", "auto") != "auto":
        raise ConfigError(f"{path}: remove 'train_batch_size': it follows from the batch sizes of training.*")
    if zero.get("offload_optimizer") or zero.get("offload_param"):
        raise ConfigError(f"{path}: remove offloading: this model's optimizer fits any GPU that ZeRO shares it out to")
    return settings


def _fill(section: dict, name: str, value, key: str, path: Path) -> None:
    if section.get(name, "auto") not in ("auto", value):
        raise ConfigError(f'{path}: {name} = {section[name]!r} contradicts {key} = {value!r}: write "auto" there')
    section[name] = value
