"""Measuring several variants of the same work against each other, in turns.

A machine's speed moves by a quarter while other programs run. So all compared variants are measured in every round, one
after the other, and compared within the round. Each round begins with another variant.
"""

from __future__ import annotations

import gc
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.flops import COUNTED, Count, counted_flops
from training.probe.memory import memory_in_use, peak_memory
from utils.allocator import give_back_freed_memory


@dataclass(frozen=True)
class Variant:
    """One way of doing the work."""

    name: str
    call: Callable[..., Any]
    """What is measured. With `prepare` it is given that function's result; without `items` it returns their number."""
    items: float | None = None
    """What a call does, in `unit`s"""
    unit: str = "questions"
    flops: float | None = None
    """Floating-point operations of a call; a multiplication and an addition are two"""
    flops_of: str = ""
    """The formula of `flops`"""
    count_flops: bool = False
    """Count them in the warm-up instead; not for compiled code"""
    precision: str = "fp32"
    """Of most of the arithmetic: fp32, bf16 or fp16; which ceiling `flops` are compared with"""
    copied: float | None = None
    """Bytes that a call has to read and write at least"""
    prepare: Callable[[], Any] | None = None
    """Called before each call, outside the measurement"""
    note: str = ""


@dataclass(frozen=True)
class Round:
    """One variant in one round; all figures a call."""

    wall: float
    """seconds"""
    cpu: float
    """seconds of all cores, of this process and of the ones it waited for"""
    items: float
    calls: int


@dataclass
class Measured:
    """A variant with its rounds."""

    variant: Variant
    rounds: list[Round] = field(default_factory=list)
    peak: int = 0
    """bytes above what was in use before, at the highest point of the first call"""
    flops: float | None = None
    """of a call"""

    @property
    def name(self) -> str:
        return self.variant.name

    @property
    def flops_of(self) -> str:
        return COUNTED if self.variant.count_flops else self.variant.flops_of

    @property
    def seconds(self) -> float:
        """median wall seconds of a call"""
        return statistics.median(r.wall for r in self.rounds)

    @property
    def cpu_seconds(self) -> float:
        """median CPU seconds of a call"""
        return statistics.median(r.cpu for r in self.rounds)

    @property
    def items(self) -> float:
        """of a call, median"""
        return statistics.median(r.items for r in self.rounds)

    @property
    def rate(self) -> float:
        """items a wall second, median over rounds"""
        return statistics.median(r.items / r.wall for r in self.rounds)

    @property
    def cpu_rate(self) -> float:
        """items a CPU second, median over rounds; 0 where the CPU had nothing to do"""
        return statistics.median(r.items / r.cpu if r.cpu else 0.0 for r in self.rounds)

    @property
    def spread(self) -> float:
        """(slowest - fastest) / median of the wall seconds of a call"""
        wall = [r.wall for r in self.rounds]
        return (max(wall) - min(wall)) / statistics.median(wall)


@dataclass(frozen=True)
class Ratio:
    """How many times as many items a second as the baseline."""

    of_medians: float
    median: float
    """of the ratios of single rounds"""
    least: float
    most: float


def measure(
    variants: Sequence[Variant],
    rounds: int,
    device: torch.device | str = "cpu",
    *,
    least_seconds: float = 0.0,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Measured]:
    """Call all variants in turns.

    The first call of each is a warm-up: it is not timed, and its peak memory is the one that is reported.

    Args:
        rounds: of measurement, after the warm-up.
        device: a GPU is waited for at both ends of a measurement.
        least_seconds: calls are repeated within a round until it has lasted so long: for calls of microseconds.
        progress: is told what is going on.
    """
    device = torch.device(device)
    measured = [Measured(variant) for variant in variants]
    gc.collect()
    gc.freeze()  # what is here now is not looked through again and again
    try:
        _measure(measured, rounds, device, least_seconds, progress)
    finally:
        gc.unfreeze()
    return measured


def _measure(
    measured: list[Measured], rounds: int, device: torch.device, least_seconds: float, progress: Callable[[str], None]
) -> None:
    for one in measured:
        progress(f"warm-up: {one.name}")
        gc.collect()
        give_back_freed_memory()
        before = memory_in_use(device)
        counting = counted_flops() if one.variant.count_flops else nullcontext(Count(one.variant.flops))
        with peak_memory(device) as peak, counting as count:
            _prepared(one.variant)()
        one.peak, one.flops = max(0, peak.highest - before), count.flops
    for number in range(rounds):
        first = number % len(measured)
        for one in measured[first:] + measured[:first]:
            progress(f"round {number + 1} of {rounds}: {one.name}")
            one.rounds.append(_round(one.variant, device, least_seconds))


def compare(measured: Measured, baseline: Measured, clock: str = "wall") -> Ratio:
    """Rate of one variant by that of another; `clock` is `wall` or `cpu`."""
    ours, theirs = ([r.items / max(getattr(r, clock), 1e-12) for r in one.rounds] for one in (measured, baseline))
    single = [a / b for a, b in zip(ours, theirs, strict=True)]
    of_medians = statistics.median(ours) / statistics.median(theirs)
    return Ratio(of_medians, statistics.median(single), min(single), max(single))


def cpu_seconds() -> float:
    """CPU time so far of this process, with all threads, and of the child processes that have ended and been waited for."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usage)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all that it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _round(variant: Variant, device: torch.device, least_seconds: float) -> Round:
    wall = cpu = items = 0.0
    calls = 0
    gc.collect()
    while not calls or wall < least_seconds:
        call = _prepared(variant)
        synchronise(device)
        cpu_start, start = cpu_seconds(), time.perf_counter()
        count = call()
        synchronise(device)
        wall += time.perf_counter() - start
        cpu += cpu_seconds() - cpu_start
        items += count if variant.items is None else variant.items
        calls += 1
    return Round(wall / calls, cpu / calls, items / calls, calls)


def _prepared(variant: Variant) -> Callable[[], Any]:
    if variant.prepare is None:
        return variant.call
    argument = variant.prepare()
    return lambda: variant.call(argument)
