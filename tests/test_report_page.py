"""`report.html`: one file that asks for nothing, says everything, and shows nobody."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from data.label_space import HEADS
from tests.evaluation_stub import make_setup
from training.audit import audit_index
from training.evaluation import Looks, evaluate
from training.markdown import render_markdown
from training.predictions import Predictions
from training.report import Extras, build_report
from training.report.html import render_html
from training.report.pictures import pictures

PROVENANCE = {
    "dataset": "look-alike release",
    "split": "validate",
    "graph": "predicted",
    "synthetic": True,
    "confidence": 0.95,
    "questions": 320,
    "patients": 40,
    "index_fingerprint": "0" * 16,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An evaluation, its answers, and a report with everything in it."""
    setup = make_setup(tmp_path_factory.mktemp("page"), list(range(40)))
    evaluation = evaluate(setup.model, setup.question_only, setup.dataset, setup.train)
    questions, index = evaluation.questions, setup.dataset.index
    rng = np.random.default_rng(0)
    attention = rng.dirichlet(np.ones(26), len(questions)).astype(np.float32)
    images = np.unique(questions.image)
    corners = np.sort(rng.random((len(images), 26, 2, 2)), axis=2).reshape(len(images), 26, 4)
    evaluation.looks = Looks(attention, images, corners.astype(np.float32))
    other = Predictions.of(questions, evaluation.answers["question_only"])
    extras = Extras(
        radiologist=evaluation.chexpert_labels,
        temperatures=dict.fromkeys(HEADS, 1.5),
        strata={"sex": np.where(questions.patient % 2, "F", "M")},
        other=other,
        audit=audit_index(index, "validate"),
    )
    report = build_report(evaluation, {}, PROVENANCE, samples=100, extras=extras)
    return evaluation, Predictions.of(questions, evaluation.answers["model"]), report


EMPTY = {"meta", "img", "br", "line", "rect", "circle", "polyline", "image"}


class Page(HTMLParser):
    """Tags that are open, and what is referred to."""

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.anchors, self.tags = [], [], set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        values = dict(attributes)
        self.anchors |= {values["id"]} if "id" in values else set()
        self.links += [values[name] for name in ("href", "src", "xlink:href", "action") if name in values]
        if tag not in (
            "meta",
            "img",
            "br",
            "line",
            "rect",
            "circle",
            "polyline",
            "image",
        ) and not self.get_starttag_text().endswith("/>"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in EMPTY:
            assert self.open.pop() == tag


def test_the_page_is_whole_and_asks_for_nothing(made):
    text = render_html(made[2])
    page = Page(text)
    assert page.open == [] and "script" not in page.tags
    assert all(link.startswith("#") and link[1:] in page.anchors for link in page.links)
    assert "url(" not in text and "@import" not in text and "http" not in re.sub(r"http-equiv", "", text)
    assert "default-src 'none'" in text


def test_every_section_is_there(made):
    text = render_html(made[2])
    for title in (
        *(
            "Headline",
            "Question types",
            "Classes",
            "Curves and confusion",
            "Confidence",
            "Where it looks",
            "Consistency",
        ),
        *("Groups", "Compared with another model", "CheXpert labels", "Audit", "Surest errors"),
    ):
        assert f"<h2>{title}</h2>" in text, title
    assert "LOOK-ALIKE DATA" in text and "n/a (0 positives)" in text
    assert "Against a radiologist" in text


def test_the_same_numbers_stand_in_page_and_text(made):
    report = made[2]
    text, page = render_markdown(report), render_html(report)
    for of in report["headline"]["heads"].values():
        shown = f"{of['model']:.3f}"
        assert shown in text and shown in page
    for section in (
        "## Confidence",
        "## Where it looks",
        "## Consistency",
        "## Compared with another model",
        "## Audit",
    ):
        assert section in text


def test_no_id_and_no_question_is_on_the_page_without_pictures(made):
    evaluation, _, report = made
    page = render_html(report)
    studies = evaluation.questions.index.studies
    for value in [*studies["study_id"].tolist(), *studies["subject_id"].tolist()]:
        assert str(value) not in page
    assert "Is there effusion?" not in page


def test_pictures_are_inside_the_page_and_real_data_carry_a_warning(made):
    evaluation, answered, report = made
    shown = pictures(evaluation, answered)
    assert shown.count("data:image/jpeg;base64,") == shown.count("<figure") > 4
    assert "Is there" in shown and "credentialed" not in shown
    page = render_html(report, shown)
    assert "<h2>Pictures</h2>" in page and Page(page).open == []
    evaluation.questions.index.meta["credentialed"] = True
    try:
        assert "must stay where the data are" in pictures(evaluation, answered)
    finally:
        evaluation.questions.index.meta["credentialed"] = False


def test_texts_of_others_are_escaped(made):
    report = made[2] | {"provenance": PROVENANCE | {"model": "<script>alert(1)</script>"}}
    assert "<script>" not in render_html(report)


def test_strata_withhold_small_groups(made):
    sexes = made[2]["strata"]["sex"]
    assert set(sexes) == {"F", "M"} and sexes["F"]["binary"]["scores"]["n"] >= 20
    grades = made[2]["strata"].get("grade", {})
    for values in (*sexes.values(), *grades.values()):
        for of in values.values():
            assert ("withheld" in of) != (of.get("scores", {}).get("n", 0) >= 20)
