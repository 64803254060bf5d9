"""What the reports' scene graphs hold: places, findings, boxes, and how much of it the 26 and 14 classes cover."""

from __future__ import annotations

import numpy as np

from data.index import Index
from data.label_space import CHEXPERT, REGIONS
from data.names import entity_classes, is_known_entity, region_is_union, region_set
from data.scene_graph import ABSENT, AT_LEAST_ONE, PRESENT
from data.vocabulary import RESERVED

MOST_ENTITIES = 40
KINDS = {ABSENT: "absent", PRESENT: "present", AT_LEAST_ONE: "in one of several"}
AREA_STEPS = np.linspace(0, 1, 21)


def findings(index: Index) -> dict:
    """`n`, statements an image, `kinds`, share from the report, `regions` and the most frequent `entities`."""
    table, images = index.findings, index.images
    entity, kind = table["entity"].astype(np.int64), table["kind"]
    names = _entity_names(index)
    by_entity = np.bincount(entity, minlength=len(names))
    present = np.bincount(entity[kind != ABSENT], minlength=len(names))
    there = [(table["regions"] >> np.uint32(r) & 1).astype(bool) for r in range(len(REGIONS))]
    return {
        "n": len(entity),
        "an_image": _quantiles(images["finding_count"]),
        "images_without": int((images["finding_count"] == 0).sum()),
        "from_report": float(table["from_report"].mean()) if len(entity) else None,
        "kinds": {name: int((kind == code).sum()) for code, name in KINDS.items()},
        "regions": {
            name: {"present": int((own & (kind != ABSENT)).sum()), "absent": int((own & (kind == ABSENT)).sum())}
            for name, own in zip(REGIONS, there, strict=True)
        },
        "entities": {
            names[e]: {"n": int(by_entity[e]), "present": int(present[e]), "classes": _classes(names[e])}
            for e in np.argsort(-by_entity, kind="stable")[:MOST_ENTITIES]
            if by_entity[e]
        },
    }


def _entity_names(index: Index) -> list[str]:
    """By code; the reserved codes have names that no report has."""
    return [f"(reserved {code})" for code in range(RESERVED)] + list(index.vocabulary.entities)


def _classes(name: str) -> list[str]:
    return [CHEXPERT[c] for c in sorted(entity_classes(name) or ())]


def coverage(index: Index) -> dict:
    """How much of the vocabulary, and of what is said, the 14 classes and the 26 regions cover; `unmapped`: names by count."""
    names = _entity_names(index)
    said = np.bincount(index.findings["entity"].astype(np.int64), minlength=len(names))
    with_class = np.array([bool(entity_classes(name)) for name in names])
    known = np.array([is_known_entity(name) for name in names])
    regions = index.vocabulary.regions
    places = {name: region_set(name) for name in regions}
    return {
        "entities": {
            "names": len(index.vocabulary.entities),
            "with_a_class": int(with_class.sum()),
            "known_without": int((known & ~with_class).sum()),
            "statements": int(said.sum()),
            "statements_with_a_class": int(said[with_class].sum()),
        },
        "regions": {
            "names": len(regions),
            "in_a_region": sum(bool(found) for found in places.values()),
            "of_both_sides": sum(region_is_union(name) for name in regions),
            "outside": sum(found is not None and not found for found in places.values()),
            "unknown": sum(found is None for found in places.values()),
        },
        "unmapped": index.meta["unmapped"],
    }


def boxes(index: Index) -> dict:
    """`n`, boxes an image, what was left out, and for each region how many images have it, and its size and place."""
    region, box = index.boxes["region"], np.asarray(index.boxes["box"])
    images = len(index.images["box_count"])
    area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
    table = {}
    for r, name in enumerate(REGIONS):
        own = region == r
        table[name] = {"n": int(own.sum()), "share_of_images": float(own.sum() / images) if images else None} | (
            {"area": float(np.median(area[own])), "box": [round(float(v), 3) for v in np.median(box[own], axis=0)]}
            if own.any()
            else {"area": None, "box": None}
        )
    return {
        "n": len(region),
        "an_image": _quantiles(index.images["box_count"]),
        "images_without": int((index.images["box_count"] == 0).sum()),
        "area_histogram": np.histogram(area, AREA_STEPS)[0].tolist(),
        "left_out": index.meta["unmapped"].get("box", {}),
        "regions": table,
    }


def _quantiles(numbers: np.ndarray) -> dict[str, float] | None:
    if not len(numbers):
        return None
    low, middle, high = np.quantile(numbers, [0.05, 0.5, 0.95])
    return {"mean": float(np.mean(numbers)), "p5": float(low), "median": float(middle), "p95": float(high)}
