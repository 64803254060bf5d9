"""Who is ill with what: patients, splits, studies, and the findings and devices of each study.

Everything is a function of (seed, number): patient k and study i are the same however many studies are written.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from data.synthetic.vocabulary import ARTIFACTS, DEVICES, KINDS, SEVERITY_WORDS, SIDES

NORMAL_SHARE = 0.42
"""Share of studies without any finding; devices are independent of it."""
SPLIT_BLOCK = ("train",) * 14 + ("validate",) * 3 + ("test",) * 3

# How often a kind is tried; tuned so that all end up about equally frequent after conflicts.
_WEIGHTS = {
    "cardiomegaly": 1.0,
    "pleural effusion": 1.25,
    "pneumothorax": 1.3,
    "consolidation": 1.0,
    "pneumonia": 1.25,
    "lung opacity": 1.2,
    "atelectasis": 1.3,
    "pulmonary edema": 1.25,
    "lung lesion": 1.6,
    "pleural thickening": 1.3,
    "mediastinal widening": 1.0,
    "rib fracture": 1.2,
    "scoliosis": 0.25,
}
_COUNTS = (0.08, 0.22, 0.35, 0.35)  # 2, 3, 4, 5 findings
LOBES = (("right", "upper"), ("right", "mid"), ("right", "lower"), ("left", "upper"), ("left", "lower"))
OPACITIES = ("consolidation", "pneumonia", "lung opacity")
_ONE_SIDED = ("pneumothorax", "pleural thickening", "rib fracture")


@dataclass(frozen=True)
class Finding:
    """One drawn thing: a finding, device or artifact at one place."""

    kind: str
    entity: str
    """As reports call it; differs from `kind` for `nodule` and `mass`."""
    side: str
    """right, left, bilateral, or empty for the midline."""
    zone: str
    """upper, mid, lower or empty."""
    severity: int
    """0 mild, 1 moderate, 2 severe; -1: has none."""
    word: str
    """Its severity word, or empty."""
    regions: tuple[str, ...]
    certain: bool
    shape: tuple[float, ...]
    """Ten numbers in [0, 1) for its form and position, the same in every image of the study."""


@dataclass(frozen=True)
class Study:
    """What is true about a study. Its images are drawn and its questions answered from this alone."""

    number: int
    subject_id: int
    study_id: int
    patient: int
    order: int
    """0 for the patient's first study."""
    split: str
    findings: tuple[Finding, ...]
    devices: tuple[Finding, ...]
    artifacts: tuple[Finding, ...]
    views: tuple[str, ...]
    """View position of each image: AP, PA, LATERAL, LL, or empty (a frontal film whose position is not recorded)."""
    dicom_ids: tuple[str, ...]
    date: int
    time: float
    days: int
    """Days since the patient's first study."""
    gap: int
    """Days since the one before; 0 for the first."""
    occluded: bool
    """Something without meaning lies on the film."""

    kinds: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        everything = (*self.findings, *self.devices, *self.artifacts)
        object.__setattr__(self, "kinds", frozenset(f.kind for f in everything))

    def of(self, kind: str) -> list[Finding]:
        """All instances of a kind."""
        return [f for f in (*self.findings, *self.devices, *self.artifacts) if f.kind == kind]


def generator(seed: int, *numbers: int) -> np.random.Generator:
    """An independent random stream for (seed, numbers...)."""
    return np.random.default_rng(np.random.SeedSequence([seed, *numbers]))


_PATIENT, _SPLIT, _TRUTH = 1, 2, 3
BODY, POSE, PIXELS, REPORT, PLAN = 4, 5, 6, 7, 8
"""Names of random streams: the second number after the seed."""


def make_studies(count: int, seed: int) -> list[Study]:
    """The first `count` studies of the endless series of this seed, with about 1.3 studies a patient."""
    studies: list[Study] = []
    patient = 0
    while len(studies) < count:
        rng = generator(seed, _PATIENT, patient)
        # The first three patients are one of each split with one study each: no split of a tiny release is empty.
        total = 1 if patient < 3 else int(rng.choice((1, 2, 3), p=(0.77, 0.17, 0.06)))
        days = np.concatenate([[0], np.cumsum(rng.integers(1, 400, size=2))])
        first_day = int(rng.integers(0, 36_500))
        for order in range(min(total, count - len(studies))):
            number = len(studies)
            when = (first_day, int(days[order]), int(days[order] - days[max(0, order - 1)]))
            studies.append(_make_study(number, patient, order, when, _split(patient, seed), seed))
        patient += 1
    return studies


