"""`open_release`: both releases as one object, whatever their layout on disk."""

from __future__ import annotations

import hashlib
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from data.release.locate import JpgFolder, QbaFolder, find_jpg, find_qba
from data.release.members import Members, choose_members
from data.release.tables import (
    Odd,
    names_of,
    open_table,
    read_images,
    read_info,
    read_labels,
    read_question_table,
)
from utils.errors import DataError

if TYPE_CHECKING:
    import pandas
    import pyarrow

FRONTAL_VIEWS = ("AP", "PA")
_LATERAL_VIEWS = ("LATERAL", "LL", "RL", "XTABLE LATERAL")
_FINGERPRINT_TABLES = ("split", "metadata", "chexpert")
_OTHER_TABLES = ("negbio", "test-set-labeled")


def wanted_views(images: pandas.DataFrame, view_filter: str) -> pandas.DataFrame:
    """The images that `data.view_filter` (frontal_only, lateral_only, all) lets through. A blank view is neither."""
    if view_filter == "all":
        return images
    views = FRONTAL_VIEWS if view_filter == "frontal_only" else _LATERAL_VIEWS
    return images[images["view"].isin(views)]


def open_release(cxr_path: Path | str, qa_path: Path | str) -> Release:
    """Find and open both releases; the tables and the lists of studies are read and checked here.

    Args:
        cxr_path: MIMIC-CXR-JPG, its root or a folder up to five levels above it.
        qa_path: MIMIC-Ext-CXR-QBA or one of its exports, likewise.

    Raises:
        DataError: a part is missing, damaged or contradicts another one.
    """
    release = find_release(cxr_path, qa_path)
    release.load()
    return release


def find_release(cxr_path: Path | str, qa_path: Path | str) -> Release:
    """As `open_release`, with nothing read yet: what is damaged shows when it is asked for, or in `Release.load`."""
    return Release(find_jpg(cxr_path), find_qba(qa_path))


