"""Is a release ready to train on? Problems with what to do about them, before hours are spent."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from data.release.locate import TABLE, groups, list_folder
from data.release.reader import Release, wanted_views
from utils.privacy import hashed_id, new_salt

if TYPE_CHECKING:
    import pandas


FEW = 2
"""So few odd rows never keep training from starting"""
UNFINISHED = 0.5
"""Share of images without a file from which nothing else need be looked at; an index counts fewer exactly"""
MOST_ODD = 0.05
"""Share of the images from which odd splits do"""
ODD: dict[str, tuple[str, str]] = {
    "duplicate_images": ("rows give an image again", "the first one counts; download the table again"),
    "images_without_split": ("images have no split", "they are left out; use tables that belong together"),
    "split_rows_without_metadata": (
        "rows are of images that the metadata table does not have",
        "they are left out; use tables that belong together",
    ),
    "split_unknown": (
        "rows have a split that is not train, validate or test",
        "their images are left out; download the table again",
    ),
    "label_values_unknown": (
        "labels are neither 1.0, 0.0, -1.0 nor empty",
        "they count as not mentioned; download the table again",
    ),
    "duplicate_label_rows": ("rows give a study's labels again", "the first one counts; download the table again"),
    "duplicate_members": (
        "members give a study's file again",
        "the last one counts, as when unpacking; download the archive again",
    ),
    "label_table_unreadable": ("table of labels cannot be used", "nothing is compared with it"),
}
"""Kinds of `data.release.tables.Odd` -> what it is, continuing a number; what follows, or what to do"""


@dataclass(frozen=True)
class Problem:
    """Something a user should know before training; with severity `error` it should not start."""

    name: str
    """what `--allow` takes"""
    severity: str
    """error, warning, or note: nothing to do"""
    what: str
    where: str
    mend: str
    """what follows from it, or what to do"""
    count: int = 1
    example: str = ""
    """a hashed id"""

    def __str__(self) -> str:
        return f"{self.severity}: {self.what} ({self.where}): {self.mend}"


def check(
    release: Release, sample: int = 2000, max_bad_fraction: float = 0.01, view_filter: str = "frontal_only"
) -> list[Problem]:
    """Readiness problems, errors first; an empty list when there are none.

    Args:
        view_filter: only images that `data.view_filter` lets through matter.
        sample: most images whose file is looked for.
        max_bad_fraction: share of images that may be bad (`data.max_bad_fraction`); up to UNFINISHED an index is what says so.
    """
    images, salt = release.images, new_salt()
    images = images[images["study_id"].isin({study for _, study in release.studies()})]
    wanted = wanted_views(images, view_filter)
    problems = [
        *_splits(release, images),
        *_views(release, wanted, view_filter),
        *_studies(release, salt),
        *_files(release, wanted, sample, max_bad_fraction, salt),
        *_tables(release, salt),
    ]
    return sorted(problems, key=lambda p: p.severity != "error")


def _splits(release: Release, with_questions: pandas.DataFrame) -> list[Problem]:
    where = str(release.jpg.tables["split"])
    found = []
    for split, severity in (("train", "error"), ("validate", "error"), ("test", "warning")):
        if not (with_questions["split"] == split).any():
            mend = "use a complete copy of both releases" if severity == "error" else "evaluation on it is not possible"
            what = f"no study of the {split} split has questions"
            found.append(Problem(f"no_{split}_questions", severity, what, where, mend))
    return found


def _views(release: Release, wanted: pandas.DataFrame, view_filter: str) -> list[Problem]:
    if len(wanted):
        return []
    what = f"no image of a study with questions passes data.view_filter {view_filter}"
    mend = "set data.view_filter to all, or use a complete copy"
    return [Problem("no_image_of_view", "error", what, str(release.jpg.tables["metadata"]), mend)]


def _studies(release: Release, salt: str) -> list[Problem]:
    studies = set(release.studies())
    known = set(release.images[["subject_id", "study_id"]].drop_duplicates().itertuples(index=False, name=None))
    found = []

    def add(name: str, severity: str, of: set, what: str, where: object, mend: str) -> None:
        found.append(Problem(name, severity, what, str(where), mend, len(of), hashed_id(min(of)[1], salt)))

    if lost := studies - known:
        severity = "error" if lost == studies else "warning"
        what = f"{len(lost):,} of {len(studies):,} studies with questions have no image of their patient in the tables"
        mend = "they are left out; use the releases that belong together if these are too many"
        add("studies_without_images", severity, lost, what, release.jpg.root, mend)
    if silent := known - studies:
        what = f"{len(silent):,} of {len(known):,} studies with images have no questions (596 in the whole release)"
        mend = "their images are not used; an export has the studies with questions of its grade"
        add("studies_without_questions", "note", silent, what, release.describe_questions(), mend)
    graphs = release.scene_graph_studies()
    if not graphs:
        what, mend = (
            "no scene graphs",
            "download scene_data.zip (scene_graph.zip in an export): the model learns its graph from them",
        )
        found.append(Problem("no_scene_graphs", "error", what, str(release.qba.root), mend))
    elif bare := studies - graphs:
        what = f"{len(bare):,} of {len(studies):,} studies have no scene graph"
        where = release.qba.scene_zip or release.qba.scene_folder
        mend = "these studies train without graph supervision"
        add("studies_without_scene_graph", "warning", bare, what, where, mend)
    labelled = set(release.chexpert.index)
    if bare := {key for key in studies & known if key[1] not in labelled}:
        what, mend = f"{len(bare):,} studies have no CheXpert labels", "these studies train without them"
        add("studies_without_labels", "warning", bare, what, release.jpg.tables["chexpert"], mend)
    return found


def _files(
    release: Release, wanted: pandas.DataFrame, sample: int, max_bad_fraction: float, salt: str
) -> list[Problem]:
    paths = wanted["path"]
    looked_at = paths.iloc[:: max(1, -(-len(paths) // sample))]  # evenly spread, at most `sample`
    # not pathlib's exists, which fails where a folder must not be looked into
    missing = [path for path in looked_at if not os.path.exists(release.image_path(path))]
    if not missing:
        return []
    severity = "error" if len(missing) > max(UNFINISHED, max_bad_fraction) * len(looked_at) else "warning"
    what = f"{len(missing):,} of {len(looked_at):,} images looked for have no file"
    where, mend = str((release.jpg.root / missing[0]).parents[2]), "finish the download of the images"
    if len(missing) == len(looked_at):
        mend += (
            f"; they are looked for as {release.jpg.image_prefix}p10/p<patient>/s<study>/<image>.jpg beside the tables"
        )
    example = hashed_id(os.path.basename(missing[0]).removesuffix(".jpg"), salt)
    return [Problem("image_files_missing", severity, what, where, mend, len(missing), example)]


def _tables(release: Release, salt: str) -> list[Problem]:
    found = []
    if "test-set-labeled" not in release.jpg.tables:
        what = "no radiologist's labels (mimic-cxr-2.1.0-test-set-labeled.csv)"
        mend = "part of MIMIC-CXR-JPG 2.1.0; without it CheXpert results are measured against CheXpert labels only"
        found.append(Problem("no_radiologist_labels", "warning", what, str(release.jpg.root), mend))
    for odd in release.oddities:
        what, mend = ODD[odd.kind]
        what, mend = f"{odd.count:,} {what}", mend + (f": {odd.reason}" if odd.reason else "")
        left_out = odd.kind in ("images_without_split", "split_unknown")
        too_many = left_out and odd.count > max(FEW, MOST_ODD * (len(release.images) + odd.count))
        severity, example = "error" if too_many else "warning", hashed_id(odd.example, salt) if odd.example else ""
        found.append(Problem(odd.kind, severity, what, str(odd.path), mend, odd.count, example))
    return found


def layout_notes(release: Release) -> list[Problem]:
    """How this copy differs from what is published, where it is read all the same."""
    root, qba = release.jpg.root, release.qba
    found = []
    blank = release.images["dicom_id"][release.images["view"] == ""]
    if len(blank):
        what = f"{len(blank):,} images have no ViewPosition (15,769 in the whole release)"
        mend = "they count as neither frontal nor lateral: data.view_filter all is what takes them in"
        where, example = str(release.jpg.tables["metadata"]), hashed_id(blank.iloc[0], new_salt())
        found.append(Problem("view_position_blank", "note", what, where, mend, len(blank), example))
    tables = sorted(
        (match["table"], entry.name) for entry in list_folder(root) if (match := TABLE.fullmatch(entry.name))
    )
    for table, twins in groupby(tables, key=lambda pair: pair[0]):
        if len(names := [name for _, name in twins]) > 1:
            what = f"{len(names)} copies of the table {table}: {', '.join(names)}"
            mend = f"{release.jpg.tables[table].name} is read"
            found.append(Problem("table_copies", "note", what, str(root), mend, len(names)))
    if not release.jpg.image_prefix:
        what, mend = "images lie in p10/... without the folder files/", "they are found there"
        found.append(Problem("images_without_files_folder", "note", what, str(root), mend, len(groups(root))))
    if qba.qa_zip and qba.qa_folder:
        what, mend = "qa.zip is there, and unpacked too", f"{release.describe_questions()} is read"
        found.append(Problem("questions_twice", "note", what, str(qba.root), mend))
    if release.jpg.version == "2.0.0":
        what, mend = "MIMIC-CXR-JPG 2.0.0", "the images are those of 2.1.0, which adds a radiologist's labels"
        found.append(Problem("older_release", "note", what, str(root), mend))
    return found
