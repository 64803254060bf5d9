"""Trials that tests judge and `tests.fault.figures` counts: each returns what happened, and judges nothing itself."""

from __future__ import annotations

import logging
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.fault import zygote
from training.checkpoint import find_checkpoint, step_directory
from utils.utils import get_logger


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


# Damaged checkpoints


def _truncated(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def _one_bit_flipped(path: Path, other: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def _missing(path: Path, other: Path) -> None:
    path.unlink()


def _empty(path: Path, other: Path) -> None:
    path.write_bytes(b"")


def _of_another_step(path: Path, other: Path) -> None:
    shutil.copy(other, path)


DAMAGES = [_truncated, _one_bit_flipped, _missing, _empty, _of_another_step]


@dataclass
class Damage:
    """What a start finds when one file of the newest checkpoint is damaged."""

    file: str
    kind: str
    found: str
    """name of the checkpoint that is taken"""
    warnings: list[str]


def damaged_files(straight: Path, work: Path) -> list[Damage]:
    """Damage every file of a run's newest checkpoint in every way; a file that two steps have in common is not swapped."""
    newest, before = (step_directory(work, step) for step in (zygote.STEPS, zygote.STEPS - 1))
    for folder in (newest, before):
        shutil.copytree(straight / folder.name, folder)
    trials = []
    for path in sorted(newest.iterdir()):
        good = path.read_bytes()
        for damage in DAMAGES:
            damage(path, before / path.name)
            if not path.exists() or path.read_bytes() != good:
                with listening() as warnings:
                    found = find_checkpoint(work, "auto")
                trials.append(Damage(path.name, damage.__name__.strip("_").replace("_", " "), found.name, warnings))
            path.write_bytes(good)
    return trials


@contextmanager
def listening() -> Iterator[list[str]]:
    """The warnings about checkpoints inside the block."""
    said: list[str] = []
    handler, log = logging.Handler(logging.WARNING), get_logger("training.checkpoint")
    handler.emit = lambda record: said.append(record.getMessage())
    log.addHandler(handler)
    log.propagate = False
    try:
        yield said
    finally:
        log.propagate = True
        log.removeHandler(handler)


# Signals


@dataclass
class Stop:
    """A run that was asked to leave."""

    code: int
    seconds: float
    """from the signal to the end of the process"""
    saved: int
    """step of the checkpoint that a resumed run would take, -1 for none"""
    done: int
    """steps that the log has"""
    said: str


def marks(output: Path, action: Callable | None = None) -> Callable[[], None]:
    """What a child calls at the moment of which the parent wants to know; then it gives the parent some time."""

    def mark() -> None:
        Path(f"{output}.mark").touch()
        time.sleep(0.05) if action is None else action()

    return mark


def signalled(child: zygote.Child, output: Path, signum: int, ready: Callable[[], bool]) -> Stop:
    """Send a signal when `ready`; the child must leave by itself."""
    zygote.until(lambda: ready() or child.ended())
    started = time.monotonic()
    if not child.ended():
        child.send(signum)
    code = child.wait(30)
    seconds = time.monotonic() - started
    found = find_checkpoint(output, "auto")
    steps = [line["step"] for line in zygote.lines(output)]
    return Stop(code, seconds, int(found.name[5:]) if found else -1, max(steps, default=0), child.said)


def signalled_at_random(index, output: Path, rng: random.Random, signum: int) -> Stop:
    step, delay = rng.randrange(1, zygote.STEPS - 2), rng.uniform(0, 0.04)
    child = zygote.start(index, zygote.settings(output, save_steps=3, save_total_limit=2))
    zygote.until(lambda: zygote.reached(output, step) or child.ended())
    time.sleep(delay)
    return signalled(child, output, signum, lambda: True)
