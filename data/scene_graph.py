"""One raw scene graph -> what it says about one image: region boxes, and which entities are where.

The arrays hold statements over the 26 canonical regions as sets (bit masks). Turning them into loss targets
(positive wins over negative, weights) is the consumer's business.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from data.label_space import REGIONS
from data.names import box_region, region_parts, resolve_region
from data.raw import items, laterality, mapping, note, polarity, strings, word

ABSENT, PRESENT, AT_LEAST_ONE = 0, 1, 2
"""Kinds of findings: stated absent in each, present in each, present in at least one of the regions."""

MIN_QUALITY = 2
"""Worst trusted `localization_quality`: 0 is no localization, 1 a fallback, 2 incomplete."""
MIN_SIDE = 1.0
"""Pixels; a narrower box is degenerate."""

_PARENT = {part: region for region in range(len(REGIONS)) for part in region_parts(region)}


@dataclass(frozen=True)
class GraphArrays:
    """n boxes and m findings; all empty when the graph says nothing."""

    box_regions: np.ndarray
    """(n,) uint8 indices into REGIONS, ascending, each at most once"""
    boxes: np.ndarray
    """(n, 4) float32 x1 y1 x2 y2 in [0, 1] of the original width and height; x1 < x2, y1 < y2"""
    regions: np.ndarray
    """(m,) uint32 bit masks over REGIONS, never 0"""
    entity: np.ndarray
    """(m,) uint16 ids of the vocabulary"""
    kind: np.ndarray
    """(m,) uint8: ABSENT, PRESENT, AT_LEAST_ONE"""
    from_report: np.ndarray
    """(m,) bool; False: a default that the data set added by rule"""


def parse_scene_graph(
    raw: Any, image_id: str, width: int, height: int, entity_index: dict[str, int], counts: Counter | None = None
) -> GraphArrays:
    """The statements of a scene_graph.json about one image of `width` x `height` original pixels.

    Takes any JSON value and never raises. Statements without entity, region or polarity that we know make no row;
    they are counted in `counts` under (kind, value), kinds: region, region_outside, entity, positiveness,
    probability, laterality, laterality_conflict, observation, box.
    """
    graph = mapping(raw)
    observations = _observations(graph)
    boxes = _region_boxes(graph.get("regions"), observations, image_id, (width, height), counts)
    findings: dict[tuple[int, int, int], bool] = {}
    for observation in observations:
        from_report = _is_from_report(observation.get("from_report"))
        for row in _rows(observation, entity_index, counts):
            findings[row] = findings.get(row, False) or from_report
    table = np.array(list(findings), dtype=np.int64).reshape(-1, 3)
    return GraphArrays(
        box_regions=np.array(sorted(boxes), dtype=np.uint8),
        boxes=np.array([boxes[r] for r in sorted(boxes)], dtype=np.float32).reshape(-1, 4),
        regions=table[:, 0].astype(np.uint32),
        entity=table[:, 1].astype(np.uint16),
        kind=table[:, 2].astype(np.uint8),
        from_report=np.array(list(findings.values()), dtype=bool),
    )


def _observations(graph: dict) -> list[dict]:
    found = graph.get("observations")
    return [o for o in (found.values() if isinstance(found, dict) else items(found)) if isinstance(o, dict)]


# --- findings ----------------------------------------------------------------------------------------------------


def _is_from_report(value: Any) -> bool:
    """Only a stated false marks a default."""
    return not (value == 0 or word(value) == "false")


def _rows(observation: dict, entity_index: dict[str, int], counts: Counter | None) -> Iterator[tuple[int, int, int]]:
    """(regions, entity, kind) of one observation."""
    positive = polarity(observation, counts)
    if positive is None:
        note(counts, "observation", "no_polarity")
        return
    names = strings(observation.get("obs_entities"))
    if not names:
        note(counts, "observation", "no_entity")
        return
    entities = []
    for name in names:
        index = entity_index.get(name, entity_index.get(name.lower()))
        if index is None:
            note(counts, "entity", name)  # the loss masks unknown entities, so a row would say nothing
        else:
            entities.append(index)
    each, unions = _places(observation, positive, counts)
    if not each and not unions:
        note(counts, "observation", "no_region")
    for entity in entities:
        for regions, kind in _statements(each, unions, positive):
            yield sum(1 << region for region in regions), entity, kind


def _names_of_regions(observation: dict) -> tuple[list[str], list[str]]:
    """(stated, default) region names. What the data set added by rule says only where such a finding usually is."""
    listed = [item.get("region") if isinstance(item, dict) else item for item in items(observation.get("regions"))]
    listed, defaults = strings(listed), strings(observation.get("default_regions"))
    if not listed:
        return [], defaults
    return [name for name in listed if name not in defaults], [name for name in listed if name in defaults]


def _places(observation: dict, positive: bool, counts: Counter | None) -> tuple[set[int], list[set[int]]]:
    """Regions for each of which the observation holds, and unions: sets of regions of which one at least has it."""
    side = laterality(observation, counts)
    stated, defaults = _names_of_regions(observation)
    each: set[int] = set()
    unions: list[set[int]] = []
    for match in _matches(stated, side, counts):
        if match.union and positive:
            unions.append(set(match.regions))
        else:
            each |= match.regions
    matches = list(_matches(defaults, side, counts, count_conflicts=False))
    # `left` with the defaults left and right costophrenic angle means the left one
    matches = [match for match in matches if not match.conflict] or matches
    usual = {region for match in matches for region in match.regions}
    if positive and len(usual) > 1 and side != "both":
        unions.append(usual)
    else:
        each |= usual
    return each, unions


def _matches(names: list[str], side: str | None, counts: Counter | None, count_conflicts: bool = True) -> Iterator:
    for name in names:
        match = resolve_region(name, side)
        if match is None:
            note(counts, "region", name)
        elif not match.regions:
            note(counts, "region_outside", name)
        else:
            if match.conflict and count_conflicts:
                note(counts, "laterality_conflict", name)
            yield match


def _statements(each: set[int], unions: list[set[int]], positive: bool) -> Iterator[tuple[set[int], int]]:
    """What follows for the canonical regions: absence goes down to the lobes, presence climbs to the lung."""
    if not positive:
        below = {part for region in each for part in region_parts(region)}
        if each:
            yield each | below, ABSENT
        return
    present = each | {_PARENT[region] for region in each if region in _PARENT}
    climbed = [{_PARENT[r] for r in union} for union in unions if all(r in _PARENT for r in union)]
    for lungs in climbed:
        if len(lungs) == 1:  # one lobe or another of the same lung
            present |= lungs
    if present:
        yield present, PRESENT
    for union in unions + [lungs for lungs in climbed if len(lungs) > 1]:
        if not union & each:  # otherwise it is known where, and the union adds nothing
            yield union, AT_LEAST_ONE


# --- boxes -------------------------------------------------------------------------------------------------------

Box = tuple[float, float, float, float]


def _region_boxes(
    regions: Any, observations: list[dict], image_id: str, size: tuple[int, int], counts: Counter | None
) -> dict[int, Box]:
    """Canonical region -> the smallest box around its trustworthy boxes, in [0, 1]."""
    if not (size[0] > 0 and size[1] > 0):
        note(counts, "box", "no_image_size")
        return {}
    boxes: dict[int, Box] = {}
    for name, localization in _localizations(regions, observations):
        region = box_region(name)
        if region is None or region in boxes:
            continue
        block = mapping(localization.get(image_id))
        if block.get("image_id") not in (None, "", image_id):
            note(counts, "box", "other_image")
            continue
        found = _trusted_boxes(block, size, counts)
        if found:
            x1, y1, x2, y2 = zip(*found, strict=True)
            boxes[region] = (min(x1) / size[0], min(y1) / size[1], max(x2) / size[0], max(y2) / size[1])
    return boxes


def _localizations(regions: Any, observations: list[dict]) -> list[tuple[str, dict]]:
    """(region name, its localization by image) of all regions, and of observations that are of one other region."""
    named = mapping(regions)
    sources = [(name, mapping(mapping(region).get("localization"))) for name, region in named.items()]
    sources.sort(key=lambda source: source[0].lower() not in REGIONS)  # a canonical name goes before its synonyms
    for observation in observations:
        listed = [*chain(*_names_of_regions(observation))] if observation.get("regions") else []
        if len(listed) == 1 and listed[0] not in named:
            sources.append((listed[0], mapping(observation.get("localization"))))
    return sources


def count_unknown_images(raw: Any, known: set[str], counts: Counter | None) -> None:
    """Count the lists of boxes of a scene_graph.json that are of no image in `known`, the ids of all images of its study."""
    graph = mapping(raw)
    regions, observations = graph.get("regions"), _observations(graph)
    parts = [*mapping(regions).values(), *observations]
    if all(mapping(mapping(part).get("localization")).keys() <= known for part in parts):
        return  # nearly always, and ten times as fast as what follows
    for _, localization in _localizations(regions, observations):
        for image_id, block in localization.items():
            if image_id not in known and mapping(block).get("bboxes"):
                note(counts, "box", "unknown_image")


def _trusted_boxes(block: dict, size: tuple[int, int], counts: Counter | None) -> list[Box]:
    """Boxes of a localization block in pixels, clipped to the image; none from fallbacks."""
    raw = block.get("bboxes")
    if not isinstance(raw, list):
        if raw is not None:
            note(counts, "box", "malformed")
        return []
    if not raw:
        note(counts, "box", "empty")
        return []
    if block.get("is_fallback") not in (None, False):
        note(counts, "box", "fallback")
        return []
    quality = block.get("localization_quality")
    if quality is not None and not ((number := _number(quality)) is not None and number >= MIN_QUALITY):
        note(counts, "box", "low_quality")
        return []
    found = [box for entry in raw if (box := _clean_box(entry, size, counts))]
    distinct = list(dict.fromkeys(found))
    for _ in range(len(found) - len(distinct)):
        note(counts, "box", "repeated")
    return distinct


def _clean_box(entry: Any, size: tuple[int, int], counts: Counter | None) -> Box | None:
    """One box with ordered corners inside the image, or None (counted)."""
    corners = [_number(value) for value in entry] if isinstance(entry, list) and len(entry) == 4 else [None]
    if None in corners:
        note(counts, "box", "malformed")
        return None
    x1, y1, x2, y2 = corners
    if x1 > x2 or y1 > y2:
        note(counts, "box", "unordered")
    (x1, x2), (y1, y2) = sorted((x1, x2)), sorted((y1, y2))
    box = (max(x1, 0.0), max(y1, 0.0), min(x2, float(size[0])), min(y2, float(size[1])))
    if box[2] - box[0] < MIN_SIDE or box[3] - box[1] < MIN_SIDE:
        note(counts, "box", "degenerate")
        return None
    if min(x1, y1, size[0] - x2, size[1] - y2) < -MIN_SIDE:
        note(counts, "box", "clipped")
    return box


def _number(value: Any) -> float | None:
    """A finite number of a plausible size, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e9:
        return None
    return float(value)
