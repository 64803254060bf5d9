"""The frozen lists and the one routing table: question type -> answer head.

Everything that needs a class list or has to know which head answers a question (targets, loss, metrics, reports)
reads it here. `checksum()` goes into every index and checkpoint, so that a model never meets other classes silently.

Sources: the 27 question types and their strategies are those of MIMIC-Ext-CXR-QBA 1.0.0
(https://physionet.org/content/mimic-ext-cxr-qba/1.0.0/); the 14 labels those of MIMIC-CXR-JPG
(https://physionet.org/content/mimic-cxr-jpg/2.1.0/).
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from enum import StrEnum

from utils.errors import ConfigError

CHEXPERT: tuple[str, ...] = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Enlarged Cardiomediastinum",
    "Fracture",
    "Lung Lesion",
    "Lung Opacity",
    "Pleural Effusion",
    "Pneumonia",
    "Pneumothorax",
    "Pleural Other",
    "Support Devices",
    "No Finding",
)
"""The 14 classes of the category and CheXpert heads, in index order."""

NO_FINDING = CHEXPERT.index("No Finding")
SUPPORT_DEVICES = CHEXPERT.index("Support Devices")

REGIONS: tuple[str, ...] = (
    "right lung",
    "left lung",
    "right upper lobe",
    "right middle lobe",
    "right lower lobe",
    "left upper lobe",
    "left lower lobe",
    "mediastinum",
    "heart",
    "aorta",
    "trachea",
    "right hilum",
    "left hilum",
    "spine",
    "right costophrenic angle",
    "left costophrenic angle",
    "right hemidiaphragm",
    "left hemidiaphragm",
    "right chest wall",
    "left chest wall",
    "abdomen",
    "right clavicle",
    "left clavicle",
    "right shoulder",
    "left shoulder",
    "neck",
)
"""The 26 canonical regions: classes of the region head and nodes of the scene graph, in index order."""

SEVERITIES: tuple[str, ...] = ("none", "mild", "moderate", "severe")
BINARY: tuple[str, ...] = ("no", "yes")


class Head(StrEnum):
    """The four answer heads."""

    BINARY = "binary"
    CATEGORY = "category"
    REGION = "region"
    SEVERITY = "severity"


@dataclass(frozen=True)
class HeadSpec:
    """Classes of a head, and whether one (`multi_label` false) or several of them may be right."""

    classes: tuple[str, ...]
    multi_label: bool


HEADS: dict[Head, HeadSpec] = {
    Head.BINARY: HeadSpec(BINARY, multi_label=False),
    Head.CATEGORY: HeadSpec(CHEXPERT, multi_label=True),
    Head.REGION: HeadSpec(REGIONS, multi_label=True),
    Head.SEVERITY: HeadSpec(SEVERITIES, multi_label=False),
}
HEAD_INDEX: dict[Head, int] = {head: i for i, head in enumerate(HEADS)}
"""Position of a head in `Batch.head` and in the index's `head` column."""


def find_head(head: Head | str | None) -> Head | None:
    """ConfigError for a name that is no head's."""
    if head is None:
        return None
    try:
        return Head(str(head).strip().lower())
    except ValueError as error:
        raise ConfigError(f"no head {head!r}: must be {', '.join(h.value for h in Head)}") from error


@dataclass(frozen=True)
class QuestionType:
    """One of the 27 question types.

    `head` is None when no class can answer it. `copies` is True when the right class stands in the question itself:
    reports keep such questions apart. `about_devices` decides what an answer without any positive entity means: for
    findings "No Finding", for devices the empty set. `about_normality` marks the `is_normal*` types.
    """

    name: str
    strategy: str
    head: Head | None
    copies: bool = False
    about_devices: bool = False

    @property
    def bare_name(self) -> str:
        """The name without its `D02_`-like prefix."""
        return bare(self.name)

    @property
    def about_normality(self) -> bool:
        return self.bare_name.startswith("is_normal")


def bare(name: str) -> str:
    """`D02_has_finding` -> `has_finding`; a name without prefix is returned as it is."""
    return re.sub(r"^[A-D]\d*_", "", name.strip())


