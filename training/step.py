"""One optimizer step over a window of micro-batches, in which all processes agree on everything that matters."""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor

from configs.mimic_cxr_config import TrainingConfig
from data.loader import Window
from training.engine import Engine
from training.graph_dropout import GraphMix, draw_graphs
from training.loss import QUESTION_TYPE, MultiTaskLoss, part_names
from training.meter import StepReport
from training.outcome import Readout
from training.processes import Processes
from utils.interruption import Interrupted, interruption
from utils.watchdog import Watchdog

OUT_OF_MEMORY = ("DefaultCPUAllocator: ", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What plain RuntimeErrors of PyTorch say when memory is used up, in main memory or inside a library of a GPU."""


class WindowDoesNotFit(Exception):
    """Some process ran out of memory; no process has changed its weights."""


class OptimizerStep:
    """Losses, gradients and update of one window."""

    def __init__(self, engine: Engine, loss: MultiTaskLoss, config: TrainingConfig, watchdog: Watchdog):
        self.engine, self.loss, self.config, self.watchdog = engine, loss, config, watchdog
        self.processes = engine.processes

    def __call__(self, window: Window | None, seed: int) -> StepReport:
        """Take a step; all processes call it together. On a GPU it returns while the device is still computing.

        Args:
            window: None when this process was asked to leave while it waited for data.
            seed: of all randomness inside the step in this process.
        Raises:
            Interrupted: in all processes, when one was asked to leave; nothing has happened then.
            WindowDoesNotFit: in all processes, when one ran out of memory.
        """
        counts = self.agreed_counts(window)
        torch.manual_seed(seed)
        self.engine.model.train()
        self.engine.begin()
        try:
            parts = self.accumulate(window, counts)
            fits = not self.processes.any(parts is None)
            names = part_names(counts)
            whole = self.processes.sum(torch.stack([parts[name].float() for name in names])) if fits else None
        except BaseException:
            self.engine.abandon()
            raise
        if not fits:
            self.engine.discard()
            if self.engine.device.type == "cuda":
                torch.cuda.empty_cache()
            raise WindowDoesNotFit
        losses = Readout(whole)
        outcome = self.engine.step(whole[names.index("loss")])
        return StepReport(names, losses, outcome, round(counts[QUESTION_TYPE]))

    def agreed_counts(self, window: Window | None) -> dict[str, float]:
        """The loss denominators of the window over all processes; the same exchange says whether one wants to leave."""
        counts = self.loss.window_counts(window.batches if window else [])
        total = self.processes.sum(
            torch.tensor([float(interruption.asked), *counts.values()], dtype=torch.float64)
        ).tolist()
        if total[0]:
            raise_together(self.processes)
        return dict(zip(counts, total[1:], strict=True))

    def accumulate(self, window: Window, counts: dict[str, float]) -> dict[str, Tensor] | None:
        """Gradients of this process's micro-batches; returns its share of the loss parts, None when memory ran out."""
        parts: dict[str, Tensor] = dict.fromkeys(part_names(counts), torch.zeros((), device=self.engine.device))
        try:
            for batch in window.batches:
                self.watchdog.beat("a micro-batch")
                batch = batch.on(self.engine.device)
                outputs = self.engine.forward(
                    batch.images,
                    batch.questions,
                    batch.question_of,
                    batch.image_of,
                    graph=GraphMix(draw_graphs(batch.graph_draw, self.config), batch.graph),
                )
                losses = self.loss(outputs, batch, counts)
                self.engine.backward(losses.total)
                parts = {name: value + losses.parts[name] for name, value in parts.items()}
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return None
        return parts


def raise_together(processes: Processes) -> NoReturn:
    """Interrupted in all processes, with the signal that one of them got; all call it at the same place."""
    raise Interrupted(next(signum for signum in processes.gather(interruption.signum) if signum is not None))


def is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in OUT_OF_MEMORY)
