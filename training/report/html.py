"""`report.html`: the report as one page for people, with everything in it: no script, no request, nothing to install."""

from __future__ import annotations

from html import escape

from data.label_space import HEADS, Head
from data.summary import SYNTHETIC_NOTICE
from training.markdown import REMARKS, row_label
from training.metrics import HEADLINE
from training.report.build import BASELINE
from training.report.groups import GROUPS
from training.report.tables import (
    BRIER_SCALE,
    CHEXPERT_TABLES,
    LEFT_OUT,
    all_metrics,
    differences,
    interval,
    labels,
    least_p,
    metric_cells,
    number,
    positives,
    scores_of,
    short,
    shown_rows,
    with_bounds,
)
from utils.charts import CAUTION, CONTROL, GOOD, MODEL, Bar, Line, bars, curves, matrix
from utils.page import banner, fold, html_table, page
from utils.privacy import lineage_notice

COLOURS = {"model": MODEL, "graph_oracle": CAUTION}


def render_html(report: dict, pictures: str = "") -> str:
    """The page. `pictures`: a section made by `training.report.pictures`, for reports that stay on this machine."""
    source = report["provenance"]
    sections = [
        ("Headline", _headline(report)),
        ("Question types", _types(report)),
        ("Rows and metrics", _rows(report)),
        ("Classes", _classes(report)),
        ("Curves and confusion", _curves(report)),
        ("Confidence", _confidence(report)),
        ("Where it looks", _grounding(report)),
        ("Consistency", _consistency(report)),
        ("What is asked about", _asked_about(report)),
        ("Groups", _strata(report)),
        ("Compared with another model", _compare(report)),
        ("CheXpert labels", _chexpert(report)),
        ("Audit", _audit(report)),
        ("Pictures", pictures),
        ("Surest errors", _worst(report)),
        ("Questions and provenance", _provenance(report)),
    ]
    title = f"{source['questions']:,} questions of {source['patients']:,} patients, split {source['split']}"
    above = f"Evaluation on {source['dataset']}, index {source['index_fingerprint']}"
    return page(title, above, _banners(source), sections)


def _banners(source: dict) -> str:
    texts = [SYNTHETIC_NOTICE] if source["synthetic"] else []
    if notice := lineage_notice(source):
        texts.append(notice)
    if source["graph"] not in ("predicted", "unknown"):
        texts.append(f"The model answers from the graph {source['graph']!r}, not from one that it predicts.")
    return "".join(map(banner, texts))


def _headline(report: dict) -> str:
    score = report["headline"]["score"]
    tiles = [f'<div class="tile">mean over heads<b>{number(score)}</b></div>']
    panels = []
    for name, head in GROUPS.items():
        metric, gain = HEADLINE[head], report["gain"][name]
        tiles.append(
            f'<div class="tile">{name}<b>{number(report["rows"]["model"][name].get(metric))}</b>'
            f'<span class="small soft">over {BASELINE}: {escape(interval(gain))}</span></div>'
        )
        rows = [_row_bar(report, row, name, metric) for row in shown_rows(report)]
        n = report["rows"]["model"][name].get("n") or 0
        panels.append(f"<div><h3>{name}: {short(metric)}, {n:,} questions</h3>{bars(rows, 520, 130)}</div>")
    percent = f"{100 * report['provenance']['confidence']:g} %"
    note = (
        f'<p class="small soft">Whiskers and brackets: {percent} intervals over {report["gain"]["binary"]["resamples"]:,} '
        "resamples of patients, the same patients for all rows. <b>category_copy</b> holds the questions that name their class. "
        "<b>graph_oracle</b> reads the report, which holds the answers: it is not deployable.</p>"
    )
    return f'<div class="tiles">{"".join(tiles)}</div>{note}<div class="grid">{"".join(panels)}</div>'


def _row_bar(report: dict, row: str, name: str, metric: str) -> Bar:
    bounds = report["intervals"].get(row, {}).get(name, {}).get(metric, {})
    value = report["rows"][row][name].get(metric)
    return Bar(row, value, bounds.get("low"), bounds.get("high"), COLOURS.get(row, CONTROL))


def _types(report: dict) -> str:
    rows, table = [], []
    for kind, of_rows in report["by_type"].items():
        gain, scores = report["type_gain"][kind], of_rows["model"]
        own, metric = gain["model"], gain["metric"]
        control = of_rows[BASELINE].get(metric)
        rows.append(Bar(kind, own["value"], own["low"], own["high"], MODEL, mark=control))
        table.append(
            [kind, number(scores["n"]), number(scores["studies"]), number(scores["patients"]), short(metric)]
            + [number(own["value"]), number(control), interval(gain), _p(gain.get("p_holm"))]
        )
    header = ["type", "questions", "studies", "patients", "metric", "model", BASELINE, "gain", "p (Holm)"]
    note = (
        '<p class="small soft">Bars: the model with its interval; the orange line is the text-only control. '
        f"p: that the gain is zero, two-sided, adjusted over the {len(table)} types; {least_p(report)}.</p>"
    )
    scores = {kind: rows["model"] for kind, rows in report["by_type"].items()}
    everything = "".join(html_table(*one) for one in all_metrics(scores, "type"))
    return (
        note + bars(rows, 590, 220) + html_table(header, table) + fold("All metrics of the model by type", everything)
    )