_B, _C, _R, _S = Head.BINARY, Head.CATEGORY, Head.REGION, Head.SEVERITY
QUESTION_TYPES: tuple[QuestionType, ...] = (
    QuestionType("A_indication", "indication", None),
    QuestionType("B01_describe_all", "abnormal", _C),
    QuestionType("B02_describe_abnormal", "abnormal", _C),
    QuestionType("B03_is_abnormal", "abnormal", _B),
    QuestionType("B04_is_normal", "abnormal", _B),
    QuestionType("B08_describe_subcat", "abnormal", _C),
    QuestionType("B09_describe_abnormal_subcat", "abnormal", _C),
    QuestionType("B10_is_abnormal_subcat", "abnormal", _B),
    QuestionType("B11_is_normal_subcat", "abnormal", _B),
    QuestionType("B12_describe_device", "abnormal", _C, copies=True, about_devices=True),
    QuestionType("B13_has_devices", "abnormal", _B, about_devices=True),
    QuestionType("B14_describe_acquisition", "abnormal", None),
    QuestionType("B15_describe_imaging_artifacts", "abnormal", None),
    QuestionType("B16_has_imaging_artifacts", "abnormal", _B),
    QuestionType("C01_describe_region", "region_abnormal", _C),
    QuestionType("C02_describe_abnormal_region", "region_abnormal", _C),
    QuestionType("C03_is_abnormal_region", "region_abnormal", _B),
    QuestionType("C04_is_normal_region", "region_abnormal", _B),
    QuestionType("C07_describe_region_device", "region_abnormal", _C, copies=True, about_devices=True),
    QuestionType("C08_has_region_device", "region_abnormal", _B, about_devices=True),
    QuestionType("D01_describe_finding", "finding", _C, copies=True),
    QuestionType("D02_has_finding", "finding", _B),
    QuestionType("D03_where_is_finding", "finding", _R),
    QuestionType("D04_how_severe_is_finding", "finding", _S),
    QuestionType("D05_describe_device", "finding", _C, copies=True, about_devices=True),
    QuestionType("D06_has_device", "finding", _B, about_devices=True),
    QuestionType("D07_where_is_device", "finding", _R, about_devices=True),
)
TYPE_INDEX: dict[str, int] = {t.name: i for i, t in enumerate(QUESTION_TYPES)}
"""Position of a question type in the index's `type` column and in the question-type classifier."""

# Names of older exports and of the data set's own JSON sample that are not simply a type without its prefix.
_ALIASES = {"how_severe": "D04_how_severe_is_finding", "has_device": "D06_has_device", "indication": "A_indication"}


def find_question_type(name: str, strategy: str | None = None) -> QuestionType | None:
    """The type with this name, prefixed or bare; None when unknown.

    `describe_device` exists twice (B12, D05): without a prefix the strategy decides, and without a strategy the name
    stays unknown.
    """
    name = name.strip()
    if name in TYPE_INDEX:
        return QUESTION_TYPES[TYPE_INDEX[name]]
    stem = bare(name)
    if stem != name:
        return None  # a prefix that does not belong to this name: not guessed
    matches = [t for t in QUESTION_TYPES if t.bare_name == stem]
    if len(matches) > 1 and strategy is not None:
        matches = [t for t in matches if t.strategy == strategy.strip()]
    if len(matches) == 1:
        return matches[0]
    alias = _ALIASES.get(stem)
    return QUESTION_TYPES[TYPE_INDEX[alias]] if alias and not matches else None


GRADES: tuple[str, ...] = ("", "D", "C", "B", "A", "A+", "A++")
"""Quality grades, worst first; their position is the number in front of the rating string (`4_A`). Index 0: unrated."""


def parse_grade(rating: object) -> int | None:
    """Grade index of a rating such as `5_A+` (`0_`, null and empty: 0, unrated); None when it is none of these."""
    text = "" if rating is None else str(rating).strip()
    letter = text.split("_", 1)[1] if "_" in text else text
    return GRADES.index(letter) if letter in GRADES else None


def checksum() -> str:
    """SHA-256 over all lists and the routing table, hex. Two code versions with equal checksums have equal classes."""
    table = [[t.name, t.strategy, t.head, t.copies, t.about_devices] for t in QUESTION_TYPES]
    frozen = [CHEXPERT, REGIONS, SEVERITIES, BINARY, table, GRADES]
    return hashlib.sha256(json.dumps(frozen, sort_keys=True).encode()).hexdigest()


def as_json() -> dict:
    """The label space as it is stored in checkpoints (`label_space.json`)."""
    return {
        "checksum": checksum(),
        "heads": {head.value: list(spec.classes) for head, spec in HEADS.items()},
        "question_types": {t.name: t.head.value if t.head else None for t in QUESTION_TYPES},
    }
