"""Opening an index, reading random questions of it, and beginning an epoch; against what is usually done instead."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from benchmarks.big_index import big_index
from benchmarks.report import Section
from benchmarks.session import Session
from benchmarks.timing import Variant
from data.index import Index, open_index
from data.mimic_cxr_dataset import VQADataset
from data.token_table import TokenTable

ROWS = 1280
"""Questions read in one go: 64 images with 20 each"""
MOST_CONVERTED = 2_000_000
"""Questions that are given to Hugging Face datasets, as strings"""
PARSED = 30
"""Questions that are parsed one by one in one call"""
VISITS = 64
COLUMNS = ("study", "type", "head", "target")
"""What a batch takes of a question, beside its text"""


def opening(session: Session, sizes: Sequence[int]) -> Section:
    """Opening indexes of several sizes and looking at each of their tables."""

    def opened(path: Path) -> None:
        index = open_index(path)
        for table in (index.questions, index.studies, index.images, index.boxes, index.findings):
            for column in table.values():
                column[-1:].tolist()
        index.pixels[len(index.pixels) - 1].max()

    variants = []
    for size in sizes:
        path = big_index(session.workdir, size, seed=session.args.seed).path
        variants.append(Variant(f"{size:,} questions", lambda path=path: opened(path), 1, "indexes"))
    measured = session.measure(variants, least_seconds=0.1)
    return Section(
        "Opening an index", measured, variants[0].name, notes=["Every table and the image store are touched."]
    )


def random_rows(session: Session, index: Index, tokens: TokenTable, qa: Path) -> Section:
    """Random questions of the index, against parsing a study's JSON for each and against Hugging Face datasets."""
    rng = np.random.default_rng(session.args.seed)

    def drawn() -> np.ndarray:
        return rng.integers(len(index.questions["study"]), size=ROWS)

    def ours(rows: np.ndarray) -> None:
        questions = index.questions
        tokens.encode(questions["text"][rows])
        [questions[name][rows] for name in COLUMNS]

    baseline = "zip + json.loads for each question"
    parse, studies, size = zip_reader(qa, rng)
    variants = [
        Variant(baseline, parse, PARSED),
        Variant("index: memory map, batched, with word pieces", ours, ROWS, prepare=drawn),
    ]
    notes = []
    if find_spec("datasets"):
        table = for_datasets(index, session.workdir / f"datasets-{index.fingerprint}")

        def drawn_there() -> list[int]:
            return (drawn() % len(table)).tolist()

        variants += [
            Variant("Hugging Face datasets[list]", lambda rows: table[rows], ROWS, prepare=drawn_there),
            Variant("Hugging Face datasets[i]", lambda rows: [table[i] for i in rows[:100]], 100, prepare=drawn_there),
        ]
    else:
        notes.append("Hugging Face datasets is not installed: pip install -r requirements-benchmark.txt adds its rows.")
    return Section(
        f"Random questions, {ROWS:,} at a time",
        session.measure(variants, least_seconds=0.3),
        baseline,
        facts={
            "questions in the index": len(index.questions["study"]),
            "studies in qa.zip": studies,
            "bytes of JSON a study": size,
        },
        notes=notes,
    )


def zip_reader(qa: Path, rng: np.random.Generator) -> tuple[Callable[[], None], int, int]:
    """A function that reads `PARSED` random questions; how many studies there are, and the mean size of one."""
    archive = zipfile.ZipFile(qa)
    members = [name for name in archive.namelist() if name.endswith(".qa.json")]

    def read() -> None:
        for name in rng.choice(members, size=PARSED):
            questions = json.loads(archive.read(name))["questions"]
            questions[int(rng.integers(len(questions)))]

    return read, len(members), round(float(np.mean([archive.getinfo(name).file_size for name in members])))


def for_datasets(index: Index, folder: Path):
    """The questions of an index, at most `MOST_CONVERTED`, as a Hugging Face data set on disk, memory-mapped."""
    import datasets

    if not folder.exists():
        texts = pa.array(index.texts(np.arange(index.num_texts)))
        first = {name: pa.array(index.questions[name][:MOST_CONVERTED]) for name in (*COLUMNS, "text")}
        question = texts.take(first.pop("text"))
        datasets.Dataset(pa.table(first | {"question": question})).save_to_disk(str(folder))
    return datasets.load_from_disk(str(folder))


def epoch_order(session: Session, dataset: VQADataset) -> Section:
    """Deciding the order of an epoch, against a shuffled list of all questions."""
    number = dataset.num_questions
    epoch = iter(range(10**9))
    baseline = "torch.randperm(N).tolist()"
    variants = [
        Variant(baseline, lambda: torch.randperm(number).tolist(), 1, "epochs"),
        Variant(
            f"an epoch and its first {VISITS} visits",
            lambda: dataset.epoch(next(epoch)).select(np.arange(VISITS)),
            1,
            "epochs",
        ),
    ]
    measured = session.measure(variants, least_seconds=0.1)
    return Section("Order of an epoch", measured, baseline, facts={"questions": number})
