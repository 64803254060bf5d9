"""`build`: from a release to an index: questions and images a second, and memory, by number of processes.

Beside it stands the conversion that is usually written: `json.loads` of every file into a list of dictionaries, films
decoded in colour and kept as arrays.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.conversions import Job, peak_in_own_process
from benchmarks.report import Section
from benchmarks.session import Session
from benchmarks.timing import Variant
from utils.hardware_utils import cpu_count

QUESTIONS_ONLY = "simple: json.loads, list of dictionaries, no films"
WITH_FILMS = "simple, with films: decoded in colour, resized"


def run(session: Session) -> Iterator[Section]:
    """Time by number of processes, then memory."""
    args = session.args
    config = session.with_release(args.studies)
    job = Job(config.data, session.workdir / "build")
    index = session.index(config)
    questions = sum(sum(index.counts(split).values()) for split in index.meta["counts"])
    images = len(index.images["study"])
    work: dict[str, tuple] = {QUESTIONS_ONLY: ("simple", False), WITH_FILMS: ("simple", True)}
    for n in args.workers or sorted({1, cpu_count()}):
        work[f"index, {n} process{'es' if n > 1 else ''}"] = ("build", n)
    job.clear()
    measured = session.measure(
        [
            Variant(name, lambda _, m=method, a=argument: getattr(job, m)(a) and None, questions, prepare=job.clear)
            for name, (method, argument) in work.items()
        ]
    )
    yield Section(
        f"Building an index of {args.studies:,} studies",
        measured,
        WITH_FILMS,
        facts={
            "questions, with and without a target": questions,
            "images": images,
            "bytes of qa.zip": (Path(config.data.mimic_qa_path) / "qa.zip").stat().st_size,
            "image store": f"{config.data.image_store}, {config.data.image_store_size or config.data.image_size} pixels",
        },
        notes=[
            f"{one.name}: {images / one.seconds:,.0f} images a second" for one in measured if one.name != QUESTIONS_ONLY
        ],
    )
    yield memory(session, job, work, questions)


def memory(session: Session, job: Job, work: dict[str, tuple], questions: int) -> Section:
    """Each way in a fresh process, whose libraries are there before the counting begins."""
    rows = []
    for name, (method, argument) in work.items():
        session.say(f"memory: {name}")
        job.clear()
        peak = peak_in_own_process(job, method, argument)
        rows.append({"": name, "MB": peak.growth / 1e6, "bytes a question": peak.growth / questions})
    job.clear()
    return Section(
        "Memory that building takes, all processes together",
        rows=rows,
        notes=[
            "Resident pages at the highest point, above those before; of further processes all of it, libraries too."
        ],
    )
