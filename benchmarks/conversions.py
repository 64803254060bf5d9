"""Conversions of a release that are measured against each other, and their memory, each in a process of its own.

Imports no more than they need: a process that is measured begins with these imports.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.memory import TreePeak, tree_peak
from configs.mimic_cxr_config import DataConfig
from data.index import build_index
from data.release import open_release, wanted_views
from utils.errors import DataError


@dataclass
class Job:
    """What one call has to do."""

    data: DataConfig
    folder: Path
    """where indexes are built and removed again"""

    def build(self, workers: int) -> None:
        """The project's index."""
        release = open_release(self.data.mimic_cxr_path, self.data.mimic_qa_path)
        build_index(release, self.data, self.folder / "index", workers)

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)

    def simple(self, films: bool) -> list[dict]:
        """Questions and observations as dictionaries, in memory."""
        rows = []
        for name in ("qa", "scene_data"):
            with zipfile.ZipFile(Path(self.data.mimic_qa_path) / f"{name}.zip") as archive:
                for member in archive.namelist():
                    if member.endswith(".qa.json"):
                        rows += _question_rows(json.loads(archive.read(member)))
                    elif member.endswith(".scene_graph.json"):
                        rows += [
                            {"graph": member, **o} for o in json.loads(archive.read(member))["observations"].values()
                        ]
        if films:
            side = self.data.image_store_size or self.data.image_size
            rows += [{"image": path, "pixels": _in_colour(path, side)} for path in self.films()]
        return rows

    def films(self) -> list[Path]:
        """The films that the index takes."""
        release = open_release(self.data.mimic_cxr_path, self.data.mimic_qa_path)
        wanted = {study for _, study in release.studies()}
        images = wanted_views(release.images, self.data.view_filter)
        return [release.image_path(row) for row in images[images["study_id"].isin(wanted)].itertuples()]


def _question_rows(study: dict) -> list[dict]:
    return [
        {
            "study": study["study_id"],
            "type": q["question_type"],
            "question": q["question"],
            "answer": [a.get("text") for a in q["answers"] if a.get("answer_type") == "main_answer"],
            "rating": q["question_quality"].get("rating"),
        }
        for q in study["questions"]
    ]


def _in_colour(path: Path, side: int) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC))


def peak_in_own_process(job: Job, method: str, argument: object) -> TreePeak:
    """Memory of one of the job's methods and of the processes that it starts."""
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_work, args=(there, job, method, argument))
    process.start()
    there.close()
    try:
        here.recv()
        with tree_peak() as peak:
            here.send(None)
            here.recv()
    except EOFError as error:
        raise DataError(f"{method} ended before its memory was measured; its own message stands above") from error
    finally:
        process.join()
    return peak


def _work(pipe, job: Job, method: str, argument: object) -> None:
    pipe.send(None)
    pipe.recv()
    kept = getattr(job, method)(argument)
    pipe.send(len(kept) if kept else 0)
