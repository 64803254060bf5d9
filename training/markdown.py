"""The report for people: `report.md`, and the headline table that `evaluate.py` prints."""

from __future__ import annotations

from data.label_space import HEADS, Head
from data.summary import SYNTHETIC_NOTICE
from training.evaluation import ROWS
from training.metrics import HEADLINE
from training.report import BASELINE, GROUPS
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
from utils.privacy import lineage_notice

REMARKS: dict[str, str] = {
    "model": "answers from the scene graph it predicts from the image",
    "majority_type": "most frequent answer of the training questions of the same type",
    "majority_text": "most frequent answer of the training questions of the same text, else of the same type",
    "question_only": "trained text-only control: the same questions without any image",
    "blank_image": "the model, shown the mean training image; its graph is predicted from that",
    "shuffled_image": "the model, shown another patient's image; its graph is predicted from that",
    "graph_none": "swapped at test: the model without a scene graph",
    "graph_shuffled": "swapped at test: the graph predicted from another patient's image",
    "graph_unknown": "answers that came from a file",
    "graph_oracle": "not deployable: the graph made from the radiology report, which holds the answers",
}
"""What each row is. For multi-label heads the majority is every class that at least half of the answers have."""


def headline_lines(report: dict) -> list[str]:
    """The headline table as aligned text: a line a row, a column a head, and the gain below."""
    metrics = [short(HEADLINE[head]) for head in GROUPS.values()]
    body = [["", *GROUPS], ["metric", *metrics]]
    body.append(["questions", *(number(report["rows"]["model"][name]["n"]) for name in GROUPS)])
    for row in shown_rows(report):
        values = (report["rows"][row][name][HEADLINE[head]] for name, head in GROUPS.items())
        body.append([row_label(report, row), *(number(value) for value in values)])
    if BASELINE in report["missing_rows"]:
        return _aligned(body)
    gains = [report["gain"][name] for name in GROUPS]
    body.append([f"gain over {BASELINE}", *(interval(gain).split(" [")[0] for gain in gains)])
    percent = f"{100 * report['provenance']['confidence']:g} % interval"
    body.append([percent, *(("[" + text[1]) if len(text := interval(g).split(" [")) > 1 else "n/a" for g in gains)])
    return _aligned(body)


def _aligned(body: list[list[str]]) -> list[str]:
    widths = [max(len(line[i]) for line in body) for i in range(len(body[0]))]
    return [
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))])
        for line in body
    ]


def row_label(report: dict, row: str) -> str:
    """The row's name, with what a reader has to know of it."""
    graph = report["provenance"]["graph"]
    if row == "model" and graph not in ("predicted", "unknown"):
        return f"model (graph {graph}: {'not deployable' if graph == 'oracle' else 'swapped at test'})"
    for mark in ("not deployable", "swapped at test"):
        if REMARKS[row].startswith(mark):
            return f"{row} ({mark})"
    return row


