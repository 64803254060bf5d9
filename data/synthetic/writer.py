"""Writes the two folders of the look-alike release: images, archives, tables, and the papers that go with them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import multiprocessing
import os
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data.checksums import write_listing
from data.synthetic import cases, graph, images, questions, texts
from data.synthetic.anatomy import Pose
from data.synthetic.answers import Writer
from data.synthetic.cases import Study
from data.synthetic.questions import Planned
from data.synthetic.vocabulary import dataset_info
from utils.errors import DataError
from utils.privacy import private_directory
from utils.utils import atomic_directory, writing_to
from utils.workers import leave_with_parent

CXR_FOLDER, QA_FOLDER = "mimic-cxr-jpg", "mimic-ext-cxr-qba"


@dataclass(frozen=True)
class Written:
    """What remains of a study after its images were written."""

    study: Study
    poses: list[Pose]
    members: dict[str, bytes]
    """`qa` or `scene_data` path -> JSON"""
    metadata: dict
    stated: dict[str, dict]
    rows: object
    labels: dict[str, float]
    checksums: list[tuple[str, str]]
    """(path below mimic-cxr-jpg, SHA-256) of its images"""


def write_release(
    directory: str | Path,
    studies: int,
    seed: int,
    *,
    zipped: bool = True,
    workers: int | None = None,
    progress: bool = True,
) -> None:
    """Write `<directory>/mimic-cxr-jpg` and `<directory>/mimic-ext-cxr-qba`, complete or not at all.

    Args:
        directory: does not exist yet or is empty.
        studies: how many; about 1.3 for each patient and 1.3 images each.
        seed: the same seed and number of studies give the same bytes.
        zipped: `qa.zip` and `scene_data.zip` as downloaded; False: the folders that they contain.
        workers: processes; the number of cores when None.
        progress: show a bar on stderr.
    Raises:
        DataError: there is something in `directory`, it cannot be written, or fewer than one study is asked for.
    """
    target = Path(directory)
    if studies < 1 or seed < 0:
        raise DataError(f"cannot write {studies} studies with seed {seed}: give at least 1 study and a seed from 0 up")
    with writing_to(target, "free space, or choose another folder with --synthetic"):
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise DataError(f"{target} exists and is not empty: choose another folder, or remove it first")
        _write(target, studies, seed, zipped, workers or os.cpu_count() or 1, progress)


def _write(target: Path, studies: int, seed: int, zipped: bool, workers: int, progress: bool) -> None:
    from tqdm import tqdm

    with tqdm(total=2, desc="plan", disable=None if progress else True) as bar:
        made = cases.make_studies(studies, seed)
        bar.update()
        planned = questions.plan_questions(made, seed)
        bar.update()
    order = sorted(range(studies), key=lambda i: (made[i].subject_id, made[i].study_id))
    jobs = [(made[i], planned[i]) for i in order]
    with atomic_directory(target) as folder:
        written = _write_studies(folder, jobs, seed, zipped, workers, progress)
        _write_cxr(folder / CXR_FOLDER, written, seed)
        _write_qa(folder / QA_FOLDER, written)
        (folder / "README.md").write_text(texts.root_readme(studies, seed), encoding="utf-8")


def _write_studies(
    folder: Path, jobs: list[tuple[Study, list[Planned]]], seed: int, zipped: bool, workers: int, progress: bool
) -> list[Written]:
    from tqdm import tqdm

    private_directory(folder / QA_FOLDER)
    stores = {name: _Store(folder / QA_FOLDER, name, zipped) for name in ("qa", "scene_data")}
    results = []
    try:
        # closed at once after an error: no worker may write into a folder that is being removed
        with closing(_run(partial(_make, folder=folder / CXR_FOLDER, seed=seed), jobs, workers)) as done:
            for written in tqdm(done, total=len(jobs), desc="studies", disable=None if progress else True):
                for path, content in written.members.items():
                    stores[path.split("/", 1)[0]].add(path, content)
                written.members.clear()
                results.append(written)
    finally:
        for store in stores.values():
            store.close()
    return results


def _run(make: partial, jobs: list, workers: int) -> Iterator[Written]:
    """Results in the order of the jobs."""
    if workers == 1 or len(jobs) < 2 * workers:
        yield from map(make, jobs)
        return
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(workers, mp_context=context, initializer=leave_with_parent) as pool:
        try:
            yield from pool.map(make, jobs, chunksize=4)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _make(job: tuple[Study, list[Planned]], folder: Path, seed: int) -> Written:
    """Draw and write the images of a study; make everything else of it."""
    from data.synthetic import tables

    study, planned = job
    body, poses = images.study_poses(study, seed)
    checksums = []
    for index, (dicom, pose) in enumerate(zip(study.dicom_ids, poses, strict=True)):
        content = images.encode(images.draw_film(study, index, body, pose, seed))
        path = f"files/{_patient_folder(study)}/s{study.study_id}/{dicom}.jpg"
        private_directory((folder / path).parent)
        (folder / path).write_bytes(content)
        checksums.append((path, hashlib.sha256(content).hexdigest()))
    films = graph.locate(study, body, poses, seed)
    stated = graph.observations(study, films, seed)
    metadata = graph.study_metadata(study, films, poses, len(stated))
    qa = Writer(study, films, stated, seed).qa(planned)
    stem = f"{_patient_folder(study)}/s{study.study_id}"
    members = {
        f"qa/{stem}.qa.json": _dump(qa),
        f"scene_data/{stem}.scene_graph.json": _dump(graph.scene_graph(study, films, stated)),
        f"scene_data/{stem}.metadata.json": _dump(metadata),
    }
    slim = {k: {f: o[f] for f in ("obs_entities", "regions", "positiveness")} for k, o in stated.items()}
    rows, labels = tables.qa_rows(qa, metadata["split"]), tables.label_values(study, stated)
    return Written(study, poses, members, metadata, slim, rows, labels, checksums)


def _patient_folder(study: Study) -> str:
    return f"p{str(study.subject_id)[:2]}/p{study.subject_id}"


def _dump(obj: dict) -> bytes:
    return json.dumps(obj, separators=(",", ":")).encode("ascii")


class _Store:
    """`<name>.zip` with an inner folder `<name>/`, or that folder."""

    def __init__(self, parent: Path, name: str, zipped: bool):
        self.parent = parent
        self.known: set[str] = set()
        self.archive = zipfile.ZipFile(parent / f"{name}.zip", "w") if zipped else None

    def add(self, path: str, content: bytes) -> None:
        if self.archive is None:
            private_directory((self.parent / path).parent)
            (self.parent / path).write_bytes(content)
            return
        parts = path.split("/")
        for depth in range(1, len(parts)):
            folder = "/".join(parts[:depth]) + "/"
            if folder not in self.known:
                self.known.add(folder)
                self.archive.writestr(zipfile.ZipInfo(folder), b"")
        # ZipInfo's own date, 1 January 1980, makes the archive the same whenever it is written.
        self.archive.writestr(zipfile.ZipInfo(path), content, zipfile.ZIP_DEFLATED, compresslevel=2)

    def close(self) -> None:
        if self.archive is not None:
            self.archive.close()


def _write_cxr(folder: Path, written: Sequence[Written], seed: int) -> None:
    from data.synthetic import tables

    studies = [w.study for w in written]
    frames = tables.image_tables(studies, [w.poses for w in written])
    frames |= tables.label_tables(studies, [w.labels for w in written], seed)
    for name, frame in frames.items():
        plain = name.endswith("labeled")
        _write_csv(folder / (f"{name}.csv" if plain else f"{name}.csv.gz"), frame, index=False)
    checksums = [pair for w in written for pair in w.checksums]
    (folder / "IMAGE_FILENAMES").write_text("".join(f"{path}\n" for path, _ in checksums), encoding="ascii")
    (folder / "LICENSE.txt").write_text(texts.license_text(), encoding="utf-8")
    (folder / "README").write_text(texts.cxr_readme(), encoding="utf-8")
    write_listing(folder, dict(checksums))


def _write_qa(folder: Path, written: Sequence[Written]) -> None:
    from data.synthetic import tables

    rows = tables.QaRows()
    for w in written:
        rows.extend(w.rows)
    frames = tables.study_frames([w.study for w in written], [w.metadata for w in written]) | tables.qa_frames(rows)
    private_directory(folder / "metadata")
    private_directory(folder / "stats")
    for name, frame in frames.items():
        _write_csv(folder / "metadata" / f"{name}.csv.gz", frame, index=True)
        frame.to_parquet(folder / "metadata" / f"{name}.parquet")
    for name, frame in tables.statistics(w.stated for w in written).items():
        _write_csv(folder / "stats" / f"{name}.csv", frame, index=False)
    info = json.dumps(dataset_info(), indent=1) + "\n"
    (folder / "metadata" / "dataset_info.json").write_text(info, encoding="ascii")
    (folder / "quality_mappings.csv").write_text(texts.quality_mappings(), encoding="ascii")
    (folder / "LICENSE.txt").write_text(texts.license_text(), encoding="utf-8")
    (folder / "README.md").write_text(texts.qa_readme(), encoding="utf-8")
    write_listing(folder)


def _write_csv(path: Path, frame, index: bool) -> None:
    text = io.StringIO()
    frame.to_csv(text, index=index)
    content = text.getvalue().encode("utf-8")
    # mtime 0: the same bytes whenever it is written.
    path.write_bytes(gzip.compress(content, compresslevel=5, mtime=0) if path.suffix == ".gz" else content)
