"""Trials that tests judge and `tests.fault.figures` counts: each returns what happened, and judges nothing itself."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from pathlib import Path

from tests.fault import zygote
from training.checkpoint import find_checkpoint


def killed_and_resumed(index, output: Path, rng: random.Random) -> list[int]:
    """A run that is killed once or twice at random moments and resumed to its end; returns all exit codes."""
    codes = []
    config = zygote.settings(output, save_steps=3, save_total_limit=2)
    for step in sorted(rng.sample(range(zygote.STEPS), rng.choice([1, 2]))):
        child = zygote.start(index, config)
        if step:
            zygote.until(lambda step=step, child=child: zygote.reached(output, step) or child.ended())
        time.sleep(rng.uniform(0, 0.05))
        child.kill()
        codes.append(child.code)
    return [*codes, zygote.start(index, config).wait()]


@dataclass
class Saving:
    """A kill while checkpoints are written."""

    announced: int
    """step of the last checkpoint that the log called saved"""
    found: int
    """step of the one that a resumed run would take"""
    left: set[str]
    """hidden names after the kill"""
    cleaned: bool
    """whether the next start had removed them"""


def killed_while_saving(index, output: Path, rng: random.Random, count: int) -> list[Saving]:
    """One run that saves at every step, killed again and again, each time resumed."""
    config = zygote.settings(output, max_steps=10_000, save_steps=1, save_total_limit=2, eval_steps=10_000)
    config.training.logging_steps = 10_000
    trials: list[Saving] = []
    while len(trials) < count:
        before = zygote.announced(output)
        child = zygote.start(index, config)
        zygote.until(lambda before=before, child=child: zygote.announced(output) > before or child.ended())
        if trials:
            trials[-1].cleaned = not trials[-1].left & set(zygote.leftovers(output))
        time.sleep(rng.uniform(0, 0.15))
        child.kill()
        found = find_checkpoint(output, "auto")
        left = set(zygote.leftovers(output))
        trials.append(Saving(zygote.announced(output), int(found.name[5:]), left, not left))
    return trials
