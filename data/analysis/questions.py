"""What is asked, what the targets are, and how far the question alone leads to the answer.

Letters: n questions.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from data.index import SPLITS, Index
from data.label_space import GRADES, HEADS, QUESTION_TYPES, Head

MOST_TEXTS = 30
"""Question texts that are shown"""


def by_type(index: Index, used: np.ndarray) -> dict[str, dict]:
    """type -> head, questions by fate, those with a target by grade and by split, and how many the settings use."""
    questions = index.questions
    split = index.studies["split"][questions["study"]]
    kinds, grades, splits = len(QUESTION_TYPES), len(GRADES), len(SPLITS)
    kind = questions["type"].astype(np.int64)
    of_grade = np.bincount(kind * grades + questions["grade"], minlength=kinds * grades).reshape(kinds, grades)
    of_split = np.bincount(kind * splits + split, minlength=kinds * splits).reshape(kinds, splits)
    taken = np.bincount(kind[used], minlength=kinds)
    fates: dict[str, Counter] = {}
    for types in index.meta["counts"].values():
        for name, found in types.items():
            fates.setdefault(name, Counter()).update(found)
    table = {}
    for number, kind_of in enumerate(QUESTION_TYPES):
        found = fates.pop(kind_of.name, Counter())
        table[kind_of.name] = {
            "head": str(kind_of.head) if kind_of.head else None,
            "questions": sum(found.values()),
            "with_target": int(of_grade[number].sum()),
            "used": int(taken[number]),
            "fates": dict(found.most_common()),
            "grades": {grade or "unrated": int(n) for grade, n in zip(GRADES, of_grade[number], strict=True)},
            "splits": dict(zip(SPLITS, of_split[number].tolist(), strict=True)),
        }
    for name, found in sorted(fates.items()):
        table[name or "(no name)"] = {"head": None, "questions": sum(found.values()), "with_target": 0, "used": 0} | {
            "fates": dict(found.most_common()), "grades": {}, "splits": {},
        }  # fmt: skip
    return table


def balance(index: Index) -> dict[str, dict[str, float]]:
    """type -> share of its questions whose target is, or has, each class."""
    kind, target = index.questions["type"], index.questions["target"]
    table = {}
    for number, kind_of in enumerate(QUESTION_TYPES):
        own = target[kind == number]
        if kind_of.head is None or not len(own):
            continue
        classes = HEADS[kind_of.head].classes
        if HEADS[kind_of.head].multi_label:
            shares = [float((own >> c & 1).mean()) for c in range(len(classes))]
        else:
            shares = (np.bincount(own, minlength=len(classes)) / len(own)).tolist()
        table[kind_of.name] = dict(zip(classes, shares, strict=True))
    return table


def blind_reach(index: Index) -> dict[str, dict[str, float | int | None]]:
    """What the question alone is worth: share of validation questions whose target is the most frequent one among the training
    questions of the same type, and of the same text (else of the same type), by type and by head (`all binary`, ...).

    A target with several classes counts as a whole: it is met exactly or not.
    """
    questions = index.questions
    split = index.studies["split"][questions["study"]]
    train, held_out = (split == SPLITS.index(name) for name in ("train", "validate"))
    kind, target = questions["type"][held_out], questions["target"][held_out]
    of_type = _most_frequent(questions["type"][train], questions["target"][train])
    of_text = _most_frequent(questions["text"][train], questions["target"][train])
    by_type_told = _look_up(of_type, kind)
    by_text_told = _look_up(of_text, questions["text"][held_out])
    by_text_told = np.where(by_text_told < 0, by_type_told, by_text_told)
    right_type, right_text = by_type_told == target, by_text_told == target
    groups = {k.name: kind == number for number, k in enumerate(QUESTION_TYPES) if k.head is not None}
    head = questions["head"][held_out]
    groups |= {f"all {name}": head == number for number, name in enumerate(HEADS)}
    table = {}
    for name, own in groups.items():
        if n := int(own.sum()):
            table[name] = {"n": n, "of_type": float(right_type[own].mean()), "of_text": float(right_text[own].mean())}
    return table


def _most_frequent(keys: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) keys and targets -> distinct keys, ascending, and the most frequent target of each (of equals the lowest)."""
    pairs, counts = np.unique(keys.astype(np.uint64) << np.uint64(32) | targets.astype(np.uint64), return_counts=True)
    key = pairs >> np.uint64(32)
    order = np.lexsort((pairs, -counts, key))
    first = order[np.unique(key[order], return_index=True)[1]]
    return key[first].astype(np.int64), (pairs[first] & np.uint64(0xFFFFFFFF)).astype(np.int64)


def _look_up(table: tuple[np.ndarray, np.ndarray], keys: np.ndarray) -> np.ndarray:
    """(n,) the value of each key; -1 where there is none."""
    known, values = table
    if not len(known):
        return np.full(len(keys), -1, dtype=np.int64)
    place = np.searchsorted(known, keys).clip(max=len(known) - 1)
    return np.where(known[place] == keys, values[place], -1)


def frequent_texts(index: Index) -> list[dict]:
    """The question texts that are asked most: how often, the share of the most frequent target, and that target in words."""
    questions = index.questions
    count = np.bincount(questions["text"], minlength=index.num_texts)
    table = []
    for text in np.argsort(-count, kind="stable")[:MOST_TEXTS]:
        rows = np.flatnonzero(questions["text"] == text)
        if not len(rows):
            continue
        targets, n = np.unique(questions["target"][rows], return_counts=True)
        head = list(HEADS)[questions["head"][rows[0]]]
        top = int(n.argmax())
        table.append(
            {
                "text": index.text(int(text)),
                "n": len(rows),
                "head": str(head),
                "top_share": float(n[top] / len(rows)),
                "top_answer": target_words(head, int(targets[top])),
            }
        )
    return table


def target_words(head: Head, target: int) -> str:
    """A target as people say it."""
    spec = HEADS[head]
    if not spec.multi_label:
        return spec.classes[target]
    return ", ".join(name for c, name in enumerate(spec.classes) if target >> c & 1) or "(none)"
