"""Where numbers go while training: always a local file and the console; `training.wandb_sink` adds a service when asked.

The trainer never asks which sinks there are. What leaves the machine is decided in `utils.privacy`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import NoneType
from typing import Protocol

from utils.errors import CheckpointError, DataError
from utils.privacy import open_private, private_directory
from utils.utils import format_duration, get_logger, write_atomic, writing_to

log = get_logger(__name__)

WRITE_ADVICE = "free space or choose another training.output_dir, then go on with --resume auto"
"""For the user whose disk refuses what a training writes."""

METRICS = "metrics.jsonl"
"""In the output folder: the numbers of a run, one JSON object a line."""


class Sink(Protocol):
    def start(self, step: int, run_id: str = "") -> str | None:
        """A run begins, or goes on behind `step`; `run_id` is its id in trackers so far, and a new one is returned."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """Take the numbers of an optimizer step."""

    def close(self) -> None: ...


class JsonlSink:
    """One JSON object a line: step, time and the numbers. A resumed run goes on behind its checkpoint's step."""

    def __init__(self, path: Path | str):
        self._path = Path(path)
        self._file = None

    def start(self, step: int, run_id: str = "") -> None:
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


def read_metrics(path: Path | str) -> Iterator[tuple[int, dict[str, float]]]:
    """(step, numbers) of each line; numbers that were not finite are left out, and a last line that a kill cut short.

    Raises:
        DataError: there is no such file, or a line in it that a training does not write.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise DataError(f"{path} cannot be read ({reason}): name the output folder of a training") from None
    for number, line in enumerate(lines, 1):
        if not line.endswith("\n"):
            return
        try:
            values = json.loads(line)
            step = values.pop("step")
            values.pop("time", None)
        except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
            raise DataError(f"{path}, line {number}: not a line of a training: remove it") from None
        if type(step) is not int or step < 0 or any(type(v) not in (int, float, NoneType) for v in values.values()):
            raise DataError(f"{path}, line {number}: a value that is not a number: remove the line")
        yield step, {name: value for name, value in values.items() if value is not None}


class ConsoleSink:
    """A progress line with loss, questions/s and time left; a line for each look at the validation split."""

    def __init__(self, total_steps: int):
        self.total = total_steps

    def start(self, step: int, run_id: str = "") -> None:
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


class Sinks:
    """Hands the same numbers to every sink."""

    def __init__(self, sinks: Sequence[Sink]):
        self._sinks = list(sinks)

    def start(self, step: int, run_id: str = "") -> str:
        """Start all; the id of the run in trackers, empty as long as there was none."""
        for sink in self._sinks:
            run_id = sink.start(step, run_id) or run_id
        return run_id

    def log(self, step: int, values: dict[str, float]) -> None:
        for sink in self._sinks:
            sink.log(step, values)

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()
