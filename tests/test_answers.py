"""From one raw question to a target or a reason."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.answers import Dropped, Question, flatten, parse_question
from data.label_space import (
    CHEXPERT,
    GRADES,
    HEAD_INDEX,
    HEADS,
    NO_FINDING,
    QUESTION_TYPES,
    REGIONS,
    SEVERITIES,
    SUPPORT_DEVICES,
    TYPE_INDEX,
    Head,
)

EXAMPLE = Path(__file__).resolve().parents[2] / "shared/examples/mimic-ext-cxr-qba/qa/p19/p19999901/s59999901.qa.json"


def main(text="", positiveness="pos", entities=(), regions=(), laterality=None, severity=(), **more):
    return {
        "answer_type": "main_answer",
        "text": text,
        "positiveness": positiveness,
        "obs_entities": list(entities),
        "regions": list(regions),
        "laterality": laterality,
        "modifiers": [["severity", word] for word in severity],
        "sub_answers": [],
        **more,
    }


def ask(kind, *answers, rating="4_A", text="What is this?", counts=None, **more):
    raw = {
        "question_id": f"{kind}_000",
        "question_type": kind,
        "question": text,
        "answers": list(answers),
        "question_quality": {"rating": rating},
        **more,
    }
    return parse_question(raw, counts)


def outcome(*args, **kwargs):
    """The target, or the reason."""
    parsed = ask(*args, **kwargs)
    return parsed.reason if isinstance(parsed, Dropped) else parsed.target


def category(*labels):
    return sum(1 << CHEXPERT.index(label) for label in labels)


def region(*names):
    return sum(1 << REGIONS.index(name) for name in names)


# --- routing -----------------------------------------------------------------------------------------------------

ANSWER_FOR = {
    Head.BINARY: (main("Yes, it is."), 1),
    Head.CATEGORY: (main(entities=["pleural effusion"]), category("Pleural Effusion")),
    Head.REGION: (main(regions=["left lung"]), region("left lung")),
    Head.SEVERITY: (main(severity=["moderate"]), SEVERITIES.index("moderate")),
}


@pytest.mark.parametrize("spelling", ["name", "bare_name"])
@pytest.mark.parametrize("kind", QUESTION_TYPES, ids=lambda kind: kind.name)
def test_every_type_in_both_spellings(kind, spelling):
    answer, target = ANSWER_FOR.get(kind.head, (main("Yes"), None))
    parsed = ask(getattr(kind, spelling), answer, question_strategy=kind.strategy)
    if kind.head is None:
        assert parsed == Dropped(parsed.question_id, kind.name, "unsupported_type")
        return
    assert isinstance(parsed, Question)
    assert (parsed.type, parsed.head, parsed.target) == (TYPE_INDEX[kind.name], HEAD_INDEX[kind.head], target)


def test_the_27_types():
    assert len(QUESTION_TYPES) == 27


@pytest.mark.parametrize("name", ["Z99_unknown", "describe_device", None, 7, ["B03_is_abnormal"], ""])
def test_unknown_types_are_dropped_and_counted(name):
    counts = Counter()
    parsed = parse_question({"question_type": name, "question_id": "x", "question": "?", "answers": []}, counts)
    assert parsed.reason == "unknown_type"
    assert sum(counts.values()) == 1 and next(iter(counts))[0] == "question_type"


def test_text_is_needed_and_stripped():
    assert outcome("B03_is_abnormal", main("Yes"), text="  ") == "empty_question_text"
    assert outcome("B03_is_abnormal", main("Yes"), text=None) == "empty_question_text"
    assert ask("B03_is_abnormal", main("Yes"), text=" Abnormal? ").text == "Abnormal?"


def test_only_main_answers_count_at_any_depth():
    details = {"answer_type": "details", "text": "No.", "positiveness": "neg"}
    related = {"answer_type": "related_information", "text": "No.", "sub_answers": [main("Yes, there is.")]}
    assert outcome("D02_has_finding", details) == "no_main_answer"
    assert outcome("D02_has_finding", {**details, "sub_answers": [related]}) == 1
    assert outcome("D02_has_finding") == "no_main_answer"


def test_odd_answer_types_are_counted():
    counts = Counter()
    assert outcome("D02_has_finding", {"answer_type": "footnote"}, main("Yes"), counts=counts) == 1
    assert counts == {("answer_type", "footnote"): 1}


def test_flatten_keeps_reading_order_and_survives_deep_nesting():
    answers = [{"id": 1, "sub_answers": [{"id": 2}, {"id": 3}]}, {"id": 4}]
    assert [answer["id"] for answer in flatten(answers)] == [1, 2, 3, 4]
    deep = {"id": 0}
    for _ in range(5000):
        deep = {"id": 0, "sub_answers": [deep]}
    assert sum(1 for _ in flatten([deep])) == 5001


@pytest.mark.parametrize(
    ("rating", "grade"),
    [("6_A++", "A++"), ("5_A+", "A+"), ("4_A", "A"), ("3_B", "B"), ("2_C", "C"), ("1_D", "D"), ("0_", ""), (None, "")],
)
def test_grade(rating, grade):
    counts = Counter()
    assert ask("B03_is_abnormal", main("Yes"), rating=rating, counts=counts).grade == GRADES.index(grade)
    assert counts == ({} if rating else {("rating_missing", "None"): 1})


@pytest.mark.parametrize("rating", ["9_Z", ["4_A"], True])
def test_unknown_rating_is_unrated_and_counted(rating):
    counts = Counter()
    assert ask("B03_is_abnormal", main("Yes"), rating=rating, counts=counts).grade == 0
    assert [key[0] for key in counts] == ["rating"]


# --- binary ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["B03_is_abnormal", "B04_is_normal", "C08_has_region_device", "B11_is_normal_subcat"])
@pytest.mark.parametrize(
    ("text", "positiveness", "target"),
    [("Yes, it is.", "neg", 1), ("No, it is not.", "pos", 0), ("  «YES»!", None, 1), ("no", None, 0), ("No.", None, 0)],
)
def test_the_text_gives_the_verdict_and_nothing_is_inverted(kind, text, positiveness, target):
    assert outcome(kind, main(text, positiveness)) == target


@pytest.mark.parametrize(
    ("positiveness", "target"), [("pos", 1), ("neg", 0), ("neutral", "no_verdict"), (None, "no_verdict")]
)
def test_positiveness_is_second_and_never_for_normality(positiveness, target):
    text = "There is no effusion, nothing yes-like."
    assert outcome("D02_has_finding", main(text, positiveness)) == target
    for kind in ("B04_is_normal", "B11_is_normal_subcat", "C04_is_normal_region", "is_normal"):
        assert outcome(kind, main(text, positiveness)) == "no_verdict"


@pytest.mark.parametrize("text", ["None seen.", "Normal.", "Yesterday it was.", "Nothing", "not seen", ""])
def test_words_that_only_begin_like_yes_or_no(text):
    assert outcome("D02_has_finding", main(text, None)) == "no_verdict"


def test_no_as_a_determiner_is_no_verdict_on_normality():
    assert outcome("D02_has_finding", main("No effusion is seen.", None)) == 0
    assert outcome("B04_is_normal", main("No abnormality is seen.", "neg")) == "no_verdict"
    assert outcome("B04_is_normal", main("Yes the study is normal.", "neg")) == 1


def test_all_main_answers_must_agree():
    assert outcome("D02_has_finding", main("Yes."), main("No.")) == "verdict_conflict"
    assert outcome("D02_has_finding", main("Yes."), main("Yes, it is."), main("On the left.", "neg")) == 1
    assert outcome("D02_has_finding", main("Here.", "pos"), main("There.", "neg")) == "verdict_conflict"


# --- category ----------------------------------------------------------------------------------------------------


def test_category_is_the_union_over_positive_main_answers():
    answers = [
        main(entities=["pleural effusion", "pacemaker"]),
        main(entities=["pneumonia"], positiveness="neg"),
        main(entities=["hydropneumothorax"]),
    ]
    expected = category("Pleural Effusion", "Support Devices", "Pneumothorax")
    assert outcome("B01_describe_all", *answers) == expected


def test_nothing_positive():
    negative = main(entities=["consolidation"], positiveness="neg")
    for kind in (
        "B01_describe_all",
        "B09_describe_abnormal_subcat",
        "C02_describe_abnormal_region",
        "D01_describe_finding",
    ):
        assert outcome(kind, negative) == 1 << NO_FINDING
    for kind in ("B12_describe_device", "C07_describe_region_device", "D05_describe_device"):
        assert outcome(kind, negative) == 0


def test_devices_among_findings_and_findings_outside_the_table():
    assert outcome("B01_describe_all", main(entities=["chest tube"])) == 1 << SUPPORT_DEVICES
    assert outcome("B01_describe_all", main(entities=["emphysema", "scoliosis"])) == "entities_outside_table"
    assert outcome("B01_describe_all", main(entities=["emphysema", "fracture"])) == category("Fracture")
    assert outcome("B01_describe_all", main()) == "no_entities"
    assert outcome("B12_describe_device", main()) == "no_entities"


def test_unknown_polarity_is_never_taken_for_absence():
    assert outcome("B01_describe_all", main(entities=["mass"], positiveness=None)) == "no_polarity"
    assert outcome("B12_describe_device", main(positiveness="")) == "no_polarity"
    assert outcome("B01_describe_all", main(entities=["mass"]), main(entities=["edema"], positiveness="neutral")) == (
        "no_polarity"
    )


def test_unknown_names_and_values_are_counted():
    counts = Counter()
    assert outcome("B01_describe_all", main(entities=["dragon", "mass"]), counts=counts) == category("Lung Lesion")
    outcome("B01_describe_all", main(entities=["emphysema"], positiveness="neutral"), counts=counts)
    outcome("D03_where_is_finding", main(regions=["left wing"]), counts=counts)
    outcome("D04_how_severe_is_finding", main(severity=["purple"]), counts=counts)
    outcome("D03_where_is_finding", main(regions=["left lung"], laterality="right"), counts=counts)
    outcome("D03_where_is_finding", main(regions=["lungs"], laterality="upward"), counts=counts)
    assert counts == {
        ("entity", "dragon"): 1,
        ("positiveness", "neutral"): 1,
        ("region", "left wing"): 1,
        ("severity", "purple"): 1,
        ("laterality_conflict", "left lung"): 1,
        ("laterality", "upward"): 1,
    }


# --- region ------------------------------------------------------------------------------------------------------


def test_regions_are_a_union_with_laterality():
    kind = "D03_where_is_finding"
    assert outcome(kind, main(regions=["lungs"], laterality="left")) == region("left lung")
    assert outcome(kind, main(regions=["lungs"])) == region("left lung", "right lung")
    assert outcome(kind, main(regions=["heart", "left 4th rib"]), main(regions=["neck"])) == region(
        "heart", "left chest wall", "neck"
    )
    assert outcome(kind, main(regions=["heart"]), main(regions=["neck"], positiveness="neg")) == region("heart")
    assert outcome(kind, main(regions=["heart"], positiveness=None)) == region("heart")
    assert outcome(kind, main(regions=["heart", "left wing"])) == region("heart")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (main(regions=["left wing"]), "regions_unknown"),
        (main(regions=["thorax"]), "regions_outside"),
        (main(regions=["thorax", "left wing"]), "regions_outside"),
        (main(), "no_regions"),
        (main(regions=["heart"], positiveness="neg"), "nothing_positive"),
    ],
)
def test_no_region_target(answer, reason):
    assert outcome("D03_where_is_finding", answer) == reason
    assert outcome("D07_where_is_device", answer) == reason


# --- severity ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("modifiers", "expected"),
    [
        ([["severity", "small"]], 1),
        ([["spread", "focal"], ["severity", "trace"], ["severity", "mild"]], 1),
        ({"severity": ["large"], "texture": ["patchy"]}, 3),
        ({"severity": "moderate"}, 2),
        ([["severity", ["none"]]], 0),
        ([["severity", "mild"], ["severity", "severe"]], "severity_ambiguous"),
        ([["severity", "mild to moderate"]], "severity_ambiguous"),
        ([["severity", "purple"]], "severity_unspecified"),
        ([["temporal", "acute"]], "severity_unspecified"),
        ([], "severity_unspecified"),
        ({}, "severity_unspecified"),
        (None, "severity_unspecified"),
        ("severe", "severity_unspecified"),
    ],
)
def test_severity(modifiers, expected):
    assert outcome("D04_how_severe_is_finding", {**main(), "modifiers": modifiers}) == expected


def test_severity_of_several_answers():
    kind = "D04_how_severe_is_finding"
    assert outcome(kind, main(severity=["mild"]), main(severity=["large"])) == "severity_ambiguous"
    assert outcome(kind, main(severity=["mild"]), main(severity=["large"], positiveness="neg")) == 1
    assert outcome(kind, main(severity=["severe"], positiveness="neg")) == "nothing_positive"
    unspecified = {**main()}
    del unspecified["modifiers"]
    assert outcome(kind, unspecified) == "severity_unspecified"


# --- whole studies and arbitrary input ---------------------------------------------------------------------------


@pytest.mark.skipif(not EXAMPLE.exists(), reason="no example study beside the repository")
def test_example_study():
    counts = Counter()
    parsed = [parse_question(raw, counts) for raw in json.loads(EXAMPLE.read_text())["questions"]]
    found = {q.question_id: q.reason if isinstance(q, Dropped) else (q.target, GRADES[q.grade]) for q in parsed}
    assert found == {
        "A_indication_000": "unsupported_type",
        "B01_describe_all_000": (category("Pleural Effusion", "Support Devices"), "A"),
        "B03_is_abnormal_000": (1, "A"),
        "C03_is_abnormal_region_004": (1, "B"),
        "D02_has_finding_007": (1, "A"),
        "D02_has_finding_008": (0, "A++"),
        "D03_where_is_finding_002": (region("left costophrenic angle"), "A+"),
        "D04_how_severe_is_finding_001": (SEVERITIES.index("mild"), "A++"),
        "D06_has_device_000": (1, ""),
    }
    assert not counts


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def maybe(strategy):
    return strategy | json_values


answers = st.deferred(
    lambda: maybe(
        st.fixed_dictionaries(
            {"answer_type": maybe(st.just("main_answer"))},
            optional={
                "text": maybe(st.sampled_from(["Yes.", "No.", "Perhaps."])),
                "positiveness": maybe(st.sampled_from(["pos", "neg"])),
                "obs_entities": maybe(st.lists(maybe(st.sampled_from(["mass", "pacemaker", "emphysema"])), max_size=3)),
                "regions": maybe(st.lists(maybe(st.sampled_from(["lungs", "heart", "thorax"])), max_size=3)),
                "laterality": maybe(st.sampled_from(["left", "bilateral"])),
                "modifiers": maybe(st.just([["severity", "mild"]]) | st.just({"severity": ["large"]})),
                "sub_answers": maybe(st.lists(answers, max_size=2)),
            },
        )
    )
)
questions = st.fixed_dictionaries(
    {
        "question_type": maybe(st.sampled_from([kind.name for kind in QUESTION_TYPES])),
        "question": maybe(st.just("Why?")),
        "answers": maybe(st.lists(answers, max_size=3)),
    },
    optional={"question_id": json_values, "question_strategy": json_values, "question_quality": json_values},
)


@given(questions | json_values)
def test_any_json_gives_a_target_in_range_or_a_reason(raw):
    counts = Counter()
    parsed = parse_question(raw, counts)
    assert all(isinstance(kind, str) and isinstance(value, str) for kind, value in counts)
    if isinstance(parsed, Dropped):
        assert parsed.reason.replace("_", "").isalpha() and isinstance(parsed.type, str)
        return
    head = list(Head)[parsed.head]
    classes = len(HEADS[head].classes)
    assert head is QUESTION_TYPES[parsed.type].head
    assert 0 <= parsed.target < (1 << classes if HEADS[head].multi_label else classes)
    assert 0 <= parsed.grade < len(GRADES)
    assert parsed.text and isinstance(parsed.question_id, str)
    if head is Head.REGION:
        assert parsed.target
