"""Where numbers go while training: always a local file and the console, Weights & Biases when asked.

The trainer never asks which sinks there are. What leaves the machine is decided in `utils.privacy`.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Protocol

from configs.mimic_cxr_config import Config
from utils.errors import CheckpointError
from utils.privacy import open_private, private_directory, remote_config, remote_values
from utils.utils import format_duration, get_logger, write_atomic, writing_to

log = get_logger(__name__)

WRITE_ADVICE = "free space or choose another training.output_dir, then go on with --resume auto"
"""For the user whose disk refuses what a training writes."""

WANDB_TIMEOUT = 30
"""Seconds to wait for the service, at the start before training goes on without it and at the end for its last numbers."""


class Sink(Protocol):
    def start(self, step: int) -> None:
        """A run begins, or goes on behind `step`."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """Take the numbers of an optimizer step."""

    def close(self) -> None: ...


class JsonlSink:
    """One JSON object a line: step, time and the numbers. A resumed run goes on behind its checkpoint's step."""

    def __init__(self, path: Path | str):
        self._path = Path(path)
        self._file = None

    def start(self, step: int) -> None:
        with self._writing():
            private_directory(self._path.parent)
            _drop_after(self._path, step)
            self._file = open_private(self._path, "a")

    def log(self, step: int, values: dict[str, float]) -> None:
        numbers = {name: value if math.isfinite(value) else None for name, value in values.items()}
        with self._writing():
            self._file.write(json.dumps({"step": step, "time": round(time.time(), 3), **numbers}) + "\n")
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            with suppress(OSError):  # what a full disk has refused once is still in the buffer
                self._file.close()

    def _writing(self) -> AbstractContextManager:
        return writing_to(self._path, WRITE_ADVICE, CheckpointError)


def _drop_after(path: Path, step: int) -> None:
    """Remove the lines of steps that a resumed run will take again, and a line that a kill cut short."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except ValueError:
            continue
    write_atomic(path, "".join(kept))  # a kill at this moment must not cost the lines of days


class ConsoleSink:
    """A progress line with loss, questions/s and time left; a line for each look at the validation split."""

    def __init__(self, total_steps: int):
        self.total = total_steps

    def start(self, step: int) -> None:
        pass

    def log(self, step: int, values: dict[str, float]) -> None:
        if "train/loss" in values:
            log.info(
                "step %*d/%d  loss %.4f  lr %.2e  %s questions/s  %s left",
                len(str(self.total)),
                step,
                self.total,
                values["train/loss"],
                values["train/lr"],
                f"{values['train/questions_per_second']:,.0f}",
                format_duration(values["train/seconds_left"]),
            )
        if "val/headline" in values:
            names = ("binary_balanced_accuracy", "category_micro_f1", "region_micro_f1", "severity_balanced_accuracy")
            shown = [
                f"{name.replace('_', ' ')} {values['val/' + name]:.3f}" for name in names if f"val/{name}" in values
            ]
            log.info("validation at step %d: score %.4f (%s)", step, values["val/headline"], ", ".join(shown))

    def close(self) -> None:
        pass


class WandbSink:
    """Weights & Biases. Gets allow-listed numbers only; the first failure of the service ends it with a warning.

    A thread hands the numbers over: a service that is slow delays no step, and one that hangs does not end the run.
    """

    def __init__(self, run):
        self._run = run
        self._actions: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self._thread.start()

    def start(self, step: int) -> None:
        pass

    def log(self, step: int, values: dict[str, float]) -> None:
        if numbers := remote_values(values):
            self._actions.put(lambda: self._run.log(numbers, step=step))

    def close(self) -> None:
        self._actions.put(self._run.finish)
        self._actions.put(None)
        self._thread.join(WANDB_TIMEOUT)
        if self._thread.is_alive():
            log.warning(
                "Weights & Biases has not taken all numbers within %s s: the last ones may be missing", WANDB_TIMEOUT
            )

    def _work(self) -> None:
        while action := self._actions.get():
            try:
                action()
            except Exception as error:  # whatever the service does, the run is worth more than its plots
                reason = f"{type(error).__name__}: {error}"
                log.warning("Weights & Biases stopped (%s); training goes on without it", reason)
                return


def maybe_wandb(config: Config) -> list[Sink]:
    """A running W&B sink, or an empty list when it is off or does not start: tracking never stops a training."""
    settings, key = config.wandb, os.environ.get("WANDB_API_KEY", "")
    if settings.enabled == "false" or (settings.enabled == "auto" and not key):
        return []
    mode = "online" if key and settings.enabled != "offline" else "offline"
    try:
        import wandb

        run = wandb.init(
            project=settings.project,
            entity=settings.entity or None,
            name=settings.name or None,
            dir=config.training.output_dir,
            mode=mode,
            config=remote_config(config),
            # no source code, no file names, no console output, no host name, no arguments
            save_code=False,
            settings=wandb.Settings(
                init_timeout=WANDB_TIMEOUT,
                console="off",
                disable_git=True,
                disable_code=True,
                x_disable_meta=True,
                x_disable_machine_info=True,
                host="-",
                x_save_requirements=False,
            ),
        )
    except Exception as error:  # whatever the service or its client does, the run is worth more than its plots
        log.warning("Weights & Biases did not start (%s: %s); training goes on without it", type(error).__name__, error)
        return []
    log.info("Weights & Biases: %s, numbers only", mode)
    return [WandbSink(run)]


class Sinks:
    """Hands the same numbers to every sink."""

    def __init__(self, sinks: Sequence[Sink]):
        self._sinks = list(sinks)

    def start(self, step: int) -> None:
        for sink in self._sinks:
            sink.start(step)

    def log(self, step: int, values: dict[str, float]) -> None:
        for sink in self._sinks:
            sink.log(step, values)

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()
