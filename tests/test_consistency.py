"""Names in texts, and contradictions between answers about one study."""

from __future__ import annotations

import numpy as np
import pytest

from configs.mimic_cxr_config import DataConfig
from data.label_space import HEADS, REGIONS, Head
from data.mentions import Mentions
from tests.mini_index import write_mini_index
from training.evaluation_run import question_set
from training.predictions import Predictions
from training.report.consistency import consistency, paraphrase_agreement

HEART, LUNG, LOBE = (1 << REGIONS.index(name) for name in ("heart", "left lung", "left lower lobe"))
A = 4


def test_the_longest_names_are_found_whole_words_in_any_case():
    mentions = Mentions(["effusion", "pleural effusion", "left lung", "lung", "nodule"])
    assert mentions.in_text("Is there a Pleural Effusion in the LEFT lung?") == {"pleural effusion", "left lung"}
    assert mentions.in_text("Are there nodules?") == {"nodule"}
    others = Mentions(["Ground-glass opacity", "artery", "mass", "lung base"])
    found = others.in_text("Ground glass  opacities, ARTERIES, masses, both lung bases")
    assert found == {"ground-glass opacity", "artery", "mass", "lung base"}, "as the vocabulary spells them"
    assert mentions.in_text("A lungfish, an effusionist.") == frozenset()
    assert mentions.in_text("pleural-effusion") == {"pleural effusion"}
    assert Mentions([]).in_text("lung") == frozenset()


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    asked = [
        ("B03_is_abnormal", "Is the study abnormal?", 1, A),
        ("B04_is_normal", "Is the study normal?", 0, A),
        ("C03_is_abnormal_region", "Is the left lung abnormal?", 1, A),
        ("C04_is_normal_region", "Is the left lung normal?", 0, A),
        ("C03_is_abnormal_region", "Is the left lower lobe abnormal?", 1, A),
        ("C03_is_abnormal_region", "Is the cardiac silhouette abnormal?", 1, A),
        ("C03_is_abnormal_region", "Is the mediastinum abnormal?", 0, A),
        ("D02_has_finding", "Is there a nodule?", 1, A),
        ("D03_where_is_finding", "Where is the nodule?", LOBE, A),
        ("D04_how_severe_is_finding", "How severe is the nodule?", 2, A),
        ("D02_has_finding", "Is there cardiomegaly?", 0, A),
    ]
    path = tmp_path_factory.mktemp("consistency") / "index"
    index = write_mini_index(path, [{"split": "validate", "questions": asked, "subject": n} for n in range(2)])
    return question_set(index, "validate", DataConfig())


def answers(questions, **changed):
    """The truth, with other answers to some questions of the first study: head -> {place: answer}."""
    told = {head: questions.targets(head).copy() for head in HEADS}
    for head, places in changed.items():
        for place, answer in places.items():
            told[Head(head)][place] = answer
    return Predictions(questions, dict.fromkeys(HEADS), told)


def test_the_truth_contradicts_itself_nowhere(questions):
    table = consistency(answers(questions))
    assert {name: of["pairs"] for name, of in table.items()} == {
        "normal against abnormal": 4,
        "absent, but somewhere": 2,
        "absent, but of some severity": 2,
        "present, but of no severity": 2,
        "part abnormal, whole normal": 2,
    }
    assert {of["consistent"] for of in table.values()} == {of["consistent_targets"] for of in table.values()} == {1.0}


@pytest.mark.parametrize(
    ("changed", "check"),
    [
        ({"binary": {1: 1}}, "normal against abnormal"),
        ({"binary": {7: 0}}, "absent, but somewhere"),
        ({"binary": {7: 0}}, "absent, but of some severity"),
        ({"severity": {0: 0}}, "present, but of no severity"),
    ],
)
def test_each_contradiction_is_counted_where_it_is(questions, changed, check):
    table = consistency(answers(questions, **changed))
    assert table[check]["consistent"] == pytest.approx(1 - 1 / table[check]["pairs"])
    assert table[check]["consistent_targets"] == 1


def test_a_part_that_is_abnormal_in_a_normal_whole(questions):
    table = consistency(answers(questions, binary={2: 0, 3: 1}))
    assert table["part abnormal, whole normal"]["consistent"] == 0.5
    assert table["normal against abnormal"]["consistent"] == 1, "both answers say that the lung is normal"


def test_agreement_with_paraphrases(questions):
    other = answers(questions, binary={0: 0}, region={0: np.zeros(len(REGIONS))})
    found = paraphrase_agreement(answers(questions), {"otherwise": other})["otherwise"]
    assert found["binary"] == pytest.approx(17 / 18) and found["region"] == 0.5 and found["severity"] == 1
