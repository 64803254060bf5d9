"""Is a release ready to train on? Problems with what to do about them, before hours are spent."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from data.release.locate import TABLE, groups, list_folder
from data.release.reader import Release, wanted_views

if TYPE_CHECKING:
    import pandas


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
        max_bad_fraction: largest share of images without a file that is not an error (`data.max_bad_fraction`).
    """
    images = release.images
    images = images[images["study_id"].isin({study for _, study in release.studies()})]
    wanted = wanted_views(images, view_filter)
    problems = [
        *_splits(release, images),
        *_views(release, wanted, view_filter),
        *_studies(release),
        *_files(release, wanted, sample, max_bad_fraction),
        *_tables(release),
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


def _studies(release: Release) -> list[Problem]:
    studies = set(release.studies())
    known = set(release.images[["subject_id", "study_id"]].drop_duplicates().itertuples(index=False, name=None))
    found = []
    if lost := len(studies - known):
        severity = "error" if lost == len(studies) else "warning"
        what = f"{lost:,} of {len(studies):,} studies with questions have no image in the tables"
        mend = "they are left out; use the releases that belong together if these are too many"
        found.append(Problem("studies_without_images", severity, what, str(release.jpg.root), mend, lost))
    graphs = release.scene_graph_studies()
    if not graphs:
        what, mend = (
            "no scene graphs",
            "download scene_data.zip (scene_graph.zip in an export): the model learns its graph from them",
        )
        found.append(Problem("no_scene_graphs", "error", what, str(release.qba.root), mend))
    elif bare := len(studies - graphs):
        what = f"{bare:,} of {len(studies):,} studies have no scene graph"
        where = str(release.qba.scene_zip or release.qba.scene_folder)
        mend = "these studies train without graph supervision"
        found.append(Problem("studies_without_scene_graph", "warning", what, where, mend, bare))
    if bare := len({study for _, study in studies & known} - set(release.chexpert.index)):
        what = f"{bare:,} studies have no CheXpert labels"
        where, mend = str(release.jpg.tables["chexpert"]), "these studies train without them"
        found.append(Problem("studies_without_labels", "warning", what, where, mend, bare))
    return found


def _files(release: Release, wanted: pandas.DataFrame, sample: int, max_bad_fraction: float) -> list[Problem]:
    paths = wanted["path"]
    looked_at = paths.iloc[:: max(1, -(-len(paths) // sample))]  # evenly spread, at most `sample`
    # not pathlib's is_file, which fails where a folder must not be looked into
    missing = sum(not os.path.isfile(release.image_path(path)) for path in looked_at)
    if not missing:
        return []
    severity = "error" if missing > max_bad_fraction * len(looked_at) else "warning"
    what = f"{missing:,} of {len(looked_at):,} images looked for have no file"
    where = str(release.jpg.root / (release.jpg.image_prefix + "p10"))
    return [Problem("image_files_missing", severity, what, where, "finish the download of the images", missing)]


def _tables(release: Release) -> list[Problem]:
    found = []
    if release.radiologist is None:
        what = "no radiologist's labels (mimic-cxr-2.1.0-test-set-labeled.csv)"
        mend = "part of MIMIC-CXR-JPG 2.1.0; without it CheXpert results are measured against CheXpert labels only"
        found.append(Problem("no_radiologist_labels", "warning", what, str(release.jpg.root), mend))
    for kind, count in sorted(release.problems.items()):
        what = f"{count:,} {kind.replace('_', ' ')}"
        found.append(Problem(kind, "warning", what, str(release.jpg.root), "they are left out", count))
    return found


def layout_notes(release: Release) -> list[Problem]:
    """How this copy differs from what is published, where it is read all the same."""
    root, qba = release.jpg.root, release.qba
    found = []
    blank = int((release.images["view"] == "").sum())
    if blank:
        what = f"{blank:,} images have no ViewPosition (15,769 in the whole release)"
        mend = "they count as neither frontal nor lateral: data.view_filter all is what takes them in"
        found.append(Problem("view_position_blank", "note", what, str(release.jpg.tables["metadata"]), mend, blank))
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
