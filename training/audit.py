"""What would make a score worthless: the same patients or pictures in training, answers that do not come from the image."""

from __future__ import annotations

import hashlib

import numpy as np

from data.image_hashes import close_pairs, image_hashes
from data.index import SPLITS, Index

SHOWN = 5
"""Most examples of a finding; ids are hashed"""


def audit_index(index: Index, split: str) -> dict:
    """Between the split that is evaluated and training: shared patients, studies, images, and images that look the same.

    Returns:
        `patients`, `studies`, `images`, `same_pictures`: each `n` and up to five `examples` of hashed ids (pictures: pairs);
        `unknown_names`: kind -> `n` occurrences of names that no table knows, `per_question` of the release; `findings`:
        sentences, beginning with what the index notes of its data set.
    """
    train, own = (_split_rows(index, name) for name in ("train", split))
    studies, images = index.studies, index.images
    found = {
        "patients": _shared(studies["subject_id"][train], studies["subject_id"][own]),
        "studies": _shared(studies["study_id"][train], studies["study_id"][own]),
    }
    in_split = np.isin(images["study"], own)
    in_train = np.isin(images["study"], train)
    ids = np.array(index.image_ids(np.arange(len(images["study"]))))
    found["images"] = _shared(ids[in_train], ids[in_split])
    found["same_pictures"] = _same_pictures(index, np.flatnonzero(in_train), np.flatnonzero(in_split), ids)
    findings = list(index.meta.get("notes", ())) + [
        f"of the split {split}, {found[kind]['n']:,} {what} are in training too"
        for kind, what in (
            ("patients", "patients"),
            ("studies", "studies"),
            ("images", "images"),
            ("same_pictures", "pictures, or what looks the same,"),
        )
        if found[kind]["n"]
    ]
    return found | {"unknown_names": unknown_names(index), "findings": findings}


def leaks(own: dict[str, dict], blind: dict[str, dict]) -> list[str]:
    """Sentences for answers that stay right when the image is another patient's.

    Args:
        own: group -> gain of the model over the best row that sees no image at all; blind: the same of `shuffled_image`.
    """
    found = []
    for group, gain in blind.items():
        model = own[group]["value"]
        if gain["low"] is None or gain["low"] <= 0 or model is None:
            continue
        share = gain["value"] / model if model > 0 else 1.0
        if share >= LEAKING_SHARE:
            found.append(
                f"{group}: {100 * min(share, 1):.0f} % of the gain over rows that see no image stays when the image is "
                "another patient's: these answers come from elsewhere"
            )
    return found


LEAKING_SHARE = 0.5
"""Of the model's gain over all that sees no image: less may be a better reading of the questions"""


def unknown_names(index: Index) -> dict[str, dict[str, float]]:
    """kind -> occurrences of names in the release that no table knows: `n`, and `per_question`."""
    questions = sum(n for kinds in index.meta["counts"].values() for fates in kinds.values() for n in fates.values())
    found = {kind: int(sum(names.values())) for kind, names in index.meta.get("unmapped", {}).items()}
    return {kind: {"n": n, "per_question": n / max(questions, 1)} for kind, n in found.items()}


def _split_rows(index: Index, split: str) -> np.ndarray:
    return np.flatnonzero(index.studies["split"] == SPLITS.index(split))


def _shared(train: np.ndarray, own: np.ndarray) -> dict:
    both = np.intersect1d(train, own)
    return {"n": len(both), "examples": [hashed_id(value) for value in both[:SHOWN]]}


def _same_pictures(index: Index, train: np.ndarray, own: np.ndarray, ids: np.ndarray) -> dict:
    hashes = image_hashes(index)
    pairs = list(close_pairs(np.asarray(hashes[own]), np.asarray(hashes[train]))) if len(own) and len(train) else []
    examples = [[hashed_id(ids[own[a]]), hashed_id(ids[train[b]]), bits] for a, b, bits in pairs[:SHOWN]]
    return {"n": len({a for a, *_ in pairs}), "examples": examples}


def hashed_id(value: object) -> str:
    """Twelve hex digits that name an id without showing it."""
    return hashlib.sha256(str(value).encode()).hexdigest()[:12]