def render_markdown(report: dict) -> str:
    """`report.md`: the same numbers as `report.json`, in tables; the first line says what data."""
    source = report["provenance"]
    title = (
        f"# {source['questions']:,} questions of {source['patients']:,} patients, split `{source['split']}`, "
        f"{source['dataset']}, index `{source['index_fingerprint']}`"
    )
    sections = [title]
    if source["synthetic"]:
        sections.append(f"> **{SYNTHETIC_NOTICE}**")
    if notice := lineage_notice(source):
        sections.append(f"> **{notice}**")
    sections += [
        "## Headline\n\n" + _headline_table(report),
        "## Rows\n\n" + _table(["row", "what it is"], [[row_label(report, row), _remark(report, row)] for row in ROWS]),
        *(f"## Head {name}\n\n" + _head_table(report, name) for name in GROUPS),
        "## The model and every other row\n\n" + _table(*differences(report)),
        "## Question types\n\n" + _gain_table(report) + "\n\n" + _type_table(report),
        *("All metrics of the model\n\n" + _table(*table) for table in all_metrics(_of_types(report), "type")),
        *(
            f"## Classes of {head}\n\n" + _class_table(classes)
            for head, classes in report["classes"].items()
            if any(of["n_pos"] for of in classes.values())
        ),
        *(f"## Confusion of {head}\n\n" + _confusion_table(head, found) for head, found in report["confusion"].items()),
        *(
            f"## CheXpert labels, from the image alone, against {whose}\n\n" + _chexpert_table(report, source)
            for source, (key, whose) in CHEXPERT_TABLES.items()
            if report[key]
        ),
        "## Confidence\n\n" + _confidence_table(report),
        *(["## Where it looks\n\n" + _grounding_table(report)] if report["grounding"] else []),
        *(
            f"## By {name} that is asked about\n\n" + _group_table(name, report[key])
            for name, key in (("finding", "findings"), ("region", "regions"))
            if report[key]
        ),
        *(f"## By {name}\n\n" + _group_table(name, values) for name, values in report["strata"].items()),
        "## Consistency\n\n" + _consistency_table(report),
        *(["### Same answer when asked otherwise\n\n" + _paraphrase_table(report)] if report["paraphrases"] else []),
        *(["## Compared with another model\n\n" + _compare_table(report)] if report["compare"] else []),
        "## Audit\n\n" + _audit_lines(report),
        "## Surest errors\n\n" + _worst_table(report),
        "## Every question of the split by its fate\n\n" + _counts_table(report),
        "## Provenance\n\n" + _table(["what", "value"], [[k, f"`{v}`"] for k, v in source.items()]),
    ]
    return "\n\n".join(sections) + "\n"


def _remark(report: dict, row: str) -> str:
    if row in report["missing_rows"]:
        return f"{REMARKS[row]} ({report['missing_rows'][row]})"
    graph = report["provenance"]["graph"]
    return REMARKS[f"graph_{graph}"] if row == "model" and graph != "predicted" else REMARKS[row]


def _headline_table(report: dict) -> str:
    header = ["row", *(f"{name} ({short(HEADLINE[head])})" for name, head in GROUPS.items())]
    body = [
        [row_label(report, row), *(number(report["rows"][row][name][HEADLINE[head]]) for name, head in GROUPS.items())]
        for row in shown_rows(report)
    ]
    body.append([f"**gain of model over {BASELINE}**", *(interval(report["gain"][name]) for name in GROUPS)])
    percent = f"{100 * report['provenance']['confidence']:g} %"
    resamples = report["gain"]["binary"]["resamples"]
    note = (
        f"\n\nBrackets: {percent} interval over {resamples:,} resamples of patients, "
        "the same for both rows. `category` leaves out questions that name their class; `category_copy` holds those."
    )
    return _table(header, body) + note


def _head_table(report: dict, name: str) -> str:
    metrics = list(report["rows"]["model"][name])
    body = [[row_label(report, row), *metric_cells(report, row, name)] for row in shown_rows(report)]
    note = f"\n\nIn brackets: the interval over {report['interval'][name]['resamples']:,} resamples of patients; {LEFT_OUT}."
    return _table(["row", *(short(m) for m in metrics)], body) + note


def _gain_table(report: dict) -> str:
    body = []
    for kind, gain in report["type_gain"].items():
        scores, own = report["by_type"][kind]["model"], gain["model"]
        bounds = "n/a" if own["low"] is None else f"{own['low']:.3f} to {own['high']:.3f}"
        body.append([kind, *(number(scores[size]) for size in ("n", "studies", "patients")), short(gain["metric"])])
        body[-1] += [number(own["value"]), bounds, interval(gain), number(gain.get("p_holm"))]
    return (
        _table(
            [
                "type",
                "questions",
                "studies",
                "patients",
                "metric",
                "model",
                "interval",
                f"gain over {BASELINE}",
                "p (Holm)",
            ],
            body,
        )
        + f"\n\np: {least_p(report)}."
    )


def _of_types(report: dict) -> dict[str, dict]:
    return {kind: rows["model"] for kind, rows in report["by_type"].items()}


def _type_table(report: dict) -> str:
    rows = shown_rows(report)
    body = []
    for kind, scores in report["by_type"].items():
        metric = report["type_gain"][kind]["metric"]
        body.append([kind, short(metric), *(number(scores[row][metric]) for row in rows)])
    return _table(["type", "metric", *rows], body)


