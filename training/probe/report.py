"""What a probe found, as text and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from training.probe.bench import Rig
from training.probe.choices import Search, Trial
from training.probe.costs import Forecast, Memory
from training.probe.memory import most_visits
from training.trainer import count_parameters
from utils.hardware_utils import Hardware
from utils.utils import format_duration

GIB = 2**30
FAR = 10**6
"""More image visits than anybody wants in a micro-batch."""


@dataclass(frozen=True)
class Findings:
    """Measured and chosen; rates are those of one device."""

    hardware: Hardware
    rig: Rig
    search: Search
    rates: dict[int, float]
    """micro-batch -> questions a second of the step"""
    peaks: dict[int, int]
    """micro-batch -> bytes"""
    limit: int
    """bytes that were to be had"""
    best: Trial
    accumulation: int
    loader: dict[int, float]
    """workers -> questions a second of the loader alone; empty where there is nothing to load"""
    workers: int
    keeps_up: bool | None
    questions_per_second: float
    """of step and loader together"""
    forecast: Forecast
    memory: Memory
    settings: dict[str, int]
    written: list[str]
    """settings that are the user's own"""

    def as_json(self) -> dict:
        """Plain values for JSON."""
        engine = self.rig.engine
        return {
            "hardware": asdict(self.hardware),
            "device": self.device,
            "model": self.model,
            "precision": engine.precision.name,
            "data": self.rig.source.text,
            "made_up": self.rig.dataset is None,
            "trials": [asdict(t) | {"questions_per_second": self.rates[t.size]} for t in self.search.trials],
            "largest": {"size": self.search.largest, "exact": self.search.is_exact, "why": self.search.why},
            "memory_limit": self.limit,
            "loader": {"questions_per_second": self.loader, "keeps_up": self.keeps_up},
            "questions_per_second": self.questions_per_second,
            "size": asdict(self.rig.size),
            "forecast": asdict(self.forecast),
            "memory": asdict(self.memory),
            "settings": self.settings,
            "effective_batch": self.effective_batch,
            "notes": self.notes,
        }

    @property
    def effective_batch(self) -> int:
        return self.best.size * self.accumulation * self.forecast.devices

    @property
    def device(self) -> str:
        device = self.rig.engine.device
        if device.type == "cuda":
            return torch.cuda.get_device_name(device)
        return f"CPU, {torch.get_num_threads()} of {self.hardware.cpus} CPUs"

    @property
    def model(self) -> str:
        config = self.rig.config.model
        text = config.text_encoder if config.pretrained else "BERT"
        millions = count_parameters(self.rig.engine.model) / 1e6
        return f"{config.visual_backbone} and {text}, {millions:.1f} million parameters"

    @property
    def notes(self) -> list[str]:
        """What the reader must know to trust the numbers as far as they go, and no farther."""
        notes = list(self.rig.notes)
        if self.rig.dataset is None:
            notes.append("without an index the loader cannot be measured: its workers are those of the usual advice")
        elif not self.loader:
            notes.append("the data are too few to measure the loader")
        elif self.keeps_up is False:
            notes.append("no measured number of workers keeps up with the step: the loader is the limit")
        if self.forecast.devices > 1:
            notes.append(
                f"hours on {self.forecast.devices} devices are a lower bound: they suppose that no device ever waits"
            )
        notes.append(
            "hours are those of the training steps: looks at the validation split, checkpoints and start come on top"
        )
        return notes


def format_findings(found: Findings) -> str:
    """The box that `python -m utils.hardware_utils --probe` prints."""
    lines = [
        "MEASURED TRAINING STEPS",
        f"  Device:            {found.device}",
        f"  Model:             {found.model}",
        f"  Precision:         {found.rig.engine.precision.name}",
        f"  Data:              {found.rig.source.text}",
        *_trials(found),
        *_settings(found),
        *_forecast(found),
        *_memory(found),
        "  Use:",
        "    " + " ".join(f"--set {key}={value}" for key, value in found.settings.items()),
        *(f"  Note: {note}" for note in found.notes),
    ]
    return "\n".join(lines)


