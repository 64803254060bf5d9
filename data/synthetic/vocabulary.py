"""The words of the look-alike release: regions, entities, and how each drawn thing is called.

Names follow the style of MIMIC-Ext-CXR-QBA: lower case with spaces, fine names next to coarse ones.
"""

from __future__ import annotations

from dataclasses import dataclass

NOTICE = (
    "GENERATED DATA WITHOUT CLINICAL MEANING. Drawn and written by a program; no patient, no radiograph and no report "
    "stands behind it. For trying, teaching, testing and benchmarking software only."
)
"""Stands in every README, licence, table of contents and image comment of a generated release."""

SIDES = ("right", "left")


@dataclass(frozen=True)
class Kind:
    """A finding or device that can be drawn."""

    entity: str
    label: str | None
    """CheXpert class; None: in none of the 14."""
    subcategories: tuple[str, ...]
    regions: tuple[str, ...]
    """Default regions: where its absence is stated."""
    parents: tuple[str, ...] = ()
    disease: bool = False
    sized: str = ""
    """`size`: small/moderate/large, `grade`: mild/moderate/severe, empty: no severity."""
    article: str = "a "

    @property
    def phrase(self) -> str:
        """The entity with its article: "a pleural effusion"."""
        return self.article + self.entity

    @property
    def is_device(self) -> bool:
        return self.subcategories[0].startswith("DEVICE")

    @property
    def categories(self) -> tuple[str, ...]:
        if self.is_device:
            return ("DEVICE",)
        if self.subcategories == ("ARTIFACT",):
            return ("IMAGING_ARTIFACT",)
        return ("ANATOMICAL_FINDING", "DISEASE") if self.disease else ("ANATOMICAL_FINDING",)


FINDINGS: dict[str, Kind] = {
    kind.entity: kind
    for kind in (
        Kind("cardiomegaly", "Cardiomegaly", ("HEART",), ("heart",), sized="grade", article=""),
        Kind("pleural effusion", "Pleural Effusion", ("PLEURA",), ("pleura",), ("effusion",), True, "size"),
        Kind("pneumothorax", "Pneumothorax", ("PLEURA",), ("pleura",), (), True, "size"),
        Kind("consolidation", "Consolidation", ("LUNG_FIELD",), ("lungs",), ("lung opacity",), True, "grade"),
        Kind(
            "pneumonia",
            "Pneumonia",
            ("PULMONARY_DISEASES", "INFECTION", "LUNG_FIELD"),
            ("lungs",),
            ("lung opacity",),
            True,
            "grade",
            article="",
        ),
        Kind("lung opacity", "Lung Opacity", ("LUNG_FIELD",), ("lungs",), ("opacity",), sized="grade"),
        Kind("atelectasis", "Atelectasis", ("LUNG_FIELD",), ("lungs",), ("volume loss",), True, "grade", ""),
        Kind(
            "pulmonary edema",
            "Edema",
            ("LUNG_FIELD", "PULMONARY_DISEASES"),
            ("lungs",),
            ("edema",),
            True,
            "grade",
            article="",
        ),
        Kind("lung lesion", "Lung Lesion", ("TUMORS", "LUNG_FIELD"), ("lungs",), (), True, "size"),
        Kind("pleural thickening", "Pleural Other", ("PLEURA",), ("pleura",), (), sized="grade", article=""),
        Kind(
            "mediastinal widening",
            "Enlarged Cardiomediastinum",
            ("MEDIASTINUM",),
            ("mediastinum",),
            ("enlarged cardiomediastinum",),
            sized="grade",
            article="",
        ),
        Kind("rib fracture", "Fracture", ("BONES",), ("ribs",), ("fracture",)),
        Kind("scoliosis", None, ("BONES",), ("thoracic spine",), (), sized="grade", article=""),
    )
}

