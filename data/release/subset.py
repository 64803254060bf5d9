"""A small release made of some patients of a real one: the same files in the same layout, for development and trials.

What is under the data use agreement stays so: a subset is no look-alike.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.checksums import write_listing
from data.release.reader import Release
from data.release.tables import open_table
from utils.errors import DataError
from utils.privacy import private_directory
from utils.utils import atomic_directory

JPG_FOLDER, QBA_FOLDER = "mimic-cxr-jpg", "mimic-ext-cxr-qba"
SPLITS = ("train", "validate", "test")
PATIENT_COLUMNS, STUDY_COLUMNS = ("subject_id", "patient_id"), ("study_id",)
BATCH = 2**17
"""Rows of a table at a time"""


@dataclass(frozen=True)
class Chosen:
    """Ids of what goes into the subset."""

    patients: frozenset[int]
    studies: frozenset[int]

    def holds(self, names: list[str]) -> tuple[str, frozenset[int]] | None:
        """The column of a table that says whether a row belongs to the subset, and the ids that do; None: there is none."""
        short = {name.rsplit(".", 1)[-1]: name for name in names}
        for columns, ids in ((PATIENT_COLUMNS, self.patients), (STUDY_COLUMNS, self.studies)):
            for column in columns:
                if column in short:
                    return short[column], ids
        return None


def choose_patients(release: Release, patients: int, seed: int) -> Chosen:
    """Random patients with questions: of each split its share, and at least one.

    DataError when a split has none, or there are fewer patients than asked for.
    """
    images = release.images
    asked = {study for _, study in release.studies()}
    images = images[images["study_id"].isin(asked)]
    of_split = {split: np.unique(images.loc[images["split"] == split, "subject_id"]) for split in SPLITS}
    total = sum(map(len, of_split.values()))
    empty = [split for split, ids in of_split.items() if not len(ids)]
    if empty:
        raise DataError(f"no patient with questions in the split {empty[0]} of {release.qba.root}")
    if not len(SPLITS) <= patients <= total:
        raise DataError(
            f"a subset has {len(SPLITS)} to {total:,} patients, those with questions; asked for {patients:,}"
        )
    rng = np.random.default_rng(seed)
    numbers = {split: max(1, round(patients * len(ids) / total)) for split, ids in of_split.items()}
    numbers["train"] = patients - numbers["validate"] - numbers["test"]
    chosen = [rng.choice(ids, numbers[split], replace=False) for split, ids in of_split.items()]
    subjects = frozenset(np.concatenate(chosen).tolist())
    own = images["subject_id"].isin(subjects)
    return Chosen(subjects, frozenset(images.loc[own, "study_id"].tolist()))


@dataclass(frozen=True)
class Size:
    """Of a subset, before it is written."""

    studies: int
    images: int
    size: int
    """bytes, about: of tables and archives the share of the studies"""
    linked: bool
    """whether the images are on the same disk, and take no space"""


def subset_size(release: Release, target: Path, patients: int, seed: int = 0) -> Size:
    """What `write_subset` will write. Errors as there."""
    if target.exists():
        raise DataError(f"{target} exists: name a new folder")
    chosen = choose_patients(release, patients, seed)
    packed = [p for p in (release.qba.qa_zip, release.qba.scene_zip) if p]
    whole = [*release.jpg.tables.values(), *_tables(release.qba.metadata), *packed]
    keys = [] if packed else [key for key in release.studies() if key[1] in chosen.studies]
    unpacked = sum(state[1] for key in keys for state in release.study_state(*key) if state)
    share = len(chosen.studies) / max(1, len(release.studies()))
    images = release.images
    paths = [release.image_path(p) for p in images.loc[images["study_id"].isin(chosen.studies), "path"]]
    sizes = [path.stat().st_size for path in paths if path.is_file()]
    above = next(path for path in target.absolute().parents if path.exists())
    linked = above.stat().st_dev == release.jpg.root.stat().st_dev
    size = unpacked + share * sum(path.stat().st_size for path in whole) + (0 if linked else sum(sizes))
    return Size(len(chosen.studies), len(sizes), round(size), linked)


def write_subset(release: Release, target: Path, patients: int, seed: int = 0) -> dict[str, int]:
    """Write `<target>/mimic-cxr-jpg` and `<target>/mimic-ext-cxr-qba`; complete, or not at all.

    Images are linked where the disk is the same, and keep their mode then. Images that the release lacks are left out, as are
    CSV copies of tables that are there as parquet.

    Returns:
        how many `patients`, `studies`, `images` and `missing_images` there are.
    Raises:
        DataError: see `choose_patients`; or `target` exists.
    """
    if target.exists():
        raise DataError(f"{target} exists: name a new folder")
    chosen = choose_patients(release, patients, seed)
    with atomic_directory(target) as folder:
        counts = _write_jpg(release, folder / JPG_FOLDER, chosen)
        _write_qba(release, folder / QBA_FOLDER, chosen)
        for name in (JPG_FOLDER, QBA_FOLDER):
            write_listing(folder / name)
    return {"patients": len(chosen.patients), "studies": len(chosen.studies)} | counts


def _write_jpg(release: Release, folder: Path, chosen: Chosen) -> dict[str, int]:
    private_directory(folder)
    for path in release.jpg.tables.values():
        _filter_csv(path, folder / path.name, chosen)
    images = release.images
    paths = images.loc[images["study_id"].isin(chosen.studies), "path"].tolist()
    there = [path for path in paths if _link(release.image_path(path), folder / "files" / _below_files(path))]
    names = "".join(f"files/{_below_files(path)}\n" for path in there)
    (folder / "IMAGE_FILENAMES").write_text(names, encoding="utf-8")
    return {"images": len(there), "missing_images": len(paths) - len(there)}


def _write_qba(release: Release, folder: Path, chosen: Chosen) -> None:
    private_directory(folder / "metadata")
    shutil.copyfile(release.qba.info, folder / "metadata" / release.qba.info.name)
    for path in sorted(release.qba.root.glob("quality_mappings.csv")):
        shutil.copyfile(path, folder / path.name)
    for path in _tables(release.qba.metadata):
        filtered = _filter_parquet if path.suffix == ".parquet" else _filter_csv
        filtered(path, folder / "metadata" / path.name, chosen)
    keys = [key for key in release.studies() if key[1] in chosen.studies]
    _pack(folder / "qa.zip", ((f"qa/{_member(key, 'qa')}", release.read_qa(*key)) for key in keys))
    scenes = (
        (f"scene_data/{_member(key, kind)}", read(*key))
        for key in keys
        for kind, read in (("scene_graph", release.read_scene_graph), ("metadata", release.read_metadata))
    )
    _pack(folder / "scene_data.zip", scenes)


def _tables(folder: Path) -> list[Path]:
    """Parquet tables, and CSV tables that are not there as parquet."""
    parquet = sorted(folder.glob("*.parquet"))
    stems = {path.name.removesuffix(".parquet") for path in parquet}
    csvs = sorted(path for path in folder.glob("*.csv*") if path.name.split(".csv")[0] not in stems)
    return parquet + csvs


def _filter_csv(source: Path, target: Path, chosen: Chosen) -> None:
    """The rows of the subset, their text unchanged; a table without ids is copied."""
    with open_table(source) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as text:
        rows = csv.reader(text)
        header = next(rows, [])
        key = chosen.holds(header)
        place = header.index(key[0]) if key else None
        opened = gzip.open if target.suffix == ".gz" else open
        with opened(target, "wt", encoding="utf-8", newline="") as out:
            writer = csv.writer(out, lineterminator="\n")
            writer.writerow(header)
            writer.writerows(
                row for row in rows if place is None or (len(row) > place and _number(row[place]) in key[1])
            )


def _filter_parquet(source: Path, target: Path, chosen: Chosen) -> None:
    with pq.ParquetFile(source) as file:
        key = chosen.holds(file.schema_arrow.names)
        with pq.ParquetWriter(target, file.schema_arrow) as out:
            for batch in file.iter_batches(BATCH):
                table = pa.Table.from_batches([batch])
                if key:
                    digits = pc.replace_substring_regex(table[key[0]].cast(pa.string()), r"^\D+|\.0$", "")
                    table = table.filter(pc.is_in(digits.cast(pa.int64()), pa.array(sorted(key[1]), pa.int64())))
                if len(table):
                    out.write_table(table)


def _number(text: str) -> int | None:
    """10000032 of 10000032, 10000032.0, p10000032 or s50414267."""
    match = re.fullmatch(r"\D*(\d+)(?:\.0*)?", text.strip())
    return int(match[1]) if match else None


def _link(source: Path, target: Path) -> bool:
    if not source.is_file():
        return False
    private_directory(target.parent)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
    return True


def _below_files(path: str) -> str:
    return path.removeprefix("files/")


def _member(key: tuple[int, int], kind: str) -> str:
    subject, study = (f"{number:08d}" for number in key)
    return f"p{subject[:2]}/p{subject}/s{study}.{kind}.json"


def _pack(path: Path, members: Iterable[tuple[str, dict | None]]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=2) as archive:
        for name, content in members:
            if content is not None:
                archive.writestr(name, json.dumps(content, ensure_ascii=False))