def _trials(found: Findings) -> list[str]:
    lines = ["  Micro-batch   questions/s    images/s   peak memory"]
    for trial in found.search.trials:
        rate = found.rates[trial.size]
        images = rate * trial.size / trial.questions
        lines.append(f"  {trial.size:>11} {rate:>13,.1f} {images:>11,.2f} {_gib(trial.peak):>13}")
    return lines


def _settings(found: Findings) -> list[str]:
    return [
        "  Optimal Settings:",
        f"    Batch per GPU:     {found.best.size}",
        f"    Grad accumulation: {found.accumulation}",
        f"    Effective batch:   {found.effective_batch}",
        f"    Precision:         {found.rig.engine.precision.name}",
        f"    Grad checkpoints:  {'on' if found.rig.config.training.gradient_checkpointing else 'off'}",
        f"    Loader workers:    {found.workers} per process",
        "  Reasons:",
        f"    training.batch_size_per_gpu: {_batch_reason(found)}",
        f"    training.gradient_accumulation_steps: {_accumulation_reason(found)}",
        f"    data.num_workers: {_loader_reason(found)}",
    ]


def _batch_reason(found: Findings) -> str:
    if "training.batch_size_per_gpu" in found.written:
        return "as you set it"
    search = found.search
    least = "the smallest within 5 % of the best rate"
    if search.refused:
        close = f"{search.refused} do not" if search.is_exact else f"{search.refused} do not (measured no closer)"
        return f"{least}; {search.largest} image visits fit, {close}"
    held = most_visits(found.peaks, found.limit, FAR)
    more = f", {_gib(found.limit)} would hold about {held:,}" if held < FAR else ""
    return f"{least}; {search.largest} image visits fit{more}; no larger one tried: {search.why}"


def _accumulation_reason(found: Findings) -> str:
    if "training.gradient_accumulation_steps" in found.written:
        return "as you set it"
    reference, effective = found.rig.config.training.reference_batch_size, found.effective_batch
    if effective == reference:
        return f"keeps the effective batch at training.reference_batch_size = {reference}"
    return f"makes the effective batch {effective}, the nearest to training.reference_batch_size = {reference}"


def _loader_reason(found: Findings) -> str:
    measured = ", ".join(f"{workers}: {rate:,.0f}" for workers, rate in found.loader.items())
    own = "as you set it; " if "data.num_workers" in found.written else ""
    if not measured:
        return f"{own}not measured"
    verdict = "the fewest that keep up" if found.keeps_up else "the best of those measured"
    return f"{own or verdict + '; '}questions/s of the loader alone by workers: {measured}"


def _forecast(found: Findings) -> list[str]:
    size, cost = found.rig.size, found.forecast
    device = "GPU" if found.rig.engine.device.type == "cuda" else "device"
    lines = [
        "  Forecast:",
        f"    Questions:         {size.questions:,} an epoch, {size.visits:,} image visits ({size.source})",
        f"    Training:          {cost.steps:,} steps, {cost.epochs:.1f} epochs, {cost.questions:,} questions",
        f"    Rate:              {found.questions_per_second:,.1f} questions/s{' with the loader' * bool(found.loader)}",
        f"    An epoch:          {_hours(cost.hours_per_epoch)} on one device",
        f"    Time:              {_hours(cost.hours)} on one device",
    ]
    if cost.devices > 1:
        lines.append(f"                       {_hours(cost.hours_on_devices)} on {cost.devices} devices at best")
    return [*lines, f"    Cost:              {cost.device_hours:,.2f} {device}-hours"]


def _memory(found: Findings) -> list[str]:
    need = found.memory
    return [
        "  Memory:",
        f"    Weights:           {_gib(need.weights)}",
        f"    Gradients:         {_gib(need.gradients)}",
        f"    Optimizer:         {_gib(need.optimizer)}",
        f"    An image visit:    {_gib(need.per_visit)}, with the visits that need most",
        f"    Checkpoint:        {_gib(need.checkpoint)} on disk, at most {_gib(need.output)} in the output folder",
        f"    Index:             {_gib(need.index)} on disk",
    ]


def _gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB" if size >= 0.1 * GIB else f"{size / 2**20:.1f} MiB"


def _hours(hours: float) -> str:
    return format_duration(3600 * hours)
