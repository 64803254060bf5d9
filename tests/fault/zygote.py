"""Small trainings in forked children of the tests' own process: to be killed, signalled and looked at.

The tests have imported everything already, so a run starts in milliseconds and ends with the exit code and the message that
the command line would give.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import multiprocessing.util
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from configs.mimic_cxr_config import Config
from tests.tiny_training import make_config, make_trainer
from training.tracking import JsonlSink, Sinks
from training.trainer import Trainer
from utils import cli
from utils.interruption import interruption
from utils.run_lock import run_lock
from utils.utils import setup_logging

if not hasattr(os, "fork"):
    pytest.skip("this system does not fork", allow_module_level=True)
torch.set_num_threads(1)  # a child has no thread but the one that forked

STEPS = 14
"""Of the runs here: three and a half epochs, three looks at the validation split, several checkpoints"""

UNSTABLE = ("time", "system/", "train/images_per_", "train/questions_per_", "train/seconds_left", "val/seconds")
"""Numbers of a log that two runs need not share"""


@dataclass
class Child:
    """A forked process."""

    pid: int
    log: Path
    code: int | None = None
    """of its end; -9 after SIGKILL"""

    @property
    def said(self) -> str:
        """What it wrote to stdout and stderr."""
        return self.log.read_text(encoding="utf-8")

    def send(self, signum: int) -> None:
        os.kill(self.pid, signum)

    def ended(self) -> bool:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is not None

    def wait(self, timeout: float = 60) -> int:
        """Its exit code. A child that outlives the time-out is killed, and the test fails."""
        try:
            until(self.ended, timeout)
        except TimeoutError as error:
            self.send(signal.SIGKILL)
            until(self.ended, 10)
            raise TimeoutError(f"a child ran for more than {timeout} s; it said: {self.said[-2000:]}") from error
        return self.code

    def kill(self) -> None:
        """End it without a chance to clean up; does nothing when it has ended by itself."""
        if not self.ended():
            self.send(signal.SIGKILL)
            self.wait()


def until(condition: Callable[[], bool], timeout: float = 30) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.002)


def fork(action: Callable[[], object], log: Path) -> Child:
    """Run `action` in a child as a command line would be run; what it says goes to the file `log`."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Child(pid, log)
    code = 99
    try:
        # only what is registered from here on is done at the end, as in a process of its own
        atexit._clear()
        atexit.register(multiprocessing.util._exit_function)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout = sys.stderr = os.fdopen(descriptor, "w", buffering=1, encoding="utf-8")
        cli.run(lambda _: action() and None, [])
    except SystemExit as end:
        code = end.code
        threading._shutdown()
        atexit._run_exitfuncs()
    finally:
        os._exit(code)


def train(
    index, config: Config, resume: str = "auto", prepare: Callable[[Trainer], object] = lambda trainer: None
) -> None:
    """Train as `training.run.train` does, but for the text-only control. `prepare` may plant a fault."""
    interruption.install()
    output = Path(config.training.output_dir)
    with run_lock(output):
        setup_logging(output / "train.log")
        trainer = make_trainer(index, config, resume)
        trainer.sinks = Sinks([JsonlSink(output / "metrics.jsonl")])
        prepare(trainer)
        try:
            trainer.fit()
        finally:
            trainer.sinks.close()


def start(index, config: Config, resume: str = "auto", prepare=lambda trainer: None) -> Child:
    output = Path(config.training.output_dir)
    return fork(lambda: train(index, config, resume, prepare), output.parent / f"{output.name}.said")


def settings(output: Path, **training) -> Config:
    return make_config(output, **({"max_steps": STEPS} | training))


def before_step(step: int, action: Callable[[], object]) -> Callable[[Trainer], None]:
    """A fault for `train`: call `action` in the step after `step` steps, before anything of it is computed."""

    def prepare(trainer: Trainer) -> None:
        take_step = trainer.take_step

        def faulty(window, seed):
            if trainer.state.step == step:
                trainer.saver.settle()  # what happens then must not depend on how far an earlier checkpoint is written
                action()
            return take_step(window, seed)

        trainer.take_step = faulty

    return prepare


def cut(whole: Path, output: Path, step: int) -> None:
    """Make `output` what a run leaves that is killed after `step` steps: of a run that kept all its checkpoints."""
    output.mkdir()
    for name in ("metrics.jsonl", "train.log", "config.yaml"):
        shutil.copy(whole / name, output)
    for name in ("best_model", f"step-{step:08d}"):
        shutil.copytree(whole / name, output / name)


def first(number: int, cases: Iterable) -> list:
    """Cases for `parametrize`: so many in every run of the tests, the others with --slow."""
    wrapped = [pytest.param(*(case if isinstance(case, tuple) else (case,))) for case in cases]
    return [
        case if n < number else pytest.param(*case.values, marks=pytest.mark.slow) for n, case in enumerate(wrapped)
    ]


# What a run has left


def lines(output: Path) -> list[dict]:
    """The whole lines of metrics.jsonl."""
    path = output / "metrics.jsonl"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def reached(output: Path, step: int) -> bool:
    return any(line["step"] >= step for line in lines(output))


def numbers(output: Path) -> list[dict]:
    """All that metrics.jsonl says and another run with the same settings must say too, to the last bit."""
    return [{name: value for name, value in line.items() if not name.startswith(UNSTABLE)} for line in lines(output)]


def digests(output: Path, step: int = STEPS) -> dict[str, str]:
    """SHA-256 of the weights and moments after `step` steps, and of the best model."""
    names = [f"step-{step:08d}/model.safetensors", f"step-{step:08d}/optimizer.safetensors"]
    names += ["best_model/model.safetensors", "best_model/metrics.json"]
    return {name: hashlib.sha256((output / name).read_bytes()).hexdigest() for name in names}


def announced(output: Path) -> int:
    """Step of the last checkpoint that train.log calls saved; 0 before the first."""
    path = output / "train.log"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return max((int(line.rpartition("step-")[2]) for line in text.splitlines() if ": saved " in line), default=0)


def leftovers(output: Path) -> list[str]:
    return sorted(p.name for p in output.iterdir() if p.name.startswith(".") and p.name != ".lock")
