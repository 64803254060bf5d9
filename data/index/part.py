"""One part of an index: some studies read, parsed, their images resized. Parts are the unit of parallel and resumed work."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data import images as image_files
from data.answers import Dropped, parse_question
from data.index.reuse import NO_ROW, SOURCE_COLUMNS, Earlier, copy_rows, input_key
from data.index.store import COLUMNS, SOURCES, SPLITS
from data.label_space import QUESTION_TYPES
from data.release import Release
from data.scene_graph import count_unknown_images, parse_scene_graph
from utils.errors import DataError
from utils.utils import atomic_directory


@dataclass(frozen=True, slots=True)
class ImageJob:
    """One image of a study; size as the release's table says, 0 when it does not."""

    image_id: str
    view: str
    path: str
    """a `Path` would need ten times the memory, and a release has hundreds of thousands"""
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class StudyJob:
    """One study with its usable images, the canonical one first. `reason` says why there are none."""

    subject_id: int
    study_id: int
    split: str
    images: tuple[ImageJob, ...]
    chexpert: np.ndarray
    """(14,): 1, 0, -1 or nan"""
    reason: str = ""
    others: tuple[str, ...] = ()
    """ids of the study's images that `data.view_filter` leaves out"""


@dataclass(frozen=True)
class PartForm:
    """How parts of an index are written."""

    entity_index: dict[str, int]
    side: int
    """shorter side of the stored images in pixels"""
    image_store: str
    """kind of the image store, raw or jpeg"""
    earlier: Earlier | None = None
    """an index whose studies are copied where they were made of the same"""


PIXELS = "pixels"
"""File of a part that holds its images."""
TARGET = "target"
"""Fate of a question that has one."""


@dataclass
class PartWriter:
    """Rows of one part, before they are written."""

    columns: dict[str, dict[str, list]] = field(
        default_factory=lambda: {table: {name: [] for name in names} for table, names in COLUMNS.items()}
    )
    chexpert: list = field(default_factory=list)
    boxes: list = field(default_factory=list)
    image_ids: list[str] = field(default_factory=list)
    views: list[str] = field(default_factory=list)
    texts: dict[str, int] = field(default_factory=dict)
    question_ids: dict[str, int] = field(default_factory=dict)
    counts: Counter = field(default_factory=Counter)
    """(split, question type, fate) -> questions"""
    names: Counter = field(default_factory=Counter)
    """(kind, value) of everything that no table knows"""
    examples: dict[tuple[str, str], int] = field(default_factory=dict)
    """(kind, value) of `names`, or ("question", fate) -> the first study that has it"""
    problems: list[dict] = field(default_factory=list)
    sources: dict[str, list] = field(default_factory=lambda: {name: [] for name in SOURCE_COLUMNS})
    notes: list[str] = field(default_factory=list)
    """of each study, see `data.index.reuse`"""
    copied: int = 0
    """studies that came from an earlier index"""
    offset: int = 0

    def add(self, table: str, **values: object) -> None:
        for name, value in values.items():
            self.columns[table][name].append(value)

    def size(self, table: str) -> int:
        return len(next(iter(self.columns[table].values())))

    def finish(self, job: StudyJob, key: int, row: int, study: StudyNotes) -> None:
        """Count a study whose rows, if it has any, are there."""
        self.counts.update({(job.split, *of): n for of, n in study.counts.items()})
        self.names.update(study.names)
        for code in (*study.names, *(("question", fate) for _, fate in study.counts)):
            self.examples.setdefault(code, job.study_id)
        self.problems += study.problems
        for name, value in (("study_id", job.study_id), ("key", key), ("row", row)):
            self.sources[name].append(value)
        self.notes.append(study.as_json())


@dataclass
class StudyNotes:
    """What is counted of one study."""

    counts: Counter = field(default_factory=Counter)
    """(question type, fate) -> questions"""
    names: Counter = field(default_factory=Counter)
    problems: list[dict] = field(default_factory=list)

    def as_json(self) -> str:
        """Without the questions that have a target: these are rows."""
        counts = [[*of, n] for of, n in self.counts.items() if of[1] != TARGET]
        return json.dumps([counts, [[*name, n] for name, n in self.names.items()], self.problems])


