"""Writes checkpoints beside the training: a copy of the state is taken at once, a thread brings it to the disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

from training.checkpoint import TrainingState, list_checkpoints, save_checkpoint
from training.engine import EngineState
from training.processes import Processes
from utils.errors import CheckpointError
from utils.utils import get_logger

log = get_logger(__name__)

MARGIN = 1.1


class Saver:
    """One checkpoint at a time. The main process writes; all processes learn whether it could."""

    def __init__(
        self,
        output_dir: Path,
        limit: int,
        processes: Processes,
        is_saved: Callable[[Path, TrainingState], None] = lambda folder, state: None,
    ):
        """`is_saved` is called in the main process, beside the training, when a checkpoint is complete."""
        self.output_dir, self.limit, self.processes, self._is_saved = output_dir, limit, processes, is_saved
        self.step = -1
        """of the last checkpoint that was begun or loaded"""
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future | None = None

    def saved(self, step: int) -> None:
        """A checkpoint of this step is there already."""
        self.step = step

    def save(
        self, step: int, engine: EngineState, trainer: dict, run: dict, save_model: Callable[[Path], None]
    ) -> None:
        """Begin to write; nothing that is passed may change any more. CheckpointError when the one before failed."""
        self.settle()
        self.step = step
        if self.processes.is_main:
            state = TrainingState(step, engine, trainer, run)
            self._writing = self._thread.submit(self._write, state, save_model)

    def _write(self, state: TrainingState, save_model: Callable[[Path], None]) -> None:
        folder = save_checkpoint(self.output_dir, state, self.limit, save_model)
        log.info("saved %s", folder)
        self._is_saved(folder, state)

    def settle(self) -> None:
        """Wait until everything that was begun is on the disk. CheckpointError in all processes when it could not be."""
        failure = None
        if self._writing is not None:
            writing, self._writing = self._writing, None
            try:
                writing.result()
            except CheckpointError as error:
                failure = str(error)
        failure = self.processes.from_main(failure)
        if failure:
            raise CheckpointError(failure)

    def wait(self) -> None:
        """Until nothing is being written any more, whatever becomes of it."""
        if self._writing is not None:
            wait([self._writing])

    def check_space(self, model) -> None:
        """CheckpointError when the disk has no room for what this run will keep."""
        weights = sum(
            getattr(v, "ds_numel", v.numel()) * v.element_size() for v in model.state_dict(keep_vars=True).values()
        )
        moments = 2 * sum(4 * getattr(p, "ds_numel", p.numel()) for p in model.parameters() if p.requires_grad)
        # the kept ones, the one that is being written, and the best model with the one that replaces it
        needed = MARGIN * ((self.limit + 1) * (weights + moments) + 2 * weights)
        present = sum(_size(folder) for folder in list_checkpoints(self.output_dir))
        free = shutil.disk_usage(self.output_dir).free
        if free + present < needed:
            raise CheckpointError(
                f"{self.output_dir}: {free / 1e9:.2f} GB are free and checkpoints will need {(needed - present) / 1e9:.2f} GB "
                f"({self.limit} kept of {(weights + moments) / 1e9:.2f} GB each, one being written, and the best model): "
                "free space, lower training.save_total_limit, or choose another training.output_dir"
            )


def _size(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