DEVICES: dict[str, Kind] = {
    kind.entity: kind
    for kind in (
        Kind("pacemaker", "Support Devices", ("DEVICE_CARDIAC",), ("left chest wall", "right chest wall")),
        Kind(
            "central venous catheter",
            "Support Devices",
            ("DEVICE_VASCULAR",),
            ("superior vena cava",),
            ("catheter",),
        ),
        Kind("endotracheal tube", "Support Devices", ("DEVICE_AIRWAY",), ("trachea",), ("tube",), article="an "),
        Kind("nasogastric tube", "Support Devices", ("DEVICE_GASTROINTESTINAL",), ("stomach",), ("tube",)),
        Kind("chest tube", "Support Devices", ("DEVICE_DRAINAGE",), ("pleura",), ("tube",)),
        Kind("sternotomy wires", "Support Devices", ("DEVICE_SURGICAL",), ("sternum",), (), article=""),
    )
}

ARTIFACTS: dict[str, Kind] = {
    kind.entity: kind
    for kind in (
        Kind("jewelry artifact", None, ("ARTIFACT",), ("neck",), ("artifact",)),
        Kind("grid artifact", None, ("ARTIFACT",), ("lungs",), ("artifact",)),
    )
}

KINDS = FINDINGS | DEVICES | ARTIFACTS

SEVERITY_WORDS = {
    "size": (("small", "trace"), ("moderate",), ("large",)),
    "grade": (("mild", "minimal"), ("moderate",), ("severe",)),
}
"""Words for the grades 0, 1, 2; the first one of each is the usual one."""

SUBCATEGORY_PHRASES = {
    "HEART": "the heart",
    "LUNG_FIELD": "the lung fields",
    "PLEURA": "the pleura",
    "MEDIASTINUM": "the mediastinum",
    "BONES": "the bones",
    "INFECTION": "the lungs with regard to infection",
    "PULMONARY_DISEASES": "the lung parenchyma with regard to lung disease",
    "TUMORS": "the lungs with regard to tumors",
}
DEVICE_PHRASES = {
    "": "support devices",
    "DEVICE_CARDIAC": "cardiac devices",
    "DEVICE_VASCULAR": "vascular devices",
    "DEVICE_AIRWAY": "airway devices",
    "DEVICE_GASTROINTESTINAL": "gastrointestinal devices",
    "DEVICE_DRAINAGE": "drainage devices",
}

# Named in negative statements and vocabularies only: never drawn.
OTHER_ENTITIES = tuple(
    "air trapping;aortic calcification;aortic tortuosity;apical scarring;artifact;ascites;aspiration;bone lesion;"
    "bronchiectasis;calcified granuloma;catheter;clavicle fracture;compression fracture;congestive heart failure;copd;"
    "degenerative changes;edema;effusion;elevated hemidiaphragm;emphysema;enlarged cardiomediastinum;fibrosis;"
    "foreign body;fracture;hiatal hernia;hilar enlargement;hyperinflation;infiltrate;interstitial lung disease;"
    "kyphosis;low lung volumes;lymphadenopathy;mass;nodule;opacity;osteopenia;pericardial effusion;pleural plaque;"
    "pneumomediastinum;pneumoperitoneum;prosthesis;scarring;subcutaneous emphysema;support device;surgical clips;"
    "tracheal deviation;tube;vascular congestion;volume loss".split(";")
)
ENTITIES = tuple(sorted(set(KINDS) | set(OTHER_ENTITIES)))

# Negative statements that reports and rules add about things that are never drawn: entity, regions, subcategory.
EXTRA_NEGATIVES = (
    ("hilar enlargement", ("right hilum", "left hilum"), "MEDIASTINUM"),
    ("pneumoperitoneum", ("abdomen",), "ABDOMEN"),
    ("subcutaneous emphysema", ("left chest wall", "right chest wall"), "PLEURA"),
    ("clavicle fracture", ("left clavicle", "right clavicle"), "BONES"),
    ("tracheal deviation", ("trachea",), "MEDIASTINUM"),
    ("aortic calcification", ("aortic arch",), "MEDIASTINUM"),
    ("hiatal hernia", ("esophagus",), "ABDOMEN"),
    ("elevated hemidiaphragm", ("right hemidiaphragm", "left hemidiaphragm"), "LUNG_FIELD"),
)

