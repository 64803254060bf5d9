"""VQA-RAD (Lau et al., Sci. Data 2018; https://osf.io/89kps) as an index, to ask our models and to fine-tune them.

The folder holds `trainset.json` and `testset.json` of the split that the field uses (MEVF; 3,064 and 451 questions) and
`images/`. Which question goes to which head stands in `configs/vqa_rad.yaml`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from data.index import Index
from data.label_space import HEADS, Head
from data.names import entity_classes, region_set, severity_index
from data.order import uniform
from data.records import Record, write_record_index
from data.vocabulary import Vocabulary
from utils.errors import DataError

RULES = Path(__file__).resolve().parent.parent / "configs" / "vqa_rad.yaml"
PARTS = {"train": "trainset.json", "test": "testset.json"}
VALIDATION_SHARE = 0.25
"""Of the training images, for choosing the best model when fine-tuning"""
LONGEST_NAME = 5
"""words"""


@dataclass(frozen=True)
class Rule:
    """A kind of question that a head answers."""

    head: Head
    type: str
    answer_type: str
    question: re.Pattern
    answer: re.Pattern


@dataclass(frozen=True)
class VqaRad:
    """The questions of both parts, and what became of them."""

    records: list[Record]
    fates: list[tuple[str, str, str]]
    """(split, question type or '', why there is no record) of the others"""
    images: dict[str, int]
    """part -> images, whatever they show"""
    shared_images: int
    """that both parts have"""


def read_vqa_rad(folder: Path, rules: Path = RULES) -> VqaRad:
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
    return VqaRad(
        records=records,
        fates=fates,
        images={name: len(found) for name, found in names.items()},
        shared_images=len(names["train"] & names["test"]),
    )


def vqa_rad_index(
    folder: Path, path: Path, vocabulary: Vocabulary, side: int, origin: str = "", *, credentialed: bool = False
) -> tuple[Index, VqaRad]:
    """Write the index. `vocabulary` and `credentialed`: of the model that will be asked or fine-tuned, as the set itself is
    public; `origin`: see `write_record_index`."""
    read = read_vqa_rad(folder)
    index = write_record_index(
        path,
        read.records,
        vocabulary,
        side=side,
        credentialed=credentialed,
        fates=read.fates,
        notes=[shared(read)],
        origin=origin,
    )
    return index, read


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
        target = _TARGETS[rule.head](answer)
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
            regions=target if rule.head == Head.REGION else 0,
        )
    return split, "", "no_rule"


def _yes_or_no(answer: str) -> int | None:
    first = re.match(r"\W*(\w+)", answer.lower())
    classes = HEADS[Head.BINARY].classes
    return classes.index(first[1]) if first and first[1] in classes else None


def _named(find: Callable[[str], frozenset[int] | None]) -> Callable[[str], int | None]:
    """Bit mask of what the names in an answer stand for, longest names first; None where there is none."""

    def mask(answer: str) -> int | None:
        found = 0
        for piece in re.split(r"[,;.]|\b(?:and|or|with)\b", answer.lower()):
            words, place = re.findall(r"\w+", piece), 0
            while place < len(words):
                for length in range(min(LONGEST_NAME, len(words) - place), 0, -1):
                    classes = find(" ".join(words[place : place + length]))
                    if classes:
                        found |= sum(1 << c for c in classes)
                        break
                else:
                    length = 1
                place += length
        return found or None

    return mask


def _severity(answer: str) -> int | None:
    found = {severity_index(word) for word in re.findall(r"\w+", answer.lower())} - {None}
    return found.pop() if len(found) == 1 else None


_TARGETS: dict[Head, Callable[[str], int | None]] = {
    Head.BINARY: _yes_or_no,
    Head.REGION: _named(region_set),
    Head.CATEGORY: _named(entity_classes),
    Head.SEVERITY: _severity,
}


def shared(read: VqaRad) -> str:
    """What the set's two parts share, as a sentence."""
    return (
        f"{read.shared_images:,} of the {read.images['test']:,} test images have training questions too: scores on this "
        "split say little about new images"
    )


def describe(read: VqaRad) -> list[str]:
    """What was read, and what is wrong with the set itself."""
    asked = Counter((record.split, record.type) for record in read.records)
    left = Counter((split, fate) for split, _, fate in read.fates)
    lines = [
        f"VQA-RAD: {read.images['train']:,} images with training questions, {read.images['test']:,} with test questions"
    ]
    lines.append("  " + shared(read))
    lines += [f"  {split}: {n:,} {kind}" for (split, kind), n in sorted(asked.items())]
    return lines + [
        f"  {split}: {n:,} left out ({fate.replace('_', ' ')})" for (split, fate), n in sorted(left.items())
    ]
