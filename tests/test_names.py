"""The explicit tables from the data set's names to regions, CheXpert classes and severities."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import names
from data.label_space import CHEXPERT, REGIONS, SEVERITIES

SHARED = Path(__file__).resolve().parents[2] / "shared"
DATASET_INFO = sorted(SHARED.glob("*/mimic-ext-cxr-qba/metadata/dataset_info.json"))


def regions(name, laterality=None):
    found = names.region_set(name, laterality)
    return None if found is None else {REGIONS[i] for i in found}


def both(region):
    return {f"right {region}", f"left {region}"}


REGION_CASES = {
    "lungs": both("lung"),
    "Lungs ": both("lung"),
    "left lung": {"left lung"},
    "lung right": {"right lung"},
    "right and left lungs": both("lung"),
    "interstitial": both("lung"),
    "pleura": both("lung"),
    "left pleura": {"left lung"},
    "left hemithorax": {"left lung"},
    "minor fissure": {"right lung"},
    "right apical zone": {"right upper lobe"},
    "right upper lung zone": {"right upper lobe"},
    "right lung apex": {"right upper lobe"},
    "right mid lung zone": {"right middle lobe"},
    "right middle lobe": {"right middle lobe"},
    "right lower lung zone": {"right lower lobe"},
    "right lung base": {"right lower lobe"},
    "left lung apex": {"left upper lobe"},
    "left mid lung zone": {"left upper lobe"},
    "lingula": {"left upper lobe"},
    "left inferior lingular segment": {"left upper lobe"},
    "left lower lung zone": {"left lower lobe"},
    "left anteromedial basal segment": {"left lower lobe"},
    "right medial segment": {"right middle lobe"},
    "right superior segment": {"right lower lobe"},
    "right anterior segment": {"right upper lobe"},
    "bibasilar": both("lower lobe"),
    "RLL": {"right lower lobe"},
    "left retrocardiac space": {"left lower lobe"},
    "right hilar structures": {"right hilum"},
    "left perihilar region": {"left hilum"},
    "left main bronchus": {"left hilum"},
    "bronchus intermedius": {"right hilum"},
    "hila": both("hilum"),
    "carina": {"trachea"},
    "cardiac silhouette": {"heart"},
    "left cardiac silhouette": {"heart"},
    "right atrium": {"heart"},
    "mitral valve": {"heart"},
    "coronary arteries": {"heart"},
    "descending aorta": {"aorta"},
    "aortic arch": {"aorta"},
    "upper mediastinum": {"mediastinum"},
    "svc": {"mediastinum"},
    "superior vena cava": {"mediastinum"},
    "esophagus": {"mediastinum"},
    "vertebral bodies": {"spine"},
    "thoracic vertebra t5": {"spine"},
    "T12": {"spine"},
    "cervical vertebrae 3": {"spine"},
    "left costophrenic angle": {"left costophrenic angle"},
    "costophrenic angles": both("costophrenic angle"),
    "diaphragm": both("hemidiaphragm"),
    "right hemidiaphragm": {"right hemidiaphragm"},
    "ribs": both("chest wall"),
    "left 4th posterior rib": {"left chest wall"},
    "posterior 6th rib right": {"right chest wall"},
    "left first rib": {"left chest wall"},
    "left breast": {"left chest wall"},
    "right axilla": {"right chest wall"},
    "sternum": both("chest wall"),
    "clavicles": both("clavicle"),
    "left subclavian vein": {"left clavicle"},
    "left scapula": {"left shoulder"},
    "right humeral head": {"right shoulder"},
    "thyroid gland": {"neck"},
    "stomach": {"abdomen"},
    "left kidney": {"abdomen"},
    "right upper abdomen": {"abdomen"},
    "thorax": set(),
}


@pytest.mark.parametrize(("name", "expected"), REGION_CASES.items())
def test_region_of_name(name, expected):
    assert regions(name) == expected


@pytest.mark.parametrize(
    "name",
    ["", "left", "flux capacitor", "left middle lobe", "right lingula", "left 13th rib", "thoracic vertebra t13"],
)
def test_unknown_region_is_none_and_never_guessed(name):
    assert names.region_set(name) is None
    assert not names.region_is_union(name)
    assert names.box_region(name) is None


def test_every_canonical_region_maps_to_itself_and_is_its_own_box():
    for index, region in enumerate(REGIONS):
        assert names.region_set(region) == {index}
        assert names.box_region(region) == index
        assert not names.region_is_union(region)


@pytest.mark.parametrize(
    ("name", "laterality", "expected", "union", "conflict"),
    [
        ("lungs", None, both("lung"), True, False),
        ("lungs", "bilateral", both("lung"), False, False),
        ("lungs", "Left", {"left lung"}, False, False),
        ("bilateral lungs", None, both("lung"), False, False),
        ("bibasilar", None, both("lower lobe"), False, False),
        ("left lung", "right", {"left lung"}, False, True),
        ("left lung", "bilateral", {"left lung"}, False, False),
        ("left lung", "left", {"left lung"}, False, False),
        ("ribs", "right", {"right chest wall"}, False, False),
        ("lingula", None, {"left upper lobe"}, False, False),
        ("lingula", "right", {"left upper lobe"}, False, True),
        ("heart", "left", {"heart"}, False, False),
        ("mid lung zone", None, {"right middle lobe", "left upper lobe"}, True, False),
    ],
)
def test_laterality(name, laterality, expected, union, conflict):
    match = names.resolve_region(name, laterality)
    assert ({REGIONS[i] for i in match.regions}, match.union, match.conflict) == (expected, union, conflict)
    assert regions(name, laterality) == expected


@pytest.mark.parametrize("name", ["lungs", "pleura", "ribs", "hila", "clavicles", "hemidiaphragms"])
def test_unions(name):
    assert names.region_is_union(name)
    assert names.box_region(name) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cardiac silhouette", "heart"),
        ("right hilar structures", "right hilum"),
        ("left diaphragm", "left hemidiaphragm"),
        ("middle lobe", "right middle lobe"),
        ("left cardiac silhouette", None),
        ("left 4th posterior rib", None),
        ("left lower lung zone", None),
        ("upper mediastinum", None),
        ("aortic arch", None),
        ("thoracic spine", None),
        ("left pleura", None),
    ],
)
def test_only_a_name_of_the_whole_region_gives_its_box(name, expected):
    found = names.box_region(name)
    assert (None if found is None else REGIONS[found]) == expected


def test_parts_are_the_lobes():
    index = REGIONS.index
    assert {REGIONS[i] for i in names.region_parts(index("left lung"))} == {"left upper lobe", "left lower lobe"}
    assert len(names.region_parts(index("right lung"))) == 3
    assert sum(len(names.region_parts(i)) for i in range(len(REGIONS))) == 5


ENTITY_CASES = {
    "Atelectasis": ["atelectasis", "linear atelectasis", "lobar collapse"],
    "Cardiomegaly": ["cardiomegaly", "Cardiac enlargement"],
    "Consolidation": ["consolidation", "consolidations"],
    "Edema": ["pulmonary edema", "interstitial edema", "pulmonary vascular congestion"],
    "Enlarged Cardiomediastinum": ["mediastinal widening", "enlarged cardiomediastinum"],
    "Fracture": ["rib fracture", "rib fractures", "compression fracture"],
    "Lung Lesion": ["mass", "masses", "nodule", "multiple nodules", "lung cancer", "granuloma"],
    "Lung Opacity": ["opacity", "opacities", "infiltrate", "airspace disease", "scarring", "ground-glass opacity"],
    "Pleural Effusion": ["pleural effusion", "effusion", "empyema"],
    "Pneumonia": ["pneumonia", "covid-19 pneumonia", "aspiration pneumonia"],
    "Pneumothorax": ["pneumothorax", "tension pneumothorax"],
    "Pleural Other": ["pleural thickening", "pleural plaque", "fibrothorax", "pleural scarring"],
    "Support Devices": ["central venous catheter", "pacemaker", "surgical clips", "sternotomy wires", "chest tube"],
}


@pytest.mark.parametrize(("label", "name"), [(label, name) for label, cases in ENTITY_CASES.items() for name in cases])
def test_class_of_entity(label, name):
    assert names.entity_classes(name) == {CHEXPERT.index(label)}
    assert names.is_known_entity(name)


def test_an_entity_can_have_two_classes():
    expected = {CHEXPERT.index("Pleural Effusion"), CHEXPERT.index("Pneumothorax")}
    assert names.entity_classes("hydropneumothorax") == expected


@pytest.mark.parametrize("name", ["emphysema", "pericardial effusion", "heart failure", "sternotomy", "artifact"])
def test_known_entity_outside_the_table(name):
    assert names.entity_classes(name) is None
    assert names.is_known_entity(name)


@pytest.mark.parametrize("name", ["", "dragon", "no finding"])
def test_unknown_entity(name):
    assert names.entity_classes(name) is None
    assert not names.is_known_entity(name)


def test_no_entity_is_in_and_outside_the_table():
    assert not set(names._CLASSES_OF) & names._OUTSIDE_NAMES


@pytest.mark.parametrize(
    ("label", "words"),
    {
        "none": ["none", "no", "absent"],
        "mild": ["mild", "Small", "minimal", "trace", "slight", "tiny", "subtle"],
        "moderate": ["moderate", "medium"],
        "severe": ["severe", "large", "marked", "significant", "massive", "extensive"],
    }.items(),
)
def test_severity_words(label, words):
    assert {names.severity_index(word) for word in words} == {SEVERITIES.index(label)}


def test_unknown_severity_word():
    assert names.severity_index("purple") is None
    assert names.severity_index("") is None


@pytest.mark.skipif(not DATASET_INFO, reason="no vocabulary file beside the repository")
@pytest.mark.parametrize("path", DATASET_INFO, ids=lambda path: path.parts[-4])
def test_every_name_of_the_vocabulary_is_known(path):
    vocabulary = json.loads(path.read_text())
    assert [name for name in vocabulary["regions"] if names.region_set(name) is None] == []
    assert [name for name in vocabulary["finding_entities"] if not names.is_known_entity(name)] == []
    words = vocabulary["modifiers"]["severity"]
    assert [word for word in words if names.severity_index(word) is None] == []


@given(st.text(max_size=40), st.one_of(st.none(), st.text(max_size=12)))
def test_any_text_is_looked_up_without_raising(name, laterality):
    found = names.region_set(name, laterality)
    assert found is None or all(0 <= i < len(REGIONS) for i in found)
    classes = names.entity_classes(name)
    assert classes is None or all(0 <= i < len(CHEXPERT) for i in classes)
    assert names.severity_index(name) in (None, 0, 1, 2, 3)


@given(st.sampled_from(sorted(REGION_CASES)), st.sampled_from([None, "left", "right", "bilateral"]))
def test_laterality_never_adds_regions(name, laterality):
    assert names.region_set(name, laterality) <= names.region_set(name)
