"""The evidence page in a real browser, with a model that a few steps of training have made: slow, and skipped without Chromium."""

import http.client
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest
from PIL import Image

from data.index import open_index
from data.synthetic import write_release
from models.mimic_vqa_model import SSGVQA
from models.model_folder import read_vocabulary
from tests.browser import Browser, find_chromium
from tests.page_program import Page

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("gradio") is None, reason="no gradio: pip install -r requirements-page.txt"),
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium is installed: nothing can be tested in a browser"),
]

ROOT = Path(__file__).resolve().parent.parent
QUESTION = "Is there a pleural effusion?"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a look-alike release, its index, and a model that three steps were trained."""
    folder = tmp_path_factory.mktemp("page")
    write_release(folder / "release", 40, 5, workers=1, progress=False)
    environment = os.environ | {
        "MIMIC_CXR_PATH": str(folder / "release/mimic-cxr-jpg"),
        "MIMIC_QA_PATH": str(folder / "release/mimic-ext-cxr-qba"),
    }
    settings = ["--config", "configs/tiny_config.yaml", "--set", f"data.index_dir={folder / 'index'}"]
    output = ["--set", "training.max_steps=3", "--output_dir", str(folder / "checkpoints")]
    for command in (["setup_data.py", *settings, "--num_workers", "1"], ["train_mimic_cxr.py", *settings, *output]):
        done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def page(place, tmp_path_factory):
    model, index, release = place / "checkpoints/best_model", place / "index", place / "release"
    page = Page(
        tmp_path_factory.mktemp("app") / "a", "--model", str(model), "--index", str(index), "--release", str(release)
    )
    yield page
    assert page.end() == 0
    assert list(page.temporary.iterdir()) == [], "films that were opened are left behind"
    assert not page.asked.exists(), f"other hosts were asked for: {page.asked.read_text()}"
    assert page.log.read_text() == ""


@pytest.fixture
def browser(page, tmp_path):
    with Browser(tmp_path / "browser") as browser:
        browser.open(page.url)
        browser.wait("document.querySelector('#ask')")
        yield browser
        hosts = {urlsplit(url).netloc for url in browser.requests if not url.startswith(("data:", "blob:"))}
        assert hosts == {urlsplit(page.url).netloc}
        assert browser.errors == []


def a_film(place) -> Path:
    """A frontal film of the look-alike release."""
    index = open_index(place / "index")
    wanted = index.image_id(int(index.studies["image_start"][0]))
    return next((place / "release").rglob(f"{wanted}.jpg"))


def open_film(browser, path):
    browser.wait("document.querySelector('#file input[type=file]')")
    browser.upload("#file input[type=file]", path)


def pick_tab(browser):
    """Show the list of studies. A click before the page listens is lost."""
    browser.wait("""(() => { const seen = [...document.querySelectorAll('[role=tab]')].filter(e => e.checkVisibility());
        seen.find(e => e.innerText.includes('Pick a study')).click();
        const field = document.querySelector('#study input'); return field && field.checkVisibility(); })()""")


def ask(browser, question=QUESTION):
    browser.type("#question textarea", question)
    browser.click("#ask")


def lit(browser) -> list[str]:
    """Numbers of the boxes that can be seen."""
    return browser.evaluate(
        "[...document.querySelectorAll('.film .region')].filter(e => getComputedStyle(e).opacity == 1)"
        ".map(e => e.dataset.region)"
    )


def sideways(browser) -> bool:
    return browser.evaluate("document.documentElement.scrollWidth > innerWidth")


def message(browser) -> str:
    return browser.wait(
        "document.querySelector('#said [role=alert]') && document.querySelector('#said').innerText.trim()"
    )


def test_a_film_is_asked_and_the_answer_shows_its_evidence(browser, place):
    assert "Not for clinical use" in browser.text() and "no clinical meaning" in browser.text()
    open_film(browser, a_film(place))
    browser.wait("document.querySelectorAll('.film .region').length == 26")
    ask(browser)
    browser.wait("document.querySelector('#answer .answer')")
    answer = browser.evaluate("document.querySelector('#answer').innerText")
    assert re.search(r"\n(yes|no)\n", answer) and "not calibrated" in answer
    assert "by the question-only model" in answer and "data set" not in answer
    assert browser.evaluate("document.querySelectorAll('.evidence .bar').length") >= 2
    width, height = Image.open(a_film(place)).size
    assert browser.evaluate("document.querySelector('svg.film').getAttribute('viewBox')") == f"0 0 {width} {height}"
    assert lit(browser) == ["0"], "the most attended region is lit"


def test_a_region_is_lit_by_its_name_the_pointer_and_its_box(browser, place):
    open_film(browser, a_film(place))
    ask_when_open(browser)
    browser.point("label[for=see-3]", click=False)
    browser.wait("getComputedStyle(document.querySelector('.film .box-3')).opacity == 1")
    assert sorted(lit(browser)) == ["0", "3"]
    browser.click("label[for=see-2]")
    browser.point("#question textarea", click=False)
    assert lit(browser) == ["2"]
    # the pointer on a box in the film: its name is marked, and a click chooses it
    number = browser.evaluate("""(() => { const svg = document.querySelector('svg.film').getBoundingClientRect();
        const top = document.elementFromPoint(svg.x + svg.width / 3, svg.y + svg.height / 2); window.top_box = top;
        return top.closest('.region').dataset.region; })()""")
    browser.point_at("window.top_box")
    assert browser.evaluate("document.querySelector('.evidence input[name=region]:checked').id") == f"see-{number}"
    # all boxes are drawn, but only the lit one is named
    browser.click(".see-all")
    names = (
        "[...document.querySelectorAll('.film text')].filter(e => getComputedStyle(e).visibility == 'visible').length"
    )
    browser.point("#question textarea", click=False)
    browser.wait(f"{names} == 1")
    # a new answer lights the region that it attends to most
    browser.click("label[for=see-5]")
    ask(browser, "Where is the pleural effusion?")
    browser.wait("document.querySelector('#answer').innerText.includes('Where is')")
    browser.wait("document.querySelector('.evidence input[name=region]:checked').id == 'see-0'")


def ask_when_open(browser):
    browser.wait("document.querySelectorAll('.film .region').length == 26")
    ask(browser)
    browser.wait("document.querySelector('#answer .answer')")


def test_a_study_is_picked_with_a_question_of_the_data_set_and_compared_with_the_truth(browser, place):
    pick_tab(browser)
    browser.click("#study input")
    browser.click("[role=option]")
    browser.wait("document.querySelectorAll('.film .region').length == 26")
    browser.click("#usual input")
    options = browser.wait("[...document.querySelectorAll('[role=option]')].map(e => e.innerText.trim())")
    texts = set(open_index(place / "index").texts(np.arange(open_index(place / "index").num_texts)))
    assert set(options) <= texts and options
    browser.click("[role=option]")
    chosen = browser.wait("document.querySelector('#question textarea').value")
    assert chosen == options[0]
    browser.click("#ask")
    browser.wait("document.querySelector('#answer .answer')")
    answer = browser.evaluate("document.querySelector('#answer').innerText")
    assert re.search(r"data set\n.*(same|differs)", answer)
    assert "What the report's scene graph states" in browser.text()


def test_a_study_that_is_not_there_is_one_line(browser):
    pick_tab(browser)
    browser.type("#study input", "50000000")
    browser.press("Enter", 13)
    assert "no study of this number" in message(browser)


@pytest.mark.parametrize(
    ("method", "caption"),
    [
        ("LayerCAM", "LayerCAM for"),
        ("Attention to the film", "Attention to the film: what is read, whatever the answer"),
    ],
)
def test_a_map_is_drawn_over_the_film_on_demand(browser, place, method, caption):
    open_film(browser, a_film(place))
    ask_when_open(browser)
    assert not browser.evaluate("document.querySelector('image.map')")
    if method != "LayerCAM":
        browser.click("#method input")
        number = browser.wait("""[...document.querySelectorAll('[role=option]')].findIndex(
            e => e.innerText.includes('Attention to the film')) + 1""")
        browser.click(f"[role=option]:nth-of-type({number})")
    browser.click("#draw")
    browser.wait("document.querySelector('image.map')")
    assert caption in browser.text()


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\nbroken"])
def test_a_bad_file_is_one_line_and_the_next_film_is_read(browser, place, tmp_path, content):
    bad = tmp_path / "bad.png"
    bad.write_bytes(content)
    open_film(browser, bad)
    line = message(browser)
    assert "\n" not in line and str(place) not in line and "ssgvqa-page" not in line
    assert "bad.png" in line
    ask(browser)
    browser.wait("document.querySelector('#said').innerText.includes('no film yet')")
    browser.click("#file button[aria-label='Clear'], #file button[title='Clear']")
    browser.wait("document.querySelector('#file input[type=file]')")
    open_film(browser, a_film(place))
    ask_when_open(browser)


def test_what_is_no_chest_film_is_answered_about_only_when_told_to(browser, tmp_path):
    checks = np.indices((400, 300)).sum(0) // 25 % 2 * 255
    Image.fromarray(checks.astype(np.uint8)).save(tmp_path / "chess.png")
    open_film(browser, tmp_path / "chess.png")
    assert "no frontal chest film" in message(browser)
    assert browser.evaluate("document.querySelectorAll('.film .region').length") == 0
    ask(browser)
    browser.wait("document.querySelector('#ask') && !document.querySelector('#answer')")
    browser.click("#anyway input")
    browser.click("#ask")
    browser.wait("document.querySelector('#answer .answer')")
    assert "not a frontal chest film" in browser.evaluate("document.querySelector('#answer').innerText")


def test_a_question_that_no_head_answers_is_refused(browser, place):
    open_film(browser, a_film(place))
    browser.wait("document.querySelectorAll('.film .region').length == 26")
    ask(browser, "What is the weather like in Paris today?")
    browser.wait("document.querySelector('#answer')")
    assert "cannot answer" in browser.evaluate("document.querySelector('#answer').innerText")
    assert not browser.evaluate("document.querySelector('#answer .answer')")


def test_a_phone_needs_no_sideways_scrolling(browser, page, place):
    browser.open(page.url, width=390, height=844)
    browser.wait("document.querySelector('#file input[type=file]')")
    assert not sideways(browser)
    open_film(browser, a_film(place))
    ask_when_open(browser)
    assert not sideways(browser)
    left, right = browser.evaluate("""(() => { const b = document.querySelector('svg.film').getBoundingClientRect();
        return [b.left, b.right]; })()""")
    assert left >= 0 and right <= 390


def test_everything_can_be_done_with_the_keyboard(browser, place):
    open_film(browser, a_film(place))
    browser.wait("document.querySelectorAll('.film .region').length == 26")
    reached = []
    for _ in range(40):
        browser.press("Tab", 9)
        reached.append(browser.evaluate("(document.activeElement.closest('[id]') || {}).id"))
        if reached[-1] == "question":
            browser.send("Input.insertText", text=QUESTION)
        if reached[-1] == "ask":
            browser.press("Enter", 13, "\r")
            break
    assert {"question", "ask"} <= set(reached), reached
    browser.wait("document.querySelector('#answer .answer')")
    browser.evaluate("document.querySelector('#ask').focus()")
    for _ in range(40):
        browser.press("Tab", 9)
        if browser.evaluate("document.activeElement.id") == "see-0":
            break
    browser.press("ArrowDown", 40)
    assert browser.evaluate("document.activeElement.id") == "see-1"
    assert lit(browser) == ["1"]


def test_every_field_has_a_name_for_those_who_do_not_see_it(browser, place):
    open_film(browser, a_film(place))
    ask_when_open(browser)
    nodes = browser.send("Accessibility.getFullAXTree")["nodes"]
    roles = ("textbox", "button", "combobox", "radio", "checkbox", "tab", "listbox")
    named = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node.get("ignored") and node["role"]["value"] in roles
    ]
    assert {role for role, _ in named} >= {"textbox", "button", "combobox", "radio", "checkbox", "tab"}
    assert [pair for pair in named if not pair[1].strip()] == []
    film = [
        node
        for node in nodes
        if node["role"]["value"] in ("img", "image") and "predicted regions" in str(node.get("name"))
    ]
    assert len(film) == 1


def test_another_host_would_be_seen_and_is_refused(page, tmp_path):
    with Browser(tmp_path / "browser") as browser:
        browser.open(page.url)
        browser.wait("document.querySelector('#ask')")
        blocked = browser.evaluate("fetch('https://example.org/').then(() => 'fetched', error => 'refused')")
        assert blocked == "refused"
        browser.evaluate("document.body.append(Object.assign(new Image(), {src: 'http://example.org/a.png'}))")
        browser.wait("performance.now() > 0")
        assert any("example.org" in url for url in [*browser.requests, *browser.refused])


def test_the_page_is_for_this_machine_and_its_own_pages(page):
    port = urlsplit(page.url).port
    sockets = psutil.Process(page.process.pid).net_connections()
    assert {s.laddr.ip for s in sockets if s.status == psutil.CONN_LISTEN} == {"127.0.0.1"}

    def status(**headers) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/config", headers=headers)
        response = connection.getresponse()
        response.read()
        connection.close()
        return response.status

    assert status() == 200
    assert status(Origin=f"http://127.0.0.1:{port}") == 200
    assert status(Origin="https://evil.example") == 403
    assert status(Host="evil.example") == 403


def test_a_model_that_was_not_trained_is_one_line_on_the_page(place, tmp_path):
    folder = tmp_path / "untrained"
    shutil.copytree(place / "checkpoints/best_model", folder)
    _, tokenizer, config, _ = SSGVQA.from_pretrained(folder)
    random = SSGVQA.build(config.model, read_vocabulary(folder), tokenizer, config.data.image_size)
    metrics = json.loads((folder / "metrics.json").read_text())
    random.save_pretrained(folder, tokenizer, config, {"metrics.json": metrics})
    page = Page(tmp_path / "a", "--model", str(folder), "--index", str(tmp_path / "none"))
    try:
        with Browser(tmp_path / "browser") as browser:
            browser.open(page.url)
            assert "no training has changed them" in message(browser)
            open_film(browser, a_film(place))
            ask(browser)
            browser.wait("""(() => { [...document.querySelectorAll('[role=tab]')].find(
                e => e.innerText.includes('Pick a study')).click(); return true; })()""")
            browser.wait("document.body.innerText.includes('no index in')")
            assert not browser.evaluate("document.querySelector('#answer')")
            assert "no training has changed them" in message(browser)
    finally:
        assert page.end() == 0
    assert "said on the page" in page.log.read_text() and "Traceback" not in page.log.read_text()
