"""A picture of growth: figures by size, both on logarithmic axes, as SVG and without a drawing library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

PANELS = {"seconds": ", s", "questions a second": "questions/", "megabytes": ", MB"}
"""Title -> what marks the stages that belong to it"""
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#17becf", "#7f7f7f", "#bcbd22", "#e377c2")
WIDTH, HEIGHT, MARGIN, LEGEND = 420, 300, 60, 330


@dataclass(frozen=True)
class Axis:
    """Decades on a line of pixels."""

    low: int
    high: int
    start: float
    end: float

    @staticmethod
    def over(values: Sequence[float], start: float, end: float) -> Axis:
        """The whole decades around these positive values."""
        logs = [math.log10(value) for value in values]
        low = math.floor(min(logs))
        return Axis(low, max(low + 1, math.ceil(max(logs))), start, end)

    def place(self, value: float) -> float:
        return self.start + (math.log10(value) - self.low) / (self.high - self.low) * (self.end - self.start)

    @property
    def decades(self) -> range:
        return range(self.low, self.high + 1)


def growth_svg(found: Mapping[int, Mapping[str, float]]) -> str:
    """Size -> stage -> figure, as a picture with a panel for each unit. Figures that are not positive are left out."""
    panels = []
    for title, mark in PANELS.items():
        stages = dict.fromkeys(stage for figures in found.values() for stage in figures if mark in stage)
        lines = {
            stage: [(size, figures[stage]) for size, figures in sorted(found.items()) if figures.get(stage, 0) > 0]
            for stage in stages
        }
        lines = {stage: points for stage, points in lines.items() if points}
        if lines:
            panels.append(_panel(title, lines, len(panels) * (HEIGHT + MARGIN)))
    width, height = WIDTH + 2 * MARGIN + LEGEND, len(panels) * (HEIGHT + MARGIN) + MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
        f'font-size="12"><rect width="{width}" height="{height}" fill="white"/>{"".join(panels)}</svg>\n'
    )


def _panel(title: str, lines: Mapping[str, Sequence[tuple[int, float]]], top: float) -> str:
    points = [point for line in lines.values() for point in line]
    x = Axis.over([size for size, _ in points], MARGIN, MARGIN + WIDTH)
    y = Axis.over([value for _, value in points], top + MARGIN + HEIGHT - 40, top + MARGIN)
    parts = [
        f'<text x="{MARGIN}" y="{top + MARGIN - 12}" font-weight="bold">{escape(title)} by number of questions</text>'
    ]
    for decade in x.decades:
        at = x.place(10.0**decade)
        parts.append(_line(at, y.start, at, y.end) + _text(at, y.start + 18, f"10^{decade}", "middle"))
    for decade in y.decades:
        at = y.place(10.0**decade)
        parts.append(_line(x.start, at, x.end, at) + _text(x.start - 6, at + 4, f"10^{decade}", "end"))
    for number, (name, line) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        dashes = ' stroke-dasharray="5 3"' if number >= len(COLOURS) else ""
        places = " ".join(f"{x.place(size):.1f},{y.place(value):.1f}" for size, value in line)
        parts.append(f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>')
        parts += [f'<circle cx="{x.place(s):.1f}" cy="{y.place(v):.1f}" r="3" fill="{colour}"/>' for s, v in line]
        at = top + MARGIN + 10 + 17 * number
        parts.append(f'<rect x="{x.end + 16}" y="{at - 9}" width="12" height="10" fill="{colour}"/>')
        parts.append(_text(x.end + 34, at, name, "start"))
    return "".join(parts)


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#dddddd"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