def _split(patient: int, seed: int) -> str:
    block, position = divmod(patient, len(SPLIT_BLOCK))
    order = list(generator(seed, _SPLIT, block).permutation(len(SPLIT_BLOCK)))
    if block == 0:
        for place, wanted in enumerate((0, 14, 17)):  # train, validate, test first
            other = order.index(wanted)
            order[place], order[other] = order[other], order[place]
    return SPLIT_BLOCK[order[position]]


def _make_study(number: int, patient: int, order: int, when: tuple[int, int, int], split: str, seed: int) -> Study:
    first_day, days, gap = when
    rng = generator(seed, _TRUTH, number)
    findings = _findings(rng)
    devices = _devices(rng)
    artifacts = tuple(_instance(rng, k) for k in ARTIFACTS if rng.random() < 0.1)
    views = [("AP", "PA")[int(rng.random() < (0.3 if devices else 0.6))]]
    if rng.random() < 0.17:
        views.append(("LATERAL", "LL")[int(rng.random() < 0.3)])
    if rng.random() < 0.09:
        views.append(str(rng.choice(("AP", "PA", ""), p=(0.35, 0.35, 0.3))))
    hexes = rng.integers(0, 2**32, size=(len(views), 5), dtype=np.uint64)
    date = np.datetime64("2100-01-01") + np.timedelta64(first_day + days, "D")
    h, m, s = int(rng.integers(0, 24)), int(rng.integers(0, 60)), int(rng.integers(0, 60_000)) / 1000
    return Study(
        number=number,
        # 7,654,321 and 10 million have no common factor: all ids differ, and look as scattered as the real ones.
        subject_id=10_000_000 + (seed * 977 + 32 + patient * 7_654_321) % 10_000_000,
        study_id=50_000_000 + (seed * 1_013 + 414_267 + number * 7_654_321) % 10_000_000,
        patient=patient,
        order=order,
        split=split,
        findings=findings,
        devices=devices,
        artifacts=artifacts,
        views=tuple(views),
        dicom_ids=tuple("-".join(f"{int(v):08x}" for v in row) for row in hexes),
        date=int(str(date).replace("-", "")),
        time=round(h * 10_000 + m * 100 + s, 3),
        days=days,
        gap=gap,
        occluded=bool(rng.random() < 0.2),
    )


def _findings(rng: np.random.Generator) -> tuple[Finding, ...]:
    if rng.random() < NORMAL_SHARE:
        return ()
    kinds = list(_WEIGHTS)
    weights = np.array([_WEIGHTS[k] for k in kinds])
    wanted = int(rng.choice((2, 3, 4, 5), p=_COUNTS))
    taken: set[tuple[str, str]] = set()
    found: list[Finding] = []
    chosen = 0
    for index in rng.choice(len(kinds), size=len(kinds), replace=False, p=weights / weights.sum()):
        if chosen == wanted:
            break
        placed = _place(rng, kinds[index], taken)
        found.extend(placed)
        chosen += bool(placed)
    return tuple(found)


def _place(rng: np.random.Generator, kind: str, taken: set[tuple[str, str]]) -> list[Finding]:
    """One or two instances of a kind where there is room for them; `taken` is extended."""
    options: list[tuple[str, str]] = [("", "")]
    if kind in ("pleural effusion", "atelectasis"):
        options = [("bilateral", "lower"), ("right", "lower"), ("left", "lower")]
    elif kind in OPACITIES or kind == "lung lesion":
        options = list(LOBES)
    elif kind in _ONE_SIDED:
        options = [("right", ""), ("left", "")]
    elif kind == "pulmonary edema":
        options = [("bilateral", "")]
    options = [options[i] for i in rng.permutation(len(options))]
    several = 0.5 if kind == "lung lesion" else 0.25 if kind in OPACITIES else 0.0
    wanted = 2 if rng.random() < several else 1
    severity = int(rng.integers(0, 3)) if KINDS[kind].sized else -1
    placed: list[Finding] = []
    for side, zone in options:
        slots = _slots(kind, side, zone, severity)
        if len(placed) < wanted and not slots & taken:
            taken |= slots
            placed.append(_instance(rng, kind, side, zone, severity))
    return placed


