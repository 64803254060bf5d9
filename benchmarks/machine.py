"""What the machine is, and how fast it can be at best: measured matrix products and copies."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.timing import synchronise
from utils import hardware_utils
from utils.version import commit

MATRIX = {"cpu": 1536, "cuda": 8192}
"""Side of the multiplied matrices"""
COPIED_BYTES = {"cpu": 2**28, "cuda": 2**31}
"""Far more than the caches hold"""
CEILING_SECONDS = 0.5
"""For each ceiling; the best of all repetitions counts"""
LIBRARIES = ("torch", "torchvision", "timm", "transformers", "numpy", "pyarrow", "pillow")


@dataclass(frozen=True)
class Ceilings:
    """The best that was measured on the device."""

    flops: dict[str, float]
    """precision -> floating-point operations a second of a matrix product"""
    copy: float
    """bytes a second, read and written counted both, of a copy within the device's memory"""

    def best(self, other: Ceilings) -> Ceilings:
        """The higher of each."""
        return Ceilings(
            {name: max(value, other.flops[name]) for name, value in self.flops.items()}, max(self.copy, other.copy)
        )

    def share_of_arithmetic(self, flops: float, seconds: float, precision: str) -> float | None:
        """Achieved part of the ceiling; None where this precision was not measured."""
        return flops / seconds / self.flops[precision] if precision in self.flops else None

    def share_of_copy(self, moved: float, seconds: float) -> float:
        return moved / seconds / self.copy


@dataclass
class Machine:
    """Where figures come from."""

    device: str
    processor: str
    cpus: int
    threads: int
    memory_gib: float
    cpu_bf16: bool
    gpus: list[str]
    versions: dict[str, str]
    commit: str | None
    """of the repository, with `+changes` where files differ from it; None without git"""
    ceilings: Ceilings
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For the terminal."""
        peaks = ", ".join(f"{name} {value / 1e9:,.3g} GFLOP/s" for name, value in self.ceilings.flops.items())
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return [
            f"machine   {self.processor}, {self.cpus} CPUs, {self.threads} threads used, {self.memory_gib:.0f} GiB",
            f"device    {self.device}" + (f" ({', '.join(self.gpus)})" if self.gpus else ""),
            f"ceilings  matrix product {peaks}; copy {self.ceilings.copy / 1e9:.3g} GB/s read and written",
            f"versions  {versions}; commit {self.commit or 'unknown'}",
            *(f"note      {note}" for note in self.notes),
        ]


def describe(device: torch.device) -> Machine:
    """Find out about the machine and measure its ceilings: about two seconds."""
    hardware = hardware_utils.detect()
    return Machine(
        device=str(device),
        processor=processor_name(),
        cpus=hardware.cpus,
        threads=torch.get_num_threads(),
        memory_gib=hardware.memory_gib,
        cpu_bf16=hardware.cpu_bf16,
        gpus=[gpu.name for gpu in hardware.gpus] if device.type == "cuda" else [],
        versions=versions(),
        commit=commit(),
        ceilings=measure_ceilings(device, hardware.cpu_bf16),
        notes=hardware.notes,
    )


def look_again(machine: Machine, device: torch.device) -> None:
    """Raise the ceilings if the machine is less busy now."""
    machine.ceilings = machine.ceilings.best(measure_ceilings(device, machine.cpu_bf16))


def measure_ceilings(device: torch.device, cpu_bf16: bool) -> Ceilings:
    """Matrix products in the precisions that the device computes in hardware, and a copy."""
    precisions = {"fp32": torch.float32}
    if device.type == "cuda":
        precisions |= {"bf16": torch.bfloat16, "fp16": torch.float16}
    elif cpu_bf16:
        precisions["bf16"] = torch.bfloat16
    flops = {name: _matmul_flops(device, kind) for name, kind in precisions.items()}
    return Ceilings(flops, _copy_bytes(device))


def _matmul_flops(device: torch.device, kind: torch.dtype) -> float:
    side = MATRIX[device.type]
    a, b = (torch.randn(side, side, device=device).to(kind) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * side**3 / _fastest(lambda: torch.mm(a, b, out=out), device)


def _copy_bytes(device: torch.device) -> float:
    source = torch.zeros(COPIED_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * len(source) / _fastest(lambda: target.copy_(source), device)


def _fastest(call, device: torch.device) -> float:
    call()
    synchronise(device)
    best, end = float("inf"), time.perf_counter() + CEILING_SECONDS
    start = 0.0
    while start < end:
        start = time.perf_counter()
        call()
        synchronise(device)
        best = min(best, time.perf_counter() - start)
    return best


def processor_name() -> str:
    """As the system calls it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Python and the libraries that do the work."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
