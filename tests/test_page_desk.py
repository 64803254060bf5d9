"""What happens at the desk of the evidence page, without a browser: studies of an index, films, answers, maps, refusals."""

import os
import re
from dataclasses import replace

import pytest

from data.label_space import REGIONS
from data.release.locate import find_jpg
from data.release.tables import read_images
from examples.page import server, views
from examples.page.session import METHODS, Desk
from examples.page.studies import LISTED, Studies
from models.cam_methods import CAM_METHODS
from tests.asking_model import drawn_film, write_film, write_model
from tests.mini_index import write_mini_index
from tests.small_model import SIZE
from tests.small_release import STUDIES, image_id, write_tables
from tests.test_page import words
from utils.errors import DataError

# Studies of an index

QUESTIONS = [
    ("D02_has_finding", "Is there a nodule ?", 1, 4),
    ("D03_where_is_finding", "Where is the nodule ?", 0b101, 4),
    ("B02_describe_abnormal", "What is abnormal ?", 0, 4),
    ("D04_how_severe_is_finding", "How severe is it ?", 2, 4),
]
FINDINGS = [([0, 2], "nodule", 1, True), ([8], "cardiomegaly", 0, True), ([0, 1], "pleural effusion", 2, True)]


@pytest.fixture
def studies(tmp_path):
    one = {"split": "validate", "questions": QUESTIONS, "findings": FINDINGS, "boxes": [(8, 0.25, 0.5, 0.75, 1.0)]}
    silent = {"split": "train"}
    write_mini_index(tmp_path / "index", [silent, one, {**one, "split": "test"}])
    return Studies.open(tmp_path / "index")


def test_studies_with_questions_can_be_picked(studies):
    assert studies.splits == ["validate", "test"]
    assert studies.listed("validate") == ["50000001"]
    assert studies.find("validate", " s50000001 ") == 1
    assert studies.questions(1) == [text for _, text, *_ in QUESTIONS]
    assert studies.film(1).shape == (16, 16)
    assert len(studies.listed("validate")) <= LISTED


@pytest.mark.parametrize("number", ["50000002", "50000000", "", "nothing", "9" * 30, "-1", "²"])
def test_a_study_that_is_not_there_is_one_line(studies, number):
    with pytest.raises(DataError, match="no study of this number"):
        studies.find("validate", number)


def test_the_truth_is_that_of_the_question(studies):
    truth = studies.truth(1, "where  is the NODULE ?", 200, 100)
    assert truth.classes == truth.regions == {"right lung", "right upper lobe"}
    assert truth.boxes == {"heart": (50.0, 50.0, 150.0, 100.0)}
    assert truth.findings == (
        "nodule: right lung, right upper lobe",
        "pleural effusion: at least one of right lung, left lung",
    )
    assert studies.truth(1, "Is there a nodule ?", 1, 1).classes == {"yes"}
    assert studies.truth(1, "What is abnormal ?", 1, 1).classes == frozenset()
    assert studies.truth(1, "How severe is it ?", 1, 1).classes == {"moderate"}
    assert studies.truth(1, "Is there a tube ?", 1, 1).classes is None


def test_an_index_or_release_that_is_not_there_is_one_line(tmp_path, studies):
    with pytest.raises(DataError, match="no index in"):
        Studies.open(tmp_path / "none")
    with pytest.raises(DataError, match="--release .*no such folder"):
        Studies.open(tmp_path / "index", tmp_path / "none")


def test_the_original_film_is_where_the_release_has_it(tmp_path):
    (tmp_path / "jpg").mkdir()
    (tmp_path / "qba").mkdir()
    write_tables(tmp_path, STUDIES)
    release = find_jpg(tmp_path / "jpg")
    images, _ = read_images(release.tables["metadata"], release.tables["split"], release.image_prefix)
    for row in images.itertuples():
        assert release.image_path(row.subject_id, row.study_id, row.dicom_id) == release.root / row.path
    assert image_id(50000001, 0) in set(images["dicom_id"])


# The desk: a small model with disturbed weights, whose answers mean nothing

ASKED = "Is there effusion in the left lung?"


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("desk")
    one = {"split": "validate", "questions": [("D02_has_finding", ASKED, 1, 4)], "boxes": [(8, 0.25, 0.5, 0.75, 1.0)]}
    write_mini_index(folder / "index", [one], side=SIZE)
    return Desk.open(write_model(folder / "model"), folder / "index", None, "cpu")


@pytest.fixture
def opened(desk, tmp_path):
    opened, problem = desk.open_file(str(write_film(tmp_path / "film.png")))
    assert problem == ""
    return opened


