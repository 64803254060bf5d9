"""Cells and tables that the pages of a report share: names of metrics, numbers, intervals, and all metrics side by side."""

from __future__ import annotations

from collections.abc import Mapping

from training.evaluation import NOT_ASKED, ROWS
from training.metrics import Scores
from training.report.groups import GROUPS

Table = tuple[list[str], list[list[str]]]
"""header, lines"""

LEFT_OUT = "resamples in which the metric is not defined are left out and counted, and where these are more than 5 % there is none"
BRIER_SCALE = "(0 to 2 with one answer, 0 to 1 with several)"

_SHORT = {
    "balanced_accuracy": "balanced accuracy",
    "micro_f1": "micro-F1",
    "macro_f1": "macro-F1",
    "mean_average_precision": "mAP",
    "exact_match": "exact match",
    "mcc": "MCC",
    "auroc": "AUROC",
    "macro_classes": "classes",
    "average_precision": "AP",
    "quadratic_kappa": "quadratic kappa",
    "mae": "MAE",
    "micro_precision": "micro-precision",
    "micro_recall": "micro-recall",
    "n_pos": "positive",
    "n_neg": "negative",
}


def short(metric: str) -> str:
    """A metric's name for people."""
    return _SHORT.get(metric, metric.replace("_", " "))


def number(value: float | None) -> str:
    """`0.812`, `1,234` or `n/a`."""
    if value is None:
        return "n/a"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def interval(gain: dict) -> str:
    """`+0.312 [+0.280, +0.341]`, and how many resamples it leaves out, if any; `[n/a]`: too many."""
    if gain["value"] is None:
        return "n/a"
    bounds = f" [{gain['low']:+.3f}, {gain['high']:+.3f}]" if gain["low"] is not None else " [n/a]"
    return f"{gain['value']:+.3f}{bounds}{_left_out(gain)}"


def with_bounds(one: dict, gap: str = " ") -> str:
    """`0.812 [0.780, 0.841]`, likewise."""
    if one["value"] is None:
        return "n/a"
    bounds = f"{gap}[{one['low']:.3f}, {one['high']:.3f}]" if one["low"] is not None else ""
    return f"{number(one['value'])}{bounds}{_left_out(one)}"


def _left_out(one: dict) -> str:
    return f" ({one['dropped']:,} left out)" if one.get("dropped") else ""


def metric_cells(report: dict, row: str, name: str, gap: str = " ") -> list[str]:
    """All metrics of a row in the model's order, with intervals where there are."""
    scores, bounds = report["rows"][row][name], report["intervals"].get(row, {}).get(name, {})
    nothing = {"low": None, "high": None}
    return [
        with_bounds({"value": scores.get(metric)} | bounds.get(metric, nothing), gap)
        for metric in report["rows"]["model"][name]
    ]


def positives(scores: Scores, metric: str) -> str:
    """A cell of a class or label: n/a says why."""
    return number(scores[metric]) if scores[metric] is not None or scores["n_pos"] else "n/a (0 positives)"


def shown_rows(report: dict) -> list[str]:
    """The rows that have answers; all of them when the report was not asked for the model alone."""
    missing = report["missing_rows"]
    return [row for row in ROWS if row not in missing or missing[row] != NOT_ASKED]


def all_metrics(scores: Mapping[str, Scores], what: str) -> list[Table]:
    """A table for each set of metrics, a line for each entry of `scores`."""
    tables: dict[tuple[str, ...], list[list[str]]] = {}
    for name, of in scores.items():
        tables.setdefault(tuple(of), []).append([name, *map(number, of.values())])
    return [([what, *map(short, metrics)], body) for metrics, body in tables.items()]


def differences(report: dict) -> Table:
    """The model minus every other row, in the headline metrics."""
    rows = [row for row in shown_rows(report) if row != "model"]
    body = [[row, *(interval(report["gains"][row][name]) for name in GROUPS)] for row in rows]
    return ["model minus", *GROUPS], body


CHEXPERT_TABLES = {
    "labeller": ("chexpert", "the labeller's labels"),
    "radiologist": ("chexpert_radiologist", "a radiologist's labels"),
}
"""Source of labels -> its key in the report, and how it is called"""


def labels(report: dict, source: str) -> tuple[str, Table]:
    """CheXpert labels of a source: their mean with the number of labels that it is taken over, and the table."""
    table, intervals = report[CHEXPERT_TABLES[source][0]], report["chexpert_intervals"][source]
    body = [
        [name, with_bounds(intervals[name]) if name in intervals else positives(of, "auroc")]
        + [number(of["n_pos"]), number(of["n_neg"])]
        for name, of in table.items()
    ]
    mean = with_bounds(intervals["mean"]) if intervals else "n/a"
    over = intervals["mean"]["labels"] if intervals else 0
    return f"mean AUROC {mean} over {over} of {len(table)} labels", (["label", "AUROC", "positive", "negative"], body)


def least_p(report: dict) -> str:
    """The least p of a type that so many resamples can show, after Holm's adjustment."""
    resamples = report["gain"]["binary"]["resamples"]
    least = min(1.0, 2 / (1 + resamples) * len(report["type_gain"]))
    return f"the least that {resamples:,} resamples can show for {len(report['type_gain'])} types is {least:.3f}"


def scores_of(values: dict[str, dict[str, dict]]) -> dict[str, Scores]:
    """value and group, as one name -> all scores, of groups that are not withheld."""
    return {
        f"{value}, {group}": of["scores"]
        for value, groups in values.items()
        for group, of in groups.items()
        if "withheld" not in of
    }
