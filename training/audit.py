"""What would make a score worthless: the same patients or pictures in training, answers that do not come from the image."""

from __future__ import annotations

from data.index import Index
from data.overlap import overlap, unknown_names
from utils.privacy import new_salt

MADE_BY = {
    "validate": {"train": "training"},
    "test": {"train": "training", "validate": "validation"},
}
"""Split that is evaluated -> splits that made the model: validation chooses the best step and the temperatures"""


def audit_index(index: Index, split: str) -> dict:
    """Between the split that is evaluated and those that made the model: shared patients, studies, images, and images that
    look the same. The test split is compared with training and validation, which chooses the best step and temperatures.

    Returns:
        `patients`, `studies`, `images`, `same_pictures` of `data.overlap.overlap`; `unknown_names`: kind -> `n` occurrences of
        names that no table knows, `per_question` of the release; `findings`: sentences, beginning with what the index notes of
        its data set.
    """
    made_by = MADE_BY[split]
    where = " or ".join(made_by.values())
    found = overlap(index, tuple(made_by), split, new_salt())
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