def build_part(release: Release, jobs: list[StudyJob], form: PartForm, target: Path) -> None:
    """Read the studies of `jobs` and write them as a folder `target`, complete or not at all.

    Studies that `form.earlier` has, made of the same, are copied from there.
    """
    with atomic_directory(target) as folder:
        part = PartWriter()
        with (folder / PIXELS).open("wb") as pixels:
            for job in jobs:
                _add_study(part, release, job, form, pixels)
        arrays = {
            f"{table}.{name}": np.array(part.columns[table][name], dtype=dtype)
            for table, names in COLUMNS.items()
            for name, dtype in names.items()
        }
        arrays["studies.chexpert"] = np.array(part.chexpert, dtype=np.float32).reshape(-1, 14)
        arrays["boxes.box"] = np.concatenate([np.zeros((0, 4), np.float32), *part.boxes])
        arrays |= {f"{SOURCES}.{name}": np.array(part.sources[name], kind) for name, kind in SOURCE_COLUMNS.items()}
        np.savez(folder / "columns.npz", **arrays)
        strings = {
            "texts": list(part.texts),
            "question_ids": list(part.question_ids),
            "image_ids": part.image_ids,
            "views": part.views,
            "counts": [[*key, n] for key, n in part.counts.items()],
            "names": [[*key, n] for key, n in part.names.items()],
            "examples": [[*key, study] for key, study in part.examples.items()],
            "problems": part.problems,
            "notes": part.notes,
            "copied": part.copied,
        }
        (folder / "strings.json").write_text(json.dumps(strings))


def _add_study(part: PartWriter, release: Release, job: StudyJob, form: PartForm, pixels) -> None:
    key = input_key(release, job)  # before anything is read: what changes while it is read is read again the next time
    before, notes = part.size("studies"), StudyNotes()
    place = form.earlier.usable(job.study_id, key) if form.earlier else None
    if place is None:
        _read_study(part, notes, release, job, form, pixels)
    else:
        _copy_study(part, notes, form.earlier, place, pixels)
    part.finish(job, key, before if part.size("studies") > before else NO_ROW, notes)


def _copy_study(part: PartWriter, notes: StudyNotes, earlier: Earlier, place: int, pixels) -> None:
    counts, names, notes.problems = earlier.notes(place)
    notes.counts.update({(name, fate): n for name, fate, n in counts})
    notes.names.update({(kind, value): n for kind, value, n in names})
    part.copied += 1
    if earlier.row(place) == NO_ROW:
        return
    first = part.size("questions")
    copy_rows(earlier, place, part, pixels)
    notes.counts.update((QUESTION_TYPES[t].name, TARGET) for t in part.columns["questions"]["type"][first:])


def _read_study(part: PartWriter, notes: StudyNotes, release: Release, job: StudyJob, form: PartForm, pixels) -> None:
    try:
        raw = release.read_qa(job.subject_id, job.study_id)
        _check_owner(raw, job)
        questions = raw.get("questions") or []
        if not isinstance(questions, list):
            raise DataError(f"study {job.study_id}: questions is no list")
    except DataError as error:
        # how many questions it holds cannot be known; the study is counted instead
        notes.problems.append({"kind": "unreadable_questions", "study": job.study_id, "message": str(error)})
        return
    if not questions:
        notes.problems.append({"kind": "no_questions", "study": job.study_id, "message": "no question"})
    parsed = [parse_question(q, notes.names) for q in questions]
    if unclear := _unclear_ids(parsed):
        notes.names["question_id", "missing or repeated"] += unclear
    kept = [q for q in parsed if not isinstance(q, Dropped)]
    notes.counts.update((q.type, q.reason) for q in parsed if isinstance(q, Dropped))
    usable, reason = _store_images(part, notes, job, form, pixels) if kept and job.images else ([], job.reason)
    if not usable:
        notes.counts.update((QUESTION_TYPES[q.type].name, reason or "image_unreadable") for q in kept)
        return
    _add_graphs(part, notes, release, job, usable, form.entity_index)
    study = part.size("studies")
    part.add(
        "studies",
        subject_id=job.subject_id,
        study_id=job.study_id,
        split=SPLITS.index(job.split),
        question_start=part.size("questions"),
        question_count=len(kept),
        image_start=part.size("images") - len(usable),
        image_count=len(usable),
    )
    part.chexpert.append(job.chexpert)
    notes.counts.update((QUESTION_TYPES[q.type].name, TARGET) for q in kept)
    for q in kept:
        part.add(
            "questions",
            study=study,
            text=part.texts.setdefault(q.text, len(part.texts)),
            type=q.type,
            head=q.head,
            target=q.target,
            grade=q.grade,
            question_id=part.question_ids.setdefault(q.question_id, len(part.question_ids)),
            regions=q.regions,
            from_report=q.from_report,
        )


