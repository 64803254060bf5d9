"""Do the answers about one study fit together, whether they are right or not?

Each check pairs questions about one study that name the same things. `consistent` is the share of pairs whose answers do not
contradict each other; the same share of the targets says what is possible.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator

import numpy as np

from data.label_space import HEADS, REGIONS, TYPE_INDEX, Head
from data.names import region_set
from training.predictions import Predictions, QuestionSet
from training.report.groups import GROUPS, members_of

PARENTS: dict[str, str] = {
    "right upper lobe": "right lung",
    "right middle lobe": "right lung",
    "right lower lobe": "right lung",
    "left upper lobe": "left lung",
    "left lower lobe": "left lung",
    "heart": "mediastinum",
    "aorta": "mediastinum",
    "trachea": "mediastinum",
}
"""Canonical regions that are part of another one."""

NORMALITY = (
    ("B03_is_abnormal", "B04_is_normal"),
    ("B10_is_abnormal_subcat", "B11_is_normal_subcat"),
    ("C03_is_abnormal_region", "C04_is_normal_region"),
)
PRESENCE, LOCATION, SEVERITY, ABNORMAL = (
    "D02_has_finding", "D03_where_is_finding", "D04_how_severe_is_finding", "C03_is_abnormal_region",
)  # fmt: skip


Pair = tuple[int, int]
"""Two questions of one study, by their positions in the set"""

Clash = Callable[[np.ndarray, np.ndarray], bool]
"""Answers to both, as (classes,) multi-hot -> whether they contradict each other"""


def consistency(answered: Predictions) -> dict[str, dict[str, float | int | None]]:
    """check -> `pairs`, `consistent`, and `consistent_targets`; None where there is no pair."""
    questions = answered.questions
    told = _multi_hot(questions, answered.predictions)
    truth = _multi_hot(questions, {head: questions.targets(head) for head in HEADS})
    subjects = _Subjects(questions)
    table = {}
    for name, (pairs, clash) in _checks(subjects).items():
        pairs = list(pairs)
        ours, theirs = (
            [not clash(values[first], values[second]) for first, second in pairs] for values in (told, truth)
        )
        table[name] = {
            "pairs": len(pairs),
            "consistent": float(np.mean(ours)) if pairs else None,
            "consistent_targets": float(np.mean(theirs)) if pairs else None,
        }
    return table


def _checks(subjects: _Subjects) -> dict[str, tuple[Iterator[Pair], Clash]]:
    yes, some = HEADS[Head.BINARY].classes.index("yes"), slice(1, None)
    return {
        "normal against abnormal": (
            (pair for types in NORMALITY for pair in subjects.same(*types)),
            lambda a, b: a[yes] == b[yes],
        ),
        "absent, but somewhere": (subjects.same(PRESENCE, LOCATION), lambda a, b: not a[yes] and b.any()),
        "absent, but of some severity": (subjects.same(PRESENCE, SEVERITY), lambda a, b: not a[yes] and b[some].any()),
        "present, but of no severity": (subjects.same(PRESENCE, SEVERITY), lambda a, b: a[yes] and b[0]),
        "part abnormal, whole normal": (subjects.parts(ABNORMAL), lambda part, whole: part[yes] and not whole[yes]),
    }


def _multi_hot(questions: QuestionSet, values: dict[Head, np.ndarray]) -> np.ndarray:
    """(n, most classes) bool."""
    table = np.zeros((len(questions), max(len(spec.classes) for spec in HEADS.values())), dtype=bool)
    for head, spec in HEADS.items():
        of_head = np.asarray(values[head])
        own = of_head if spec.multi_label else np.eye(len(spec.classes), dtype=bool)[of_head]
        table[questions.of(head)[:, None], np.arange(own.shape[1])] = own
    return table


class _Subjects:
    """Finds the questions of a study that are about the same things."""

    def __init__(self, questions: QuestionSet):
        self._of: dict[int, dict[tuple[int, frozenset[str]], list[int]]] = defaultdict(lambda: defaultdict(list))
        """type -> (study, names) -> positions"""
        for position, (kind, study) in enumerate(zip(questions.type, questions.study, strict=True)):
            self._of[int(kind)][int(study), questions.names[position]].append(position)

    def same(self, first: str, second: str) -> Iterator[Pair]:
        """Pairs of one question of each type that name the same things."""
        others = self._of[TYPE_INDEX[second]]
        for key, positions in self._of[TYPE_INDEX[first]].items():
            yield from zip(positions, others.get(key, ()))

    def parts(self, kind: str) -> Iterator[Pair]:
        """Pairs of the same type, the first about a part of what the second is about.

        Both by the names of whole canonical regions: a lung is not its base, which the tables of names put there too.
        """
        of_region: dict[tuple[int, str], int] = {}
        for (study, names), positions in self._of[TYPE_INDEX[kind]].items():
            regions = [name for name in names if region_set(name)]
            if len(regions) == 1 and regions[0] in REGIONS:
                of_region[study, regions[0]] = positions[0]
        for (study, region), position in of_region.items():
            whole = of_region.get((study, PARENTS.get(region, "")))
            if whole is not None:
                yield position, whole


def paraphrase_agreement(answered: Predictions, paraphrased: dict[str, Predictions]) -> dict[str, dict[str, float]]:
    """way of asking -> group -> share of questions that are answered as before."""
    table: dict[str, dict[str, float]] = {}
    for name, other in paraphrased.items():
        table[name] = {}
        for group, head in GROUPS.items():
            same = (answered.predictions[head] == other.predictions[head])[members_of(answered.questions, group)]
            if len(same):
                table[name][group] = float((same.all(1) if HEADS[head].multi_label else same).mean())
    return table
