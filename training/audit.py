"""What would make a score worthless: the same patients or pictures in training, answers that do not come from the image."""

from __future__ import annotations

import numpy as np

from data.image_hashes import close_pairs, image_hashes
from data.index import SPLITS, Index
from utils.privacy import hashed_id, new_salt

MADE_BY = {
    "validate": {"train": "training"},
    "test": {"train": "training", "validate": "validation"},
}
"""Split that is evaluated -> splits that made the model: validation chooses the best step and the temperatures"""
SHOWN = 5
"""Most examples of a finding; ids are hashed"""


def audit_index(index: Index, split: str) -> dict:
    """Between the split that is evaluated and those that made the model: shared patients, studies, images, and images that
    look the same. The test split is compared with training and validation, which chooses the best step and temperatures.

    Returns:
        `patients`, `studies`, `images`, `same_pictures`: each `n` and up to five `examples` of hashed ids (pictures: pairs);
        `unknown_names`: kind -> `n` occurrences of names that no table knows, `per_question` of the release; `findings`:
        sentences, beginning with what the index notes of its data set.
    """
    made_by = MADE_BY[split]
    train, own = np.concatenate([_split_rows(index, name) for name in made_by]), _split_rows(index, split)
    where = " or ".join(made_by.values())
    salt = new_salt()
    studies, images = index.studies, index.images
    found = {
        "patients": _shared(studies["subject_id"][train], studies["subject_id"][own], salt),
        "studies": _shared(studies["study_id"][train], studies["study_id"][own], salt),
    }
    in_split = np.isin(images["study"], own)
    in_train = np.isin(images["study"], train)
    ids = np.array(index.image_ids(np.arange(len(images["study"]))))
    found["images"] = _shared(ids[in_train], ids[in_split], salt)
    found["same_pictures"] = _same_pictures(index, np.flatnonzero(in_train), np.flatnonzero(in_split), ids, salt)
    findings = list(index.meta.get("notes", ())) + [
        f"of the split {split}, {found[kind]['n']:,} {what} are in {where} too"
        for kind, what in (
            ("patients", "patients"),
            ("studies", "studies"),
            ("images", "images"),
            ("same_pictures", "pictures, or what looks the same,"),
        )
        if found[kind]["n"]
    ]
    return found | {"unknown_names": unknown_names(index), "findings": findings}


READS_THE_REPORT = (
    "the row `model` answers from the report's graph, which holds the answers (--graph oracle): no result"
)


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


def _shared(train: np.ndarray, own: np.ndarray, salt: str) -> dict:
    both = np.intersect1d(train, own)
    return {"n": len(both), "examples": [hashed_id(value, salt) for value in both[:SHOWN]]}


def _same_pictures(index: Index, train: np.ndarray, own: np.ndarray, ids: np.ndarray, salt: str) -> dict:
    hashes = image_hashes(index)
    pairs = list(close_pairs(np.asarray(hashes[own]), np.asarray(hashes[train]))) if len(own) and len(train) else []
    examples = [[hashed_id(ids[own[a]], salt), hashed_id(ids[train[b]], salt), bits] for a, b, bits in pairs[:SHOWN]]
    return {"n": len({a for a, *_ in pairs}), "examples": examples}
