"""Studies and images that cannot be read: named and left out, not more than a set share; or a reason to stop."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from data.images import decode
from utils.errors import DataError

BAD = {"image": ("image_missing", "image_unreadable"), "study": ("unreadable_questions", "graph_unreadable")}
"""Kinds of problems that leave out an image or something of a study."""
FEW = 2
"""So many bad files never stop a build."""


def read_problems(part: Path) -> list[dict]:
    """What could not be used as it is in a finished part, in the order of its studies."""
    return json.loads((part / "strings.json").read_text())["problems"]


def bad_samples(problems: Iterable[dict]) -> list[dict]:
    """Those problems that leave something out."""
    kinds = {kind for kinds in BAD.values() for kind in kinds}
    return [problem for problem in problems if problem["kind"] in kinds]


def is_finished(part: Path) -> bool:
    """Whether a part is there and nothing that was bad in it has been mended since."""
    # a study's bad JSON: reading its part again costs little
    return part.exists() and not any(
        "path" not in problem or is_mended(problem) for problem in bad_samples(read_problems(part))
    )


def is_mended(problem: dict) -> bool:
    """Can the image that could not be read be read now?"""
    try:
        decode(Path(problem["path"]))
    except DataError:
        return False
    return True


def stop_at_first(problems: Iterable[dict], mend: str = "mend that file") -> None:
    """DataError naming the first bad sample, for `data.on_bad_sample` error."""
    for problem in bad_samples(problems):
        raise DataError(f"{problem['message']}; {mend}, or leave it out with --set data.on_bad_sample=quarantine")


def too_many(counts: Mapping[str, int], totals: Mapping[str, int], most: float) -> list[str]:
    """The units, `image` or `study`, of which more than the share `most` is bad.

    Args:
        counts: problems by kind.
        totals: files of each unit that there should be.
    """
    bad = {unit: sum(counts.get(kind, 0) for kind in kinds) for unit, kinds in BAD.items()}
    return [unit for unit in BAD if bad[unit] > max(FEW, most * totals[unit])]


def check_share(problems: list[dict], totals: Mapping[str, int], most: float, mend: str = "run again") -> None:
    """DataError when more than the share `most` of the images or of the studies is bad; `mend`: what comes after mending."""
    counts = Counter(problem["kind"] for problem in problems)
    for unit in too_many(counts, totals, most):
        bad = [problem for problem in problems if problem["kind"] in BAD[unit]]
        raise DataError(
            f"{len(bad):,} of {totals[unit]:,} {unit} files cannot be read, more than data.max_bad_fraction = {most:g}; "
            f"the first: {bad[0]['message']}; analyze_data.py --check looks at all; mend them and {mend}, or allow more "
            "with --set data.max_bad_fraction=..."
        )
