"""What can be odd in a release: in plain words, what follows from it, what to do, and how much of it is too much.

Codes are those of the index: fates of questions (`data.answers`, `data.index.build`), names and values without a row in our tables
(`data.raw.note`), and files that could not be used (`data.index.part`).
"""

from __future__ import annotations

from dataclasses import dataclass

from data.release.check import ODD


@dataclass(frozen=True)
class Oddity:
    """An oddity and what it means. `what` continues a number: 12 `questions have no verdict`."""

    name: str
    """what `--allow` takes"""
    what: str
    mend: str
    """what follows from it, or what to do"""
    most: float | None = None
    """share of `base` from which training should not start; None: never"""
    base: str = "questions"
    """questions, images, studies, boxes, statements: what `most` is a share of"""
    expected: bool = False
    """part of every copy of the release: a note, no warning"""


_LEFT_OUT = "they are left out of training and scores"
_NEW_RELEASE = "they are left out; many of them mean a release that this version does not know"

FATES: dict[str, Oddity] = {
    "unknown_type": Oddity("question_type_unknown", "questions are of no known type", _NEW_RELEASE, 0.01),
    "unsupported_type": Oddity(
        "question_type_unsupported", "questions are of types that no class answers", _LEFT_OUT, expected=True
    ),
    "empty_question_text": Oddity("question_without_text", "questions have no text", _LEFT_OUT, 0.05),
    "no_main_answer": Oddity("question_without_main_answer", "questions have no main answer", _LEFT_OUT, 0.05),
    "no_verdict": Oddity("verdict_missing", "yes/no questions have an answer without yes or no", _LEFT_OUT, 0.1),
    "verdict_conflict": Oddity("verdict_conflict", "yes/no questions are answered with both", _LEFT_OUT, 0.05),
    "no_polarity": Oddity("polarity_missing", "questions do not say whether their findings are there", _LEFT_OUT, 0.1),
    "no_entities": Oddity("finding_missing", "questions about findings name none", _LEFT_OUT, 0.2),
    "entities_outside_table": Oddity(
        "finding_outside_classes",
        "questions are answered with findings outside the 14 classes",
        "they have no target; the tables of names are in data/names.py",
        0.5,
        expected=True,
    ),
    "nothing_positive": Oddity(
        "nothing_there", "questions ask where or how severe, and nothing is there", _LEFT_OUT, 0.2
    ),
    "no_regions": Oddity("region_missing", "questions ask where, and no region is named", _LEFT_OUT, 0.2),
    "regions_outside": Oddity(
        "region_outside_classes",
        "questions are answered with places outside the 26 regions",
        _LEFT_OUT,
        0.2,
        expected=True,
    ),
    "regions_unknown": Oddity(
        "region_answer_unknown", "questions are answered with unknown places", _NEW_RELEASE, 0.05
    ),
    "severity_unspecified": Oddity(
        "severity_unspecified", "questions ask how severe, and the report does not say", _LEFT_OUT, expected=True
    ),
    "severity_ambiguous": Oddity("severity_ambiguous", "questions have two grades of severity", _LEFT_OUT, 0.1),
    "no_frontal_image": Oddity(
        "study_without_frontal_image",
        "questions belong to studies without a frontal image (AP, PA)",
        "they are left out; data.view_filter all takes other views too",
        expected=True,
    ),
    "no_lateral_image": Oddity(
        "study_without_lateral_image", "questions belong to studies without a lateral image", _LEFT_OUT, expected=True
    ),
    "no_image": Oddity("study_without_image", "questions belong to studies without an image", _LEFT_OUT, 0.05),
    "study_not_in_image_tables": Oddity(
        "study_not_in_tables",
        "questions belong to studies that MIMIC-CXR-JPG does not list",
        "they are left out; use the releases that belong together",
        0.05,
    ),
    "image_missing": Oddity(
        "question_image_missing", "questions are about images without a file", "finish the download of the images"
    ),
    "image_unreadable": Oddity(
        "question_image_unreadable",
        "questions are about images that cannot be read",
        "download these files again",
    ),
}

VALUES: dict[str, Oddity] = {
    "entity": Oddity(
        "finding_name_unknown",
        "times a finding is named that no table knows",
        "it is ignored; such names are listed under `unmapped` in the report",
        0.2,
    ),
    "region": Oddity(
        "region_name_unknown",
        "times a place is named that no table knows",
        "it is ignored; such names are listed under `unmapped` in the report",
        0.2,
    ),
    "region_outside": Oddity(
        "region_name_outside", "times a place is named that lies outside the 26 regions", "it is ignored", expected=True
    ),
    "severity": Oddity("severity_word_unknown", "times a word for severity is no known one", "it is ignored", 0.1),
    "positiveness": Oddity(
        "positiveness_unknown", "values of `positiveness` are not documented", "they say neither yes nor no", 0.05
    ),
    "probability": Oddity(
        "probability_unknown", "values of `probability` are not documented", "they are ignored", 0.05
    ),
    "laterality": Oddity("laterality_unknown", "values of `laterality` are not documented", "they say no side", 0.05),
    "laterality_conflict": Oddity(
        "laterality_conflict",
        "times the side of a region and `laterality` differ",
        "the region's own name counts",
        0.05,
    ),
    "question_type": Oddity("question_type_name", "questions have a type name that no table knows", _NEW_RELEASE),
    "question_type_short": Oddity(
        "question_type_without_prefix",
        "questions have a type name without its prefix (`has_finding`)",
        "they count as of the type with this name",
        expected=True,
    ),
    "answer_type": Oddity(
        "answer_type_unknown", "answers are of a kind that is not documented", "they are ignored", 0.05
    ),
    "question_id": Oddity(
        "question_id_repeated",
        "questions have no `question_id`, or that of another one of their study",
        "they are used, but rows of predictions do not tell them apart",
    ),
    "rating_missing": Oddity(
        "grade_missing", "questions have no grade", "they count as unrated, which data.quality_grade leaves out"
    ),
    "rating": Oddity(
        "grade_unknown",
        "grades cannot be read",
        "these questions count as unrated, which data.quality_grade leaves out; grades look like `4_A`",
        0.05,
    ),
}
"""Kinds of names and values without a row in our tables"""

