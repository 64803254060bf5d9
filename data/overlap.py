"""What the splits of an index share: patients, studies, images, and images that look the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data.image_hashes import close_pairs, image_hashes
from data.index import SPLITS, Index
from data.raw import FORMS
from utils.privacy import hashed_id

SHOWN = 5
"""Most examples of a finding; ids are hashed"""


def overlap(index: Index, others: Sequence[str], split: str, salt: str) -> dict[str, dict]:
    """What a split shares with other ones.

    Returns:
        `patients`, `studies`, `images`, `same_pictures`: each `n` of the split, and at most SHOWN `examples` of hashed ids
        (pictures: pairs, with the number of bits in which they differ).
    """
    theirs, own = np.concatenate([_split_rows(index, name) for name in others]), _split_rows(index, split)
    studies, images = index.studies, index.images
    in_split, in_others = np.isin(images["study"], own), np.isin(images["study"], theirs)
    ids = np.array(index.image_ids(np.arange(len(images["study"]))))
    return {
        "patients": _shared(studies["subject_id"][theirs], studies["subject_id"][own], salt),
        "studies": _shared(studies["study_id"][theirs], studies["study_id"][own], salt),
        "images": _shared(ids[in_others], ids[in_split], salt),
        "same_pictures": _same_pictures(index, np.flatnonzero(in_others), np.flatnonzero(in_split), ids, salt),
    }


def unknown_names(index: Index) -> dict[str, dict[str, float]]:
    """kind -> occurrences of names in the release that no table knows: `n`, and `per_question`."""
    questions = sum(n for kinds in index.meta["counts"].values() for fates in kinds.values() for n in fates.values())
    unmapped = index.meta.get("unmapped", {})
    found = {kind: int(sum(names.values())) for kind, names in unmapped.items() if kind not in FORMS}
    return {kind: {"n": n, "per_question": n / max(questions, 1)} for kind, n in found.items()}


def _split_rows(index: Index, split: str) -> np.ndarray:
    return np.flatnonzero(index.studies["split"] == SPLITS.index(split))


def _shared(train: np.ndarray, own: np.ndarray, salt: str) -> dict:
    both = np.intersect1d(train, own)
    return {"n": len(both), "examples": [hashed_id(value, salt) for value in both[:SHOWN]]}


def _same_pictures(index: Index, train: np.ndarray, own: np.ndarray, ids: np.ndarray, salt: str) -> dict:
    hashes = image_hashes(index)
    pairs = list(close_pairs(np.asarray(hashes[own]), np.asarray(hashes[train]))) if len(own) and len(train) else []
    examples = [[hashed_id(ids[own[a]], salt), hashed_id(ids[train[b]], salt), bits] for a, b, bits in pairs[:SHOWN]]
    return {"n": len({a for a, *_ in pairs}), "examples": examples}