# Region names that the phantom has an outline for (anatomy.region_outlines), with their side.
_PAIRED = tuple(
    "lung;upper lobe;lower lobe;upper lung zone;mid lung zone;lower lung zone;lung apex;lung base;"
    "hilum;perihilar region;pleura;costophrenic angle;hemidiaphragm;chest wall;clavicle;shoulder;scapula;"
    "ribs;cardiophrenic angle".split(";")
)
_SINGLE = tuple(
    "lungs;right middle lobe;lingula;mediastinum;upper mediastinum;heart;cardiac silhouette;aorta;aortic arch;"
    "descending aorta;superior vena cava;trachea;carina;esophagus;stomach;abdomen;liver;spine;thoracic spine;sternum;"
    "neck;pleura;ribs;diaphragm".split(";")
)
UNBOXED_REGIONS = ("interstitial", "soft tissues", "skin", "left ventricle", "left atrium", "hemiazygos vein")
"""Names without an outline: their boxes are missing, as some are in the real release."""


def numbered_ribs() -> tuple[str, ...]:
    """`left 3rd rib` ... `right 9th rib`."""
    ordinals = ("3rd", "4th", "5th", "6th", "7th", "8th", "9th")
    return tuple(f"{side} {ordinal} rib" for side in SIDES for ordinal in ordinals)


BOXED_REGIONS = tuple(sorted((*_SINGLE, *(f"{side} {name}" for side in SIDES for name in _PAIRED), *numbered_ribs())))
REGIONS = tuple(sorted((*BOXED_REGIONS, *UNBOXED_REGIONS)))

SUB_REGIONS = {
    "lungs": ("right lung", "left lung"),
    "right lung": ("right upper lobe", "right middle lobe", "right lower lobe", "right lung apex", "right hilum"),
    "left lung": ("left upper lobe", "left lower lobe", "left lung apex", "left hilum"),
    "right lower lobe": ("right lower lung zone", "right lung base"),
    "left lower lobe": ("left lower lung zone", "left lung base"),
    "right upper lobe": ("right upper lung zone",),
    "left upper lobe": ("left upper lung zone", "lingula"),
    "mediastinum": ("upper mediastinum", "heart", "aorta", "trachea", "esophagus", "superior vena cava"),
    "aorta": ("aortic arch", "descending aorta"),
    "pleura": ("right pleura", "left pleura"),
    "ribs": ("right ribs", "left ribs"),
    "abdomen": ("stomach", "liver"),
    "spine": ("thoracic spine",),
    "diaphragm": ("right hemidiaphragm", "left hemidiaphragm"),
}
"""Parts of a region, for `region_region_relations`."""


def laterality(name: str) -> str | None:
    """Side of a region name, `bilateral` for paired unions, None for the midline."""
    for side in SIDES:
        if name.startswith(side + " "):
            return side
    return "bilateral" if name in ("lungs", "pleura", "ribs", "diaphragm") else None


def dataset_info() -> dict:
    """Contents of `metadata/dataset_info.json`."""
    subcategories = {s for kind in KINDS.values() for s in kind.subcategories} | {"ABDOMEN"}
    words = {w for grades in SEVERITY_WORDS.values() for grade in grades for w in grade}
    return {
        "synthetic": True,
        "notice": NOTICE,
        "regions": list(REGIONS),
        "finding_entities": list(ENTITIES),
        "finding_categories": sorted({c for kind in KINDS.values() for c in kind.categories}),
        "finding_subcategories": sorted(subcategories),
        "answer_types": ["main_answer", "details", "related_information"],
        "modifiers": {
            "temporal": ["acute", "chronic"],
            "severity": sorted(words),
            "texture": ["hazy", "linear", "patchy"],
            "spread": ["diffuse", "focal"],
        },
    }