STATEMENTS: dict[str, Oddity] = {
    "no_polarity": Oddity(
        "statement_without_polarity",
        "observations do not say whether it is there",
        "they teach nothing",
        0.2,
        "statements",
    ),
    "no_entity": Oddity(
        "statement_without_finding", "observations name no finding", "they teach nothing", 0.2, "statements"
    ),
    "no_region": Oddity(
        "statement_without_region", "observations name no place", "they teach nothing", 0.5, "statements"
    ),
}
BOXES: dict[str, Oddity] = {
    "no_image_size": Oddity(
        "box_without_image_size", "sets of boxes have an image of unknown size", "no boxes there", 0.05, "images"
    ),
    "malformed": Oddity("box_malformed", "boxes are not four numbers", "they are left out", 0.05, "boxes"),
    "fallback": Oddity(
        "box_fallback", "boxes are placeholders (is_fallback)", "they are left out", base="boxes", expected=True
    ),
    "low_quality": Oddity(
        "box_low_quality",
        "sets of boxes have a localization quality below 2",
        "they are left out",
        base="boxes",
        expected=True,
    ),
    "empty": Oddity("box_empty", "lists of boxes are empty", "no boxes there", base="boxes", expected=True),
    "repeated": Oddity(
        "box_repeated", "boxes are there twice in one list", "they count once", base="boxes", expected=True
    ),
    "other_image": Oddity(
        "box_of_other_image",
        "lists of boxes name another image than the one that they stand under",
        "they are left out: whose they are is not known",
        0.01,
        "boxes",
    ),
    "unknown_image": Oddity(
        "box_of_unknown_image",
        "lists of boxes are of images that the study does not have in MIMIC-CXR-JPG",
        "they are left out; use the releases that belong together",
        0.05,
        "boxes",
    ),
    "clipped": Oddity(
        "box_beyond_image",
        "boxes reach beyond their image by more than a pixel",
        "they are cut at its edge; many of them mean boxes of other images or sizes",
        0.2,
        "boxes",
    ),
    "unordered": Oddity(
        "box_unordered", "boxes have their corners in the wrong order", "the corners are sorted", 0.2, "boxes"
    ),
    "degenerate": Oddity(
        "box_degenerate",
        "boxes have no area inside the image",
        "they are left out; many of them mean boxes of other images or sizes",
        0.1,
        "boxes",
    ),
}
FILES: dict[str, Oddity] = {
    "image_missing": Oddity("image_missing", "images have no file", "finish the download of the images", base="images"),
    "image_unreadable": Oddity(
        "image_unreadable", "images cannot be read", "download these files again", base="images"
    ),
    "size_differs": Oddity(
        "image_size_differs",
        "images have another size than the table says",
        "the file's own size counts, in which boxes are given: were the images resized?",
        0.01,
        "images",
    ),
    "no_questions": Oddity(
        "questions_none",
        "studies have a file without a question",
        "nothing is asked of them",
        base="studies",
        expected=True,
    ),
    "unreadable_questions": Oddity(
        "questions_unreadable", "studies have questions that cannot be read", "download qa.zip again", base="studies"
    ),
    "graph_missing": Oddity(
        "graph_missing", "studies have no scene graph", "they train without graph supervision", 0.2, "studies"
    ),
    "graph_unreadable": Oddity(
        "graph_unreadable", "scene graphs cannot be read", "download scene_data.zip again", base="studies"
    ),
}
RELEASE: tuple[str, ...] = (
    "no_train_questions", "no_validate_questions", "no_test_questions", "no_image_of_view", "studies_without_images",
    "studies_without_questions", "no_scene_graphs", "studies_without_scene_graph", "studies_without_labels",
    "image_files_missing", "no_radiologist_labels", *ODD, "view_position_blank", "table_copies",
    "images_without_files_folder", "questions_twice", "older_release",
)  # fmt: skip
"""Names that `data.release.check` and `layout_notes` give"""
READY: tuple[str, ...] = (
    "nothing_to_train",
    "nothing_to_validate",
    "grade_leaves_nothing",
    "patients_in_two_splits",
    "no_boxes",
)
"""Of the index as a whole"""

NAMES: tuple[str, ...] = (
    *RELEASE,
    *READY,
    *(oddity.name for table in (FATES, VALUES, STATEMENTS, BOXES, FILES) for oddity in table.values()),
)
"""Everything that can be allowed"""
