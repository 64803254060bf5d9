"""Charts of the report as SVG: no script, no font, no request; they grow and shrink with the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

INK, SOFT, GRID = "#1c2733", "#5b6b7b", "#dfe5eb"
MODEL, CONTROL, CAUTION, GOOD = "#1f5fa8", "#8a97a5", "#c77700", "#2b8a5a"

Pair = tuple[float, float]


@dataclass(frozen=True)
class Bar:
    """A value with its interval; None: not computed or not defined."""

    label: str
    value: float | None
    low: float | None = None
    high: float | None = None
    colour: str = CONTROL
    mark: float | None = None
    """another value to compare with, drawn as a line"""
    note: str = ""


def bars(rows: Sequence[Bar], width: int = 640, label_width: int = 190) -> str:
    """Horizontal bars from 0 to 1 with whiskers."""
    height, left, right = 24 * len(rows) + 26, label_width, width - 52
    scale = right - left
    parts = [_grid(left, right, height - 22)]
    for number, row in enumerate(rows):
        y = 24 * number + 5
        parts.append(_text(left - 8, y + 12, row.label, anchor="end"))
        if row.value is None:
            parts.append(_text(left + 6, y + 12, "n/a", fill=SOFT))
            continue
        end = left + scale * min(max(row.value, 0), 1)
        parts.append(
            f'<rect x="{left}" y="{y}" width="{max(end - left, 0):.1f}" height="15" rx="2" fill="{row.colour}"/>'
        )
        if row.low is not None and row.high is not None:
            parts.append(
                _whisker(left + scale * min(max(row.low, 0), 1), left + scale * min(max(row.high, 0), 1), y + 7.5)
            )
        if row.mark is not None:
            x = left + scale * row.mark
            parts.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y - 2}" y2="{y + 17}" stroke="{CAUTION}" stroke-width="2.5"/>'
            )
        place = max(end, left + scale * max(row.high or 0, row.mark or 0))
        parts.append(_text(min(place + 6, width - 44), y + 12, f"{row.value:.3f}", fill=INK))
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(_text(left + scale * tick, height - 6, f"{tick:g}", anchor="middle", fill=SOFT))
    return _svg(
        width, height, parts, "; ".join(f"{r.label} {'n/a' if r.value is None else round(r.value, 3)}" for r in rows)
    )


@dataclass(frozen=True)
class Line:
    """A curve in the unit square."""

    label: str
    points: Sequence[Pair]
    colour: str = MODEL
    dots: bool = False


def curves(lines: Sequence[Line], x: str, y: str, diagonal: bool = False, size: int = 320) -> str:
    """Curves with axes from 0 to 1, their labels below."""
    left, top, side = 44, 10, size - 60
    height = size + 16 * len(lines)

    def place(point: Pair) -> str:
        return f"{left + side * point[0]:.1f},{top + side * (1 - point[1]):.1f}"

    parts = [f'<rect x="{left}" y="{top}" width="{side}" height="{side}" fill="none" stroke="{GRID}"/>']
    for tick in (0, 0.25, 0.5, 0.75, 1):
        at, up = left + side * tick, top + side * (1 - tick)
        parts.append(f'<line x1="{at}" x2="{at}" y1="{top}" y2="{top + side}" stroke="{GRID}"/>')
        parts.append(f'<line x1="{left}" x2="{left + side}" y1="{up}" y2="{up}" stroke="{GRID}"/>')
        parts.append(_text(at, top + side + 15, f"{tick:g}", anchor="middle", fill=SOFT))
        parts.append(_text(left - 6, up + 4, f"{tick:g}", anchor="end", fill=SOFT))
    if diagonal:
        parts.append(
            f'<polyline points="{place((0, 0))} {place((1, 1))}" stroke="{SOFT}" stroke-dasharray="4 4" fill="none"/>'
        )
    for number, line in enumerate(lines):
        points = " ".join(map(place, line.points))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{line.colour}" stroke-width="2"/>')
        if line.dots:
            parts += [
                f'<circle cx="{p.split(",")[0]}" cy="{p.split(",")[1]}" r="3" fill="{line.colour}"/>'
                for p in points.split()
            ]
        below = top + side + 48 + 16 * number
        parts.append(f'<rect x="{left}" y="{below - 9}" width="14" height="4" fill="{line.colour}"/>')
        parts.append(_text(left + 20, below - 3, line.label))
    parts.append(_text(left + side / 2, top + side + 31, x, anchor="middle"))
    parts.append(
        f'<text x="12" y="{top + side / 2}" transform="rotate(-90 12 {top + side / 2})" text-anchor="middle" '
        f'font-size="12" fill="{INK}">{escape(y)}</text>'
    )
    return _svg(size, height, parts, f"{y} against {x}: {', '.join(line.label for line in lines)}", most=420)


def matrix(counts: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    """A confusion matrix: rows are the truth, shaded by their share of the row."""
    cell, left, top = 62, 84, 34
    width, height = left + cell * len(names) + 10, top + cell * len(names) + 26
    parts = [_text(left + cell * len(names) / 2, 12, "answered", anchor="middle", fill=SOFT)]
    for j, name in enumerate(names):
        parts.append(_text(left + cell * (j + 0.5), 28, name, anchor="middle"))
    for i, row in enumerate(counts):
        parts.append(_text(left - 8, top + cell * (i + 0.5) + 4, names[i], anchor="end"))
        for j, number in enumerate(row):
            share = number / max(1, sum(row))
            parts.append(
                f'<rect x="{left + cell * j}" y="{top + cell * i}" width="{cell - 2}" height="{cell - 2}" '
                f'fill="{GOOD if i == j else CAUTION}" fill-opacity="{0.06 + 0.74 * share:.2f}"/>'
            )
            middle = left + cell * (j + 0.5) - 1, top + cell * (i + 0.5) - 2
            parts.append(_text(*middle, f"{number:,}", anchor="middle"))
            parts.append(_text(middle[0], middle[1] + 15, f"{100 * share:.0f} %", anchor="middle", fill=SOFT))
    parts.append(_text(left - 8, top + cell * len(names) + 16, "truth", anchor="end", fill=SOFT))
    return _svg(width, height, parts, "confusion matrix, rows are the truth", most=width)


def count_bars(rows: Sequence[tuple[str, float]], width: int = 520, label_width: int = 190, colour: str = MODEL) -> str:
    """Horizontal bars of numbers, the largest as long as there is room."""
    height, left, right = 22 * len(rows) + 6, label_width, width - 90
    most = max((number for _, number in rows), default=0) or 1
    parts = []
    for place, (label, number) in enumerate(rows):
        y, length = 22 * place + 4, (right - left) * number / most
        parts.append(_text(left - 8, y + 12, label, anchor="end"))
        parts.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="14" rx="2" fill="{colour}"/>')
        parts.append(_text(left + length + 6, y + 12, f"{number:,}" if number == int(number) else f"{number:.3f}"))
    return _svg(width, height, parts, "; ".join(f"{label} {number}" for label, number in rows))


def histogram(counts: Sequence[int], x: str, step: float = 1, first: float = 0, width: int = 420) -> str:
    """Columns of the numbers of things in equal steps of `x`, from `first`; long ones are put together."""
    merge = max(1, -(-len(counts) // 40))
    columns = [sum(counts[i : i + merge]) for i in range(0, len(counts), merge)]
    left, top, bottom, right = 10, 18, 150, width - 10
    most, wide = max(columns, default=0) or 1, (right - left) / max(len(columns), 1)
    parts = [f'<line x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}" stroke="{SOFT}"/>']
    for place, number in enumerate(columns):
        tall = (bottom - top) * number / most
        parts.append(
            f'<rect x="{left + wide * place + 0.5:.1f}" y="{bottom - tall:.1f}" width="{max(wide - 1, 0.5):.1f}" '
            f'height="{tall:.1f}" fill="{MODEL}"><title>{first + place * merge * step:g}: {number:,}</title></rect>'
        )
    for share in (0, 0.25, 0.5, 0.75, 1):
        value = first + share * len(columns) * merge * step
        anchor = "start" if share == 0 else "end" if share == 1 else "middle"
        tick = f"{round(value):,}" if step >= 1 else f"{value:g}"
        parts.append(_text(left + (right - left) * share, bottom + 16, tick, anchor=anchor, fill=SOFT))
    parts.append(_text((left + right) / 2, bottom + 34, x, anchor="middle"))
    parts.append(_text(left, 12, f"most: {most:,}", fill=SOFT))
    return _svg(width, bottom + 42, parts, f"histogram of {x}")


def _svg(width: int, height: float, parts: list[str], label: str, most: int | None = None) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}" '
        f'style="max-width:{most or width}px">{"".join(parts)}</svg>'
    )


def _text(x: float, y: float, text: str, anchor: str = "start", fill: str = INK) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="12" fill="{fill}">{escape(text)}</text>'


def _grid(left: float, right: float, bottom: float) -> str:
    lines = (left + (right - left) * tick for tick in (0, 0.25, 0.5, 0.75, 1))
    return "".join(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{bottom}" stroke="{GRID}"/>' for x in lines)


def _whisker(low: float, high: float, y: float) -> str:
    ends = "".join(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y - 4}" y2="{y + 4}"/>' for x in (low, high))
    return f'<g stroke="{INK}" stroke-width="1.3"><line x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}"/>{ends}</g>'
