"""One size of index in a process of its own, so that memory and caches of one size do not meet those of another.

    python -m benchmarks.scale_point JOB.json

The job names what is done: `write` the index, or `measure` every stage of the data path. The figures go to the file that
the job names as `result`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.big_index import write_big_index
from benchmarks.loading import sampled_tokenizer, training_set, worker_memory
from benchmarks.memory import private_bytes
from configs.mimic_cxr_config import Config, load_config
from data.index import Index, open_index
from data.loader import make_loader, num_batches
from utils.utils import write_json

STEADY_SECONDS = 3.0
REPEATS = 3
"""The fastest counts, for stages that can be repeated"""


@dataclass(frozen=True)
class PointJob:
    """What one process does."""

    do: str
    """write or measure"""
    index: str
    result: str
    questions: int
    seed: int
    images: int
    workers: int
    pass_seconds: float
    config: str | None
    settings: list[str]

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))


def main(argv: list[str]) -> None:
    job = PointJob(**json.loads(Path(argv[0]).read_text()))
    config = load_config(job.config, job.settings).config
    write_json(job.result, {"write": write, "measure": measure}[job.do](job, config))


def write(job: PointJob, config: Config) -> dict[str, float]:
    """Seconds and memory of writing the index, and the seconds of its word pieces, which are kept with it."""
    data = config.data
    before, begin = private_bytes(os.getpid()), time.perf_counter()
    side = data.image_store_size or data.image_size
    write_big_index(job.index, job.questions, seed=job.seed, side=side, image_store=data.image_store)
    written, used = time.perf_counter() - begin, private_bytes(os.getpid()) - before
    index = open_index(job.index)
    pieces = once(lambda: training_set(config, index, sampled_tokenizer(config, index), job.seed))
    size = sum(file.stat().st_size for file in Path(job.index).rglob("*"))
    return {
        "write the index, s": written,
        "write the index, MB": max(0, used) / 1e6,
        "index on disk, MB": size / 1e6,
        "word pieces of all texts, the first time, s": pieces,
    }


def measure(job: PointJob, config: Config) -> dict[str, float]:
    """Seconds, questions a second and megabytes of every stage."""
    before = private_bytes(os.getpid())
    found = {"open, s": fastest(lambda: touch(open_index(job.index)))}
    index = open_index(job.index)
    tokenizer = sampled_tokenizer(config, index)

    def made(draw: str = "epoch"):
        data = replace(config.data, draw=draw)
        return training_set(replace(config, data=data), index, tokenizer, job.seed)

    found["data set, s"] = fastest(made)
    dataset = made()
    found["first batch, s"] = fastest(lambda: next(make_loader(dataset, job.images)))
    found["together to the first batch, s"] = sum(found[f"{stage}, s"] for stage in ("open", "data set", "first batch"))
    found |= steady(dataset, job.images)
    found["next epoch to its first batch, s"] = fastest(lambda: next(make_loader(dataset, job.images, epoch=1)))
    half = num_batches(dataset, job.images) // 2
    found["resume in mid-epoch, s"] = fastest(lambda: next(make_loader(dataset, job.images, start=half)))
    balanced = made("balanced")
    found["balanced draw to first batch, s"] = once(lambda: next(make_loader(balanced, job.images)))
    found["balanced draw, next epoch, s"] = fastest(lambda: next(make_loader(balanced, job.images, epoch=1)))
    found["memory of the main process, MB"] = (private_bytes(os.getpid()) - before) / 1e6
    memory = worker_memory(dataset, job.images, job.workers, job.pass_seconds)
    found["loader process: growth, MB"] = memory["growth"]
    found["loader process: private, MB"] = memory["at the end"]
    found["questions read meanwhile"] = memory["questions"]
    return found


def touch(index: Index) -> None:
    """Look at each table and at the image store."""
    for table in (index.questions, index.studies, index.images, index.boxes, index.findings):
        for column in table.values():
            column[-1:].tolist()
    index.pixels[len(index.pixels) - 1].max()


def steady(dataset, images: int) -> dict[str, float]:
    """Questions a second of the loader in the main process, in wall and in CPU time, once it is under way."""
    loader = make_loader(dataset, images)
    next(loader)
    questions, begin, cpu = 0, time.perf_counter(), time.process_time()
    for batch in loader:
        questions += len(batch.head)
        if time.perf_counter() - begin > STEADY_SECONDS:
            break
    return {
        "loader, questions/s": questions / max(1e-9, time.perf_counter() - begin),
        "loader, questions/CPU s": questions / max(1e-9, time.process_time() - cpu),
    }


def once(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def fastest(call: Callable[[], object]) -> float:
    return min(once(call) for _ in range(REPEATS))


if __name__ == "__main__":
    main(sys.argv[1:])
