"""Which study is asked what. The rule above all: no question can be answered from its text.

Questions with classes are drawn in *rounds*: a round asks the same text about one study of each answer (yes and no;
mild, moderate and severe; right and left...), in one split, with one quality grade. So every text has exactly as many
of each answer in every split, and keeps them when the questions are filtered by grade. Studies for which the answer
would be a matter of opinion (is a lung beside an effusion abnormal?) are not asked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence, Set
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from data.synthetic.cases import OPACITIES, PLAN, Finding, Study, generator
from data.synthetic.vocabulary import DEVICE_PHRASES, DEVICES, FINDINGS, KINDS, SIDES, SUBCATEGORY_PHRASES

RATINGS = ("6_A++", "5_A+", "4_A", "3_B", "2_C", "1_D", "0_")
_RATING_SHARES = (0.24, 0.2, 0.38, 0.09, 0.03, 0.02, 0.04)
SPLITS = ("train", "validate", "test")

LUNG_KINDS = (*OPACITIES, "atelectasis", "lung lesion")
ASKED_REGIONS = (
    *("heart", "mediastinum", "lungs", "pleura", "ribs", "thoracic spine"),
    *(
        f"{s} {p}"
        for s in SIDES
        for p in ("lung", "upper lung zone", "lower lung zone", "costophrenic angle", "pleura")
    ),
)
DEVICE_REGIONS = {
    "left chest wall": ("pacemaker", "left"),
    "right chest wall": ("pacemaker", "right"),
    "superior vena cava": ("central venous catheter", ""),
    "trachea": ("endotracheal tube", ""),
    "esophagus": ("nasogastric tube", ""),
    "left pleura": ("chest tube", "left"),
    "right pleura": ("chest tube", "right"),
    "sternum": ("sternotomy wires", ""),
}
"""Regions that are asked about devices: the device and the side that count."""


@dataclass(frozen=True)
class Planned:
    """A question of a study, before its answers are written."""

    type: str
    text: str
    subject: str
    """Entity, region or subcategory it asks about; empty for the whole study."""
    variables: dict
    rating: str


@dataclass(frozen=True)
class Item:
    """One subject of one question type."""

    type: str
    subject: str
    texts: tuple[str, ...]
    answer: Callable[[Study], Hashable | None]
    """Study -> the answer that has to be balanced; None: not asked."""
    share: float
    """Most studies of a split that are asked, as a share of the split for each answer."""
    variables: dict = field(default_factory=dict)


# What is true


def has_finding(study: Study, kind: str) -> bool | None:
    """Whether a finding is there; None where one could argue."""
    if kind == "consolidation":  # pneumonia is drawn as a consolidation with open bronchi
        return bool({"consolidation", "pneumonia"} & study.kinds)
    if kind == "lung opacity":
        if set(OPACITIES) & study.kinds:
            return True
        return None if {"atelectasis", "pulmonary edema"} & study.kinds else False
    return kind in study.kinds


def touches(finding: Finding) -> tuple[Set[str], Set[str]]:
    """Asked regions that a finding makes abnormal, and those for which one could argue."""
    return _touched(finding.kind, finding.side, finding.zone)


@cache
def _touched(kind: str, side: str, zone: str) -> tuple[Set[str], Set[str]]:
    sides = SIDES if side == "bilateral" else (side,)
    zones = {f"{s} {z} lung zone" for s in sides for z in ("upper", "lower")}
    lungs = {"lungs"} | {f"{s} lung" for s in sides}
    pleura = {"pleura"} | {f"{s} pleura" for s in sides}
    if kind in LUNG_KINDS:
        if zone == "mid":
            return lungs, zones
        exact = {f"{s} {zone} lung zone" for s in sides}
        return lungs | exact, {f"{s} costophrenic angle" for s in sides} if zone == "lower" else set()
    if kind == "pleural effusion":
        angles = {f"{s} costophrenic angle" for s in sides}
        return pleura | angles, lungs | {f"{s} lower lung zone" for s in sides}
    return {
        "pulmonary edema": (lungs, zones),
        "pneumothorax": (pleura, lungs | zones),
        "pleural thickening": (pleura, lungs | zones),
        "cardiomegaly": ({"heart"}, {"mediastinum"}),
        "mediastinal widening": ({"mediastinum"}, set()),
        "rib fracture": ({"ribs"}, set()),
        "scoliosis": ({"thoracic spine"}, set()),
    }[kind]


def region_abnormal(study: Study, region: str) -> bool | None:
    """Whether a region is abnormal; None where one could argue."""
    pairs = [touches(finding) for finding in study.findings]
    if any(region in sure for sure, _ in pairs):
        return True
    return None if any(region in arguable for _, arguable in pairs) else False


_ARGUABLE_SUBCATEGORY = {
    "INFECTION": {"consolidation", "lung opacity"},
    "PULMONARY_DISEASES": {"consolidation", "lung opacity", "atelectasis"},
}


def subcategory_abnormal(study: Study, subcategory: str) -> bool | None:
    """Whether something of a subcategory is found; None where one could argue."""
    if any(subcategory in KINDS[f.kind].subcategories for f in study.findings):
        return True
    return None if _ARGUABLE_SUBCATEGORY.get(subcategory, set()) & study.kinds else False


def has_devices(study: Study, subcategory: str) -> bool:
    """Whether there is a device, of a subcategory if it is not empty."""
    return any(subcategory in ("", *KINDS[f.kind].subcategories) for f in study.devices)


def region_has_device(study: Study, region: str) -> bool | None:
    """Whether a device lies in a region; None where one could argue (a pacemaker lead in the vena cava)."""
    kind, side = DEVICE_REGIONS[region]
    if any(side in ("", f.side) for f in study.of(kind)):
        return True
    other = {"superior vena cava": "pacemaker"}.get(region, "chest tube" if "chest wall" in region else "")
    return None if other in study.kinds else False


def has_artifacts(study: Study) -> bool | None:
    return True if study.artifacts else None if study.occluded else False


def severity(study: Study, kind: str) -> int | None:
    """The grade of a finding if all its instances have the same."""
    grades = {f.severity for f in study.of(kind)}
    return grades.pop() if len(grades) == 1 else None


def place(study: Study, kind: str) -> Hashable | None:
    """Where a finding or device lies: its (side, zone)."""
    instances = study.of(kind)
    return (instances[0].side, instances[0].zone) if len(instances) == 1 else ("several" if instances else None)


# What is asked


def _whole_study() -> list[Item]:
    def abnormal(study: Study) -> bool:
        return bool(study.findings)

    describe = ("Describe the given study.", "Describe this chest X-ray.", "What are all observations in the study?")
    problems = (
        "Describe the abnormal findings in the study.",
        "List all abnormalities.",
        "What is abnormal in this study?",
    )
    sick = ("Is the study abnormal?", "Are there any abnormal findings?", "Does this study show anything abnormal?")
    well = ("Is the study normal?", "Is this a normal chest X-ray?", "Would you call this study normal?")
    artifacts = ("Are there any imaging artifacts?", "Does the image contain artifacts?")
    return [
        Item("B01_describe_all", "", describe, abnormal, 0.42),
        Item("B02_describe_abnormal", "", problems, abnormal, 0.36),
        Item("B03_is_abnormal", "", sick, abnormal, 0.38),
        Item("B04_is_normal", "", well, abnormal, 0.38),
        Item("B15_describe_imaging_artifacts", "", ("Describe the imaging artifacts.",), has_artifacts, 0.15),
        Item("B16_has_imaging_artifacts", "", artifacts, has_artifacts, 0.18),
    ]


def _subcategories() -> list[Item]:
    items = []
    for key, phrase in SUBCATEGORY_PHRASES.items():

        def abnormal(study: Study, key: str = key) -> bool | None:
            return subcategory_abnormal(study, key)

        variables = {"subcategory": key}
        for kind, texts, share in (
            ("B08_describe_subcat", ("Describe {}.", "What can be said about {}?"), 0.06),
            ("B09_describe_abnormal_subcat", ("What is abnormal concerning {}?",), 0.05),
            ("B10_is_abnormal_subcat", ("Do you see anything abnormal concerning {}?", "Is {} abnormal?"), 0.11),
            ("B11_is_normal_subcat", ("Is everything normal concerning {}?", "Would you call {} normal?"), 0.11),
        ):
            be = "Are {} abnormal?" if phrase.split(" with")[0].endswith("s") else "Is {} abnormal?"
            texts = tuple((be if t == "Is {} abnormal?" else t).format(phrase) for t in texts)
            items.append(Item(kind, key, texts, abnormal, share, variables))
    return items


def _device_groups() -> list[Item]:
    items = []
    for key, phrase in DEVICE_PHRASES.items():

        def present(study: Study, key: str = key) -> bool:
            return has_devices(study, key)

        variables = {"subcategory": key} if key else {}
        items.append(Item("B12_describe_device", key, (f"Describe the {phrase}.",), present, 0.06, variables))
        texts = (f"Are there any {phrase}?", f"Does the patient have {phrase}?")
        items.append(Item("B13_has_devices", key, texts, present, 0.12, variables))
    for region in DEVICE_REGIONS:

        def inside(study: Study, region: str = region) -> bool | None:
            return region_has_device(study, region)

        variables = {"region": region}
        texts = (f"Describe the devices in the {region}.",)
        items.append(Item("C07_describe_region_device", region, texts, inside, 0.035, variables))
        texts = (f"Is there a device in the {region}?", f"Can a device be seen in the {region}?")
        items.append(Item("C08_has_region_device", region, texts, inside, 0.08, variables))
    return items


def _regions() -> list[Item]:
    items = []
    for region in ASKED_REGIONS:

        def abnormal(study: Study, region: str = region) -> bool | None:
            return region_abnormal(study, region)

        variables = {"region": region}
        for kind, texts, share in (
            ("C01_describe_region", ("Describe the {}.", "What can be seen in the {}?"), 0.03),
            ("C02_describe_abnormal_region", ("What is abnormal in the {}?",), 0.03),
            ("C03_is_abnormal_region", ("Is there anything abnormal in the {}?",), 0.085),
            ("C04_is_normal_region", ("Is everything in the {} normal?",), 0.085),
        ):
            texts = tuple(text.format(region) for text in texts)
            items.append(Item(kind, region, texts, abnormal, share, variables))
    return items


def _findings() -> list[Item]:
    items = []
    for kind, spec in FINDINGS.items():

        def present(study: Study, kind: str = kind) -> bool | None:
            return has_finding(study, kind)

        variables, phrase = {"finding": kind}, spec.phrase
        texts = (f"Is there {phrase}?", f"Does the study show {phrase}?", f"Can {phrase} be seen?")
        items.append(Item("D02_has_finding", kind, texts, present, 0.19, variables))
        texts = (f"Describe the {kind}.", f"What can be said about {kind}?")
        items.append(Item("D01_describe_finding", kind, texts, present, 0.05, variables))
        if kind not in _MIDLINE_KINDS:
            texts = (f"Where is the {kind}?", f"Where is the {kind} located?")
            items.append(_where("D03_where_is_finding", kind, texts, 0.1))
        if spec.sized:

            def grade(study: Study, kind: str = kind) -> int | None:
                return severity(study, kind)

            texts = (f"How severe is the {kind}?", f"What is the severity of the {kind}?")
            items.append(Item("D04_how_severe_is_finding", kind, texts, grade, 0.1, variables))
    return items


def _devices() -> list[Item]:
    items = []
    for kind, spec in DEVICES.items():

        def present(study: Study, kind: str = kind) -> bool:
            return kind in study.kinds

        variables, phrase = {"device": kind}, spec.phrase
        items.append(Item("D05_describe_device", kind, (f"Describe the {kind}.",), present, 0.05, variables))
        texts = (f"Is there {phrase}?", f"Can {phrase} be seen?")
        items.append(Item("D06_has_device", kind, texts, present, 0.15, variables))
        items.append(_where("D07_where_is_device", kind, (f"Where is the {kind}?",), 0.09))
    return items


_MIDLINE_KINDS = ("cardiomegaly", "mediastinal widening", "pulmonary edema", "scoliosis")


def _where(question_type: str, kind: str, texts: tuple[str, ...], share: float) -> Item:
    def answer(study: Study) -> Hashable | None:
        return place(study, kind)

    return Item(question_type, kind, texts, answer, share, {"finding": kind} if kind in FINDINGS else {"device": kind})


def plan_questions(studies: Sequence[Study], seed: int) -> list[list[Planned]]:
    """The questions of each study, in the order of the studies; sorted by question type."""
    planned: dict[int, list[Planned]] = defaultdict(list)
    items = [*_whole_study(), *_subcategories(), *_device_groups(), *_regions(), *_findings(), *_devices()]
    for split_number, split in enumerate(SPLITS):
        members = [study for study in studies if study.split == split]
        for number, item in enumerate(items):
            rng = generator(seed, PLAN, split_number, number)
            for study, question in _draw(item, members, rng):
                planned[study.number].append(question)
        for study in members:
            planned[study.number] += _unclassified(study, generator(seed, PLAN, 9, study.number))
    return [sorted(planned[study.number], key=lambda q: q.type) for study in studies]


def _draw(item: Item, members: list[Study], rng: np.random.Generator) -> list[tuple[Study, Planned]]:
    groups: dict[Hashable, list[Study]] = defaultdict(list)
    for study in members:
        answer = item.answer(study)
        if answer is not None:
            groups[answer].append(study)
    # Nothing to ask where the answer is always the same, as for a device of the midline.
    if len(groups) < (3 if item.type.startswith("D04") else 2):
        return []
    smallest = min(len(group) for group in groups.values())
    # Rare combinations of sides may not decide how often the common ones are asked.
    if item.type.startswith("D03"):
        smallest = max(smallest, sorted(len(group) for group in groups.values())[len(groups) // 2])
    limit = max(1, round(item.share * len(members)))
    rounds = min(smallest, limit)
    ratings = rng.choice(len(RATINGS), size=rounds, p=_RATING_SHARES)
    drawn = []
    for answer in sorted(groups, key=repr):
        group = groups[answer]
        for i, index in enumerate(rng.permutation(len(group))[:rounds]):
            text = item.texts[i % len(item.texts)]
            drawn.append((group[index], Planned(item.type, text, item.subject, item.variables, RATINGS[ratings[i]])))
    return drawn


INDICATIONS = (
    ("shortness of breath", "look for fluid"),
    ("fever and cough", "look for infection"),
    ("a fall", "look for a fracture"),
    ("chest pain", "look for a cause"),
    ("a new line", "check its position"),
    ("follow-up", "look for interval change"),
)


def indication(study: Study) -> tuple[str, str, str] | None:
    """(patient, reason, task) of the invented order, independent of what is on the film; a few studies have none."""
    rng = generator(study.study_id, PLAN)
    if rng.random() < 0.04:
        return None
    age = ("Young adult", "Adult", "Elderly adult")[int(rng.integers(3))]
    reason, task = INDICATIONS[int(rng.integers(len(INDICATIONS)))]
    return age, reason, task


def _unclassified(study: Study, rng: np.random.Generator) -> list[Planned]:
    """Questions that no class can answer."""
    rating = RATINGS[int(rng.choice(len(RATINGS), p=_RATING_SHARES))]
    order = indication(study)
    asked = [Planned("A_indication", "{} with {}; {}.".format(*order), "", {}, rating)] if order else []
    if rng.random() < 0.15:
        asked.append(Planned("B14_describe_acquisition", "How was this image acquired?", "", {}, rating))
    return asked
