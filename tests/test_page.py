"""The evidence page without a browser: what is drawn and said, studies of an index, the command line, and who may ask."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.label_space import REGIONS
from examples.page import server, views
from examples.page.evidence import Picture, Region, Reply, Truth
from examples.page.film import coloured, film_svg
from utils.errors import UserError

PICTURE = Picture(np.arange(200, dtype=np.uint8).reshape(10, 20), 2000, 1000)
HEART = Region("heart", (500.0, 250.0, 900.0, 800.0), (("cardiomegaly", 0.9), ("nodule", 0.3), ("edema", 0.1)), 0.75)
LUNG = Region("left lung", (1000.0, 100.0, 1900.0, 900.0), (), 0.25)
REPLY = Reply(
    "Is there cardiomegaly?",
    head="binary",
    answer="yes",
    chosen=frozenset({"yes"}),
    probability=0.876,
    classes=(("yes", 0.876), ("no", 0.124)),
    blind_answer="no",
    blind_probability=0.6,
    regions=(LUNG, HEART),
)
NASTY = "<script>alert(1)</script>\"'&"


class Checker(HTMLParser):
    """Fails for tags that are not closed, or closed in another order."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.words = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("input", "br", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def parsed(html: str) -> Checker:
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert checker.open == []
    return checker


def words(html: str) -> str:
    return " ".join(" ".join(parsed(html).words).split())


# The film


def drawn(svg: str) -> ET.Element:
    return ET.fromstring(svg)


def test_boxes_are_drawn_in_pixels_of_the_original_film():
    svg = drawn(film_svg(PICTURE, [HEART, LUNG]))
    assert svg.get("viewBox") == "0 0 2000 1000"
    image = svg.find("image")
    assert (image.get("width"), image.get("height")) == ("2000", "1000")
    assert image.get("href").startswith("data:image/jpeg;base64,")
    groups = {group.get("class"): group.find("rect") for group in svg.findall("g")}
    rect = groups["region box-0"]
    assert [float(rect.get(key)) for key in ("x", "y", "width", "height")] == [500, 250, 400, 550]
    assert list(groups) == ["region box-1", "region box-0"], "the larger box lies below"


@given(st.tuples(*[st.floats(0, 2000), st.floats(0, 1000)] * 2), st.sampled_from(REGIONS))
def test_labels_begin_inside_the_film(box, name):
    x1, y1, x2, y2 = box
    region = Region(name, (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)))
    svg = drawn(film_svg(PICTURE, [region]))
    text, rect = svg.find("g/text"), svg.find("g/rect")
    assert 0 <= float(text.get("x")) <= 2000
    assert 0 < float(text.get("y")) - 0.7 * float(text.get("font-size")) <= 1050
    assert float(rect.get("width")) >= 0 and float(rect.get("height")) >= 0


def test_the_truth_is_drawn_for_the_regions_of_the_answer_alone():
    boxes = {"heart": (1.0, 2.0, 3.0, 4.0), "left lung": (5.0, 6.0, 7.0, 8.0)}
    truth = Truth(frozenset({"yes"}), frozenset({"heart", "spine"}), boxes)
    found = [rect for rect in drawn(film_svg(PICTURE, [], truth)).findall("rect") if rect.get("class") == "truth"]
    assert [rect.get("x") for rect in found] == ["1.0"]


def test_a_map_is_clear_where_it_is_nothing():
    colours = coloured(np.array([[0.0, 0.5, 1.0, 2.0]]))
    assert colours.shape == (1, 4, 4)
    assert colours[0, 0, 3] == 0 < colours[0, 1, 3] < colours[0, 2, 3] == colours[0, 3, 3] < 255
    svg = drawn(film_svg(PICTURE, layer=np.zeros((4, 4))))
    assert [image.get("class") for image in svg.findall("image")] == ["film", "map"]


# What is said


def test_an_answer_says_how_sure_it_is_and_what_the_question_alone_would_give():
    text = words(views.evidence(PICTURE, REPLY))
    assert "yes confidence 88 %, not calibrated" in text
    assert "without the film no (60 %) by the question-only model" in text
    assert "data set" not in text
    calibrated = Reply(**vars(REPLY) | {"calibrated": True, "blind_answer": ""})
    text = words(views.evidence(PICTURE, calibrated))
    assert "calibrated on the validation split" in text
    assert "no question-only model lies beside this one" in text


