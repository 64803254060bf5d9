"""Everything that is odd about a release and its index, by name, with counts, and whether training can start."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches

import numpy as np

from configs.mimic_cxr_config import DataConfig
from data.doctor.oddities import BOXES, FATES, FILES, NAMES, STATEMENTS, VALUES, Oddity
from data.index import Index
from data.index.quarantine import BAD, too_many
from data.index.store import META, PROBLEMS
from data.release import Problem, Release, check, layout_notes
from data.visits import QuestionFilter
from utils.errors import ConfigError
from utils.privacy import hashed_id

ORDER = ("error", "allowed", "warning", "note")
ENOUGH = 3
"""So few of anything never keep training from starting"""


@dataclass(frozen=True)
class Diagnosis:
    """Problems, the gravest first."""

    problems: tuple[Problem, ...]

    @staticmethod
    def of(problems: Iterable[Problem], allowed: Iterable[str] = ()) -> Diagnosis:
        """With the errors that the user allows. ConfigError: a name to allow is none."""
        allowed = set(allowed)
        for name in sorted(allowed - set(NAMES)):
            near = get_close_matches(name, NAMES, 1)
            raise ConfigError(
                f"--allow {name}: no check has this name" + (f"; did you mean {near[0]}?" if near else "")
            )
        marked = [
            replace(p, severity="allowed") if p.severity == "error" and p.name in allowed else p for p in problems
        ]
        return Diagnosis(tuple(sorted(marked, key=lambda problem: ORDER.index(problem.severity))))

    @property
    def errors(self) -> list[Problem]:
        """What keeps training from starting."""
        return [problem for problem in self.problems if problem.severity == "error"]

    def as_json(self) -> list[dict]:
        return [dict(vars(problem)) for problem in self.problems]

    def lines(self) -> list[str]:
        """For a terminal: a line a problem, with the name that `--allow` takes."""
        return [
            f"{p.severity} [{p.name}] {p.what} ({p.where}); {p.mend}" + (f"; e.g. {p.example}" if p.example else "")
            for p in self.problems
        ]


def diagnose_release(release: Release, data: DataConfig) -> list[Problem]:
    """What shows before an index is built."""
    found = check(release, max_bad_fraction=data.max_bad_fraction, view_filter=data.view_filter)
    return found + layout_notes(release)


def diagnose(index: Index, data: DataConfig) -> list[Problem]:
    """What the index knows. Examples are hashed with a salt that no one keeps; the ids stand in the index's folder."""
    return [*_ready(index, data), *_odd(index, data)]


def _ready(index: Index, data: DataConfig) -> Iterator[Problem]:
    where = str(index.path)
    used = QuestionFilter(index, data).passes(slice(None))
    split = index.studies["split"][index.questions["study"]]
    for number, (name, check_name, why) in enumerate(
        (
            ("train", "nothing_to_train", "there is nothing to learn from"),
            ("validate", "nothing_to_validate", "early stopping and model choice need one"),
        )
    ):
        if index.counts(name).get("target", 0) == 0:
            what = f"no {name} questions with a target"
            yield Problem(check_name, "error", what, where, f"{why}; check the split table and the image files")
        elif not (used & (split == number)).any():
            what = f"no {name} question passes data.quality_grade {data.quality_grade!r} and data.question_types"
            yield Problem("grade_leaves_nothing", "error", what, where, "choose a lower grade or other types")
    if not len(index.boxes["region"]):
        what, mend = (
            "no image has a box",
            "the model learns where regions are from nothing; download scene_data.zip again",
        )
        yield Problem("no_boxes", "warning", what, where, mend)
    if shared := patients_in_two_splits(index):
        what, mend = f"{shared:,} patients are in more than one split", "scores would be of patients that were learned"
        yield Problem("patients_in_two_splits", "error", what, where, mend, shared)


def patients_in_two_splits(index: Index) -> int:
    pairs = np.unique(np.stack([index.studies["subject_id"], index.studies["split"]]), axis=1)
    return int((np.unique(pairs[0], return_counts=True)[1] > 1).sum()) if pairs.size else 0


def _odd(index: Index, data: DataConfig) -> Iterator[Problem]:
    """Oddities in the order of their tables; codes that no table explains are an error of ours and shown as such."""
    salt, meta = secrets.token_hex(8), index.meta
    bases = _bases(index)
    fates: Counter[str] = Counter()
    for split in meta["counts"]:
        fates.update(index.counts(split))
    values, examples = meta["unmapped"], meta.get("examples", {})
    found: list[tuple[Oddity, int, str, object]] = []
    for table, counts, kind in (
        (FATES, fates, "question"),
        (STATEMENTS, values.get("observation", {}), "observation"),
        (BOXES, values.get("box", {}), "box"),
    ):
        of_kind = examples.get(kind, {})
        found += [(oddity, counts.get(code, 0), META, of_kind.get(code)) for code, oddity in table.items()]
    for kind, oddity in VALUES.items():
        first = next(iter(examples.get(kind, {}).values()), None)
        found.append((oddity, sum(values.get(kind, {}).values()), META, first))
    bad = {problem["kind"]: problem.get("image", problem["study"]) for problem in reversed(index.problems())}
    found += [(oddity, meta["problems"].get(code, 0), PROBLEMS, bad.get(code)) for code, oddity in FILES.items()]
    # of files a training takes as many bad ones as the settings say
    refused = too_many(meta["problems"], index.planned, data.max_bad_fraction)
    stopping = {FILES[code] for unit in (BAD if data.on_bad_sample == "error" else refused) for code in BAD[unit]}
    for oddity, count, file, example in found:
        if count:
            shown = "" if example is None else hashed_id(example, salt)
            problem = _problem(oddity, count, bases[oddity.base], f"{index.path / file}", shown)
            if oddity in stopping:
                most = f"of more than data.max_bad_fraction = {data.max_bad_fraction:g} of the {oddity.base}"
                one = "of a single one (data.on_bad_sample)"
                mend = f"{oddity.mend}; a training stops because {one if data.on_bad_sample == 'error' else most}"
                problem = replace(problem, severity="error", mend=mend)
            yield problem


def _bases(index: Index) -> dict[str, int]:
    values = index.meta["unmapped"]
    return {
        "questions": sum(sum(index.counts(split).values()) for split in index.meta["counts"]),
        "images": index.planned["image"],
        "studies": index.planned["study"],
        "boxes": len(index.boxes["region"]) + sum(values.get("box", {}).values()),
        "statements": len(index.findings["entity"]) + sum(values.get("observation", {}).values()),
    }


def _problem(oddity: Oddity, count: int, base: int, where: str, example: str) -> Problem:
    too_many = oddity.most is not None and count > max(ENOUGH, oddity.most * base)
    severity = "error" if too_many else "note" if oddity.expected else "warning"
    share = f" ({_percent(count / base)} of {base:,} {oddity.base})" if base else ""
    mend = f"{oddity.mend}; more than {100 * oddity.most:g} % is too much" if too_many else oddity.mend
    return Problem(oddity.name, severity, f"{count:,} {oddity.what}{share}", where, mend, count, example)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"