def _slots(kind: str, side: str, zone: str, severity: int) -> set[tuple[str, str]]:
    """Places that this instance needs for itself, so that no finding hides another."""
    sides = SIDES if side == "bilateral" else (side,)
    if kind == "pulmonary edema":
        return {("both", "haze"), ("right", "mid"), ("left", "mid")}
    if kind == "cardiomegaly" and severity == 2:
        return {("left", "lower")}  # the heart covers it
    slots = {(s, z) for s in sides for z in {"": ()}.get(zone, (zone,))}
    if kind == "pleural effusion" and severity > 0:
        slots |= {(s, "mid") for s in sides}
    if kind == "lung opacity":
        slots |= {("both", "haze")} if severity == 0 else set()
    if kind == "pneumothorax":
        slots |= {(side, "upper"), (side, "wall")} | ({(side, "mid")} if severity > 0 else set())
        slots |= {(side, "lower")} if severity == 2 else set()
    if kind in ("pleural thickening", "rib fracture"):
        slots |= {(side, "wall")}
    return slots


def _devices(rng: np.random.Generator) -> tuple[Finding, ...]:
    if rng.random() < 0.48:
        return ()
    devices = []
    for kind in DEVICES:
        if rng.random() < 0.34:
            sided = kind in ("pacemaker", "central venous catheter", "chest tube")
            devices.append(_instance(rng, kind, SIDES[int(rng.integers(2))] if sided else ""))
    return tuple(devices)


def _instance(rng: np.random.Generator, kind: str, side: str = "", zone: str = "", severity: int = -1) -> Finding:
    shape = tuple(float(v) for v in rng.random(10))
    word = ""
    if severity >= 0:
        words = SEVERITY_WORDS[KINDS[kind].sized][severity]
        word = words[0] if len(words) == 1 or shape[9] < 0.75 else words[1]
    entity = kind
    if kind == "lung lesion":
        entity = "mass" if severity == 2 else "nodule"
    certain = not (severity == 0 and rng.random() < 0.15)
    return Finding(
        kind, entity, side, zone, severity, word, _regions(kind, side, zone, severity, shape), certain, shape
    )


def rib_number(shape: tuple[float, ...]) -> int:
    """The upper one of the two broken ribs, 4 to 8."""
    return 4 + int(shape[0] * 5)


def _regions(kind: str, side: str, zone: str, severity: int, shape: tuple[float, ...]) -> tuple[str, ...]:
    """Names of the regions that the report gives for an instance; fine and coarse names mixed as in real reports."""
    sides = SIDES if side == "bilateral" else (side,)
    if kind in OPACITIES or kind in ("lung lesion", "atelectasis"):
        if zone == "mid":
            return ("right middle lobe",)
        part = "lobe" if shape[8] < 0.5 else "lung zone"
        return tuple(f"{s} {zone} {part}" for s in sides)
    if kind == "pleural effusion":
        return tuple(f"{s} costophrenic angle" for s in sides) + (
            tuple(f"{s} lower lung zone" for s in sides) if severity == 2 else ()
        )
    if kind == "pneumothorax":
        return (f"{side} upper lung zone",) + ((f"{side} lower lung zone",) if severity == 2 else ())
    return {
        "cardiomegaly": ("cardiac silhouette" if shape[8] < 0.3 else "heart",),
        "pulmonary edema": ("lungs",),
        "pleural thickening": (f"{side} pleura",),
        "mediastinal widening": ("upper mediastinum" if shape[8] < 0.3 else "mediastinum",),
        "rib fracture": (*(f"{side} {rib_number(shape) + i}th rib" for i in range(2)), f"{side} ribs"),
        "scoliosis": ("thoracic spine",),
        "pacemaker": (f"{side} chest wall", "heart"),
        "central venous catheter": ("superior vena cava", f"{side} clavicle"),
        "endotracheal tube": ("trachea",),
        "nasogastric tube": ("esophagus", "stomach"),
        "chest tube": (f"{side} pleura", f"{side} chest wall"),
        "sternotomy wires": ("sternum",),
        "jewelry artifact": ("neck",),
        "grid artifact": ("lungs",),
    }[kind]