def test_the_most_attended_region_comes_first_and_is_lit():
    page = parsed(views.evidence(PICTURE, REPLY))
    text = " ".join(page.words)
    assert text.index("heart 75 %".split()[0]) < text.rindex("left lung")
    radios = [attributes for tag, attributes in page.tags if tag == "input" and attributes["type"] == "radio"]
    assert ["checked" in radio for radio in radios] == [True, False]
    labels = {attributes["for"] for tag, attributes in page.tags if tag == "label" and "for" in attributes}
    assert {radio["id"] for radio in radios} == labels
    assert "cardiomegaly 90 %" in text and "nodule 30 %" in text and "edema" not in text
    assert "nothing found" in text


def test_a_film_without_regions_says_nothing_of_them():
    text = words(views.evidence(PICTURE) + views.evidence(PICTURE, Reply(**vars(REPLY) | {"regions": ()})))
    assert "region" not in text and "scene graph" not in text


def test_every_region_can_be_lit():
    regions = [Region(name, (0, 0, 1, 1)) for name in REGIONS]
    html = views.evidence(PICTURE, regions=regions)
    for number in range(len(REGIONS)):
        assert f'id="see-{number}"' in html
        assert f"#see-{number}:checked) .box-{number}" in views.STYLE


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (frozenset({"yes"}), "data set yes same"),
        (frozenset({"no"}), "data set no differs"),
        (frozenset(), "data set none differs"),
        (None, "data set this question was not asked about the study"),
    ],
)
def test_an_answer_is_compared_with_the_data_set(classes, said):
    assert said in words(views.evidence(PICTURE, REPLY, truth=Truth(classes)))


def test_a_refusal_shows_no_answer():
    reply = Reply("What is the weather?", refusal="I cannot answer this")
    html = views.evidence(
        PICTURE, reply, [HEART], Truth(frozenset({"yes"}), frozenset({"heart"}), {"heart": HEART.box})
    )
    assert "I cannot answer this" in html
    assert "confidence" not in html and 'class="truth"' not in html


def test_texts_of_others_are_escaped():
    region = Region(NASTY, (0, 0, 1, 1), ((NASTY, 0.9),), 1.0)
    reply = Reply(**vars(REPLY) | dict.fromkeys(("question", "answer", "blind_answer", "head"), NASTY))
    reply = Reply(**vars(reply) | {"regions": (region,), "classes": ((NASTY, 1.0),), "warnings": (NASTY,)})
    truth = Truth(frozenset({NASTY}), findings=(NASTY,))
    html = views.evidence(Picture(PICTURE.pixels, 10, 10, NASTY), reply, truth=truth, layer_note=NASTY)
    html += views.message(NASTY) + views.notes(NASTY) + views.evidence(PICTURE, Reply(NASTY, refusal=NASTY))
    assert "<script" not in html
    assert words(html).count("<script>alert(1)</script>") >= 12


def test_messages_are_one_line_and_announced():
    assert views.message("") == ""
    assert words(views.message("two\n  lines")) == "two lines"
    assert 'role="alert"' in views.message("x")
    assert "Not for clinical use" in views.notes()


@given(st.floats(0, 1))
def test_nothing_is_said_to_be_certain(p):
    assert views.percent(p) not in ("0 %", "100 %")


# Who may ask


@pytest.mark.parametrize(
    ("host", "origin", "ours"),
    [
        ("127.0.0.1:7860", "", True),
        ("localhost:7860", "http://localhost:7860", True),
        ("127.0.0.1:7860", "http://127.0.0.1:7860", True),
        ("127.0.0.1:7860", "http://localhost:7860", False),
        ("127.0.0.1:7860", "http://127.0.0.1:9999", False),
        ("127.0.0.1:7860", "https://evil.example", False),
        ("127.0.0.1:7860", "null", False),
        ("evil.example:7860", "", False),
        ("127.0.0.1.evil.example", "", False),
        ("evil.example@127.0.0.1", "", False),
        ("", "", False),
        ("[", "", False),
    ],
)
def test_only_the_page_itself_may_ask(host, origin, ours):
    assert server.is_ours(host, origin) is ours


def test_a_port_that_is_taken_is_one_line():
    with server.reserve(0) as taken:
        assert taken.getsockname()[0] == "127.0.0.1"
        taken.listen()
        with pytest.raises(UserError, match=r"--port \d+: 127.0.0.1:\d+ cannot be used"):
            server.reserve(taken.getsockname()[1])