def _class_table(classes: dict[str, dict]) -> str:
    metrics = list(next(iter(classes.values())))
    body = [[name, *(positives(of, metric) for metric in metrics)] for name, of in classes.items()]
    return _table(["class", *(short(metric) for metric in metrics)], body)


def _confusion_table(head: str, counts: list[list[int]]) -> str:
    classes = HEADS[Head(head)].classes
    body = [[name, *map(number, line)] for name, line in zip(classes, counts, strict=True)]
    return _table(["truth, and what was answered", *classes], body)


def _paraphrase_table(report: dict) -> str:
    heads = list(next(iter(report["paraphrases"].values())))
    body = [[name, *(number(of.get(head)) for head in heads)] for name, of in report["paraphrases"].items()]
    return _table(["asked", *heads], body)


def _worst_table(report: dict) -> str:
    columns = ["row", "study", "type", "distance", "said", "truth"]
    return _table(
        columns, [[number(e[c]) if c == "distance" else str(e[c]) for c in columns] for e in report["worst_errors"]]
    )


def _chexpert_table(report: dict, source: str) -> str:
    mean, table = labels(report, source)
    return f"{mean}\n\n{_table(*table)}"


def _confidence_table(report: dict) -> str:
    body = []
    for head, found in report["confidence"].items():
        for kind in ("raw", "tempered"):
            if kind in found:
                numbers = [found[kind].get(name) for name in ("temperature", "ece", "brier", "nll")]
                curve = found["risk_coverage"] if kind == "raw" else None  # of the answers as they are given
                right = number(curve["accuracy_at_80"]) if curve else ""
                body.append([f"{head}, {kind}", *map(number, numbers), right])
    return _table(["head", "temperature", "ECE", f"Brier {BRIER_SCALE}", "NLL", "right at 80 % coverage"], body)


def _grounding_table(report: dict) -> str:
    found = report["grounding"]["questions"]
    metrics = [metric for metric in found["all"] if metric != "n"]
    body = [[name, number(of["n"]), *(with_bounds(of[metric]) for metric in metrics)] for name, of in found.items()]
    return _table(["questions", "n", *(metric.replace("_", " ") for metric in metrics)], body)


def _group_table(name: str, values: dict[str, dict[str, dict]]) -> str:
    """Groups that are withheld are in report.json alone."""
    body = [
        [value, head, *(number(of["scores"][size]) for size in ("n", "studies", "patients"))]
        + [short(of["metric"]), number(of["value"]), interval(of["gain"])]
        for value, heads in values.items()
        for head, of in heads.items()
        if "withheld" not in of
    ]
    header = [name, "head", "questions", "studies", "patients", "metric", "model", f"gain over {BASELINE}"]
    return "\n\n".join([_table(header, body), *(_table(*table) for table in all_metrics(scores_of(values), name))])


def _consistency_table(report: dict) -> str:
    body = [
        [name, number(of["pairs"]), number(of["consistent"]), number(of["consistent_targets"])]
        for name, of in report["consistency"].items()
    ]
    return _table(["contradiction", "pairs", "consistent answers", "consistent targets"], body)


def _compare_table(report: dict) -> str:
    found = report["compare"]
    body = [[name, short(one["metric"]), interval(one), number(one.get("p"))] for name, one in found["groups"].items()]
    body += [
        [name, short(one["metric"]), interval(one), number(one.get("p_holm"))] for name, one in found["types"].items()
    ]
    return _table(["", "metric", "difference", "p (types: Holm)"], body)


def _audit_lines(report: dict) -> str:
    audit = report["audit"]
    found = [*audit.get("findings", ()), *audit["leaks"]]
    if not found:
        found = ["nothing found"]
    found += [
        f"{names['n']:,} names of the kind {kind} stand in no table ({names['per_question']:.4f} a question of the release)"
        for kind, names in audit.get("unknown_names", {}).items()
    ]
    return "\n".join(f"- {line}" for line in found)


def _counts_table(report: dict) -> str:
    body = [[fate, number(n)] for fate, n in report["counts"].items()]
    return _table(["fate", "questions"], [*body, ["**all**", number(sum(report["counts"].values()))]])


def _table(header: list[str], body: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" + "---:|" * (len(header) - 1)]
    return "\n".join(lines + ["| " + " | ".join(line) + " |" for line in body])
