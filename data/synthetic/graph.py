"""The scene graph of a study: what its invented report says, where, and the boxes in each film.

An observation is built once as the graph writes it; answers are views of it (`answers.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from data.label_space import REGIONS as CANONICAL
from data.synthetic import anatomy
from data.synthetic.anatomy import Body, Pose
from data.synthetic.cases import REPORT, Finding, Study, generator
from data.synthetic.findings import heart_width, mediastinum_width
from data.synthetic.images import LATERAL_VIEWS
from data.synthetic.questions import indication
from data.synthetic.vocabulary import (
    ARTIFACTS,
    EXTRA_NEGATIVES,
    KINDS,
    NOTICE,
    SUB_REGIONS,
    UNBOXED_REGIONS,
    Kind,
    laterality,
)

QUALITY = {
    "region_extract_quality": 4,
    "entity_extract_quality": 2,
    "sentence_name_quality": 2,
    "change_quality": 3,
    "general_issue_level": 5,
    "localization_quality": 4,
}
FALLBACK, NONE, INCOMPLETE, FULL = 1, 0, 2, 4
"""Values of localization_quality."""


@dataclass(frozen=True)
class Films:
    """Boxes of the named regions in each film of a study."""

    ids: tuple[str, ...]
    boxes: tuple[dict[str, list[list[float]]], ...]
    fallback: tuple[frozenset[str], ...]
    """Regions whose box is a generic one."""


def locate(study: Study, body: Body, poses: list[Pose], seed: int) -> Films:
    """Boxes of all regions in all films, with the faults that the real release has: generic, empty, doubled boxes."""
    rng = generator(seed, REPORT, study.number, 1)
    outlines = anatomy.region_outlines(body, heart_width(study, body), mediastinum_width(study))
    all_boxes, fallbacks = [], []
    for view, pose in zip(study.views, poses, strict=True):
        boxes = {} if view in LATERAL_VIEWS else anatomy.region_boxes(pose, outlines)
        fallback = set()
        faults = rng.random(len(boxes))
        for name, fault in zip(list(boxes), faults, strict=True):
            if fault < 0.02:
                fallback.add(name)
                boxes[name] = [[round(f * s, 1) for f, s in zip((0.1, 0.1, 0.9, 0.9), (pose.width, pose.height) * 2)]]
            elif fault < 0.03:
                del boxes[name]
            elif fault < 0.04:
                boxes[name] = boxes[name] + boxes[name][:1]
            elif fault < 0.05:  # a box without area, as some are
                x1, y1, _, y2 = boxes[name][0]
                boxes[name] = boxes[name] + [[x1, y1, x1, y2]]
        all_boxes.append(boxes)
        fallbacks.append(frozenset(fallback))
    return Films(study.dicom_ids, tuple(all_boxes), tuple(fallbacks))


def localization(films: Films, regions: Iterable[str]) -> dict[str, dict]:
    """The localization block of something at these regions: one entry for each film."""
    names = list(dict.fromkeys(regions))
    block = {}
    for image, boxes, generic in zip(films.ids, films.boxes, films.fallback, strict=True):
        found = [name for name in names if name in boxes]
        is_fallback = bool(found) and all(name in generic for name in found)
        quality = NONE if not found else FALLBACK if is_fallback else FULL if len(found) == len(names) else INCOMPLETE
        block[image] = {
            "image_id": image,
            "localization_reference_ids": found,
            "bboxes": [box for name in found for box in boxes[name]],
            "instance_mask_ids": [] if is_fallback else found,
            "missing_localization": [name for name in names if name not in boxes],
            "is_fallback": is_fallback,
            "localization_quality": quality,
        }
    return block


def quality_of(block: dict[str, dict]) -> dict[str, int]:
    """Image id -> localization quality of a block."""
    return {image: entry["localization_quality"] for image, entry in block.items()}


def side_of(regions: Iterable[str], side: str = "") -> str | None:
    """The laterality that regions imply."""
    sides = {s for s in (laterality(name) for name in regions) if s}
    return side or ("bilateral" if len(sides) > 1 else next(iter(sides), None))


def _observation(obs_id: str, kind: Kind, entity: str, regions: tuple[str, ...], films: Films, **more) -> dict:
    """An observation with its defaults; `more` overrides them."""
    block = localization(films, regions)
    quality = dict(QUALITY, localization_quality=max(quality_of(block).values()))
    fields = {
        "obs_id": obs_id,
        "name": entity,
        "summary_sentence": "",
        "child_type": None,
        "child_level": 0,
        "regions": [{"region": name, "distances": []} for name in regions],
        "non_resolved_regions": [],
        "laterality": side_of(regions),
        "default_regions": [],
        "obs_entities": [entity],
        "obs_entities_parents": list(kind.parents),
        "non_resolved_obs_entities": [],
        "obs_categories": list(kind.categories),
        "obs_subcategories": list(kind.subcategories),
        "probability": "positive",
        "certainty": "certain",
        "positiveness": "pos",
        "modifiers": {"temporal": [], "severity": [], "texture": [], "spread": []},
        "changes": [],
        "change_sentence": None,
        "from_report": True,
        "obs_quality": quality,
        "localization": block,
    }
    return fields | more


def where_phrase(finding: Finding) -> str:
    """ " in the right upper lobe", or the side in front of the entity instead (empty)."""
    if finding.side in ("left", "right") and not finding.zone:
        return f" on the {finding.side}"
    if finding.side == "bilateral":
        return " on both sides"
    return " in the " + " and the ".join(finding.regions) if finding.zone else ""


def _positive(obs_id: str, finding: Finding, films: Films) -> dict:
    kind = KINDS[finding.kind]
    name = " ".join(filter(None, (finding.word, finding.entity))) + where_phrase(finding)
    verb = "There is" if finding.certain else "There may be"
    article = kind.article if not finding.word else ("a " if kind.article else "")
    modifiers = {"temporal": [], "severity": [finding.word] if finding.word else [], "texture": [], "spread": []}
    if finding.kind == "pulmonary edema":
        modifiers["spread"] = ["diffuse"]
    elif finding.kind in ("consolidation", "lung opacity"):
        modifiers["texture"] = ["hazy" if finding.kind == "lung opacity" else "patchy"]
        modifiers["spread"] = ["focal"]
    return _observation(
        obs_id,
        kind,
        finding.entity,
        finding.regions,
        films,
        name=name,
        summary_sentence=f"{verb} {article}{name}.",
        laterality=finding.side or None,
        probability="positive" if finding.certain else "likely",
        certainty="certain" if finding.certain else "uncertain",
        modifiers=modifiers,
    )


def _negative(obs_id: str, kind: Kind, films: Films, from_report: bool) -> dict:
    return _observation(
        obs_id,
        kind,
        kind.entity,
        kind.regions,
        films,
        name=f"no {kind.entity}",
        summary_sentence=f"There is no {kind.entity}.",
        default_regions=list(kind.regions),
        probability="negative",
        positiveness="neg",
        from_report=from_report,
    )


def observations(study: Study, films: Films, seed: int) -> dict[str, dict]:
    """Everything the graph states, keyed by id: what is there, what the report denies, and denials added by rule."""
    rng = generator(seed, REPORT, study.number, 2)
    found: dict[str, dict] = {}

    def new_id() -> str:
        return f"O{1 + sum('.' not in key for key in found):02d}"

    for finding in (*study.findings, *study.devices, *study.artifacts):
        obs_id = new_id()
        found[obs_id] = _positive(obs_id, finding, films)
        if finding.kind == "pneumonia":
            child = dict(_positive(f"{obs_id}.01", finding, films), child_type="associated_with", child_level=1)
            consolidation = KINDS["consolidation"]
            child |= {
                "name": "consolidation" + where_phrase(finding),
                "summary_sentence": f"The consolidation{where_phrase(finding)} has open bronchi.",
                "obs_entities": ["consolidation"],
                "obs_entities_parents": list(consolidation.parents),
                "obs_subcategories": list(consolidation.subcategories),
            }
            found[f"{obs_id}.01"] = child
    absent = [kind for name, kind in KINDS.items() if name not in study.kinds and name not in ARTIFACTS]
    if "pneumonia" in study.kinds:  # it is a consolidation, so that one is not denied
        absent = [kind for kind in absent if kind.entity not in ("consolidation", "lung opacity")]
    if {"consolidation", "atelectasis", "pulmonary edema"} & study.kinds:
        absent = [kind for kind in absent if kind.entity != "lung opacity"]
    stated = rng.random(len(absent)) < np.array([0.15 if kind.is_device else 0.5 for kind in absent])
    for from_report in (True, False):
        for kind, is_stated in zip(absent, stated, strict=True):
            if bool(is_stated) == from_report:
                obs_id = new_id()
                found[obs_id] = _negative(obs_id, kind, films, from_report)
    for index in rng.permutation(len(EXTRA_NEGATIVES))[:2]:
        entity, regions, subcategory = EXTRA_NEGATIVES[index]
        obs_id = new_id()
        found[obs_id] = _negative(obs_id, Kind(entity, None, (subcategory,), regions), films, from_report=False)
    return found


def _sentences(study: Study, stated: dict[str, dict]) -> tuple[dict, list[dict]]:
    lines = [("EXAM_TECHNIQUE", "Generated study, no patient.")]
    if order := indication(study):
        lines.append(("INDICATION", "{} with {}; {}.".format(*order)))
    relations = []
    for obs_id, observation in stated.items():
        if observation["from_report"]:
            lines.append(("FINDINGS", "Generated report: " + observation["summary_sentence"]))
            relations.append({"observation_id": obs_id, "sentence_id": f"S{len(lines):02d}"})
    sentences = {}
    for number, (section, text) in enumerate(lines, 1):
        key = f"S{number:02d}"
        sentences[key] = {"sent_id": key, "section": section, "section_type": section, "sentence": text}
    return sentences, relations


def main_result(stated: dict[str, dict]) -> dict:
    """The observation that answers the indication best: the first finding, or the first denial."""
    return next(iter(stated.values()))


def _indication(study: Study, stated: dict[str, dict]) -> dict | None:
    order = indication(study)
    if order is None:
        return None
    age, reason, task = order
    answer = main_result(stated)
    return {
        "indication_summary": f"{age} with {reason}; {task}.",
        "patient_info": f"{age} with {reason}.",
        "indication": f"{reason[0].upper()}{reason[1:]}.",
        "evaluation": f"{task[0].upper()}{task[1:]}.",
        "associated_sentence_ids": ["S02"],
        "associated_obs_ids": [answer["obs_id"]],
        "answer_for_indication": dict(answer, obs_id="OIND", from_report=False),
    }


def scene_graph(study: Study, films: Films, stated: dict[str, dict]) -> dict:
    """Contents of `s<study>.scene_graph.json`."""
    sentences, obs_sent = _sentences(study, stated)
    named = dict.fromkeys(r["region"] for o in stated.values() for r in o["regions"])
    names = list(dict.fromkeys([*CANONICAL, "lungs", *named, UNBOXED_REGIONS[study.number % len(UNBOXED_REGIONS)]]))
    regions = {}
    for name in names:
        block = localization(films, [name])
        regions[name] = {
            "region": name,
            "laterality": laterality(name),
            "localization": block,
            "region_localization_quality": quality_of(block),
        }
    return {
        "patient_id": f"p{study.subject_id}",
        "study_id": f"s{study.study_id}",
        "notice": NOTICE,
        "sentences": sentences,
        "top_level_obs_ids": [key for key in stated if "." not in key],
        "observations": stated,
        "indication": _indication(study, stated),
        "regions": regions,
        "located_at_relations": [
            {
                "region": region["region"],
                "observation_id": key,
                "distances": [],
                "where_specified": "default" if observation["default_regions"] else "direct",
            }
            for key, observation in stated.items()
            for region in observation["regions"]
        ],
        "obs_relations": [
            {"parent_observation_id": key.split(".")[0], "child_observation_id": key, "child_type": "associated_with"}
            for key in stated
            if "." in key
        ],
        "obs_sent_relations": obs_sent,
        "region_region_relations": [
            {"region": whole, "related_region": part, "relation_type": "sub_region"}
            for whole, parts in SUB_REGIONS.items()
            for part in parts
            if whole in regions and part in regions
        ],
        "study_quality": dict(QUALITY, extraction_rating=extraction_rating(study)),
        "study_img_localization_quality": {i: FULL if b else NONE for i, b in zip(films.ids, films.boxes, strict=True)},
    }


def extraction_rating(study: Study) -> str:
    """Grade of the study as a whole."""
    return ("3_B", "3_B", "3_B", "4_A", "2_C", "6_A++")[study.number % 6]


def study_metadata(study: Study, films: Films, poses: list[Pose], observation_count: int) -> dict:
    """Contents of `s<study>.metadata.json`."""
    images = {}
    for image, view, pose, boxes in zip(films.ids, study.views, poses, films.boxes, strict=True):
        images[image] = {
            "image_id": image,
            "view_position": "frontal" if view in ("AP", "PA") else "lateral",
            "patient_orientation": "Erect" if view == "PA" else "Recumbent",
            "size": [pose.width, pose.height],
            "bbox_count": sum(len(found) for found in boxes.values()),
            "localization_quality": FULL if boxes else NONE,
        }
    return {
        "patient_id": f"p{study.subject_id}",
        "study_id": f"s{study.study_id}",
        "split": "val" if study.split == "validate" else study.split,
        "procedure": procedure(study),
        "num_images": len(images),
        "num_observations": observation_count,
        "timestamp_since_first": f"{study.days} days 00:00:00",
        "timespan_since_prev": None if study.order == 0 else f"{study.gap} days 00:00:00",
        "images": images,
    }


def procedure(study: Study) -> str:
    """Name of the examination."""
    return "CHEST (PORTABLE AP)" if study.views[0] == "AP" else "CHEST (PA AND LAT)"
