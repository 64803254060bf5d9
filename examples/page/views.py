"""What the page shows, as HTML: pure functions of `evidence`, every text of others escaped.

Boxes and names light each other up by the style sheet alone (`:has`), so that the keyboard works as the pointer does: a region
is a radio button. Texts take the colours of the page around them.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from data.label_space import REGIONS
from examples.page.evidence import Picture, Region, Reply, Truth
from examples.page.film import film_svg
from utils.charts import CAUTION, GOOD, MODEL
from utils.overlays import INFERNO

RESEARCH_ONLY = "For research only. Not for clinical use: no answer here may decide anything about a patient."
NOT_OF_PATIENTS = (
    "The model was trained on generated or public data, not on MIMIC-CXR: its answers have no clinical meaning."
)
LOOK_ALIKE = "The studies to pick from are generated look-alikes: there is no patient behind them."
LIKELY = 0.5
"""Probability from which a finding counts as predicted; less likely ones are shown paler"""
POSSIBLE = 0.2
"""Less likely findings of a region are not listed"""
MOST_FINDINGS = 4
"""Of a region"""
LEAST_BAR = 0.01
"""Share of the attention from which a region has a bar"""

_SOFT = "color-mix(in srgb, var(--body-text-color) 72%, transparent)"
_LIT = ",".join(
    f".evidence:has(#see-{n}:checked) .box-{n},.evidence:has(.row-{n}:hover) .box-{n},.evidence .box-{n}:hover"
    for n in range(len(REGIONS))
)
_ROW_LIT = ",".join(f".evidence:has(.box-{n}:hover) .row-{n}" for n in range(len(REGIONS)))

STYLE = f"""
.evidence{{display:grid;grid-template-columns:minmax(0,1.1fr) minmax(0,1fr);gap:20px;align-items:start;line-height:1.45}}
.evidence *{{box-sizing:border-box}}
@media(max-width:900px){{.evidence{{grid-template-columns:minmax(0,1fr)}}}}
.evidence h3{{font-size:1rem;margin:1.1em 0 .35em}}.evidence h3:first-child{{margin-top:0}}
.evidence p{{margin:.3em 0}}.evidence .soft{{color:{_SOFT};font-size:.88rem}}
.evidence svg.film{{width:100%;height:auto;max-height:78vh;display:block;background:#000;border-radius:6px}}
.evidence svg .region{{opacity:0;cursor:pointer}}
.evidence svg .region rect{{fill:#ffd166;fill-opacity:.10;stroke:#ffd166;stroke-width:2;vector-effect:non-scaling-stroke;
 pointer-events:all}}
.evidence svg .region text{{fill:#ffd166;paint-order:stroke;stroke:#000;stroke-width:.18em;font-weight:600;pointer-events:none}}
.evidence svg .truth{{fill:none;stroke:{GOOD};stroke-width:2.5;stroke-dasharray:7 4;vector-effect:non-scaling-stroke;
 pointer-events:none}}
.evidence:has(.see-all:checked) svg .region{{opacity:.55}}
.evidence:has(.see-all:checked) svg .region text{{visibility:var(--box-name,hidden)}}
{_LIT}{{opacity:1!important;--box-name:visible}}
{_ROW_LIT}{{background:var(--background-fill-secondary)}}
.evidence .card{{border:1px solid var(--border-color-primary);border-radius:8px;padding:12px 14px;margin-bottom:12px}}
.evidence .answer{{font-size:1.35rem;font-weight:650;overflow-wrap:anywhere}}
.evidence .pairs{{display:grid;grid-template-columns:auto minmax(0,1fr);gap:3px 12px;margin:.5em 0 0}}
.evidence .pairs dt{{color:{_SOFT}}}.evidence .pairs dd{{margin:0;overflow-wrap:anywhere}}
.evidence .ok{{color:{GOOD};font-weight:600}}.evidence .off{{color:{CAUTION};font-weight:600}}
.evidence fieldset{{border:0;padding:0;margin:0;min-width:0}}
.evidence legend{{font-weight:600;padding:0;margin:0 0 .2em}}
.evidence ul{{list-style:none;margin:0;padding:0}}
.evidence .rows{{max-height:60vh;overflow-y:auto;border:1px solid var(--border-color-primary);border-radius:8px}}
.evidence .rows li{{display:grid;grid-template-columns:auto minmax(0,1fr);align-items:start;gap:8px;padding:5px 10px;
 border-bottom:1px solid var(--border-color-primary)}}
.evidence .rows li:last-child{{border-bottom:0}}.evidence .rows li:has(input:checked){{background:var(--background-fill-secondary)}}
.evidence .rows li:has(input:focus-visible){{outline:2px solid {MODEL};outline-offset:-2px}}
.evidence input{{appearance:auto!important;margin:.25em 0 0;width:1em;height:1em;flex:none;background:none;box-shadow:none;
 accent-color:{MODEL}}}
.evidence label{{cursor:pointer;display:block;min-width:0}}
.evidence .named{{display:flex;justify-content:space-between;gap:8px}}
.evidence .bar{{display:block;height:7px;border-radius:4px;background:var(--border-color-primary);overflow:hidden}}
.evidence .bar i{{display:block;height:100%;background:{MODEL}}}
.evidence .classes li{{padding:3px 0}}
.evidence .likely{{font-weight:600}}
.evidence summary{{cursor:pointer;font-weight:600}}.evidence details{{margin:.7em 0}}
.banner,.message{{padding:8px 14px;border-left:6px solid {CAUTION};margin:6px 0;border-radius:3px;
 background:var(--background-fill-secondary);overflow-wrap:anywhere}}
.banner p{{margin:0}}.banner p:first-child,.message{{font-weight:600}}
.evidence .scale{{display:inline-block;width:6em;height:.7em;border-radius:3px;vertical-align:baseline;
 background:linear-gradient(90deg,{",".join(f"#{code}" for code in INFERNO)})}}
"""


def notes(*more: str) -> str:
    """What stands above everything: `RESEARCH_ONLY`, then what else holds here."""
    lines = "".join(f"<p>{escape(line)}</p>" for line in (RESEARCH_ONLY, *more))
    return f'<div class="banner" role="note">{lines}</div>'


def message(text: str) -> str:
    """One clear line about what could not be done; nothing for no text."""
    return f'<p class="message" role="alert">{escape(" ".join(text.split()))}</p>' if text else ""


def evidence(
    picture: Picture,
    reply: Reply | None = None,
    regions: Sequence[Region] = (),
    truth: Truth | None = None,
    layer: np.ndarray | None = None,
    layer_note: str = "",
) -> str:
    """The film beside what was answered. `regions` are those of the film; an answer brings its own, with weights."""
    regions = sort_regions(reply.regions if reply and reply.regions else regions)
    shown = truth if reply and not reply.refusal else None
    left = film_svg(picture, regions, shown, layer) + _legend(bool(regions), shown, layer_note)
    right = (answer_card(reply, truth) if reply else "") + (region_list(regions) if regions else "")
    right += class_list(reply) if reply and not reply.refusal else ""
    right += report_graph(truth)
    return f'<div class="evidence"><div>{left}</div><div>{right}</div></div>'


def sort_regions(regions: Sequence[Region]) -> list[Region]:
    """The most attended first; without weights those with the likeliest findings."""

    def key(region: Region) -> tuple[float, float]:
        return -(region.weight or 0), -max((p for _, p in region.findings), default=0)

    return sorted(regions, key=key)


def answer_card(reply: Reply, truth: Truth | None) -> str:
    """The answer, how sure it is, and what it is to be compared with."""
    asked = f'<p class="soft">{escape(reply.question)}</p>'
    if reply.refusal:
        return f'<div class="card" id="answer" role="status">{asked}<p class="off">{escape(reply.refusal)}</p></div>'
    sure = "calibrated on the validation split" if reply.calibrated else "not calibrated"
    pairs = [("confidence", f"{percent(reply.probability)}, {sure}"), ("kind of answer", escape(reply.head))]
    if reply.blind_answer:
        blind = f"{escape(reply.blind_answer)} ({percent(reply.blind_probability)})"
        pairs.append(("without the film", f'{blind} <span class="soft">by the question-only model</span>'))
    else:
        pairs.append(("without the film", '<span class="soft">no question-only model lies beside this one</span>'))
    if truth is not None:
        pairs.append(("data set", _compared(reply, truth)))
    rows = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in pairs)
    warnings = "".join(f'<p class="off">{escape(line)}</p>' for line in reply.warnings)
    return (
        f'<div class="card" id="answer" role="status">{asked}<p class="answer">{escape(reply.answer)}</p>'
        f'{warnings}<dl class="pairs">{rows}</dl></div>'
    )


def _compared(reply: Reply, truth: Truth) -> str:
    if truth.classes is None:
        return '<span class="soft">this question was not asked about the study</span>'
    said = ", ".join(sorted(truth.classes)) or "none"
    right = truth.classes == reply.chosen
    return f'{escape(said)} <span class="{"ok" if right else "off"}">{"same" if right else "differs"}</span>'


def region_list(regions: Sequence[Region]) -> str:
    """The predicted scene graph: each region with its findings and its share of the answer's attention."""
    weighted = any(region.weight is not None for region in regions)
    rows = "".join(_region_row(number, region) for number, region in enumerate(regions))
    about = (
        "The bar is the region's share of the answer's attention; attention is no proof of reasons."
        if weighted
        else "Ask a question to see which regions its answer attends to."
    )
    return (
        '<fieldset><legend>Predicted scene graph</legend><p class="soft">Choose a region to light its box. '
        f"{about}</p>"
        '<label><input type="checkbox" class="see-all"> show all boxes</label>'
        f'<ul class="rows" tabindex="-1">{rows}</ul></fieldset>'
    )


def _region_row(number: int, region: Region) -> str:
    share = "" if region.weight is None else percent(region.weight)
    bar = "" if region.weight is None or region.weight < LEAST_BAR else _bar(region.weight)
    listed = [(name, p) for name, p in region.findings if p >= POSSIBLE][:MOST_FINDINGS]
    findings = ", ".join(
        f'<span class="{"likely" if p >= LIKELY else "soft"}">{escape(name)} {percent(p)}</span>' for name, p in listed
    )
    return (
        f'<li class="row-{number}"><input type="radio" name="region" id="see-{number}"{" checked" if number == 0 else ""}>'
        f'<label for="see-{number}"><span class="named"><span>{escape(region.name)}</span><span>{share}</span></span>'
        f"{bar}{findings or '<span class=soft>nothing found</span>'}</label></li>"
    )


def class_list(reply: Reply) -> str:
    """Every class of the head with its probability."""
    rows = "".join(
        f'<li><span class="named"><span>{escape(name)}</span><span>{percent(p)}</span></span>{_bar(p)}</li>'
        for name, p in reply.classes
    )
    return f'<details><summary>All {len(reply.classes)} classes</summary><ul class="classes">{rows}</ul></details>'


def report_graph(truth: Truth | None) -> str:
    """What the data set's scene graph, made from the radiologist's report, states."""
    if truth is None:
        return ""
    items = "".join(f"<li>{escape(line)}</li>" for line in truth.findings) or "<li>no finding</li>"
    return f"<details><summary>What the report's scene graph states</summary><ul>{items}</ul></details>"


def _legend(has_regions: bool, truth: Truth | None, layer_note: str) -> str:
    lines = ['<span style="color:#b8860b">■</span> predicted region'] if has_regions else []
    if truth is not None and truth.regions & truth.boxes.keys():
        lines.append(f'<span style="color:{GOOD}">▪▪</span> where the report has the answer')
    if layer_note:
        lines.append(f'<span class="scale"></span> {escape(layer_note)}')
    return f'<p class="soft">{" &nbsp; ".join(lines)}</p>'


def _bar(share: float) -> str:
    width = 100 * min(max(share, 0), 1)
    return f'<span class="bar" aria-hidden="true"><i style="width:{width:.1f}%"></i></span>'


def percent(share: float) -> str:
    """A probability in words: `97 %`; never 0 or 100, which would be certainty."""
    if share < 0.01:
        return "under 1 %"
    return "over 99 %" if share > 0.99 else f"{100 * share:.0f} %"