def _rows(report: dict) -> str:
    parts = []
    remarks = [[row_label(report, row), report["missing_rows"].get(row, REMARKS[row])] for row in shown_rows(report)]
    parts.append(html_table(["row", "what it is"], remarks, text={1}))
    parts.append(fold("The model minus every other row, with intervals", html_table(*differences(report))))
    for name in GROUPS:
        metrics = map(short, report["rows"]["model"][name])
        body = [[row_label(report, row), *metric_cells(report, row, name, gap="\n")] for row in shown_rows(report)]
        parts.append(fold(f"All metrics: {name}", html_table(["row", *metrics], body)))
    parts.append(f'<p class="small soft">In brackets: intervals, where {LEFT_OUT}.</p>')
    return "".join(parts)


def _classes(report: dict) -> str:
    parts = []
    for head, table in report["classes"].items():
        metrics = list(next(iter(table.values())))
        body = [[name, *(positives(scores, metric) for metric in metrics)] for name, scores in table.items()]
        defined = sum(scores["f1"] is not None for scores in table.values())
        title = f"{head}: {defined} of {len(table)} classes occur"
        parts.append(fold(title, html_table(["class", *map(short, metrics)], body)))
    return "".join(parts)


def _curves(report: dict) -> str:
    parts = []
    if report["roc"]:
        points = list(zip(report["roc"]["fpr"], report["roc"]["tpr"], strict=True))
        auroc = report["rows"]["model"]["binary"].get("auroc")
        line = Line(f"yes/no questions, AUROC {number(auroc)}", points)
        parts.append(
            f"<div><h3>ROC</h3>{curves([line], 'false positive rate', 'true positive rate', diagonal=True)}</div>"
        )
    for head, counts in report["confusion"].items():
        if any(map(any, counts)):
            parts.append(f"<div><h3>{head}: truth by answer</h3>{matrix(counts, HEADS[Head(head)].classes)}</div>")
    return f'<div class="grid">{"".join(parts)}</div>' if parts else ""


def _confidence(report: dict) -> str:
    panels, body = [], []
    for head, found in report["confidence"].items():
        lines = []
        for kind, colour in (("raw", MODEL), ("tempered", GOOD)):
            if kind in found and found[kind]["reliability"]:
                points = [(b["confidence"], b["accuracy"]) for b in found[kind]["reliability"]]
                lines.append(Line("as given" if kind == "raw" else "with temperature", points, colour, dots=True))
                temperature = number(found[kind].get("temperature")) if kind == "tempered" else "1 (as given)"
                body.append([head, temperature, *(number(found[kind][m]) for m in ("ece", "brier", "nll"))])
        if lines:
            panels.append(
                f"<div><h3>{head}: reliability</h3>{curves(lines, 'confidence', 'share right', diagonal=True)}</div>"
            )
        curve = found["risk_coverage"]
        if curve:
            points = list(zip(curve["coverage"], curve["risk"], strict=True))
            label = f"right at 80 % coverage: {number(curve['accuracy_at_80'])}"
            panels.append(
                f"<div><h3>{head}: risk and coverage</h3>{curves([Line(label, points)], 'coverage', 'share wrong')}</div>"
            )
    if not body:
        return ""
    table = html_table(["head", "temperature", "ECE (equal mass)", f"Brier {BRIER_SCALE}", "NLL"], body)
    return f'{table}<div class="grid">{"".join(panels)}</div>'


def _grounding(report: dict) -> str:
    found = report["grounding"]
    if not found:
        return ""
    metrics = [metric for metric in found["questions"]["all"] if metric != "n"]
    body = [
        [name, number(of["n"]), *(with_bounds(of[metric], "\n") for metric in metrics)]
        for name, of in found["questions"].items()
    ]
    regions = [Bar(name, of["mean_iou"], colour=MODEL) for name, of in found["regions"].items()]
    note = (
        '<p class="small soft">What an answer attends to in the predicted graph against the regions that the answer speaks of, '
        "as areas in pixels. Boxes are of anatomical regions, not of lesions.</p>"
    )
    measures = [name for name in found["regions"]["all"] if name != "n"]
    pairs = [[name, number(of["n"]), *(number(of[m]) for m in measures)] for name, of in found["regions"].items()]
    table = html_table(["region", "n", *(name.replace("_", " ") for name in measures)], pairs)
    chart = fold("Predicted boxes against those of the report's graph", bars(regions, 640, 170) + table)
    return note + html_table(["questions", "n", *(metric.replace("_", " ") for metric in metrics)], body) + chart


