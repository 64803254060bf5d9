"""The loader: questions a second by number of processes, and what its processes hold in memory."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain, count, islice

import numpy as np
import psutil
import torch
from transformers import PreTrainedTokenizerBase

from benchmarks.as_written import QuestionDataset, collate
from benchmarks.memory import private_bytes
from benchmarks.timing import Variant
from configs.mimic_cxr_config import Config
from data.batch import Batch
from data.index import Index
from data.loader import make_loader, num_batches
from data.mimic_cxr_dataset import VQADataset
from data.tensor_group import TensorGroup
from models.encoders import build_tokenizer

BATCHES = 40
"""Batches of one call"""
ITEMS_AS_WRITTEN = 8
LOOKS = 100
"""At the memory of processes, during a whole epoch"""
TEXTS_FOR_TOKENIZER = 5000


def sampled_tokenizer(config: Config, index: Index) -> PreTrainedTokenizerBase:
    """Word pieces made from some of the index's texts: nothing is downloaded, and training them takes less than a second."""
    codes = np.linspace(0, index.num_texts - 1, min(TEXTS_FOR_TOKENIZER, index.num_texts)).astype(np.int64)
    return build_tokenizer(replace(config.model, pretrained=False), index.texts(codes))


def training_set(config: Config, index: Index, tokenizer: PreTrainedTokenizerBase, seed: int) -> VQADataset:
    """Training questions of grade B or better, as pretraining uses them; everything else as configured."""
    data = replace(config.data, quality_grade="B", question_types=[], max_samples=0)
    length = config.model.max_question_length
    return VQADataset(index, "train", data, tokenizer, train=True, seed=seed, max_question_length=length)


def endless(dataset: VQADataset, batch_size: int, workers: int) -> Iterator[Batch]:
    """Epoch after epoch."""
    return chain.from_iterable(make_loader(dataset, batch_size, epoch=e, num_workers=workers) for e in count())


@dataclass
class LoaderRun:
    """`BATCHES` batches of a loader that is under way; keeps the CPU time of its processes, which no other clock sees."""

    dataset: VQADataset
    batch_size: int
    workers: int
    device: torch.device
    """a GPU is sent the batches too"""
    on: bool = False
    """images are rendered and graphs written out there, as the step does it"""
    cpu_rates: list[float] = field(default_factory=list)
    """questions a CPU second of the loader's processes, each call"""

    def start(self) -> Iterator[Batch]:
        loader = endless(self.dataset, self.batch_size, self.workers)
        next(loader)
        return loader

    def watch(self, loader: Iterator[Batch]) -> int:
        processes = loader_processes() if self.workers else []
        questions, before = 0, cpu_time(processes)
        for batch in islice(loader, BATCHES):
            questions += len(batch.head)
            if self.on:
                batch.on(self.device)
            elif self.device.type == "cuda":
                batch.to(self.device)
        if processes:
            self.cpu_rates.append(questions / max(cpu_time(processes) - before, 1e-9))
        return questions

    def variant(self, name: str) -> Variant:
        copied = 2 * BATCHES * bytes_of(next(make_loader(self.dataset, self.batch_size)))
        return Variant(name, self.watch, prepare=self.start, copied=copied)


def loader_processes() -> list[psutil.Process]:
    """What PyTorch's loader has started and is still there."""
    return [psutil.Process(child.pid) for child in multiprocessing.active_children()]


def cpu_time(processes: list[psutil.Process]) -> float:
    """CPU seconds of processes so far; 0 for those that have ended."""
    total = 0.0
    for process in processes:
        with suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def copy_variant(name: str, batch: Batch, device: torch.device) -> Variant:
    """The same batch again and again: to the GPU, or to another place in main memory."""
    ready = batch.pin_memory() if device.type == "cuda" else batch

    def copied() -> None:
        for _ in range(BATCHES):
            ready.to(device) if device.type == "cuda" else ready._map(torch.clone)

    return Variant(name, copied, BATCHES * len(batch.head), copied=2 * BATCHES * bytes_of(batch))


def as_written_variant(name: str, dataset: QuestionDataset, seed: int) -> Variant:
    """Random questions, each with all that belongs to it."""
    rng = np.random.default_rng(seed)

    def read() -> None:
        collate([dataset[int(n)] for n in rng.integers(len(dataset), size=ITEMS_AS_WRITTEN)])

    return Variant(name, read, ITEMS_AS_WRITTEN)


def bytes_of(group: TensorGroup) -> int:
    """Bytes of all tensors of a batch."""
    total = 0

    def add(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal total
        total += tensor.numel() * tensor.element_size()
        return tensor

    group._map(add)
    return total


def worker_memory(dataset: VQADataset, batch_size: int, workers: int, most_seconds: float) -> dict[str, float]:
    """Private memory of the loader's processes over a pass of an epoch, or over as much of one as the time allows.

    Returns:
        megabytes, of the largest process each: `at first`, when each process has made two batches, `at the end`, `growth`
        between these of one process, and `highest`; a batch that is being made lets them swing, so the first and the last
        are means of some looks. And the `questions` read.
    """
    total = num_batches(dataset, batch_size)
    settled, every = min(2 * workers, total // 2), max(1, total // LOOKS)
    started, questions, seen = time.perf_counter(), 0, []
    for number, batch in enumerate(make_loader(dataset, batch_size, num_workers=workers)):
        questions += len(batch.head)
        late = time.perf_counter() - started > most_seconds
        if (number >= settled and (number % every == 0 or late or number == total - 1)) or number == settled:
            seen.append(_private_of(loader_processes()))
        if late:
            break
    few = max(1, len(seen) // 20)
    first, last = (_means(looks) for looks in (seen[:few], seen[-few:]))
    return {
        "questions": questions,
        "at first": max(first.values()) / 1e6,
        "at the end": max(last.values()) / 1e6,
        "growth": max(last[pid] - first.get(pid, last[pid]) for pid in last) / 1e6,
        "highest": max(size for look in seen for size in look.values()) / 1e6,
    }


def _means(looks: list[dict[int, int]]) -> dict[int, float]:
    return {pid: float(np.mean([look[pid] for look in looks if pid in look])) for pid in looks[0]}


def _private_of(processes: list[psutil.Process]) -> dict[int, int]:
    found = {}
    for process in processes:
        with suppress(OSError, psutil.Error):  # ended meanwhile
            found[process.pid] = private_bytes(process.pid)
    return found