def _check_owner(raw: dict, job: StudyJob) -> None:
    """DataError where a file says that it is another study's: what it says is not about these images."""
    stated = str(raw.get("study_id") or "").strip().lstrip("s")
    if stated.isdecimal() and int(stated) != job.study_id:
        raise DataError(f"study {job.study_id}: its file says that it is of study {stated}")


def _unclear_ids(parsed: list) -> int:
    """Questions without an id, or with one that an earlier question of the study has."""
    ids = [question.question_id for question in parsed]
    return len(ids) - len(set(ids) - {""})


def _store_images(
    part: PartWriter, notes: StudyNotes, job: StudyJob, form: PartForm, pixels
) -> tuple[list[tuple[ImageJob, int, int]], str]:
    """Decode and append the images of a study: (image, width, height) of those that could be read, else the reason.

    The order of the images stays: where the canonical one cannot be read, the next good one takes its place.
    """
    usable, bad = [], set()
    for image in job.images:
        try:
            array, width, height = image_files.decode(Path(image.path), form.side)
        except DataError as error:
            kind = "image_missing" if isinstance(error.__cause__, FileNotFoundError) else "image_unreadable"
            bad.add(kind)
            notes.problems.append(_image_problem(kind, job, image, str(error)))
            continue
        if image.width and (image.width, image.height) != (width, height):
            # boxes are in pixels of the JPEG, so its own size is the one that counts
            message = f"image {image.path}: {width}x{height} pixels, in the table {image.width}x{image.height}"
            notes.problems.append(_image_problem("size_differs", job, image, message))
        usable.append((image, width, height))
        stored = image_files.encode(array, form.image_store)
        part.add(
            "images",
            study=part.size("studies"),
            width=width,
            height=height,
            stored_width=array.shape[1],
            stored_height=array.shape[0],
            offset=part.offset,
            length=len(stored),
        )
        part.image_ids.append(image.image_id)
        part.views.append(image.view)
        pixels.write(stored)
        part.offset += len(stored)
    return usable, "image_missing" if bad == {"image_missing"} else "image_unreadable"


def _image_problem(kind: str, job: StudyJob, image: ImageJob, message: str) -> dict:
    return {"kind": kind, "study": job.study_id, "image": image.image_id, "path": image.path, "message": message}


def _add_graphs(
    part: PartWriter, notes: StudyNotes, release: Release, job: StudyJob, usable: list, entity_index: dict
) -> None:
    raw = None
    try:
        raw = release.read_scene_graph(job.subject_id, job.study_id)
        if raw is None:
            notes.problems.append({"kind": "graph_missing", "study": job.study_id, "message": "no scene graph"})
        else:
            _check_owner(raw, job)
    except DataError as error:
        raw = None
        notes.problems.append({"kind": "graph_unreadable", "study": job.study_id, "message": str(error)})
    count_unknown_images(raw, {*job.others, *(image.image_id for image in job.images)}, notes.names)
    for image, width, height in usable:
        graph = parse_scene_graph(raw or {}, image.image_id, width, height, entity_index, notes.names)
        part.add(
            "images",
            box_start=part.size("boxes"),
            box_count=len(graph.box_regions),
            finding_start=part.size("findings"),
            finding_count=len(graph.regions),
        )
        part.columns["boxes"]["region"].extend(graph.box_regions.tolist())
        part.boxes.append(graph.boxes.astype(np.float32).reshape(-1, 4))
        for name in ("regions", "entity", "kind", "from_report"):
            part.columns["findings"][name].extend(getattr(graph, name).tolist())
