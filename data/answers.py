"""One raw question of the data set -> the head that answers it and its target, or the reason why it has none.

A target is one integer: the number of the class (binary, severity) or a bit mask over the classes (category, region).
No target is never class 0: a question without one is `Dropped` with a reason that the index counts and prints.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from data.answer_text import class_target
from data.label_space import HEAD_INDEX, NO_FINDING, TYPE_INDEX, Head, QuestionType, find_question_type, parse_grade
from data.names import entity_classes, is_known_entity, resolve_region, severity_index
from data.raw import items, laterality, mapping, modifiers, note, polarity, strings, word


@dataclass(frozen=True)
class Question:
    """A question with a target."""

    text: str
    type: int
    """`label_space.TYPE_INDEX`"""
    head: int
    """`label_space.HEAD_INDEX`"""
    target: int
    """class, or bit mask with bit i for class i"""
    grade: int
    """index into `label_space.GRADES`; 0: unrated"""
    question_id: str
    """unique inside its study only"""
    regions: int = 0
    """bit mask of the regions that its main answers speak of, present or absent"""
    from_report: bool = False
    """a main answer is a sentence of the report; else all come from a template"""


@dataclass(frozen=True)
class Dropped:
    """A question without a target."""

    question_id: str
    type: str
    """the full name of a known type, otherwise what the data says"""
    reason: str
    """snake case; one of the reasons named in this module"""


ANSWER_TYPES = frozenset(("main_answer", "details", "related_information"))


def parse_question(raw: Any, counts: Counter | None = None) -> Question | Dropped:
    """Target of one entry of `questions` in a qa.json. Takes any JSON value and never raises.

    Names and values without a row in our tables are counted in `counts` under (kind, value), where kind is one of
    region, entity, severity, positiveness, laterality, question_type, question_type_short,
    answer_type, rating, rating_missing.
    """
    question = mapping(raw)
    question_id = question.get("question_id") if isinstance(question.get("question_id"), str) else ""
    name, strategy = question.get("question_type"), question.get("question_strategy")
    kind = find_question_type(name, strategy if isinstance(strategy, str) else None) if isinstance(name, str) else None
    if kind is None:
        note(counts, "question_type", name)
        return Dropped(question_id, name[:80] if isinstance(name, str) else "", "unknown_type")
    if name.strip() != kind.name:
        note(counts, "question_type_short", name)
    text = question.get("question").strip() if isinstance(question.get("question"), str) else ""
    if kind.head is None or not text:
        return Dropped(question_id, kind.name, "empty_question_text" if kind.head else "unsupported_type")
    main = _main_answers(question.get("answers"), counts)
    target = TARGET_RULES[kind.head](main, kind, counts) if main else "no_main_answer"
    if isinstance(target, str):
        return Dropped(question_id, kind.name, target)
    grade = _grade(mapping(question.get("question_quality")).get("rating"), counts)
    regions = _mask(_regions_spoken_of(main))
    from_report = any(answer.get("from_report") is True for answer in main)
    number = TYPE_INDEX[kind.name]
    return Question(text, number, HEAD_INDEX[kind.head], target, grade, question_id, regions, from_report)


def flatten(answers: Any) -> Iterator[dict]:
    """All answers of a question, sub-answers included, in reading order."""
    pending = list(reversed(items(answers)))
    while pending:
        answer = pending.pop()
        if isinstance(answer, dict):
            yield answer
            pending.extend(reversed(items(answer.get("sub_answers"))))


def _main_answers(answers: Any, counts: Counter | None) -> list[dict]:
    main = []
    for answer in flatten(answers):
        answer_type = word(answer.get("answer_type"))
        if answer_type == "main_answer":
            main.append(answer)
        elif answer_type not in ANSWER_TYPES:
            note(counts, "answer_type", answer.get("answer_type"))
    return main


def _grade(rating: Any, counts: Counter | None) -> int:
    grade = parse_grade(rating) if rating is None or isinstance(rating, (str, int)) else None
    if rating in (None, ""):
        note(counts, "rating_missing", rating)
    elif grade is None:
        note(counts, "rating", rating)
    return grade or 0


# --- binary ------------------------------------------------------------------------------------------------------

_YES_OR_NO = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)
# "No, it is not normal." is a verdict, "No abnormality is seen." is none: there "no" belongs to the noun, and the
# study is normal. For the other types both mean no.
_YES_OR_NO_ALONE = re.compile(r"\W*(yes\b|no(?=\s*(?:[^\w\s]|$)))", re.IGNORECASE)


def _binary(main: list[dict], kind: QuestionType, counts: Counter | None) -> int | str:
    pattern = _YES_OR_NO_ALONE if kind.about_normality else _YES_OR_NO
    matches = [pattern.match(answer["text"]) for answer in main if isinstance(answer.get("text"), str)]
    verdicts = {match[1].lower() == "yes" for match in matches if match}
    # What `positiveness` of an `is_normal*` answer refers to is not documented: the text decides or nothing does.
    if not verdicts and not kind.about_normality:
        verdicts = {polarity(answer, counts) for answer in main} - {None}
    if len(verdicts) == 1:
        return int(verdicts.pop())
    return "verdict_conflict" if verdicts else "no_verdict"


# --- category ----------------------------------------------------------------------------------------------------


def _category(main: list[dict], kind: QuestionType, counts: Counter | None) -> int | str:
    stated = [(polarity(answer, counts), strings(answer.get("obs_entities"))) for answer in main]
    if any(positive is None and entities for positive, entities in stated):
        return "no_polarity"  # whether these entities belong to the target is open
    if not any(positive for positive, _ in stated):
        if all(positive is None for positive, _ in stated):
            return "no_polarity"
        return 0 if kind.about_devices else 1 << NO_FINDING
    entities = {entity for positive, names in stated if positive for entity in names}
    if not entities:
        return "no_entities"
    for entity in entities:
        if not is_known_entity(entity):
            note(counts, "entity", entity)
    classes = [entity_classes(entity) for entity in entities]
    return _mask(index for found in classes if found for index in found) or "entities_outside_table"


def _regions_spoken_of(main: list[dict]) -> Iterator[int]:
    for answer in main:
        side = laterality(answer, None)
        for name in strings(answer.get("regions")):
            if match := resolve_region(name, side):
                yield from match.regions


def _mask(indices: Iterable[int]) -> int:
    mask = 0
    for index in indices:
        mask |= 1 << index
    return mask


# --- region, severity ----------------------------------------------------------------------------------------------


def _about_something_present(main: list[dict], counts: Counter | None) -> list[dict]:
    """The positive main answers; all of them where none says whether it is positive or negative."""
    stated = [(polarity(answer, counts), answer) for answer in main]
    if all(positive is None for positive, _ in stated):
        return main
    return [answer for positive, answer in stated if positive]


def _region(main: list[dict], kind: QuestionType, counts: Counter | None) -> int | str:
    chosen = _about_something_present(main, counts)
    if not chosen:
        return "nothing_positive"
    mask, named, known = 0, False, False
    for answer in chosen:
        side = laterality(answer, counts)
        for name in strings(answer.get("regions")):
            named = True
            match = resolve_region(name, side)
            if match is None:
                note(counts, "region", name)
                continue
            known = True
            mask |= _mask(match.regions)
            if match.conflict:
                note(counts, "laterality_conflict", name)
    if not named:
        return "no_regions"
    return mask or ("regions_outside" if known else "regions_unknown")


_BETWEEN = re.compile(r"\s*(?:[-–/,]|\bto\b|\band\b|\bor\b)\s*", re.IGNORECASE)


def _severity(main: list[dict], kind: QuestionType, counts: Counter | None) -> int | str:
    chosen = _about_something_present(main, counts)
    if not chosen:
        return "nothing_positive"
    classes = set()
    for answer in chosen:
        for value in modifiers(answer, "severity"):
            for part in filter(None, _BETWEEN.split(value)):  # "mild to moderate" names two classes
                index = severity_index(part)
                if index is None:
                    note(counts, "severity", part)
                else:
                    classes.add(index)
    if len(classes) == 1:
        return classes.pop()
    return "severity_ambiguous" if classes else "severity_unspecified"


# --- which rule is whose -----------------------------------------------------------------------------------------


def _named(main: list[dict], kind: QuestionType, counts: Counter | None) -> int | str:
    """For answers that name the head's classes by their own names."""
    target = class_target(kind.head, " ".join(text for answer in main for text in strings(answer.get("text"))))
    return "no_class_named" if target is None else target


TargetRule = Callable[[list[dict], QuestionType, Counter | None], int | str]
"""Main answers (at least one, any JSON inside), the question's type, and where unknown names are counted -> the target, or the
reason why there is none, in snake case"""

TARGET_RULES: dict[Head, TargetRule] = {
    **dict.fromkeys(Head, _named),
    Head.BINARY: _binary,
    Head.CATEGORY: _category,
    Head.REGION: _region,
    Head.SEVERITY: _severity,
}