def test_no_font_of_another_host_is_named(root):
    text = "".join(path.read_text(encoding="utf-8") for path in (root / "examples/page").glob("*.py"))
    assert re.findall(r"https?://(?!127\.0\.0\.1|\{)[^\s\"')]*", text) == []


# The command line

HEAVY = ["torch", "gradio", "timm", "transformers", "pandas", "pyarrow"]


def run_app(root, *arguments, **environment):
    program = (
        f"import runpy, sys; sys.argv = ['examples/app.py', *{list(arguments)!r}]\n"
        "try: runpy.run_path('examples/app.py', run_name='__main__')\n"
        f"finally: print('heavy:', [name for name in {HEAVY} if name in sys.modules])"
    )
    environment = {**os.environ, **environment}
    return subprocess.run([sys.executable, "-c", program], cwd=root, env=environment, capture_output=True, text=True)


def test_help_is_quick_and_names_defaults(root):
    done = run_app(root, "--help")
    assert done.returncode == 0
    assert done.stdout.endswith("heavy: []\n")
    assert done.stdout.count("(default:") == 6


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--port", "99999"], "--port 99999: must be from 0 to 65535"),
        (["--release", "x"], "--release: the films are those of an index; name it as --index"),
        (["--share"], "unrecognized arguments: --share"),
    ],
)
def test_wrong_options_are_one_line(root, arguments, said):
    done = run_app(root, *arguments)
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]
    assert done.stdout.endswith("heavy: []\n")


def test_a_taken_port_is_said_before_anything_is_loaded(root):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run_app(root, "--port", str(taken.getsockname()[1]))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "cannot be used" in done.stderr
    assert done.stdout == "heavy: []\n"


@pytest.fixture
def script(tmp_path, root):
    """Runs a copy of scripts/page.sh whose `python` prints its arguments instead of starting the page."""
    shutil.copytree(root / "scripts", tmp_path / "scripts")
    for name in ("requirements.txt", "requirements-page.txt"):
        (tmp_path / name).write_text("")
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(
        '#!/bin/sh\ncase "$1 $2" in\n"-m pip") echo "$@" >>pip.log ;;\n'
        f'examples/app.py*) printf "<%s>" "$@" ;;\n*) exec {sys.executable} "$@" ;;\nesac\n'
    )
    python.chmod(0o755)
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    command = [str(tmp_path / "scripts/page.sh")]

    def start(*options):
        return subprocess.run([*command, *options], cwd=tmp_path, env=environment, capture_output=True, text=True)

    return start


def test_the_script_needs_a_model_and_starts_the_page_on_the_quickstart(script, tmp_path):
    done = script()
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "run ./scripts/quickstart.sh first" in done.stderr
    (tmp_path / "quickstart/checkpoints/best_model").mkdir(parents=True)
    folder = "<--model><quickstart/checkpoints/best_model><--index><quickstart/index><--release><quickstart/release>"
    assert script().stdout == f"<examples/app.py>{folder}"
    assert "requirements-page.txt" in (tmp_path / "pip.log").read_text()
    assert script("--model", "a b", "--port", "0").stdout == "<examples/app.py><--model><a b><--port><0>"
    assert script("--port", "0").stdout == f"<examples/app.py>{folder}<--port><0>"
    assert script("--help").stdout.startswith("The evidence page")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("gradio") is None, reason="no gradio: pip install -r requirements-page.txt")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_opened_films_are_gone_however_the_page_ends(root, tmp_path, number):
    command = [sys.executable, "examples/app.py", "--port", "0", "--model", str(tmp_path / "none")]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True) as page:
        while "page: http" not in page.stdout.readline():
            assert page.poll() is None
        assert len(list(tmp_path.glob("ssgvqa-page-*"))) == 1
        page.send_signal(number)
        assert page.wait(60) in (0, 130)  # 130: before the page was up
    assert list(tmp_path.glob("ssgvqa-page-*")) == []


def test_the_quickstart_ends_with_its_reports_and_how_to_go_on(root):
    report, data, programs, page = (root / "scripts/quickstart.sh").read_text().splitlines()[-4:]
    assert "$folder/results/report.html" in report and "$folder/analysis/analysis_report.html" in data
    assert "/bin/activate" in programs and "$folder/checkpoints/best_model" in programs
    assert "./scripts/page.sh" in page
