"""From one raw scene graph to boxes and findings of one image."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.label_space import REGIONS
from data.scene_graph import ABSENT, AT_LEAST_ONE, PRESENT, count_unknown_images, parse_scene_graph

EXAMPLES = Path(__file__).resolve().parents[2] / "shared/examples/mimic-ext-cxr-qba"
ENTITIES = {"pleural effusion": 2, "mass": 3, "pacemaker": 4}
SIZE = (1000, 2000)
LUNGS = {"right lung", "left lung"}
LOBES = {name for name in REGIONS if name.endswith("lobe")}


def observe(*regions, positiveness="pos", entities=("mass",), laterality=None, defaults=(), **more):
    return {
        "regions": [{"region": region, "distances": []} for region in regions],
        "default_regions": list(defaults),
        "laterality": laterality,
        "obs_entities": list(entities),
        "positiveness": positiveness,
        "from_report": True,
        **more,
    }


def parse(*observations, regions=None, counts=None, size=SIZE):
    raw = {"observations": {f"O{i:02d}": o for i, o in enumerate(observations)}, "regions": regions or {}}
    return parse_scene_graph(raw, "image", *size, ENTITIES, counts)


def rows(graph):
    names = [frozenset(REGIONS[i] for i in range(len(REGIONS)) if int(mask) >> i & 1) for mask in graph.regions]
    return set(zip(names, graph.entity.tolist(), graph.kind.tolist(), strict=True))


def statements(*observations, counts=None):
    """{(region names, kind)} of observations of a mass."""
    return {(set_, kind) for set_, _, kind in rows(parse(*observations, counts=counts))}


def place(*boxes, **more):
    return {"localization": {"image": {"bboxes": [list(box) for box in boxes], "is_fallback": False, **more}}}


def boxes(regions, *observations, counts=None, size=SIZE):
    graph = parse(*observations, regions=regions, counts=counts, size=size)
    return {REGIONS[r]: box.tolist() for r, box in zip(graph.box_regions, graph.boxes, strict=True)}


# --- findings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("observation", "expected"),
    [
        (observe("heart"), {("heart",): PRESENT}),
        (observe("heart", positiveness="neg"), {("heart",): ABSENT}),
        # a paired organ without a side: at least one; with a side or "bilateral": each
        (observe("lungs"), {tuple(LUNGS): AT_LEAST_ONE}),
        (observe("lungs", laterality="left"), {("left lung",): PRESENT}),
        (observe("lungs", laterality="bilateral"), {tuple(LUNGS): PRESENT}),
        # absence goes down to the lobes and does not climb
        (observe("lungs", positiveness="neg"), {tuple(LUNGS | LOBES): ABSENT}),
        (
            observe("lungs", positiveness="neg", laterality="left"),
            {("left lung", "left upper lobe", "left lower lobe"): ABSENT},
        ),
        (observe("left lower lobe", positiveness="neg"), {("left lower lobe",): ABSENT}),
        # presence climbs from the lobe to the lung
        (observe("left lower lung zone"), {("left lower lobe", "left lung"): PRESENT}),
        (
            observe("lower lobes"),
            {("left lower lobe", "right lower lobe"): AT_LEAST_ONE, tuple(LUNGS): AT_LEAST_ONE},
        ),
        # several names: each of them
        (observe("left lung", "heart"), {("left lung", "heart"): PRESENT}),
        (observe("heart", "ribs"), {("heart",): PRESENT, ("left chest wall", "right chest wall"): AT_LEAST_ONE}),
        # it is known where, so the union adds nothing
        (observe("lungs", "left lung"), {("left lung",): PRESENT}),
        # the name's own side wins
        (observe("left lung", laterality="right"), {("left lung",): PRESENT}),
        # defaults
        (observe(defaults=["heart"]), {("heart",): PRESENT}),
        (observe("neck", defaults=["heart"]), {("neck",): PRESENT}),
        (observe(defaults=["left pleura", "right pleura"], positiveness="neg"), {tuple(LUNGS | LOBES): ABSENT}),
        (observe(defaults=["left pleura", "right pleura"]), {tuple(LUNGS): AT_LEAST_ONE}),
        (observe(defaults=["left pleura", "right pleura"], laterality="left"), {("left lung",): PRESENT}),
        (observe(defaults=["left pleura", "right pleura"], laterality="bilateral"), {tuple(LUNGS): PRESENT}),
        (
            observe("left pleura", "right pleura", defaults=["left pleura", "right pleura"]),
            {tuple(LUNGS): AT_LEAST_ONE},
        ),
        (observe("left pleura", "right pleura"), {tuple(LUNGS): PRESENT}),
        (
            observe(defaults=["left upper lobe", "left lower lobe"]),
            {("left upper lobe", "left lower lobe"): AT_LEAST_ONE, ("left lung",): PRESENT},
        ),
        # nothing to say
        (observe(), {}),
        (observe("left wing"), {}),
        (observe("thorax"), {}),
        (observe("heart", entities=[]), {}),
        (observe("heart", entities=["dragon"]), {}),
        (observe("heart", positiveness="neutral"), {}),
        (observe("heart", positiveness=None), {}),
    ],
)
def test_places(observation, expected):
    assert statements(observation) == {(frozenset(names), kind) for names, kind in expected.items()}


@pytest.mark.parametrize(
    ("probability", "kind"), [("positive", PRESENT), ("likely", PRESENT), ("negative", ABSENT), ("unlikely", ABSENT)]
)
def test_probability_where_positiveness_is_missing(probability, kind):
    assert statements(observe("heart", positiveness=None, probability=probability)) == {(frozenset(["heart"]), kind)}
    opposite = observe("heart", positiveness="neg", probability="positive")
    assert statements(opposite) == {(frozenset(["heart"]), ABSENT)}


def test_what_makes_no_row_is_counted():
    counts = Counter()
    parse(
        observe(),
        observe("left wing"),
        observe("thorax", entities=["dragon", "mass"]),
        observe("heart", entities=[]),
        observe("heart", positiveness="neutral"),
        observe("left lung", laterality="right"),
        observe("lungs", laterality="upward"),
        counts=counts,
    )
    assert counts == {
        ("observation", "no_region"): 3,
        ("region", "left wing"): 1,
        ("region_outside", "thorax"): 1,
        ("entity", "dragon"): 1,
        ("observation", "no_entity"): 1,
        ("positiveness", "neutral"): 1,
        ("observation", "no_polarity"): 1,
        ("laterality_conflict", "left lung"): 1,
        ("laterality", "upward"): 1,
    }


def test_all_known_entities_get_a_row_and_unknown_ones_do_not():
    graph = parse(observe("heart", entities=["mass", "dragon", "Pacemaker"]))
    assert rows(graph) == {(frozenset(["heart"]), 3, PRESENT), (frozenset(["heart"]), 4, PRESENT)}


@pytest.mark.parametrize(
    ("value", "expected"), [(True, True), (False, False), (None, True), (0, False), ("false", False)]
)
def test_from_report(value, expected):
    assert parse(observe("heart", from_report=value)).from_report.tolist() == [expected]


def test_missing_from_report_is_true_and_a_report_wins_over_a_default():
    observation = observe("heart")
    del observation["from_report"]
    assert parse(observation).from_report.tolist() == [True]
    graph = parse(observe("heart", from_report=False), observe("heart", from_report=True))
    assert graph.from_report.tolist() == [True]


def test_children_count_and_the_answer_to_the_indication_does_not():
    raw = {
        "observations": {"O01": observe("heart"), "O01.01": observe("neck")},
        "indication": {"answer_for_indication": observe("spine")},
    }
    graph = parse_scene_graph(raw, "image", *SIZE, ENTITIES)
    assert {names for names, _, _ in rows(graph)} == {frozenset(["heart"]), frozenset(["neck"])}


@pytest.mark.parametrize("raw", [None, {}, [], "x", 3, {"observations": None, "regions": 7}])
def test_nothing_gives_empty_arrays_of_the_right_types(raw):
    graph = parse_scene_graph(raw, "image", *SIZE, ENTITIES)
    assert graph.boxes.shape == (0, 4) and graph.boxes.dtype == np.float32
    types = {"box_regions": "uint8", "regions": "uint32", "entity": "uint16", "kind": "uint8", "from_report": "bool"}
    for name, dtype in types.items():
        assert getattr(graph, name).shape == (0,) and getattr(graph, name).dtype == dtype


# --- boxes -------------------------------------------------------------------------------------------------------


def test_boxes_are_normalised_by_the_original_size():
    assert boxes({"heart": place((100, 200, 500, 1000))}) == {"heart": pytest.approx([0.1, 0.1, 0.5, 0.5])}


def test_several_boxes_become_their_union_and_corners_are_cleaned():
    counts = Counter()
    regions = {"heart": place((500, 1000, 100, 200), (-50, 600, 300, 9999), (1, 1, 1, 5), (1200, 0, 1300, 9), counts=1)}
    assert boxes(regions, counts=counts) == {"heart": pytest.approx([0.0, 0.1, 0.5, 1.0])}
    assert counts == {("box", "unordered"): 1, ("box", "clipped"): 1, ("box", "degenerate"): 2}


@pytest.mark.parametrize(
    ("places", "odd"),
    [
        ([(0, 0, 1001, 2001)], {}),  # a pixel is what rounding does
        ([(0, 0, 1001.5, 9)], {"clipped": 1}),
        ([(1, 2, 30, 40)] * 3, {"repeated": 2}),
        ([(1, 2, 30, 40), (30, 40, 1, 2)], {"repeated": 1, "unordered": 1}),
        ([], {"empty": 1}),
    ],
)
def test_odd_lists_of_boxes_are_counted(places, odd):
    counts = Counter()
    boxes({"heart": place(*places)}, counts=counts)
    assert counts == {("box", name): n for name, n in odd.items()}


def test_boxes_under_the_name_of_another_image_are_left_out():
    for stated, taken in (("image", True), (None, True), ("other", False)):
        counts = Counter()
        found = boxes({"heart": place((100, 200, 500, 1000), image_id=stated)}, counts=counts)
        assert bool(found) == taken and counts == ({} if taken else {("box", "other_image"): 1})


def test_boxes_of_images_that_the_study_lacks_are_counted():
    some, none = {"bboxes": [[0, 0, 9, 9]]}, {"bboxes": []}
    regions = {"heart": {"localization": {"own": some, "lateral": some, "stranger": some, "second": none}}}
    graph = {
        "regions": regions | {"neck": None, "spine": {"localization": [1]}},
        "observations": {"O1": observe("aorta") | {"localization": {"stranger": some}}},
    }
    counts = Counter()
    count_unknown_images(graph, {"own", "lateral"}, counts)
    assert counts == {("box", "unknown_image"): 2}


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"is_fallback": True}, "fallback"),
        ({"is_fallback": "yes"}, "fallback"),
        ({"localization_quality": 0}, "low_quality"),
        ({"localization_quality": 1}, "low_quality"),
        ({"localization_quality": "good"}, "low_quality"),
    ],
)
def test_untrustworthy_boxes_are_dropped_and_counted(more, reason):
    counts = Counter()
    assert boxes({"heart": place((100, 200, 500, 1000), **more)}, counts=counts) == {}
    assert counts == {("box", reason): 1}


@pytest.mark.parametrize("quality", [None, 2, 3, 4])
def test_trustworthy_boxes(quality):
    assert set(boxes({"heart": place((100, 200, 500, 1000), localization_quality=quality)})) == {"heart"}


@pytest.mark.parametrize(
    "box", [None, "1234", [1, 2, 3], ["1", "2", "3", "4"], [1, 2, None, 4], [0, 0, float("nan"), 9]]
)
def test_malformed_boxes_are_counted(box):
    counts = Counter()
    region = place()
    region["localization"]["image"]["bboxes"] = [box]
    assert boxes({"heart": region}, counts=counts) == {}
    assert counts == {("box", "malformed"): 1}


def test_only_names_of_the_whole_region_give_boxes():
    box = place((100, 200, 500, 1000))
    assert set(boxes({"lungs": box, "left 4th rib": box, "left lower lung zone": box, "left wing": box})) == set()
    synonym = place((0, 0, 1000, 2000))
    assert boxes({"cardiac silhouette": synonym, "heart": box})["heart"] == pytest.approx([0.1, 0.1, 0.5, 0.5])
    assert boxes({"cardiac silhouette": synonym})["heart"] == pytest.approx([0, 0, 1, 1])


def test_boxes_of_other_images_and_empty_ones_say_nothing():
    counts = Counter()
    other = {"localization": {"other": {"bboxes": [[0, 0, 9, 9]]}}}
    empty = {"localization": {"image": {"bboxes": [], "is_fallback": True}}}
    assert boxes({"heart": other, "neck": empty, "spine": {"localization": {}}}, counts=counts) == {}
    assert counts == {("box", "empty"): 1}


def test_an_observation_helps_where_the_regions_lack_its_only_name():
    box, whole = place((100, 200, 500, 1000)), place((0, 0, 1000, 2000))
    assert boxes({}, observe("heart", **box)) == {"heart": pytest.approx([0.1, 0.1, 0.5, 0.5])}
    assert boxes({"heart": whole}, observe("heart", **box)) == {"heart": pytest.approx([0, 0, 1, 1])}
    assert boxes({}, observe("heart", "neck", **box)) == {}
    assert boxes({}, observe("left lower lung zone", **box)) == {}


def test_no_image_size_no_boxes():
    counts = Counter()
    assert boxes({"heart": place((1, 2, 30, 40))}, counts=counts, size=(0, 0)) == {}
    assert counts == {("box", "no_image_size"): 1}


# --- whole studies and arbitrary input ---------------------------------------------------------------------------


@pytest.mark.skipif(not EXAMPLES.exists(), reason="no example study beside the repository")
def test_example_study():
    raw = json.loads((EXAMPLES / "scene_data/p19/p19999901/s59999901.scene_graph.json").read_text())
    names = json.loads((EXAMPLES / "metadata/dataset_info.json").read_text())["finding_entities"]
    index = {name: i + 2 for i, name in enumerate(names)}
    counts = Counter()
    frontal, lateral = raw["study_img_localization_quality"]
    graph = parse_scene_graph(raw, frontal, 2544, 3056, index, counts)
    assert not counts
    assert [REGIONS[r] for r in graph.box_regions] == ["right lung", "left lung", "heart", "left costophrenic angle"]
    np.testing.assert_allclose(graph.boxes[2], [1010 / 2544, 1290 / 3056, 1830 / 2544, 2080 / 3056], rtol=1e-6)
    assert rows(graph) == {
        (frozenset(LUNGS | LOBES), index["consolidation"], ABSENT),
        (frozenset(["left costophrenic angle"]), index["pleural effusion"], PRESENT),
        (frozenset(["left lung", "left lower lobe"]), index["atelectasis"], PRESENT),
        (frozenset(["heart"]), index["cardiomegaly"], ABSENT),
        (frozenset(["mediastinum"]), index["central venous catheter"], PRESENT),
    }
    assert graph.from_report.all()
    assert len(parse_scene_graph(raw, lateral, 2544, 3056, index).boxes) == 0


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


def maybe(strategy):
    return strategy | json_values


region_names = st.sampled_from([*REGIONS, "lungs", "ribs", "lower lobes", "cardiac silhouette", "thorax", "left wing"])
numbers = st.floats(-500, 4000) | st.integers(-500, 4000)
localizations = maybe(
    st.fixed_dictionaries(
        {},
        optional={
            "image": maybe(
                st.fixed_dictionaries(
                    {"bboxes": maybe(st.lists(maybe(st.lists(numbers, min_size=4, max_size=4)), max_size=3))},
                    optional={"is_fallback": maybe(st.just(False)), "localization_quality": maybe(st.integers(0, 4))},
                )
            )
        },
    )
)
observations = maybe(
    st.fixed_dictionaries(
        {
            "regions": maybe(st.lists(maybe(region_names.map(lambda name: {"region": name})), max_size=3)),
            "obs_entities": maybe(st.lists(maybe(st.sampled_from(sorted(ENTITIES))), max_size=2)),
            "positiveness": maybe(st.sampled_from(["pos", "neg"])),
        },
        optional={
            "default_regions": maybe(st.lists(region_names, max_size=3)),
            "laterality": maybe(st.sampled_from(["left", "right", "bilateral"])),
            "from_report": json_values,
            "localization": localizations,
        },
    )
)
graphs = maybe(
    st.fixed_dictionaries(
        {
            "observations": maybe(st.dictionaries(st.text(max_size=3), observations, max_size=4)),
            "regions": maybe(
                st.dictionaries(region_names, maybe(st.fixed_dictionaries({"localization": localizations})), max_size=4)
            ),
        }
    )
)


@given(graphs, st.integers(1, 4000), st.integers(1, 4000))
def test_any_json_gives_clean_arrays(raw, width, height):
    counts = Counter()
    graph = parse_scene_graph(raw, "image", width, height, ENTITIES, counts)
    count_unknown_images(raw, {"image"}, counts)
    assert all(isinstance(kind, str) and isinstance(value, str) for kind, value in counts)
    assert len(graph.boxes) == len(graph.box_regions)
    assert (np.diff(graph.box_regions.astype(int)) > 0).all() and (graph.box_regions < len(REGIONS)).all()
    assert (graph.boxes >= 0).all() and (graph.boxes <= 1).all()
    assert (graph.boxes[:, :2] < graph.boxes[:, 2:]).all()
    assert (graph.regions > 0).all() and (graph.regions < 1 << len(REGIONS)).all()
    assert np.isin(graph.entity, list(ENTITIES.values())).all()
    assert np.isin(graph.kind, [ABSENT, PRESENT, AT_LEAST_ONE]).all()
    assert len(graph.regions) == len(graph.entity) == len(graph.kind) == len(graph.from_report)
    for mask, kind in zip(graph.regions.tolist(), graph.kind.tolist(), strict=True):
        assert kind != AT_LEAST_ONE or mask.bit_count() > 1
