"""Answers in words become targets of their heads, and what is not understood becomes none."""

from __future__ import annotations

import pytest

from data.answer_text import TARGETS, region_of_box
from data.label_space import CHEXPERT, REGIONS, SEVERITIES, Head
from data.own_data import derived_kind


@pytest.mark.parametrize(
    ("question", "answer", "head"),
    [
        ("Is there an effusion?", "Yes, on the left.", Head.BINARY),
        ("What is seen?", "No finding", Head.CATEGORY),
        ("What is abnormal?", "left lung nodule", Head.CATEGORY),
        ("Where is the nodule?", "left lung", Head.REGION),
        ("In which lobe is it?", "right upper lobe", Head.REGION),
        ("How severe is it?", "moderate", Head.SEVERITY),
        ("How bad is it?", "marked", Head.SEVERITY),
        ("What is abnormal?", "severe edema", Head.CATEGORY),
        ("What is the heart's size?", "cardiomegaly", Head.CATEGORY),
        ("How many nodules are there?", "none", Head.CATEGORY),
        ("Where is it?", "yes", None),
        ("Who took it?", "Bob", None),
    ],
)
def test_heads_are_derived_by_the_rules(question, answer, head):
    kind = derived_kind(question, answer)
    assert (kind and kind.head) == head


def classes(*names: str) -> int:
    return sum(1 << CHEXPERT.index(name) for name in names)


def regions(*names: str) -> int:
    return sum(1 << REGIONS.index(name) for name in names)


@pytest.mark.parametrize(
    ("head", "answer", "target"),
    [
        (Head.BINARY, "YES.", 1),
        (Head.BINARY, "no, it is not", 0),
        (Head.BINARY, "nothing", None),
        (Head.CATEGORY, "Cardiomegaly and pulmonary edema", classes("Cardiomegaly", "Edema")),
        (Head.CATEGORY, "no acute findings.", classes("No Finding")),
        (Head.CATEGORY, "Normal", classes("No Finding")),
        (Head.CATEGORY, "no effusion", None),
        (Head.CATEGORY, "edema without effusion", None),
        (Head.CATEGORY, "pericardial effusion", None),
        (Head.CATEGORY, "scoliosis, nodules", classes("Lung Lesion")),
        (Head.REGION, "right and left lung", regions("right lung", "left lung")),
        (Head.REGION, "lungs", regions("right lung", "left lung")),
        (Head.REGION, "right upper lobe and left lung", regions("right upper lobe", "left lung")),
        (Head.REGION, "right upper and lower lobes", None),
        (Head.REGION, "right sided pleural fluid", None),
        (Head.REGION, "right side of the trachea", regions("trachea")),
        (Head.REGION, "not in the left lung", None),
        (Head.SEVERITY, "it is mild", SEVERITIES.index("mild")),
        (Head.SEVERITY, "mild to moderate", None),
        (Head.SEVERITY, "not severe", None),
        (Head.SEVERITY, "no edema", SEVERITIES.index("none")),
        (Head.SEVERITY, "absent", SEVERITIES.index("none")),
        (Head.SEVERITY, "", None),
    ],
)
def test_answers_become_targets(head, answer, target):
    assert TARGETS[head](answer) == target


@pytest.mark.parametrize(
    ("answer", "region"),
    [
        ("left lung", "left lung"),
        ("Cardiac silhouette", "heart"),
        ("left 4th rib", None),
        ("lungs", None),
        ("yes", None),
    ],
)
def test_a_box_is_that_of_the_one_region_named(answer, region):
    assert region_of_box(answer) == (None if region is None else REGIONS.index(region))
