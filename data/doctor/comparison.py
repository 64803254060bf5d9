"""Counts of a copy beside those that the pages of the data sets state, and why they differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from data import published
from data.index import Index
from data.label_space import GRADES, parse_grade
from data.release import Release
from data.release.reader import FRONTAL_VIEWS
from utils.errors import DataError
from utils.utils import get_logger

SPLITS = ("train", "validate", "test")
log = get_logger(__name__)

LOOK_ALIKE = "a look-alike release has no published counts"


@dataclass(frozen=True)
class Comparison:
    """One count."""

    what: str
    published: int
    here: int
    why: str
    """why they differ; empty where they do not"""


def compare(release: Release, index: Index | None) -> list[Comparison]:
    """Images, studies, patients, views; with an index also questions by split, type and grade. Nothing for a look-alike release."""
    if release.is_synthetic:
        return []
    return [
        Comparison(what, stated, here, _why(what, stated, here, export_of(release)))
        for what, stated, here in _pairs(release, index)
    ]


def comparison_lines(comparisons: list[Comparison]) -> list[str]:
    """For a terminal: how many counts are met, and a line for each reason why others are not."""
    if not comparisons:
        return [LOOK_ALIKE]
    reasons: dict[str, list[Comparison]] = {}
    for one in comparisons:
        if one.why:
            reasons.setdefault(one.why, []).append(one)
    lines = [f"published counts: {sum(not one.why for one in comparisons)} of {len(comparisons)} are met"]
    for why, found in reasons.items():
        first = found[0]
        lines.append(f"  {len(found)} differ ({first.what}: {first.here:,}, published {first.published:,}): {why}")
    return lines


def export_of(release: Release) -> str:
    """The export that the questions come from: `all`, `A_frontal` or `B_frontal`."""
    root = release.qba.root
    return root.name if root.parent.name == "exports" and root.name in published.QUESTIONS else "all"


def _pairs(release: Release, index: Index | None) -> Iterator[tuple[str, int, int]]:
    images = release.images
    for split in SPLITS:
        own = images[images["split"] == split]
        yield f"{split} images", published.IMAGES[split], len(own)
        yield f"{split} studies", published.STUDIES[split], own["study_id"].nunique()
        yield f"{split} patients", published.PATIENTS[split], own["subject_id"].nunique()
    yield "frontal images (AP, PA)", published.FRONTAL_IMAGES, int(images["view"].isin(FRONTAL_VIEWS).sum())
    yield "images without ViewPosition", published.BLANK_VIEWS, int((images["view"] == "").sum())
    if release.radiologist is not None:
        yield "studies that a radiologist labelled", published.RADIOLOGIST_STUDIES, len(release.radiologist)
    split_of = images.drop_duplicates("study_id").set_index("study_id")["split"]
    with_questions = Counter(split_of.reindex([study for _, study in release.studies()]).fillna("no image").tolist())
    for split in SPLITS:
        yield f"{split} studies with questions", published.QUESTION_STUDIES[split], with_questions[split]
    if index is None:
        return
    export = export_of(release)
    for split in SPLITS:
        yield f"{split} questions", published.QUESTIONS[export][split], sum(index.counts(split).values())
    if export == "all":
        by_type: Counter[str] = Counter()
        for types in index.meta["counts"].values():
            by_type.update({kind: sum(fates.values()) for kind, fates in types.items()})
        for kind, stated in published.TYPES.items():
            yield f"questions {kind}", stated, by_type[kind]
        yield from _grades(release)


def _grades(release: Release) -> Iterator[tuple[str, int, int]]:
    """From the table of questions, as an index has no grades of questions without a target; nothing without the table."""
    try:
        table = release.question_table(("rating",))
    except DataError as error:  # nothing else needs it
        log.warning("grades are not compared with the published ones: %s", error)
        return
    if table is None or "rating" not in table.column_names:
        return
    here: Counter[int | None] = Counter()
    for pair in table["rating"].value_counts().to_pylist():
        here[parse_grade(pair["values"])] += pair["counts"]
    for grade, stated in published.GRADES.items():
        yield f"questions of grade {grade or 'none'}", stated, here[GRADES.index(grade)]


def _why(what: str, stated: int, here: int, export: str) -> str:
    if stated == here:
        return ""
    source = "MIMIC-Ext-CXR-QBA" if "questions" in what else "MIMIC-CXR-JPG"
    if here > stated:
        return f"another version of {source}"
    if what.endswith("studies with questions") and export != "all":
        return "the export leaves out studies without a question of its grade"
    return f"a part of {source}, or a copy that is not complete"
