"""The analysis of a data set: hand-counted tables, and a page that is whole and asks for nothing."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import cohen_kappa_score

from configs.mimic_cxr_config import DataConfig
from data.analysis import analyse, render_page, verdict
from data.analysis.agreement import agreement, graph_labels
from data.analysis.films import broken, duplicates, films
from data.analysis.graphs import boxes, coverage, findings
from data.analysis.questions import balance, blind_reach, by_type, frequent_texts, target_words
from data.analysis.samples import samples
from data.analysis.texts import answer_lengths, question_lengths
from data.doctor import Diagnosis, diagnose
from data.label_space import CHEXPERT, REGIONS, Head
from data.scene_graph import ABSENT, PRESENT
from tests.mini_index import WordTokenizer, write_mini_index
from utils.errors import DataError

A, B = 4, 3
HEART, LUNG = REGIONS.index("heart"), REGIONS.index("left lung")
EFFUSION, CARDIOMEGALY = CHEXPERT.index("Pleural Effusion"), CHEXPERT.index("Cardiomegaly")


def ask(answer: int, place: int, grade: int = A) -> list[tuple]:
    return [
        ("D02_has_finding", "Is there an effusion?", answer, grade),
        ("D03_where_is_finding", "Where is it?", 1 << place, A),
        ("D01_describe_finding", "Describe the effusion.", 1 << EFFUSION, A),
    ]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """Training: three yes, one no; the heart three times. Validation: one yes and one no; the heart, and another text."""
    labels = [[1.0 if n % 2 else 0.0] * 14 for n in range(6)]
    stated = [([HEART], "cardiomegaly", PRESENT, 1), ([LUNG], "pleural effusion", ABSENT, 0)]
    studies = [
        {"split": "train", "questions": ask(n > 0, HEART if n else LUNG, A if n else B), "images": 1 + n % 2}
        | {"findings": stated if n % 2 else stated[1:], "boxes": [(HEART, 0.2, 0.2, 0.6, 0.7)], "chexpert": labels[n]}
        for n in range(4)
    ]
    studies += [
        {"split": "validate", "questions": ask(1, HEART), "chexpert": labels[4]},
        {"split": "validate", "chexpert": labels[5], "findings": stated}
        | {"questions": [*ask(0, LUNG)[:2], ("D02_has_finding", "Is there air?", 1, A)]},
    ]
    return write_mini_index(tmp_path_factory.mktemp("analysis") / "index", studies)


class Labelled:
    """A release of labels alone."""

    def __init__(self, index, negbio):
        frame = pd.DataFrame(negbio, columns=CHEXPERT, index=index.studies["study_id"])
        self.negbio, self.radiologist = frame, None


def test_types_hold_every_question_with_a_target(index):
    used = np.arange(len(index.questions["type"])) % 2 == 0
    table = by_type(index, used)
    own = table["D02_has_finding"]
    assert (
        own["head"] == "binary" and own["with_target"] == 7 and own["splits"] == {"train": 4, "validate": 3, "test": 0}
    )
    assert own["grades"]["A"] == 6 and own["grades"]["B"] == 1 and own["fates"] == {"target": 7}
    assert sum(of["used"] for of in table.values()) == used.sum()
    assert table["A_indication"]["head"] is None


def test_shares_of_classes_are_those_of_the_questions(index):
    table = balance(index)
    assert table["D02_has_finding"] == {"no": pytest.approx(2 / 7), "yes": pytest.approx(5 / 7)}
    assert table["D03_where_is_finding"]["heart"] == pytest.approx(4 / 6)
    assert table["D01_describe_finding"]["Pleural Effusion"] == 1 and "B01_describe_all" not in table


def test_what_the_question_alone_says_by_hand(index):
    table = blind_reach(index)
    # training says yes and heart; of validation's three yes/no questions two are yes, one with a text that training lacks
    assert table["D02_has_finding"] == {"n": 3, "of_type": pytest.approx(2 / 3), "of_text": pytest.approx(2 / 3)}
    assert table["all region"] == {"n": 2, "of_type": 0.5, "of_text": 0.5}
    assert table["all category"]["of_text"] == 1 and "all severity" not in table


def test_a_text_that_says_more_than_its_type_shows(tmp_path):
    asked = [("D02_has_finding", "A?", 1, A), ("D02_has_finding", "B?", 0, A), ("D02_has_finding", "C?", 0, A)]
    index = write_mini_index(tmp_path / "index", [{"split": s, "questions": asked} for s in ("train", "validate")])
    assert blind_reach(index)["D02_has_finding"] == {"n": 3, "of_type": pytest.approx(2 / 3), "of_text": 1.0}


def test_frequent_texts_and_their_answers(index):
    texts = {of["text"]: of for of in frequent_texts(index)}
    assert texts["Is there an effusion?"]["n"] == 6 and texts["Is there an effusion?"]["top_answer"] == "yes"
    assert texts["Where is it?"]["top_share"] == pytest.approx(4 / 6) and texts["Where is it?"]["top_answer"] == "heart"
    assert target_words(Head.CATEGORY, 0) == "(none)"


def test_statements_and_boxes_are_counted(index):
    found = findings(index)
    # studies 1 and 3 have two images each, study 5 one; each image repeats its study's statements
    assert found["kinds"]["present"] == 5 and found["kinds"]["absent"] == 7 and found["n"] == 12
    assert found["regions"]["heart"] == {"present": 5, "absent": 0}
    assert found["entities"]["cardiomegaly"] == {"n": 5, "present": 5, "classes": ["Cardiomegaly"]}
    assert found["from_report"] == pytest.approx(5 / 12) and found["images_without"] == 1
    places = boxes(index)
    assert places["n"] == 6 and places["regions"]["heart"]["area"] == pytest.approx(0.2)
    assert places["regions"]["neck"] == {"n": 0, "share_of_images": 0.0, "area": None, "box": None}
    assert sum(places["area_histogram"]) == 6


def test_coverage_of_the_tables(index):
    found = coverage(index)
    assert found["entities"]["names"] == 3 and found["entities"]["statements"] == 12
    assert found["entities"]["statements_with_a_class"] == 12
    assert found["regions"] == {"names": 1, "in_a_region": 1, "of_both_sides": 1, "outside": 0, "unknown": 0}


def test_labels_of_the_graph_and_their_agreement(index):
    labels = graph_labels(index)
    assert labels[:, CARDIOMEGALY].tolist()[1] == 1 and np.isnan(labels[0, CARDIOMEGALY])
    assert labels[:, EFFUSION].tolist() == pytest.approx([0, 0, 0, 0, np.nan, 0], nan_ok=True)
    rng = np.random.default_rng(0)
    negbio = rng.choice([1.0, 0.0, -1.0, np.nan], (6, 14), p=[0.4, 0.4, 0.1, 0.1])
    table = agreement(index, Labelled(index, negbio))
    assert set(table) == {"CheXpert and scene graph", "CheXpert and NegBio", "scene graph and NegBio"}
    for c, label in enumerate(CHEXPERT):
        truth = index.studies["chexpert"][:, c]
        both = np.isin(negbio[:, c], (0, 1))
        own = table["CheXpert and NegBio"][label]
        assert own["n"] == both.sum()
        if both.any() and len({*truth[both]} | {*negbio[both, c]}) > 1:
            assert own["kappa"] == pytest.approx(cohen_kappa_score(truth[both], negbio[both, c]))
    assert table["CheXpert and scene graph"]["Edema"] == {"n": 0, "agree": None, "kappa": None, "present": [0, 0]}


def test_images_that_look_the_same_are_found(tmp_path, monkeypatch):
    index = write_mini_index(
        tmp_path / "index", [{"split": "train"}, {"split": "validate"}, {"split": "test"}], side=64
    )
    rng = np.random.default_rng(0)
    films_of = rng.integers(0, 255, (3, 64, 64)).astype(np.uint8)
    films_of[1] = np.asarray(Image.fromarray(films_of[0]))
    (index.path / "images" / "pixels.u8").write_bytes(films_of.tobytes())
    found = duplicates(index, "salt")
    assert found["identical"]["groups"] == 1 and found["identical"]["images"] == 2
    assert found["splits"]["train and validate"]["same_pictures"]["n"] == 1
    assert found["splits"]["train and test"]["same_pictures"]["n"] == 0
    assert "image-" not in json.dumps(found), "ids are hashed"
    sizes = films(index)
    assert sizes["n"] == 3 and sizes["views"] == {"PA": 3} and sizes["width"]["median"] == 64
    assert broken(index, "salt") == {}


def test_questions_longer_than_the_limit_are_counted(index):
    found = question_lengths(index, WordTokenizer(), 4)
    assert found["distinct"] == 4 and found["words"]["n"] == 18 and found["words"]["most"] == 4
    pieces = found["pieces"]
    assert pieces["questions_cut"] == sum(n for length, n in enumerate(pieces["histogram"]) if length > 4)
    assert question_lengths(index, None, 4)["pieces"] is None


def test_answers_are_read_of_the_release():
    answer = {
        "answer_type": "main_answer",
        "text": "Yes, there is.",
        "sub_answers": [{"answer_type": "details", "text": "It is."}],
    }

    class Release:
        def read_qa(self, subject, study):
            if study == 3:
                raise DataError("broken")
            return {"questions": [{"answers": [answer]}, {"answers": []}]}

    found = answer_lengths(Release(), [(1, 1), (1, 2), (1, 3)])
    assert found["studies"] == 3 and found["unreadable"] == 1
    assert found["main_answer"]["n"] == 2 and found["main_answer"]["mean"] == 3 and found["other"]["mean"] == 2
    assert found["main_answers_a_question"]["mean"] == 0.5


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.anchors, self.open = set(), set(), set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.add(tag)
        self.anchors |= {values["id"]} if "id" in values else set()
        self.links |= {v for k, v in values.items() if k in ("href", "src")}
        if tag not in ("meta", "img", "br", "line", "rect", "circle", "polyline", "image"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()


def test_the_page_is_whole_and_asks_for_nothing(index):
    class Release(Labelled):
        def studies(self):
            return []

    data = DataConfig()
    report = verdict(Diagnosis.of(diagnose(index, data)), [])
    report |= dict(analyse(Release(index, np.zeros((6, 14))), index, data, WordTokenizer(), 64))
    assert json.loads(json.dumps(report, default=str))["summary"]["is_ready"]
    text = render_page(report, samples(index, 2))
    page = Page(text)
    assert page.open == [] and "script" not in page.tags
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert {link[1:] for link in page.links if link.startswith("#")} <= page.anchors
    for words in ("Can training start?", "What the question alone says", "Where is it?", "Samples"):
        assert words in text
