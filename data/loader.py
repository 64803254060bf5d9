"""From a data set to batches: the same questions in the same order for any number of processes, workers or micro-batches.

An epoch is a row of image visits. An optimizer step takes the next window of it, over all processes together; a window
is cut into rounds of one micro-batch for each process. So the layout decides who sees a visit, never in which step it
comes, and the place in an epoch is one number.
"""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing.process import BaseProcess

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from data.batch import Batch
from data.mimic_cxr_dataset import VQADataset
from data.shared_buffers import Receiver, Sender, SharedGroup
from utils.allocator import keep_freed_memory
from utils.errors import DataError, UserError
from utils.interruption import SIGNALS


@dataclass(frozen=True)
class Layout:
    """How a window of image visits is cut."""

    visits: int
    """of one window, over all processes; the last window of an epoch may have fewer"""
    micro_batch: int
    """most visits of one batch of one process"""
    rank: int = 0
    world_size: int = 1

    def rounds(self, visits: int) -> int:
        """Batches that each process takes of a window of `visits` visits: the same number for all."""
        return -(-visits // (self.micro_batch * self.world_size))

    def share(self, visits: int, number: int) -> range:
        """The places in a window of `visits` visits that this process has in round `number`.

        A round that is not full is shared out evenly. With fewer visits than processes some have none.
        """
        start = number * self.micro_batch * self.world_size
        size = min(self.micro_batch * self.world_size, visits - start)
        first, end = (start + size * rank // self.world_size for rank in (self.rank, self.rank + 1))
        return range(first, end)


@dataclass(frozen=True)
class Window:
    """What one process has of one optimizer step."""

    batches: list[Batch]
    visits: int
    """over all processes"""

    @property
    def questions(self) -> int:
        """of this process"""
        return sum(len(batch.head) for batch in self.batches if not batch.padding)

    @property
    def images(self) -> int:
        """of this process"""
        return sum(len(batch.images) for batch in self.batches if not batch.padding)


class _Shares(Dataset):
    """One process's batches of an epoch from visit `start` on, in order, for a loader that asks for them by number.

    An error that the user can mend takes the place of its batch: raised in a loader process it would arrive with a
    traceback for a message. Batches leave a loader process in shared memory.
    """

    def __init__(self, dataset: VQADataset, layout: Layout, epoch: int, start: int):
        self.dataset, self.layout, self.epoch, self.start = dataset, layout, dataset.epoch(epoch), start
        self.left = len(self.epoch) - start
        self.receiver: int | None = None
        """Number of the `Receiver` of what loader processes send"""
        self.sender: Sender | None = None

    def __len__(self) -> int:
        full, rest = divmod(self.left, self.layout.visits)
        return full * self.layout.rounds(self.layout.visits) + self.layout.rounds(rest)

    def __getitem__(self, number: int) -> Batch | SharedGroup | UserError:
        try:
            batch = self._batch(number)
        except UserError as error:
            return error
        worker = get_worker_info()
        if worker is None:
            return batch
        self.sender = self.sender or Sender(self.receiver, worker.id)
        return self.sender.pack(batch)

    def _batch(self, number: int) -> Batch:
        if not 0 <= number < len(self):
            raise IndexError(number)
        window, number = divmod(number, self.layout.rounds(self.layout.visits))
        first = self.start + window * self.layout.visits
        share = self.layout.share(min(self.layout.visits, len(self.epoch) - first), number)
        which = first + np.arange(share.start, share.stop)
        if len(which):
            return self.dataset.batch(self.epoch, which)
        return replace(self.dataset.batch(self.epoch, np.array([first])), padding=True)


def windows(
    dataset: VQADataset, layout: Layout, *, epoch: int = 0, start: int = 0, num_workers: int = 0
) -> Iterator[Window]:
    """One process's share of each window of an epoch, from visit `start` on. Any number of workers gives the same."""
    shares = _Shares(dataset, layout, epoch, start)
    loader = _loader(dataset, shares, num_workers)
    left = shares.left
    while left > 0:
        visits = min(layout.visits, left)
        yield Window(list(islice(loader, layout.rounds(visits))), visits)
        left -= visits


def make_loader(
    dataset: VQADataset, batch_size: int, *, epoch: int = 0, start: int = 0, num_workers: int = 0
) -> Iterator[Batch]:
    """All batches of an epoch for a single process, from batch number `start` on."""
    layout = Layout(batch_size, batch_size)
    return _loader(dataset, _Shares(dataset, layout, epoch, start * batch_size), num_workers)


def num_batches(dataset: VQADataset, batch_size: int) -> int:
    """Batches of `batch_size` image visits in an epoch; the last may be smaller."""
    return -(-dataset.num_visits() // batch_size)


def _loader(dataset: VQADataset, batches: _Shares, num_workers: int) -> Iterator[Batch]:
    receiver = Receiver()
    batches.receiver = receiver.number
    others = set(multiprocessing.active_children())
    loader = iter(
        DataLoader(
            batches,
            batch_size=None,
            num_workers=num_workers,
            prefetch_factor=dataset.data.prefetch_factor if num_workers else None,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_start_worker,
            # its own generator: the global random state stays untouched
            generator=torch.Generator().manual_seed(dataset.seed),
        )
    )
    atexit.unregister(end_loader_processes)
    atexit.register(end_loader_processes)  # the last to be registered is called first: before PyTorch waits for them
    return _checked(loader, receiver, set(multiprocessing.active_children()) - others)


def _checked(
    loader: Iterator[Batch | SharedGroup | UserError], receiver: Receiver, processes: set[BaseProcess]
) -> Iterator[Batch]:
    """`receiver` is kept for as long as batches may come, `processes` end with the iterator, also where it is left early."""
    try:
        with dead_loader_explained():
            for batch in loader:
                if isinstance(batch, UserError):
                    raise batch
                yield batch.open() if isinstance(batch, SharedGroup) else batch
    finally:
        _end(processes)


@contextmanager
def dead_loader_explained() -> Iterator[None]:
    """DataError for what PyTorch raises, wherever the program is at that moment, when a loader process has died."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker (pid"):
            raise
        raise DataError(
            f"a process that loads data has died ({str(error).strip().rstrip('.')}), as when memory runs out: lower "
            "data.num_workers or data.prefetch_factor, then go on with --resume auto"
        ) from error


def _start_worker(worker: int) -> None:
    """A loader process leaves signals and garbage of the main process to it.

    A cluster sends its signals to every process; the one that trains still needs batches to finish its step. The garbage
    collector would write to all objects that were there at the fork, and so copy their pages. And the batches are of much
    the same size, so that their memory is kept for the next.
    """
    gc.freeze()
    keep_freed_memory()
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_IGN)


def end_loader_processes() -> None:
    """End all that this process has started, also those that are busy; for the end of a run or of the program."""
    _end({process for process in multiprocessing.active_children() if process.daemon})


def _end(processes: set[BaseProcess]) -> None:
    """PyTorch waits five seconds for each that is busy, and Python for ever: it asks by the signal that they ignore."""
    if threading.current_thread() is not threading.main_thread():
        return
    processes = processes & set(multiprocessing.active_children())
    if not processes:
        return
    watching = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if hasattr(signal, "SIGCHLD") else None
    for process in processes:
        process.kill()
    for process in processes:
        process.join()
    if watching is not None:  # PyTorch's, which takes a killed process for an accident
        signal.signal(signal.SIGCHLD, watching)