def test_a_film_is_opened_and_asked(desk, opened):
    height, width = drawn_film().shape
    assert (opened.picture.width, opened.picture.height, len(opened.regions)) == (width, height, len(REGIONS))
    assert all(0 <= v <= size for region in opened.regions for v, size in zip(region.box, (width, height) * 2))
    html, problem = desk.ask(opened, ASKED)
    assert problem == ""
    (answer,) = desk.asker.ask(opened.film, [ASKED])
    text = words(html)
    assert f"{answer.text} confidence {views.percent(answer.probability)}, not calibrated" in text
    assert f"{', '.join(answer.question_only.texts)} ({views.percent(answer.question_only.probability)}) by the" in text
    assert text.index(answer.looks[0].region, text.index("Predicted scene graph")) < text.index(
        answer.looks[1].region, text.index("Predicted scene graph")
    )
    assert "data set" not in text


@pytest.mark.parametrize("method", list(METHODS))
def test_a_map_is_laid_over_the_film(desk, opened, method):
    html, problem = desk.explain(opened, ASKED, method)
    assert problem == ""
    assert '<image class="map" href="data:image/png;base64,' in html
    (answer,) = desk.asker.ask(opened.film, [ASKED])
    said = f"{method} for “{answer.texts[0]}”" if METHODS[method] in CAM_METHODS else f"{method}: what is read"
    assert said in words(html)


def test_of_several_classes_the_likeliest_has_the_map(desk, opened, monkeypatch):
    answer = desk.asker.ask(opened.film, ["Where is the nodule?"])[0]
    rising = sorted(answer.probabilities, key=answer.probabilities.get)
    monkeypatch.setattr(desk.asker, "ask", lambda *_, **__: [replace(answer, texts=tuple(rising[:3]))])
    html, problem = desk.explain(opened, "Where is the nodule?", "LayerCAM")
    assert problem == ""
    assert f"LayerCAM for “{rising[2]}”" in words(html)


def test_a_study_is_compared_with_the_data_set(desk):
    assert desk.splits == ["validate"]
    # a plain square is no chest film: it is shown, and answered about only when that is wanted
    opened, problem = desk.open_study("validate", "50000000")
    assert "no frontal chest film" in problem and opened.regions == ()
    assert desk.questions(opened) == [ASKED]
    assert desk.ask(opened, ASKED) == (None, problem)
    html, problem = desk.ask(opened, ASKED, anyway=True)
    assert problem == "" and "not a frontal chest film" in html
    assert re.search("data set yes (same|differs)", words(html))
    opened, problem = desk.open_study("validate", "1")
    assert opened is None and "no study of this number" in problem


@pytest.mark.parametrize(
    ("question", "said"), [("", "no question yet"), ("How old is the patient?", None), (ASKED, "no film yet")]
)
def test_what_cannot_be_answered_is_one_line(desk, opened, question, said):
    html, problem = desk.ask(None if question == ASKED else opened, question)
    if said:
        assert html is None and said in problem
    else:
        assert problem == "" and "I cannot answer this" in html and "confidence" not in html


def test_a_file_that_is_no_image_is_one_line_without_its_folder(desk, tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    opened, problem = desk.open_file(str(tmp_path / "notes.txt"))
    assert opened is None
    assert problem.startswith("image notes.txt: not a JPEG or PNG image")


def test_nothing_untrained_or_missing_answers(desk, tmp_path):
    other = Desk.open(tmp_path / "none", None, None, "cpu")
    assert other.asker is None and "no such folder" in other.problem
    assert "--index" in other.index_problem and other.splits == other.listed("validate") == []
    assert other.ask(None, ASKED) == (None, other.problem)
    assert other.open_file("x.png") == (None, other.problem)
    assert other.questions(None)


def test_an_unexpected_error_is_one_line_and_the_desk_goes_on(desk, opened, monkeypatch, capsys):
    with monkeypatch.context() as broken:
        broken.setattr(desk.asker, "ask", lambda *_, **__: 1 / 0)
        html, problem = desk.ask(opened, ASKED)
    assert (html, problem) == (None, "internal error: ZeroDivisionError: division by zero")
    assert "Traceback" in capsys.readouterr().err
    assert desk.ask(opened, ASKED)[1] == ""


def test_the_notes_say_whose_data_it_is(desk):
    assert desk.notes[-1] == views.LOOK_ALIKE
    model = desk.asker.model
    assert (views.NOT_OF_PATIENTS in desk.notes) == (model.credentialed is False)


def test_files_of_the_page_are_private_and_removed(monkeypatch, tmp_path):
    monkeypatch.setattr(server.tempfile, "tempdir", str(tmp_path))
    for name in (*server.QUIET, "GRADIO_TEMP_DIR"):
        monkeypatch.setenv(name, "")
    with server.quiet_environment():
        (folder,) = tmp_path.iterdir()
        assert os.environ["GRADIO_TEMP_DIR"] == str(folder)
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "film.png").write_bytes(b"x")
    assert list(tmp_path.iterdir()) == []
