"""VQA-RAD (Lau et al., Sci. Data 2018; https://osf.io/89kps) as an index, to ask our models and to fine-tune them.

The folder holds `trainset.json` and `testset.json` of the split that the field uses (MEVF; 3,064 and 451 questions) and
`images/`. Which question goes to which head stands in `configs/vqa_rad.yaml`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from data.answer_text import TARGETS
from data.label_space import Head
from data.order import uniform
from data.records import Record, RecordSet
from utils.errors import DataError

RULES = Path(__file__).resolve().parent.parent / "configs" / "vqa_rad.yaml"
PARTS = {"train": "trainset.json", "test": "testset.json"}
VALIDATION_SHARE = 0.25
"""Of the training images, for choosing the best model when fine-tuning"""


@dataclass(frozen=True)
class Rule:
    """A kind of question that a head answers."""

    head: Head
    type: str
    answer_type: str
    question: re.Pattern
    answer: re.Pattern


def read_vqa_rad(folder: Path, rules: Path = RULES) -> RecordSet:
    """Read the set. DataError: a file is missing or is something else."""
    organ, table = _rules(rules)
    parts = {name: _entries(folder / file) for name, file in PARTS.items()}
    names = {name: {entry["image_name"] for entry in entries} for name, entries in parts.items()}
    records, fates = [], []
    for part, entries in parts.items():
        for entry in entries:
            split = _split(part, entry["image_name"], names["test"])
            made = _record(entry, split, organ, table, folder / "images")
            (records if isinstance(made, Record) else fates).append(made)
    shared = len(names["train"] & names["test"])
    note = (
        f"{shared:,} of the {len(names['test']):,} test images have training questions too: scores on this split say "
        "little about new images"
    )
    line = (
        f"VQA-RAD: {len(names['train']):,} images with training questions, {len(names['test']):,} with test questions"
    )
    return RecordSet("VQA-RAD", records, fates, public=True, notes=[note], lines=[line])


def _rules(path: Path) -> tuple[str, list[Rule]]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        rules = [
            Rule(
                Head(rule["head"]),
                rule["type"],
                rule["answer_type"],
                re.compile(rule.get("question", ""), re.IGNORECASE),
                re.compile(rule.get("answer", ""), re.IGNORECASE),
            )
            for rule in content["rules"]
        ]
        return content["organ"], rules
    except (OSError, yaml.YAMLError, KeyError, ValueError, TypeError, re.error) as error:
        raise DataError(f"{path} has no usable rules: {error}") from error


def _entries(path: Path) -> list[dict]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        if not all({"qid", "image_name", "question", "answer", "answer_type"} <= entry.keys() for entry in entries):
            raise ValueError("qid, image_name, question, answer or answer_type is missing")
        return entries
    except FileNotFoundError as error:
        raise DataError(f"no {path}: --vqa_rad_path must hold {', '.join(PARTS.values())} and images/") from error
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise DataError(f"{path} is not VQA-RAD: {error}") from error


def _split(part: str, image: str, test_images: set[str]) -> str:
    """For validation: a quarter of the training images that the test part does not ask about."""
    if part == "test" or image in test_images:
        return part
    draw = uniform(0, int.from_bytes(image.encode()[-8:], "big"))
    return "validate" if draw < VALIDATION_SHARE else "train"


def _record(entry: dict, split: str, organ: str, rules: list[Rule], images: Path) -> Record | tuple[str, str, str]:
    if str(entry.get("image_organ", "")).strip().upper() != organ:
        return split, "", "other_organ"
    question, answer = str(entry["question"]).strip(), str(entry["answer"]).strip()
    for rule in rules:
        if entry["answer_type"].strip() != rule.answer_type:
            continue
        if not (rule.question.search(question) and rule.answer.search(answer)):
            continue
        target = TARGETS[rule.head](answer)
        if target is None:
            return split, rule.type, "answer_outside_classes"
        return Record(
            image=images / entry["image_name"],
            patient=Path(entry["image_name"]).stem,
            split=split,
            text=question,
            type=rule.type,
            target=target,
            question_id=f"vqa-rad-{entry['qid']}",
            image_id=Path(entry["image_name"]).stem,
            regions=target if rule.head == Head.REGION else 0,
        )
    return split, "", "no_rule"
