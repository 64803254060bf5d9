"""`data`: what it costs to open an index, to read questions and images, to begin an epoch, and to make batches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks.as_written import QuestionDataset, ZipFiles, write_films
from benchmarks.big_index import big_index
from benchmarks.compose import QBA, Composition, compose
from benchmarks.films import reading_films
from benchmarks.index_reads import epoch_order, opening, random_rows
from benchmarks.loading import (
    LoaderRun,
    as_written_variant,
    bytes_of,
    copy_variant,
    sampled_tokenizer,
    training_set,
    worker_memory,
)
from benchmarks.report import Section, number
from benchmarks.session import Session
from data.index import Index
from data.loader import make_loader
from data.mimic_cxr_dataset import VQADataset
from utils.allocator import keep_freed_memory
from utils.hardware_utils import cpu_count

DISTINCT = 0.5
"""Share of distinct texts among the questions of these films"""
PAD = 64
"""Word pieces of a question of the design as written"""
WRITTEN = ("as written, films of original size", "as written, films of the look-alike release, which are small")
WORKERS = (0, 1, 2, 4, 8, 16)


def run(session: Session) -> Iterator[Section]:
    """The tables, each as soon as it is measured."""
    args = session.args
    if "open" in args.parts:
        yield opening(session, args.sizes)
    indexes = {kind: _index(session, kind) for kind in args.stores}
    tokenizer = sampled_tokenizer(session.config, indexes[args.stores[0]])
    datasets = {kind: training_set(session.config, index, tokenizer, args.seed) for kind, index in indexes.items()}
    first = datasets[args.stores[0]]
    if {"rows", "images", "loader"} & set(args.parts):
        composed, films = _films(session)
    if "rows" in args.parts:
        yield random_rows(session, first.index, first.token_table, composed.folder / QBA / "qa.zip")
    if "order" in args.parts:
        yield epoch_order(session, first)
    if "images" in args.parts:
        yield reading_films(session, sorted(films.glob("*.jpg"))[: args.films])
    if "loader" in args.parts:
        items = [QuestionDataset(composed, args.films * composed.questions, tokenizer, PAD, ZipFiles(composed.folder / QBA), f)
                 for f in (films, None)]  # fmt: skip
        yield loader(session, datasets, dict(zip(WRITTEN, items, strict=True)))
    if "memory" in args.parts:
        yield memory(session, first)


def _index(session: Session, kind: str) -> Index:
    data = session.config.data
    side = data.image_store_size or data.image_size
    return big_index(session.workdir, session.args.questions, seed=session.args.seed, side=side, image_store=kind)


def _films(session: Session) -> tuple[Composition, Path]:
    """Films of original size with their questions and scene graphs."""
    number = session.args.films
    composed = compose(session, number, session.args.study_questions, DISTINCT, number)
    folder = session.workdir / f"films-{composed.folder.name}"
    write_films(composed, number, folder)
    return composed, folder


def loader(session: Session, datasets: dict[str, VQADataset], written: dict[str, QuestionDataset]) -> Section:
    """Questions a second of the loader by image store and number of processes, against the design as written."""
    args, device = session.args, session.device
    keep_freed_memory()  # as training on a CPU does, whose process this one stands for
    variants = [as_written_variant(name, items, args.seed) for name, items in written.items()]
    runs = {}
    for kind, dataset in datasets.items():
        for workers in chosen_workers(args.workers):
            runs[f"{kind} store, {_processes(workers)}"] = LoaderRun(dataset, args.images, workers, device)
        name = f"{kind} store, {_processes(0)}, images rendered"
        runs[name] = LoaderRun(dataset, args.images, 0, device, on=True)
    variants += [one.variant(name) for name, one in runs.items()]
    some = datasets[args.stores[0]]
    batch = next(make_loader(some, args.images))
    variants.append(copy_variant("a ready batch, copied", batch, device))
    measured = session.measure(variants)
    notes = [
        f"{one.name}: each {number(one.rate / run.workers)} questions a second, {number(median(run.cpu_rates))} a second of CPU"
        for one in measured
        if (run := runs.get(one.name)) and run.workers
    ]
    return Section(
        f"Loader: {args.images} images with {some.questions_per_image} questions at {some.data.image_size} pixels",
        measured,
        next(iter(written)),
        facts={
            "questions": some.num_questions,
            "bytes of a batch": bytes_of(batch),
            "questions of a batch": len(batch.head),
            "share of distinct texts": len(batch.questions.input_ids) / len(batch.head),
            "real word pieces by padded ones": float(batch.questions.attention_mask.float().mean()),
        },
        notes=[
            *notes,
            "CPU seconds of the table are those of the main process. The index is in the cache of the system.",
        ],
    )


def memory(session: Session, dataset: VQADataset) -> Section:
    """Private memory of loader processes over a pass."""
    args = session.args
    rows = []
    for workers in chosen_workers(args.workers):
        if workers:
            session.say(f"memory of {_processes(workers)}")
            found = worker_memory(dataset, args.images, workers, args.pass_seconds)
            rows.append({"processes": workers, **found})
    return Section(
        "Private memory of loader processes over an epoch, largest process, MB",
        rows=rows,
        facts={"questions": dataset.num_questions, "seconds at most": args.pass_seconds},
        notes=["Private dirty pages, from the second batch of each process on."],
    )


def chosen_workers(asked: list[int]) -> list[int]:
    """As asked; else those of 0, 1, 2, 4, 8 and 16 that are at most twice as many as there are cores."""
    return asked or [n for n in WORKERS if n <= 2 * cpu_count()]


def _processes(workers: int) -> str:
    return {0: "in the main process", 1: "1 process"}.get(workers, f"{workers} processes")
