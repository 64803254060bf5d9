"""Answers that somebody wrote in words -> targets. What is not understood is no target, and never a class.

A target is one integer, as in `data.answers`: the number of a class, or a bit mask over the classes of a multi-label head.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial

from data.label_space import HEADS, NO_FINDING, Head
from data.names import box_region, entity_classes, is_known_entity, region_is_union, region_set, severity_index

LONGEST_NAME = 5
"""words"""

NOTHING = re.compile(
    r"\W*(?:(?:no|none|without)\s+(?:\w+\s+)?(?:findings?|abnormalit(?:y|ies)|abnormal findings?|pathology)"
    r"|normal|none|nothing|unremarkable)\W*",
    re.IGNORECASE,
)
"""The whole answer says that nothing is to be seen: the class `No Finding`"""
_NEGATION = re.compile(r"\b(?:no|not|none|without|absent|absence|negative|never|neither|nor)\b", re.IGNORECASE)
_BOTH_SIDES = re.compile(r"\b(?:right|left)\s+and\s+(?:right|left)\b")
_SIDES = {"left", "right"}


def binary_target(answer: str) -> int | None:
    """1 for an answer that begins with yes, 0 for no, whatever follows."""
    first = re.match(r"\W*(\w+)", answer.lower())
    classes = HEADS[Head.BINARY].classes
    return classes.index(first[1]) if first and first[1] in classes else None


def category_target(answer: str) -> int | None:
    """CheXpert classes of the findings that an answer names. None with a negation: what it denies is not guessed."""
    if NOTHING.fullmatch(answer):
        return 1 << NO_FINDING
    if _NEGATION.search(answer):
        return None
    return _mask(classes for _, classes in _names(answer, _classes)) or None


def region_target(answer: str) -> int | None:
    """Regions that an answer names. None with a negation, or where it is not clear which side a name is to be on.

    `right sided pleural fluid` would stand for both lungs, as `right` belongs to no name.
    """
    if _NEGATION.search(answer):
        return None
    found = list(_names(answer, region_set))
    loose_side = any(regions is None and word in _SIDES for word, regions in found)
    if loose_side and any(regions and region_is_union(name) for name, regions in found):
        return None
    return _mask(regions for _, regions in found) or None


def severity_target(answer: str) -> int | None:
    """The one severity that an answer names. None where it may deny that one (`not severe`); `no edema` names `none`."""
    found = {severity_index(word) for word in re.findall(r"\w+", answer.lower())} - {None}
    if len(found) != 1 or (found != {0} and _NEGATION.search(answer)):
        return None
    return found.pop()


def class_target(head: Head, answer: str) -> int | None:
    """The classes of a head that an answer names by their own names, upper or lower case. None with a negation, and where
    one class is right but several are named."""
    classes = {name.lower(): number for number, name in enumerate(HEADS[head].classes)}
    longest_first = "|".join(map(re.escape, sorted(classes, key=len, reverse=True)))
    found = {classes[name] for name in re.findall(rf"(?<!\w)(?:{longest_first})(?!\w)", answer.lower())}
    if not found or _NEGATION.search(answer):
        return None
    if HEADS[head].multi_label:
        return sum(1 << number for number in found)
    return found.pop() if len(found) == 1 else None


TARGETS: dict[Head, Callable[[str], int | None]] = {
    **{head: partial(class_target, head) for head in HEADS},
    Head.BINARY: binary_target,
    Head.CATEGORY: category_target,
    Head.REGION: region_target,
    Head.SEVERITY: severity_target,
}
"""None: the answer is none of the head's classes. Heads without a rule of their own go by the names of their classes"""


def region_of_box(answer: str) -> int | None:
    """The one canonical region that an answer names, where a box of what it names is the box of that region."""
    mask = region_target(answer)
    if mask is None or mask.bit_count() != 1:
        return None
    named = {box_region(name) for name, regions in _names(answer, region_set) if regions}
    return named.pop() if len(named) == 1 else None


def _classes(name: str) -> frozenset[int] | None:
    """Empty for a known name without a class, so that no shorter name is found in it (`pericardial effusion`)."""
    return entity_classes(name) or (frozenset() if is_known_entity(name) else None)


def _names(answer: str, find: Callable[[str], frozenset[int] | None]) -> Iterator[tuple[str, frozenset[int] | None]]:
    """The names in an answer with what they stand for, longest names first; of other words each by itself with None."""
    text = _BOTH_SIDES.sub("both", answer.lower())
    for piece in re.split(r"[,;.]|\b(?:and|or|with)\b", text):
        words, place = re.findall(r"\w+", piece), 0
        while place < len(words):
            for length in range(min(LONGEST_NAME, len(words) - place), 0, -1):
                name = " ".join(words[place : place + length])
                found = find(name)
                if found is not None or length == 1:
                    yield name, found
                    place += length
                    break


def _mask(found: Iterator[frozenset[int] | None]) -> int:
    mask = 0
    for classes in found:
        mask |= sum(1 << c for c in classes or ())
    return mask
