"""What the machine has, and the settings that suit it: `python -m utils.hardware_utils [--simulate "4x NVIDIA L4" | --probe]`.

Advice only: a value that the user wrote is never replaced by it (see `configs.mimic_cxr_config.load_config`).
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import re
import shutil
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from utils import cli
from utils.errors import ConfigError
from utils.quick_imports import quick_imports

GLOBAL_BATCH = 256
"""Image visits of one optimizer step that the default learning rate is meant for."""

CARDS: dict[str, tuple[tuple[int, ...], float]] = {
    "P100": ((16,), 6.0),
    "V100": ((16, 32), 7.0),
    "T4": ((16,), 7.5),
    "A2": ((16,), 8.6),
    "A10": ((24,), 8.6),
    "A10G": ((24,), 8.6),
    "A16": ((16,), 8.6),
    "A30": ((24,), 8.0),
    "A40": ((48,), 8.6),
    "A100": ((40, 80), 8.0),
    "L4": ((24,), 8.9),
    "L40": ((48,), 8.9),
    "L40S": ((48,), 8.9),
    "H100": ((80, 94), 9.0),
    "H200": ((141,), 9.0),
    "B200": ((180,), 10.0),
    "RTX 2080 TI": ((11,), 7.5),
    "RTX 3060": ((12,), 8.6),
    "RTX 3060 TI": ((8,), 8.6),
    "RTX 3070": ((8,), 8.6),
    "RTX 3080": ((10, 12), 8.6),
    "RTX 3090": ((24,), 8.6),
    "RTX 4060": ((8,), 8.9),
    "RTX 4060 TI": ((8, 16), 8.9),
    "RTX 4070": ((12,), 8.9),
    "RTX 4080": ((16,), 8.9),
    "RTX 4090": ((24,), 8.9),
    "RTX 5080": ((16,), 12.0),
    "RTX 5090": ((32,), 12.0),
    "RTX A4000": ((16,), 8.6),
    "RTX A5000": ((24,), 8.6),
    "RTX A6000": ((48,), 8.6),
    "RTX 6000 ADA": ((48,), 8.9),
}
"""Card -> the memory sizes it is sold with (GB) and its compute capability."""

BATCH_TIERS = ((130, 128), (70, 64), (36, 32), (20, 16), (14, 12), (10, 8), (6, 4), (0, 2))
"""(least memory of a GPU in GiB, images of one micro-batch), for ConvNeXt-Base at 224 pixels and BERT-base."""

CPU_BATCH = 4
CPUS_PER_SIMULATED_GPU = 12


@dataclass(frozen=True)
class Gpu:
    name: str
    memory_gib: float
    compute_capability: float

    @property
    def nominal_gb(self) -> int:
        """The memory size the card is sold with; drivers report a little less."""
        sizes = CARDS.get(_card(self.name) or "", ((),))[0]
        close = [size for size in sizes if 0.85 * size <= self.memory_gib <= 1.05 * size]
        return min(close, key=lambda size: abs(size - self.memory_gib)) if close else round(self.memory_gib)


@dataclass(frozen=True)
class Hardware:
    """One machine. `cpus` are those this process may use; `memory_gib` is main memory."""

    gpus: list[Gpu]
    cpus: int
    memory_gib: float
    cpu_bf16: bool = False
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Advice:
    """`key` is a dotted setting, or `effective_batch`, which follows from others."""

    key: str
    value: int | str | bool
    reason: str


# Finding out


def detect() -> Hardware:
    """The GPUs that PyTorch can use (CUDA_VISIBLE_DEVICES counts), and the CPUs and memory of this process."""
    import torch

    gpus, notes = [], []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            capability = float(f"{properties.major}.{properties.minor}")
            gpus.append(Gpu(properties.name, properties.total_memory / 2**30, capability))
    elif shutil.which("nvidia-smi"):
        notes.append(
            "nvidia-smi is there but PyTorch can use no GPU: check the driver, CUDA_VISIBLE_DEVICES and torch's build"
        )
    return Hardware(gpus, cpu_count(), _memory_gib(), cpu_has_bf16(), notes)


def cpu_count() -> int:
    """CPUs this process may use: affinity and container quota (cgroup v2) count, not what the machine has."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup("cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit():
        cpus = min(cpus, max(1, int(quota[0]) // int(quota[1])))
    return cpus


def _memory_gib() -> float:
    import psutil

    total = psutil.virtual_memory().total
    limit = _cgroup("memory.max")
    return (min(total, int(limit)) if limit.isdigit() else total) / 2**30


def _cgroup(name: str) -> str:
    """A limit of this container, or nothing where there is none."""
    path = Path("/sys/fs/cgroup") / name
    return path.read_text().strip() if path.is_file() else ""


def cpu_has_bf16(info: Path = Path("/proc/cpuinfo")) -> bool:
    """Instructions for bfloat16, AVX512_BF16 or AMX: without them it is five to eight times slower than fp32."""
    return info.is_file() and bool(re.search(r"\b(avx512_bf16|amx_bf16)\b", info.read_text()))


def simulate(text: str, cpus: int | None = None) -> Hardware:
    """The machine that `text` describes: "4x NVIDIA L4", "A100 80GB", "cpu". ConfigError for an unknown card.

    Without `cpus`, 12 CPUs with 48 GiB go with each GPU, as is common in clouds.
    """
    if cpus is not None and cpus < 1:
        raise ConfigError(f"--cpus {cpus}: must be at least 1")
    if text.strip().lower() == "cpu":
        cpus = cpus or cpu_count()
        return Hardware([], cpus, 4.0 * cpus)
    match = re.fullmatch(r"\s*(?:(\d+)\s*[x×*]\s*)?([a-z].*?)\s*", text, re.IGNORECASE)
    count = int(match[1] or 1) if match else 0
    card = _card(match[2]) if match else None
    if card is None or not 1 <= count <= 1024:
        known = ", ".join(CARDS)
        raise ConfigError(f'--simulate "{text}": write "cpu" or, for example, "4x NVIDIA L4" with one of: {known}')
    sizes, capability = CARDS[card]
    memory = next((size for size in sizes if re.search(rf"\b{size}\s*GB?\b", match[2], re.IGNORECASE)), sizes[0])
    assumed = [] if cpus else [f"{CPUS_PER_SIMULATED_GPU} CPUs with 48 GiB for each GPU are assumed: see --cpus"]
    cpus = cpus or CPUS_PER_SIMULATED_GPU * count
    return Hardware([Gpu(match[2], float(memory), capability)] * count, cpus, 4.0 * cpus, notes=assumed)


def _card(name: str) -> str | None:
    """The row of CARDS that a name such as "NVIDIA A100-SXM4-80GB" or "RTX3060 Ti" means: the longest that fits."""
    spaced = re.sub(r"RTX(?=[A\d])", "RTX ", name.upper())
    words = set(re.split(r"[^A-Z0-9]+", spaced))
    fitting = [card for card in CARDS if set(card.split()) <= words]
    return max(fitting, key=len, default=None)


# Advice


def recommend(
    hardware: Hardware,
    global_batch: int = GLOBAL_BATCH,
    batch_size_per_gpu: int | None = None,
    nodes: int = 1,
    processes: int | None = None,
) -> list[Advice]:
    """Settings with reasons, for `nodes` machines like `hardware`.

    `batch_size_per_gpu`: the user's own, so that accumulation fits it. `processes` on each machine: one for each GPU
    (on a CPU one) unless given.
    """
    ranks = processes or max(1, len(hardware.gpus))
    batch, reason = _micro_batch(hardware, ranks * nodes, global_batch, batch_size_per_gpu)
    return [
        Advice("training.batch_size_per_gpu", batch, reason),
        *_accumulation(ranks * nodes, batch, global_batch),
        _precision(hardware),
        _checkpointing(hardware, batch),
        *_deepspeed(hardware, ranks * nodes),
        *_loader(hardware, ranks, batch),
    ]


def settings(advice: list[Advice]) -> dict[str, int | str | bool]:
    """The advice as dotted settings, for the `hardware` argument of `load_config`."""
    return {item.key: item.value for item in advice if "." in item.key}


def _micro_batch(hardware: Hardware, devices: int, global_batch: int, given: int | None) -> tuple[int, str]:
    if given is not None:
        return given, "as you set it"
    if not hardware.gpus:
        return min(CPU_BATCH, max(1, global_batch // devices)), "a CPU gains little from larger batches"
    least = _least_memory(hardware)
    batch = next(images for memory, images in BATCH_TIERS if least >= memory)
    if batch * devices > global_batch:
        share = max(1, global_batch // devices)
        return share, f"{devices} GPU(s) share {global_batch} images; {least:.0f} GiB would hold more"
    return batch, f"images that fit {least:.0f} GiB with room to spare"


def _accumulation(devices: int, batch: int, global_batch: int) -> list[Advice]:
    steps = max(1, math.ceil(global_batch / (batch * devices) - 0.5))  # the nearest; of two equally near the smaller
    effective = batch * steps * devices
    product = f"{batch} images x {steps} x {devices} device(s)"
    if effective == global_batch:
        reason = f"makes the effective batch {effective}"
    else:
        reason = f"makes the effective batch {effective}, the nearest to {global_batch}"
        product += "; the learning rate follows with the square root"
    return [
        Advice("training.gradient_accumulation_steps", steps, reason),
        Advice("effective_batch", effective, product),
    ]


def _least_memory(hardware: Hardware) -> float:
    return min(gpu.memory_gib for gpu in hardware.gpus)


def _precision(hardware: Hardware) -> Advice:
    if not hardware.gpus:
        has = "this CPU has" if hardware.cpu_bf16 else "not found here"
        reason = f"bf16 helps large models only, on a CPU with AVX512_BF16 or AMX ({has})"
        return Advice("training.precision", "fp32", reason)
    capability = min(gpu.compute_capability for gpu in hardware.gpus)
    if capability >= 8:
        return Advice("training.precision", "bf16", f"compute capability {capability} has bf16: no loss scaling needed")
    if capability >= 7:
        return Advice("training.precision", "fp16", f"compute capability {capability} has fp16 tensor cores, no bf16")
    return Advice("training.precision", "fp32", f"compute capability {capability} has no tensor cores")


def _checkpointing(hardware: Hardware, batch: int) -> Advice:
    key = "training.gradient_checkpointing"
    if not hardware.gpus:
        return Advice(key, False, "it costs a third more time, and main memory suffices")
    # An estimate on the safe side: 5 GiB of weights, gradients and optimizer, 0.3 GiB of activations an image
    # (ConvNeXt-Base at 224 pixels with 20 questions), and 30 % of the memory left free.
    need, have = 5 + 0.3 * batch, _least_memory(hardware)
    if need <= 0.7 * have:
        return Advice(key, False, f"about {need:.0f} of {have:.0f} GiB are needed without; it costs a third more time")
    return Advice(key, True, f"about {need:.0f} of {have:.0f} GiB would be needed without")


def _deepspeed(hardware: Hardware, devices: int) -> list[Advice]:
    if not hardware.gpus or devices < 2:
        device = "one GPU" if hardware.gpus else "no GPU"
        reason = f"{device}: there is nothing to share out"
        return [Advice("deepspeed.enabled", False, reason), Advice("deepspeed.stage", 0, reason)]
    small = _least_memory(hardware) < 6
    reason = (
        "under 6 GiB a GPU the weights are shared out too" if small else "optimizer state and gradients are shared out"
    )
    return [
        Advice("deepspeed.enabled", True, f"{devices} GPUs (plain data parallelism: set it to false)"),
        Advice("deepspeed.stage", 3 if small else 2, reason),
    ]


def _loader(hardware: Hardware, ranks: int, batch: int) -> list[Advice]:
    """Workers of each rank of this machine; all ranks together leave at least one CPU free."""
    cpus = hardware.cpus
    if hardware.gpus:
        wanted = 8 if batch >= 64 else 4
        workers = min(wanted, (cpus - 1) // ranks)
        reason = f"{workers} of each of {ranks} rank(s), {workers * ranks} in all, on {cpus} CPUs"
    else:
        each = cpus // ranks
        workers = 0 if each < 4 else 1 if each < 16 else 2
        reason = f"training itself needs the {cpus} CPUs; stored images are read fast"
    prefetch = 4 if hardware.memory_gib > 64 else 3 if hardware.memory_gib > 32 else 2
    return [
        Advice("data.num_workers", workers, reason),
        Advice(
            "data.prefetch_factor",
            prefetch,
            f"batches ahead of each worker, for {hardware.memory_gib:.0f} GiB of memory",
        ),
    ]


# Printing


def format_box(hardware: Hardware, advice: list[Advice]) -> str:
    """The box that `python -m utils.hardware_utils` prints."""
    value = {item.key: item.value for item in advice}
    names = Counter(gpu.name for gpu in hardware.gpus)
    gpus = ", ".join(f"{count} x {name}" for name, count in names.items()) or "none (CPU only)"
    zero = f"ZeRO-{value['deepspeed.stage']}" if value["deepspeed.enabled"] else "not needed"
    workers, ranks = value["data.num_workers"], max(1, len(hardware.gpus))
    lines = [
        "HARDWARE DETECTION RESULTS",
        f"  GPUs:              {gpus}",
        f"  GPU Memory:        {_memory_line(hardware)}",
        "  Optimal Settings:",
        f"    Batch per GPU:     {value['training.batch_size_per_gpu']}",
        f"    Grad accumulation: {value['training.gradient_accumulation_steps']}",
        f"    Effective batch:   {value['effective_batch']}",
        f"    DeepSpeed:         {zero}",
        f"    Precision:         {value['training.precision']}",
        f"    Grad checkpoints:  {'on' if value['training.gradient_checkpointing'] else 'off'}",
        f"    Loader workers:    {workers} per process ({workers * ranks} in all)",
        f"    Prefetch:          {value['data.prefetch_factor']} batches",
        f"  CPUs:              {hardware.cpus}",
        f"  Memory:            {hardware.memory_gib:.0f} GiB",
        "  Reasons:",
        *(f"    {item.key}: {item.reason}" for item in advice),
        *(f"  Note: {note}" for note in hardware.notes),
    ]
    return "\n".join(lines)


def _memory_line(hardware: Hardware) -> str:
    sizes = [gpu.nominal_gb for gpu in hardware.gpus]
    if not sizes:
        return "none"
    each = f"{sizes[0]}" if len(set(sizes)) == 1 else f"{min(sizes)} to {max(sizes)}"
    return f"{each} GB per GPU ({sum(sizes)} GB total)"


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m utils.hardware_utils",
        description="Detect the hardware and advise; with --probe: measure. The common options are for --probe.",
        formatter_class=cli.HelpFormatter,
    )
    advice = parser.add_argument_group("advice")
    advice.add_argument("--json", action="store_true", help="machine-readable: hardware, advice and settings")
    advice.add_argument(
        "--simulate",
        metavar="TEXT",
        help='advise for another machine: "4x NVIDIA L4", "A100 80GB", "cpu" (default: this one)',
    )
    advice.add_argument(
        "--cpus", type=int, metavar="N", help="CPUs of the simulated machine (default: 12 for each GPU)"
    )
    probe = parser.add_argument_group("measuring")
    probe.add_argument("--probe", action="store_true", help="take training steps here; what they and a run cost")
    probe.add_argument("--devices", type=int, metavar="N", help="devices of the run (default: those of this machine)")
    probe.add_argument("--max_minutes", type=float, metavar="N", help="about the time that --probe takes (default: 5)")
    cli.add_common_arguments(parser)
    args = parser.parse_args(argv)
    if args.cpus is not None and args.simulate is None:
        parser.error("--cpus goes with --simulate")
    if args.probe and args.simulate is not None:
        raise ConfigError("--probe measures this machine and --simulate describes another one: leave one of them out")
    of_the_probe = "--config --mimic_cxr_path --mimic_qa_path --set --print_config --devices --max_minutes".split()
    given = [option for option in of_the_probe if getattr(args, option[2:]) not in (None, [], False)]
    if given and not args.probe:
        raise ConfigError(f"{', '.join(given)}: for --probe only")
    return args


def main(argv: list[str]) -> int:
    args = parse(argv)
    if args.probe:
        os.environ["HF_HUB_OFFLINE"] = "1"  # libraries read it when they are imported: a probe downloads nothing
        # by name: what it measures lies in layers above this one, and only this command needs them
        with quick_imports():
            probe = importlib.import_module("training.probe")
        return probe.main(args)
    hardware = detect() if args.simulate is None else simulate(args.simulate, args.cpus)
    advice = recommend(hardware)
    if args.json:
        found = {
            "hardware": asdict(hardware),
            "advice": [asdict(item) for item in advice],
            "settings": settings(advice),
        }
        print(json.dumps(found, indent=2))
    else:
        print(format_box(hardware, advice))
    return 0


if __name__ == "__main__":
    cli.run(main)
