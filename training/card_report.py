"""What a model card takes out of `report.json`: headline scores with intervals, beside the controls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from training.markdown import row_label
from training.metrics import HEADLINE
from training.report import BASELINE, GROUPS
from training.report.tables import interval, number, short, with_bounds

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

CONTROLS = ("majority_type", "majority_text", BASELINE, "blank_image", "shuffled_image", "graph_none", "graph_oracle")
"""Rows of the report that a card shows below the model's"""


def report_section(report: dict) -> str:
    """Markdown: the model's headline scores with their intervals, the gain over the text-only control, and all controls."""
    source = report["provenance"]
    percent = f"{100 * source['confidence']:g} %"
    chosen = (
        " The weights were chosen on this split: its scores are optimistic." if source["split"] == "validate" else ""
    )
    head = ["head", "questions", "metric", f"model [{percent} interval]", BASELINE, f"gain [{percent} interval]"]
    body = []
    for name, kind in GROUPS.items():
        metric, rows = HEADLINE[kind], report["rows"]
        own = with_bounds({"value": rows["model"][name][metric]} | _bounds(report, name))
        body.append([name, number(rows["model"][name]["n"]), short(metric), own])
        body[-1] += [number(rows[BASELINE][name].get(metric)), interval(report["gain"][name])]
    controls = [row for row in ("model", *CONTROLS) if row == "model" or _has_answers(report, row)]
    other = [
        [
            row_label(report, row),
            *(number(report["rows"][row][name].get(HEADLINE[kind])) for name, kind in GROUPS.items()),
        ]
        for row in controls
    ]
    return "\n\n".join(
        [
            f"## Results: {source['dataset']}, split {source['split']}",
            f"{source['questions']:,} questions about {source['studies']:,} studies of {source['patients']:,} patients; intervals "
            f"over resamples of patients; index `{source['index_fingerprint']}`.{chosen}",
            _table(head, body),
            "`category` leaves out questions that name their class; `category_copy` holds those. "
            "The same questions, answered otherwise (headline metric of each head): without image, with another patient's, and "
            "with other graphs. A model that does not beat these does not look.",
            _table(["row", *GROUPS], other),
        ]
    )


def eval_results(report: dict, task: str) -> list[EvalResult]:
    """The same scores for the `model-index` of the Hub's metadata; what is not defined is left out."""
    from huggingface_hub import EvalResult

    source, found = report["provenance"], []
    for name, kind in GROUPS.items():
        metric, bounds = HEADLINE[kind], _bounds(report, name)
        value = report["rows"]["model"][name][metric]
        if value is None:
            continue
        limits = ""
        if bounds["low"] is not None:
            limits = f", {100 * source['confidence']:g} % interval {bounds['low']:.3f} to {bounds['high']:.3f}"
        found.append(
            EvalResult(
                task_type=task,
                dataset_type=source["dataset"].lower().replace(" ", "-"),
                dataset_name=source["dataset"],
                dataset_split=source["split"],
                metric_type="f1" if metric.endswith("f1") else metric,
                metric_name=f"{name}: {short(metric)}{limits}",
                metric_value=round(value, 4),
            )
        )
    return found


def _bounds(report: dict, name: str) -> dict:
    own = report["interval"][name]
    return {"low": own["low"], "high": own["high"]}


def _has_answers(report: dict, row: str) -> bool:
    return any(value is not None for of in report["rows"].get(row, {}).values() for value in of.values())


def _table(header: list[str], body: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(line) + " |" for line in body])
