"""From answers to `report.json`. `build` puts it together; `scorer` has metrics with intervals, the other modules a part each."""

from training.report.build import BASELINE, Extras, answers_of_rows, build_report
from training.report.groups import GROUPS

__all__ = ["BASELINE", "GROUPS", "Extras", "answers_of_rows", "build_report"]