class Release:
    """MIMIC-CXR-JPG and MIMIC-Ext-CXR-QBA, read lazily. Goes to worker processes without its tables; they reopen it."""

    def __init__(self, jpg: JpgFolder, qba: QbaFolder):
        self.jpg = jpg
        self.qba = qba

    def __getstate__(self) -> dict:
        return {name: getattr(self, name) for name in ("jpg", "qba", "_qa", "_scenes")}  # cached tables stay behind

    def load(self) -> None:
        """Read everything that later calls rely on, so that what is wrong shows here."""
        for part in (
            "file_states",
            "_qa",
            "_scenes",
            "_image_table",
            "_label_table",
            "entities",
            "region_names",
            "radiologist",
        ):
            getattr(self, part)

    @cached_property
    def file_states(self) -> list[list]:
        """Path, bytes and nanoseconds of the last change of each file that `fingerprint` is made of, before it was read.

        Empty where an unpacked folder is among them, or a file cannot be looked at.
        """
        if self.qba.qa_folder or self.qba.scene_folder:
            return []
        tables = [self.jpg.tables[name] for name in _FINGERPRINT_TABLES if name in self.jpg.tables]
        files = [path.resolve() for path in (*tables, self.qba.info, self.qba.qa_zip, self.qba.scene_zip) if path]
        try:
            return [[str(path), (found := path.stat()).st_size, found.st_mtime_ns] for path in files]
        except OSError:
            return []

    @property
    def places(self) -> list[Path]:
        """What is read: the folder of images and tables, the questions, the scene graphs."""
        return [self.jpg.root, self._qa.path, *([self._scenes.path] if self._scenes else [])]

    # Tables

    @property
    def images(self) -> pandas.DataFrame:
        """One row an image that has a split; the columns are those of `read_images`."""
        return self._image_table[0]

    @property
    def chexpert(self) -> pandas.DataFrame:
        """CheXpert labels by study_id: 14 float columns in `CHEXPERT` order, NaN where not mentioned."""
        return self._label_table[0]

    @property
    def radiologist(self) -> pandas.DataFrame | None:
        """A radiologist's labels of 687 test studies, in the form of `chexpert`; None without a file that can be read."""
        return self._radiologist_table[0]

    @property
    def negbio(self) -> pandas.DataFrame | None:
        """The second labeller's labels in the form of `chexpert`; None without a table that can be read."""
        return self._negbio_table[0]

    def question_table(self, columns: tuple[str, ...] = ("question_type", "rating", "split")) -> pyarrow.Table | None:
        """Columns of `question_metadata` by the last part of their names; None when the release has no such table."""
        return read_question_table(self.qba, columns)

    @cached_property
    def _qa(self) -> Members:
        return choose_members(self.qba.qa_zip, self.qba.qa_folder, "qa")

    @cached_property
    def _scenes(self) -> Members | None:
        return choose_members(self.qba.scene_zip, self.qba.scene_folder, "scene_graph")

    @cached_property
    def _image_table(self) -> tuple[pandas.DataFrame, list[Odd]]:
        tables = self.jpg.tables
        return read_images(tables["metadata"], tables["split"], self.jpg.image_prefix)

    @cached_property
    def _label_table(self) -> tuple[pandas.DataFrame, list[Odd]]:
        if "chexpert" not in self.jpg.tables:
            raise DataError(
                f"{self.jpg.root} has no mimic-cxr-2.0.0-chexpert.csv.gz: download it from PhysioNet (MIMIC-CXR-JPG)"
            )
        return read_labels(self.jpg.tables["chexpert"])

    @cached_property
    def _radiologist_table(self) -> tuple[pandas.DataFrame | None, list[Odd]]:
        return self._other_labels("test-set-labeled", {"Airspace Opacity": "Lung Opacity"})

    @cached_property
    def _negbio_table(self) -> tuple[pandas.DataFrame | None, list[Odd]]:
        return self._other_labels("negbio")

    def _other_labels(
        self, table: str, rename: dict[str, str] | None = None
    ) -> tuple[pandas.DataFrame | None, list[Odd]]:
        """Labels that nothing is trained on: without them the rest is as good."""
        path = self.jpg.tables.get(table)
        if path is None:
            return None, []
        try:
            return read_labels(path, rename)
        except DataError as error:
            return None, [Odd("label_table_unreadable", path, 1, reason=str(error))]

    # One study

    def studies(self) -> list[tuple[int, int]]:
        """(subject id, study id) of every study with questions, sorted."""
        return self._qa.keys("qa")

    def scene_graph_studies(self) -> set[tuple[int, int]]:
        """(subject id, study id) of every study with a scene graph."""
        return set(self._scenes.keys("scene_graph")) if self._scenes else set()

    def read_qa(self, subject_id: int, study_id: int) -> dict:
        """The parsed `s<study>.qa.json`; DataError when it is missing or damaged."""
        raw = self._qa.read("qa", (subject_id, study_id))
        if raw is None:
            raise DataError(f"{self._qa.path} has no questions of a study that was asked for: use one of `studies()`")
        return raw

    def read_scene_graph(self, subject_id: int, study_id: int) -> dict | None:
        """The parsed `s<study>.scene_graph.json`; None when the study has none."""
        return self._scenes.read("scene_graph", (subject_id, study_id)) if self._scenes else None

    def read_metadata(self, subject_id: int, study_id: int) -> dict | None:
        """The parsed `s<study>.metadata.json`; None when the study has none."""
        return self._scenes.read("metadata", (subject_id, study_id)) if self._scenes else None

    def study_state(self, subject_id: int, study_id: int) -> tuple:
        """Of the study's questions and its scene graph: what changes when their contents do; nothing is read."""
        key = (subject_id, study_id)
        return self._qa.state("qa", key), self._scenes.state("scene_graph", key) if self._scenes else None

    def image_path(self, row: object) -> Path:
        """File of an image, given a row of `images` (a tuple, a series) or its `path`."""
        return self.jpg.root / (row if isinstance(row, str) else row.path)

    # The data set's own words

    @cached_property
    def info(self) -> dict:
        """`dataset_info.json`."""
        return read_info(self.qba.info)

    @cached_property
    def entities(self) -> list[str]:
        return names_of(self.info, ("finding_entities", "entity_names"), self.qba.info)

    @cached_property
    def region_names(self) -> list[str]:
        return names_of(self.info, ("regions", "region_names"), self.qba.info)

    @property
    def is_synthetic(self) -> bool:
        """Made by the look-alike generator, by its mark in `dataset_info.json`."""
        return self.info.get("synthetic") is True

    @property
    def is_credentialed(self) -> bool:
        """Treated as under the data use agreement: everything that is not marked synthetic."""
        return not self.is_synthetic

    @property
    def oddities(self) -> list[Odd]:
        """What the tables and archives have that could not be used as it is, file by file."""
        tables = self._image_table, self._label_table, self._negbio_table, self._radiologist_table
        odd = [one for _, found in tables for one in found]
        for members in (self._qa, self._scenes):
            odd += Odd.all_of(members.path, {"duplicate_members": members.duplicates}) if members else []
        return odd

    @property
    def problems(self) -> Counter:
        """Counts of `oddities` by kind; empty when there is nothing."""
        counts: Counter = Counter()
        for odd in self.oddities:
            counts[odd.kind] += odd.count
        return counts

    def fingerprint(self) -> str:
        """16 hex digits over the contents of the tables and the lists of members: other contents, other fingerprint.

        Depends neither on where the release lies nor on whether its tables are gzipped.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        total = hashlib.sha256()
        for table in _FINGERPRINT_TABLES:
            with open_table(self.jpg.tables[table]) as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
        total.update(hashlib.sha256(self.qba.info.read_bytes()).digest())
        for members in (self._qa, self._scenes):
            total.update(hashlib.sha256(members.signature() if members else b"none").digest())
        return total.hexdigest()[:16]

    def describe_questions(self) -> str:
        """Where the questions are read from."""
        return str(self._qa)

    def describe(self) -> list[str]:
        """Plain lines: what was found where, and how much of it."""
        tables = self.jpg.tables
        missing = [name for name in (*_FINGERPRINT_TABLES, *_OTHER_TABLES) if name not in tables]
        views = self.images["view"].replace("", "blank").value_counts()
        lines = [
            f"MIMIC-CXR-JPG {self.jpg.version} in {self.jpg.root}",
            f"  tables: {', '.join(path.name for _, path in sorted(tables.items()))}",
            *([f"  tables not there: {', '.join(missing)}"] if missing else []),
            *(
                f"  {split}: {_counts(self.images[self.images['split'] == split])}"
                for split in ("train", "validate", "test")
            ),
            f"  frontal images (AP, PA): {int(self.images['view'].isin(FRONTAL_VIEWS).sum()):,}",
            f"  views: {', '.join(f'{view} {count:,}' for view, count in views.items())}",
            f"MIMIC-Ext-CXR-QBA in {self.qba.root}" + (" (synthetic look-alike)" if self.is_synthetic else ""),
            f"  questions: {self._qa}, {len(self._qa.keys('qa')):,} studies",
            f"  scene graphs: {self._scenes or 'none found'}, {len(self.scene_graph_studies()):,} studies",
            f"  vocabulary: {len(self.region_names):,} regions, {len(self.entities):,} entities, from {self.qba.info}",
        ]
        return lines + [
            f"  left out: {count:,} {kind.replace('_', ' ')}" for kind, count in sorted(self.problems.items())
        ]


def _counts(images: pandas.DataFrame) -> str:
    studies, patients = images["study_id"].nunique(), images["subject_id"].nunique()
    return f"{len(images):,} images, {studies:,} studies, {patients:,} patients"
