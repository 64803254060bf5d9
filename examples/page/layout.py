"""The page put together of gradio's fields; what happens in it is `session`'s business."""

from __future__ import annotations

import gradio as gr

from examples.page import views
from examples.page.session import ANYWAY, METHODS, Desk, Opened

CLICK_A_BOX = """
document.addEventListener('click', event => {
  const box = event.target.closest && event.target.closest('.evidence .region');
  const button = box && document.getElementById('see-' + box.dataset.region);
  if (button) { button.checked = true; button.focus(); }
});
"""
NEW_EVIDENCE = """
watch('value', () => {
  for (const one of element.querySelectorAll('input[name=region]')) one.checked = one.defaultChecked;
  if (element.querySelector('.rows')) element.querySelector('.rows').scrollTop = 0;
  if (innerWidth <= 900 && element.querySelector('#answer')) element.scrollIntoView({behavior: 'smooth'});
});
"""
"""Gradio changes what differs and leaves the rest, so that the region chosen before would stay chosen, by its place. On a narrow
screen the answer is below what was typed."""
HEAD = f"<style>{views.STYLE}</style><script>{CLICK_A_BOX}</script>"
"""A click on a box in the film chooses its region; everything else the style sheet does."""

QUIET = {"api_visibility": "private", "show_progress": "minimal"}
NO_FILM = "<p>Open a film or choose a study, then ask.</p>"


def build(desk: Desk) -> gr.Blocks:
    """The page for one desk; each visitor has a film of their own."""
    with gr.Blocks(title="Evidence page", analytics_enabled=False) as page:
        opened = gr.State(None)
        gr.HTML('<h1 style="font-size:1.4rem;font-weight:650;margin:0">Ask a chest X-ray</h1>')
        gr.HTML(views.notes(*desk.notes))
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                file, split, study = _sources(desk)
                usual = gr.Dropdown(
                    desk.questions(None), value=None, label="Questions to pick from", elem_id="usual", interactive=True
                )
                question = gr.Textbox(
                    label="Question", placeholder="Is there pleural effusion?", max_lines=3, elem_id="question"
                )
                ask = gr.Button("Ask", variant="primary", elem_id="ask")
                anyway = gr.Checkbox(False, label=ANYWAY, info="films and questions that are refused", elem_id="anyway")
                method = gr.Dropdown(
                    list(METHODS), value=next(iter(METHODS)), label="Map over the film", elem_id="method"
                )
                draw = gr.Button("Draw the map", elem_id="draw")
            with gr.Column(scale=3, min_width=300):
                said = gr.HTML(views.message(desk.problem), elem_id="said")
                shown = gr.HTML(NO_FILM, elem_id="shown", apply_default_css=False, js_on_load=NEW_EVIDENCE)
        asked = [opened, question, anyway]
        _connect_sources(desk, opened, file, split, study, [opened, said, shown, usual])
        _connect_questions(desk, asked, usual, ask, method, draw, [shown, said])
    return page


def _sources(desk: Desk) -> tuple[gr.File, gr.Dropdown | None, gr.Dropdown | None]:
    with gr.Tabs():
        with gr.Tab("Open a film"):
            file = gr.File(label="JPEG, PNG or DICOM", type="filepath", height=150, elem_id="file")
        with gr.Tab("Pick a study"):
            if not desk.splits:
                gr.HTML(views.message(desk.index_problem))
                return file, None, None
            first = "validate" if "validate" in desk.splits else desk.splits[0]
            split = gr.Dropdown(desk.splits, value=first, label="Split", elem_id="split")
            study = gr.Dropdown(
                desk.listed(first),
                value=None,
                label="Study (type a number to find another)",
                allow_custom_value=True,
                elem_id="study",
            )
    return file, split, study


def _connect_sources(desk: Desk, opened: gr.State, file, split, study, after: list) -> None:
    """A film that is opened, or chosen, is shown. `after`: the film, the message, the evidence, questions to pick from."""

    def open_file(path: str | None):
        return seen(*desk.open_file(path)) if path else (None, "", NO_FILM, gr.skip())

    def open_study(split: str, number: str | None):
        return seen(*desk.open_study(split, number)) if number else (gr.skip(),) * 4

    def seen(film: Opened | None, problem: str):
        if film is None:
            return None, views.message(problem), NO_FILM, gr.skip()
        picked = gr.Dropdown(desk.questions(film), value=None)
        return film, views.message(problem), views.evidence(film.picture, regions=film.regions), picked

    file.upload(open_file, file, after, **QUIET)
    file.clear(lambda: open_file(None), None, after, **QUIET)
    if split is not None:
        split.change(lambda name: gr.Dropdown(desk.listed(name), value=None), split, study, **QUIET)
        study.input(open_study, [split, study], after, **QUIET)


def _connect_questions(desk: Desk, asked: list, usual, ask, method, draw, after: list) -> None:
    """`asked`: the film, the question, whether to answer all the same. `after`: the evidence, the message."""

    def answer(film: Opened | None, text: str, anyway: bool):
        html, problem = desk.ask(film, text, anyway)
        return html or gr.skip(), views.message(problem)

    def explain(film: Opened | None, text: str, anyway: bool, name: str):
        html, problem = desk.explain(film, text, name, anyway)
        return html or gr.skip(), views.message(problem)

    question = asked[1]
    usual.input(lambda text: text or gr.skip(), usual, question, **QUIET)
    gr.on([ask.click, question.submit], answer, asked, after, trigger_mode="always_last", **QUIET)
    draw.click(explain, [*asked, method], after, trigger_mode="always_last", **QUIET)
