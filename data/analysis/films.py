"""The images: how many, which views, how large, which are the same, and what could not be read."""

from __future__ import annotations

from collections import Counter

import numpy as np

from data.image_hashes import image_hashes
from data.index import SPLITS, Index
from data.overlap import overlap
from utils.privacy import hashed_id

BARS = 40
"""of a histogram of sizes, about"""
PAIRS = (("train", "validate"), ("train", "test"), ("validate", "test"))
SHOWN = 5


def films(index: Index) -> dict:
    """`n`, views, and the sizes of the originals in pixels."""
    images = index.images
    n = len(images["width"])
    views = Counter(view or "blank" for view in index.views(np.arange(n)))
    step = max(1, int(max(images["width"].max(initial=0), images["height"].max(initial=0))) // BARS)
    sides = {}
    for name in ("width", "height"):
        values = np.asarray(images[name])
        counts = np.bincount(values // step) if n else np.zeros(0, dtype=np.int64)
        sides[name] = {
            "least": int(values.min()) if n else None,
            "median": float(np.median(values)) if n else None,
            "most": int(values.max()) if n else None,
            "histogram": counts.tolist(),
        }
    return {"n": n, "views": dict(views.most_common()), "step": step, **sides, "per_study": _per_study(index)}


def _per_study(index: Index) -> dict[str, int]:
    counts = np.bincount(index.studies["image_count"]) if len(index.studies["image_count"]) else []
    return {str(images): int(studies) for images, studies in enumerate(counts) if studies}


def duplicates(index: Index, salt: str) -> dict:
    """`identical`: images that look the same as another one, in groups; `splits`: what two splits share.

    Looking the same: equal 256-bit difference hashes; between splits also such that differ in a few bits (`data.image_hashes`).
    """
    hashes = np.ascontiguousarray(image_hashes(index))
    groups: dict[bytes, list[int]] = {}
    if len(hashes):
        _, first, counts = np.unique(hashes, axis=0, return_index=True, return_counts=True)
        for row in first[counts > 1]:
            groups[hashes[row].tobytes()] = np.flatnonzero((hashes == hashes[row]).all(1)).tolist()
    shown = list(groups.values())[:SHOWN]
    return {
        "identical": {
            "groups": len(groups),
            "images": sum(map(len, groups.values())),
            "examples": [[hashed_id(index.image_id(row), salt) for row in rows[:SHOWN]] for rows in shown],
        },
        "splits": {
            f"{first} and {second}": overlap(index, (first,), second, salt)
            for first, second in PAIRS
            if _has(index, first) and _has(index, second)
        },
    }


def _has(index: Index, split: str) -> bool:
    return bool((index.studies["split"] == SPLITS.index(split)).any())


def broken(index: Index, salt: str) -> dict[str, dict]:
    """kind -> `n` files or studies that could not be used as they are, and hashed `examples`."""
    found: dict[str, dict] = {}
    for problem in index.problems():
        kind = found.setdefault(problem["kind"], {"n": 0, "examples": []})
        kind["n"] += 1
        if len(kind["examples"]) < SHOWN:
            kind["examples"].append(hashed_id(problem.get("image", problem["study"]), salt))
    return found
