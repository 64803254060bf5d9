"""Careful reading of the data set's JSON: parts whose form or values are not documented are counted, never trusted.

All functions take any JSON value and never raise. Counters have the keys (kind, value), both strings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from data.names import parse_laterality

_POLARITY = {"pos": True, "positive": True, "neg": False, "negative": False}
# How sure the report is counts as stated here: "likely" is present, "unlikely" is absent.
_PROBABILITY = _POLARITY | {"likely": True, "unlikely": False}
_NO_SIDE = frozenset(("", "none", "midline", "central", "unilateral", "unspecified", "unknown", "n/a"))


FORMS = frozenset(("observation", "box", "question_id", "question_type_short", "rating_missing"))
"""Kinds of counts that are no names and values without a row in our tables: something is given in an odd form"""


def note(counts: Counter | None, kind: str, value: Any) -> None:
    """Count an odd value. Only short scalars are kept, so that no report text ends up in a counter."""
    if counts is not None:
        text = str(value)[:80] if isinstance(value, (str, int, float)) or value is None else f"<{type(value).__name__}>"
        counts[kind, text] += 1


def mapping(value: Any) -> dict:
    """`value` if it is an object, an empty one otherwise."""
    return value if isinstance(value, dict) else {}


def items(value: Any) -> list:
    """`value` if it is a list, an empty one otherwise."""
    return value if isinstance(value, list) else []


def strings(value: Any) -> list[str]:
    """The non-empty strings of a list, stripped; a lone string counts as a list of one."""
    values = [value] if isinstance(value, str) else items(value)
    return [stripped for text in values if isinstance(text, str) and (stripped := text.strip())]


def word(value: Any) -> str:
    """A keyword in lower case; empty when it is no string."""
    return value.strip().lower() if isinstance(value, str) else ""


def polarity(block: dict, counts: Counter | None) -> bool | None:
    """True: stated present; False: stated absent; None: neither, or a value that nobody documented (counted).

    `positiveness` decides; where it is missing, `probability`.
    """
    for key, table in (("positiveness", _POLARITY), ("probability", _PROBABILITY)):
        value = block.get(key)
        if value in (None, ""):
            continue
        if word(value) not in table:
            note(counts, key, value)
        return table.get(word(value))
    return None


def laterality(block: dict, counts: Counter | None) -> str | None:
    """`left`, `right`, `both` or None; undocumented values are counted and say no side."""
    value = block.get("laterality")
    side = parse_laterality(value)
    if side is None and value is not None and (not isinstance(value, str) or word(value) not in _NO_SIDE):
        note(counts, "laterality", value)
    return side


def modifiers(block: dict, kind: str) -> list[str]:
    """Values of one kind of modifier, given as list of [kind, value] pairs or as object of lists."""
    found: list[str] = []
    for key, value in _modifier_pairs(block.get("modifiers")):
        if word(key) == kind:
            found += strings(value)
    return found


def _modifier_pairs(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict):
        yield from value.items()
    for pair in items(value):
        if isinstance(pair, list) and len(pair) == 2:
            yield pair[0], pair[1]
