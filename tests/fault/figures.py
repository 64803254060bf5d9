"""The figures of docs/RELIABILITY.md: `python -m tests.fault.figures` prints them as a table (about three minutes)."""

from __future__ import annotations

import tests.conftest  # noqa: F401 (first: it sets what libraries read when they are imported)

# isort: split
import os
import random
import signal
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch

from tests.fault import power_cut, trials, zygote
from tests.fault.test_power_cut import DISHONEST, WRITERS
from tests.tiny_training import make_config, make_index, make_trainer

KILLS, SAVES, SIGNALS = 20, 30, 20

Row = tuple[str, str]


def same(output: Path, straight: Path) -> bool:
    return zygote.numbers(output) == zygote.numbers(straight) and zygote.digests(output) == zygote.digests(straight)


def count(results: list[bool]) -> str:
    return f"{sum(results)}/{len(results)}"


def kills(index, straight: Path, work: Path) -> Iterator[Row]:
    survived = []
    for seed in range(KILLS):
        output = work / f"kill-{seed}"
        codes = trials.killed_and_resumed(index, output, random.Random(seed))
        survived.append(codes[-1] == 0 and same(output, straight))
    yield "runs killed once or twice at random moments that end bit for bit like one that was not", count(survived)
    found = trials.killed_while_saving(index, work / "saving", random.Random(SAVES), SAVES + 1)[:SAVES]
    sound = [trial.found >= trial.announced for trial in found]
    yield (
        "kills while a checkpoint was written, after which the newest announced one, or a newer, was found",
        count(sound),
    )
    left = [trial.cleaned for trial in found if trial.left]
    yield "half-written folders that such kills left, gone after the next start", count(left)


def cuts(index, straight: Path, work: Path) -> Iterator[Row]:
    identical = []
    for step in range(1, zygote.STEPS):
        output = work / f"cut-{step}"
        zygote.cut(straight, output, step)
        config = zygote.settings(output)
        config.data.num_workers = step % 2 * 2
        identical.append(zygote.start(index, config).wait() == 0 and same(output, straight))
    yield f"cuts, at each step of a run of {zygote.STEPS}, whose rest is bit for bit the same", count(identical)


def power_cuts(work: Path) -> Iterator[Row]:
    for name, writer in WRITERS.items():
        found = power_cut.tally(*writer, work / f"power-{name}")
        yield f"states of the disk after a power cut while writing {name}: bad of all", shown(found)
    for name, kept in DISHONEST.items():
        found = power_cut.tally(*WRITERS["checkpoints"], work / f"power-{name}", kept, most=4)
        yield f"the same, were there {name} (a sample of the states)", shown(found)


def shown(found: power_cut.Tally) -> str:
    return f"{found.wrong + found.older:,}/{found.states:,}"


def damages(straight: Path, work: Path) -> Iterator[Row]:
    before = f"step-{zygote.STEPS - 1:08d}"
    found = trials.damaged_files(straight, work / "damaged")
    caught = Counter(trial.kind for trial in found if trial.found == before and trial.warnings)
    kinds = Counter(trial.kind for trial in found)
    each = ", ".join(f"{kind} {caught[kind]}/{number}" for kind, number in kinds.items())
    yield "damaged files of the newest checkpoint that were named, and the one before used", each


def signals(index, straight: Path, work: Path) -> Iterator[Row]:
    good, seconds = [], []
    for seed in range(SIGNALS):
        output = work / f"signal-{seed}"
        stop = trials.signalled_at_random(index, output, random.Random(seed), signal.SIGTERM)
        seconds.append(stop.seconds)
        resumed = zygote.start(index, zygote.settings(output)).wait()
        good.append((stop.code, stop.saved, resumed) == (75, stop.done, 0) and same(output, straight))
    yield (
        "SIGTERM at random moments: exit code 75, a checkpoint of the last step, and the resumed run the same",
        count(good),
    )
    late = sorted(seconds)[round(0.95 * len(seconds)) - 1]
    yield "SIGTERM to exit, median and 95th percentile", f"{statistics.median(seconds):.2f} s, {late:.2f} s"


def saving(index, work: Path) -> Iterator[Row]:
    for name, width, layers in (("tiny", 16, 1), ("larger", 512, 4)):
        text = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
        without, loops = [], []
        for n in range(3):  # in turns, and the fastest of each: other programs only ever make them slower
            without.append(run_with_checkpoints(index, work / f"{name}-none-{n}", text, 1000)[1])
            trainer, loop, blocked = run_with_checkpoints(index, work / f"{name}-{n}", text, 10)
            loops.append(loop)
        whole = 100 * (min(loops) / min(without) - 1)
        once = write_at_once(trainer, work / "at-once.pt")
        size, each = (work / "at-once.pt").stat().st_size / 1e6, statistics.median(blocked)
        of = f"{name} model, {size:.1f} MB"
        yield (
            f"share of the step loop that waits for a checkpoint every 10 steps ({of})",
            f"{100 * sum(blocked) / loop:.1f} %, {1000 * each:.1f} ms each",
        )
        yield (
            f"the same data written by torch.save and fsync inside the loop ({of})",
            f"{1000 * once:.1f} ms each, {once / each:.1f} times as long",
        )
        yield (
            f"time of the whole loop against one that saves at its end only ({of})",
            f"{whole:+.1f} %",
        )


def run_with_checkpoints(index, output: Path, text: dict, save_steps: int) -> tuple:
    """(trainer, seconds of the loop without its look at the validation split, seconds that each save held it up)"""
    config = make_config(output, max_steps=40, save_steps=save_steps, eval_steps=1000, logging_steps=1000)
    config.model.text_kwargs |= text
    trainer = make_trainer(index, config)
    saves, looks, started = timed(trainer, "save"), timed(trainer, "look"), time.perf_counter()
    trainer.fit()
    return trainer, time.perf_counter() - started - sum(looks), saves


def timed(thing, name: str) -> list[float]:
    """Seconds of each later call of a method."""
    method, seconds = getattr(thing, name), []

    def call(*args):
        started = time.perf_counter()
        method(*args)
        seconds.append(time.perf_counter() - started)

    setattr(thing, name, call)
    return seconds


def write_at_once(trainer, path: Path) -> float:
    seconds = []
    for _ in range(6):
        started = time.perf_counter()
        with path.open("wb") as file:
            torch.save({"model": trainer.model.state_dict(), "optimizer": trainer.engine.optimizer.state_dict()}, file)
            file.flush()
            os.fsync(file.fileno())
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        index = make_index(work)
        make_trainer(index, make_config(work / "warm", max_steps=1)).fit()
        straight = work / "straight"
        assert zygote.start(index, zygote.settings(straight, save_steps=1, save_total_limit=99)).wait() == 0
        print("| what | figure |\n|---|---|")
        for part in (
            kills(index, straight, work),
            cuts(index, straight, work),
            power_cuts(work),
            damages(straight, work),
            signals(index, straight, work),
            saving(index, work),
        ):
            for what, figure in part:
                print(f"| {what} | {figure} |", flush=True)


if __name__ == "__main__":
    main()
