"""Scores of the questions that name a finding or a region, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from configs.mimic_cxr_config import DataConfig
from data.label_space import HEADS, REGIONS, Head
from tests.mini_index import write_mini_index
from training.evaluation_run import question_set
from training.predictions import Predictions
from training.report.scorer import Scorer
from training.report.strata import by_finding, by_region, strata

STUDIES = 24
LUNG, HEART = (1 << REGIONS.index(name) for name in ("left lung", "heart"))


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """A third of the films has a nodule; the model says so of every second one, and knows all about the heart."""
    studies = [
        {
            "split": "validate",
            "subject": n // 2,
            "questions": [
                ("D02_has_finding", "Are there nodules?", int(n % 3 == 0), 4),
                ("C03_is_abnormal_region", "Are the lungs abnormal?", int(n % 3 == 0), 4),
                ("C03_is_abnormal_region", "Is the heart abnormal?", int(n % 3 == 1), 4),
                ("D03_where_is_finding", "Where is the nodule?", LUNG if n % 4 else HEART, 4),
            ]
            + ([("D02_has_finding", "Is there a pleural effusion?", 0, 4)] if n < 5 else []),
        }
        for n in range(STUDIES)
    ]
    index = write_mini_index(tmp_path_factory.mktemp("asked") / "index", studies)
    questions = question_set(index, "validate", DataConfig())
    told = {head: questions.targets(head).copy() for head in HEADS}
    texts = index.texts(questions.text[questions.of(Head.BINARY)])
    about_nodules = [i for i, text in enumerate(texts) if "nodules" in text]
    told[Head.BINARY][about_nodules] = [n % 2 for n in range(STUDIES)]
    answered = Predictions(questions, dict.fromkeys(HEADS), told)
    scorer = Scorer(questions, samples=50, confidence=0.95, seed=0)
    return by_finding(scorer, answered, None), by_region(scorer, answered, None), (scorer, answered)


def test_questions_are_counted_by_the_finding_they_name(tables):
    findings, _, _ = tables
    assert list(findings) == ["nodule", "pleural effusion"], "most asked first; a plural is the same name"
    binary = findings["nodule"]["binary"]
    assert {size: binary["scores"][size] for size in ("n", "studies", "patients")} == {
        "n": STUDIES, "studies": STUDIES, "patients": STUDIES // 2,
    }  # fmt: skip
    # nodules at n = 0, 3, .., 21: 4 of 8 are odd, as are 8 of the other 16
    assert binary["value"] == pytest.approx((4 / 8 + 8 / 16) / 2)
    assert binary["low"] <= binary["value"] <= binary["high"] and binary["gain"]["value"] is None
    assert findings["nodule"]["region"]["value"] == 1.0 and findings["nodule"]["region"]["scores"]["n"] == STUDIES
    assert (
        "withheld" in findings["pleural effusion"]["binary"] and "scores" not in findings["pleural effusion"]["binary"]
    )


def test_a_whole_counts_for_each_of_its_parts(tables):
    _, regions, _ = tables
    assert set(regions) == {"left lung", "right lung", "heart"}
    assert regions["left lung"]["binary"]["scores"] == regions["right lung"]["binary"]["scores"]
    assert regions["heart"]["binary"]["scores"]["n"] == STUDIES and regions["heart"]["binary"]["value"] == 1.0
    assert "region" not in regions["heart"], "where-questions name a finding, no region"


def test_groups_of_few_patients_are_withheld_however_many_questions_they_have(tables):
    """Sex and age say who is in a group; how the question came about does not."""
    scorer, answered = tables[2]
    more = {"sex": np.where(answered.questions.patient % 3, "F", "M")}
    found = strata(scorer, answered, None, more)
    assert set(found["sex"]) == {"F", "M"}
    for groups in found["sex"].values():
        for of in groups.values():
            assert of["withheld"] in ("fewer than 20 questions", "fewer than 20 patients")
    binary = found["sex"]["F"]["binary"]
    assert binary["withheld"] == "fewer than 20 patients" and "scores" not in binary
