"""`scale`: what each stage of the data path costs at 10⁴ to 3·10⁷ questions, and how it grows."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from benchmarks.growth_plot import growth_svg
from benchmarks.report import Section
from benchmarks.scale_point import PointJob
from benchmarks.session import Session
from utils.errors import DataError
from utils.utils import write_atomic
from utils.version import ROOT

BYTES_A_QUESTION = 60
"""Of the index on disk, while it is written"""


def run(session: Session) -> Iterator[Section]:
    """One table: a row for each stage, a column for each size."""
    args = session.args
    found: dict[int, dict[str, float]] = {}
    for size in sorted(args.sizes):
        check_space(session.workdir, size)
        folder = session.workdir / f"scale-{size}"
        found[size] = {}
        for do in ("write", "measure"):
            session.say(f"{size:,} questions: {do}")
            found[size] |= point(session, do, size, folder)
        if not args.keep:
            shutil.rmtree(folder)
    if args.plot:
        write_atomic(args.plot, growth_svg(found))
    yield Section(
        "Cost of growth",
        rows=rows(found),
        facts={"images of a batch": args.images, "questions of an image": session.config.data.questions_per_image},
        notes=[
            "Each size in processes of its own; of what can be repeated the fastest of three. `N^x` is fitted to all sizes.",
            "Questions: of grade B or better, which are used; the tables hold 29 % more. Pages of the index are cached.",
        ],
    )


def check_space(folder: Path, size: int) -> None:
    """DataError where so many questions do not fit the disk."""
    need, free = size * BYTES_A_QUESTION, shutil.disk_usage(folder).free
    if free < 2 * need:
        raise DataError(
            f"{folder}: an index of {size:,} questions needs {need / 1e9:.1f} GB and half of {free / 1e9:.1f} GB must stay "
            "free; name another folder with --workdir or give smaller --sizes"
        )


def point(session: Session, do: str, size: int, folder: Path) -> dict[str, float]:
    """What `benchmarks.scale_point` finds."""
    args = session.args
    folder.mkdir(parents=True, exist_ok=True)
    job, result = folder.resolve() / "job.json", folder.resolve() / "result.json"
    PointJob(
        do=do,
        index=str(folder.resolve() / "index"),
        result=str(result),
        questions=size,
        seed=args.seed,
        images=args.images,
        workers=args.workers,
        pass_seconds=args.pass_seconds,
        config=str(Path(args.config).resolve()) if args.config else None,
        settings=args.set,
    ).save(job)
    in_own_process(job)
    return json.loads(result.read_text())


def in_own_process(job: Path) -> None:
    """DataError when it fails."""
    command = [sys.executable, "-m", "benchmarks.scale_point", str(job)]
    done = subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=False)
    if done.returncode:
        raise DataError(f"{job}: ended with code {done.returncode}; its own message stands above")


def rows(found: Mapping[int, Mapping[str, float]]) -> list[dict[str, object]]:
    """A row for each stage: its figure at each size, and the exponent of its growth."""
    stages = dict.fromkeys(stage for figures in found.values() for stage in figures)
    table = []
    for stage in stages:
        values = {size: figures.get(stage) for size, figures in found.items()}
        row: dict[str, object] = {"": stage} | {f"{size:,}": value for size, value in values.items()}
        table.append(row | {"grows as": f"N^{power:.2f}" if (power := exponent(values)) is not None else ""})
    return table


def exponent(values: Mapping[int, float | None]) -> float | None:
    """Slope of the straight line through log(value) by log(size); None with fewer than two positive values."""
    points = [(np.log(size), np.log(value)) for size, value in values.items() if value and value > 0]
    if len(points) < 2:
        return None
    x, y = np.array(points).T
    return float(np.polyfit(x, y, 1)[0])
