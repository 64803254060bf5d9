"""Which files of both releases a training with some settings needs: no others are downloaded."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from typing import TYPE_CHECKING

from configs.mimic_cxr_config import DataConfig
from data.label_space import GRADES
from data.release.locate import INFO, SCENE_NAMES, TABLE
from data.release.reader import Release, open_release, wanted_views
from utils.errors import DataError

if TYPE_CHECKING:
    import pandas

JPG_ADDRESS = "https://physionet.org/files/mimic-cxr-jpg/2.1.0/"
QBA_ADDRESS = "https://physionet.org/files/mimic-ext-cxr-qba/1.0.0/"
EXPORTS = {"A": "exports/A_frontal/", "B": "exports/B_frontal/"}
"""Frontal questions of at least this grade: https://physionet.org/content/mimic-ext-cxr-qba/1.0.0/"""
QUESTION_TABLE = "metadata/question_metadata.parquet"


def needed_of_jpg(listing: Collection[str]) -> list[str]:
    """The tables of MIMIC-CXR-JPG; images follow, see `needed_images`."""
    found = sorted(name for name in listing if TABLE.fullmatch(name))
    for table in ("metadata", "split"):
        if not any(f"-{table}.csv" in name for name in found):
            raise DataError(f"no table {table} among the {len(listing):,} files of this release of MIMIC-CXR-JPG")
    return found


def export_of(data: DataConfig) -> str:
    """The folder of the release with the fewest files that has all questions of the configured grade and views."""
    if data.view_filter != "frontal_only" or data.quality_grade not in GRADES:
        return ""
    grade = GRADES.index(data.quality_grade)
    fitting = [folder for least, folder in EXPORTS.items() if GRADES.index(least) <= grade]
    return fitting[0] if fitting else ""


def home_of(listing: Collection[str], data: DataConfig) -> str:
    """`export_of`, or the whole release where it lists no such export."""
    home = export_of(data)
    return home if f"{home}qa.zip" in listing else ""


def needed_of_qba(listing: Collection[str], data: DataConfig) -> list[str]:
    """Questions, scene graphs, vocabularies and the table of questions: of an export where one has all that is wanted."""
    home = home_of(listing, data)
    wanted = {
        "questions": [f"{home}qa.zip"],
        "scene graphs": [f"{folder}{name}.zip" for folder in (home, "") for name in SCENE_NAMES],
        "vocabularies": [f"{folder}{INFO}" for folder in (f"{home}metadata/", home, "metadata/", "")],
    }
    found = []
    for what, names in wanted.items():
        there = [name for name in names if name in listing]
        if not there:
            raise DataError(f"no {what} among the files of this release: looked for {', '.join(names)}")
        found.append(there[0])
    return found + [name for name in (home + QUESTION_TABLE, "quality_mappings.csv") if name in listing]


def what_is_missing(data: DataConfig) -> str:
    """Why a download is needed: what both releases lack of what the settings need; empty when they have it all."""
    try:
        release = open_release(data.mimic_cxr_path, data.mimic_qa_path)
    except DataError as error:
        return str(error)
    if not release.scene_graph_studies():
        return f"no scene graphs in {release.qba.root}"
    # not pathlib's is_file, which fails where a folder must not be looked into
    lost = sum(not os.path.isfile(release.image_path(path)) for path in _wanted(release, data)["path"])
    return f"{lost:,} images have no file in {release.jpg.root}" if lost else ""


def needed_images(release: Release, data: DataConfig) -> list[str]:
    """Paths, as the release lists them, of the images that the view filter lets through and that questions are asked about."""
    return [re.sub(r"^(files/)?", "files/", path, count=1) for path in _wanted(release, data)["path"]]


def _wanted(release: Release, data: DataConfig) -> pandas.DataFrame:
    images = wanted_views(release.images, data.view_filter)
    return images[images["study_id"].isin({study for _, study in release.studies()})]