def _consistency(report: dict) -> str:
    body = [
        [name, number(of["pairs"]), number(of["consistent"]), number(of["consistent_targets"])]
        for name, of in report["consistency"].items()
    ]
    parts = [html_table(["contradiction", "pairs", "consistent answers", "consistent targets"], body)]
    if report["paraphrases"]:
        heads = list(next(iter(report["paraphrases"].values())))
        body = [[name, *(number(of.get(head)) for head in heads)] for name, of in report["paraphrases"].items()]
        parts.append("<h3>Same answer when asked otherwise</h3>" + html_table(["asked", *heads], body))
    return "".join(parts)


def _strata(report: dict) -> str:
    return "".join(fold(name, _groups(name, values)) for name, values in report["strata"].items())


def _asked_about(report: dict) -> str:
    kinds = {"finding": report["findings"], "region": report["regions"]}
    parts = [fold(f"by {name}", _groups(name, values)) for name, values in kinds.items() if values]
    note = "Questions whose text names it: the other words of a question do not matter. A question can stand in several rows."
    return f'<p class="small soft">{note}</p>' + "".join(parts) if parts else ""


def _groups(name: str, values: dict[str, dict[str, dict]]) -> str:
    header = [name, "head", "questions", "studies", "patients", "model", f"gain over {BASELINE}"]
    body = [[value, head, *_of_group(of)] for value, heads in values.items() for head, of in heads.items()]
    everything = "".join(html_table(*one) for one in all_metrics(scores_of(values), name))
    return html_table(header, body) + (fold("all metrics", everything) if everything else "")


def _of_group(of: dict) -> list[str]:
    if "withheld" in of:
        return ["", "", "", f"withheld: {of['withheld']}", ""]
    sizes = (number(of["scores"][size]) for size in ("n", "studies", "patients"))
    return [*sizes, f"{short(of['metric'])} {with_bounds(of)}", interval(of["gain"])]


def _compare(report: dict) -> str:
    found = report["compare"]
    if not found:
        return ""
    groups = [[name, short(one["metric"]), interval(one), _p(one.get("p"))] for name, one in found["groups"].items()]
    types = [[name, short(one["metric"]), interval(one), _p(one.get("p_holm"))] for name, one in found["types"].items()]
    return (
        '<p class="small soft">Differences to the other answers, over the same resampled patients.</p>'
        + html_table(["head", "metric", "difference", "p"], groups)
        + fold("By question type", html_table(["type", "metric", "difference", "p (Holm)"], types))
    )


def _chexpert(report: dict) -> str:
    parts = []
    for source, (key, title) in CHEXPERT_TABLES.items():
        if report[key]:
            mean, found = labels(report, source)
            parts.append(fold(f"Against {title}: {mean}", html_table(*found)))
    return "".join(parts)


def _audit(report: dict) -> str:
    audit = report["audit"]
    found = [*audit.get("findings", ()), *audit.get("leaks", ())]
    swapped = "shuffled_image" not in report["missing_rows"]
    fine = "Nothing is shared with training" + (", and no answer survives another patient's image." if swapped else ".")
    text = "" if found else f'<p class="ok">{fine}</p>'
    body = [
        [kind.replace("_", " "), number(audit[kind]["n"]), ", ".join(map(str, audit[kind]["examples"]))]
        for kind in ("patients", "studies", "images", "same_pictures")
        if kind in audit
    ]
    text += html_table(["shared with training", "n", "examples (hashed)"], body, text={2})
    names = [
        [kind, number(of["n"]), f"{of['per_question']:.4f}"] for kind, of in audit.get("unknown_names", {}).items()
    ]
    if names:
        text += html_table(["names that stand in no table", "n", "a question of the release"], names)
    listed = "".join(f'<li class="bad">{escape(line)}</li>' for line in found)
    return (f"<ul>{listed}</ul>" if listed else "") + text


def _worst(report: dict) -> str:
    body = [
        [str(e["row"]), e["study"], e["type"], number(e["distance"]), e["said"], e["truth"]]
        for e in report["worst_errors"]
    ]
    header = ["row of predictions.parquet", "study (hashed)", "type", "off by", "said", "truth"]
    return fold(f"{len(body)} surest wrong answers", html_table(header, body, text={4, 5})) if body else ""


def _provenance(report: dict) -> str:
    counts = [[fate, number(n)] for fate, n in report["counts"].items()]
    facts = [[key, str(value)] for key, value in report["provenance"].items()]
    return html_table(["fate of the split's questions", "n"], counts) + fold(
        "Provenance", html_table(["what", "value"], facts, text={1})
    )


def _p(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}" if value >= 0.001 else "< 0.001"
