"""From measurements to a table for the terminal and to JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from benchmarks.machine import Machine
from benchmarks.timing import Measured, compare

CLOCKS = ("wall", "cpu")


@dataclass
class Section:
    """One table of a result."""

    title: str
    measured: list[Measured] = field(default_factory=list)
    """compared variants, of one interleaved run"""
    baseline: str = ""
    """name of the one that the others are compared with"""
    rows: list[dict[str, object]] = field(default_factory=list)
    """Or a table of other figures: one dictionary a row, the same keys in all"""
    facts: dict[str, object] = field(default_factory=dict)
    """What the figures depend on"""
    notes: list[str] = field(default_factory=list)

    def timings(self, machine: Machine) -> list[dict[str, object]]:
        """The compared variants as rows of figures, for JSON."""
        return [figures(one, self._baseline, machine) for one in self.measured]

    @property
    def _baseline(self) -> Measured | None:
        return next((one for one in self.measured if one.name == self.baseline), None)

    def text(self, machine: Machine) -> str:
        """For the terminal."""
        lines = ["", self.title, "-" * len(self.title)]
        lines += [f"  {name}: {number(value)}" for name, value in self.facts.items()]
        if self.measured:
            lines += table([shown(one, self._baseline, machine) for one in self.measured])
        if self.rows:
            lines += table([{name: number(value) for name, value in row.items()} for row in self.rows])
        lines += [f"  {one.name}: {one.variant.note}" for one in self.measured if one.variant.note]
        return "\n".join(lines + [f"  {note}" for note in self.notes])

    def as_json(self, machine: Machine) -> dict[str, object]:
        return {
            "title": self.title,
            "facts": self.facts,
            "baseline": self.baseline or None,
            "variants": self.timings(machine),
            "rows": self.rows,
            "notes": self.notes,
        }


def figures(one: Measured, baseline: Measured | None, machine: Machine) -> dict[str, object]:
    """Everything about one variant."""
    variant, found = one.variant, {"name": one.name, "unit": one.variant.unit, "items_per_call": one.items}
    found |= {"seconds": one.seconds, "cpu_seconds": one.cpu_seconds, "spread": one.spread}
    found |= {"items_per_second": one.rate, "items_per_cpu_second": one.cpu_rate, "peak_bytes": one.peak}
    found |= {f"ratio_{clock}": asdict(compare(one, baseline, clock)) if baseline else None for clock in CLOCKS}
    found |= {"flops": one.flops, "flops_of": one.flops_of, "precision": variant.precision}
    found |= {"share_of_arithmetic": arithmetic_share(one, machine), "share_of_copy": copy_share(one, machine)}
    found |= {"note": variant.note, "rounds": [asdict(r) for r in one.rounds]}
    return found


def arithmetic_share(one: Measured, machine: Machine) -> float | None:
    """Achieved part of the measured matrix product; None where a call's operations or this precision are not known."""
    if one.flops is None:
        return None
    return machine.ceilings.share_of_arithmetic(one.flops, one.seconds, one.variant.precision)


def copy_share(one: Measured, machine: Machine) -> float | None:
    """Achieved part of the measured copy; None where a call's bytes are not known."""
    return None if one.variant.copied is None else machine.ceilings.share_of_copy(one.variant.copied, one.seconds)


def shown(one: Measured, baseline: Measured | None, machine: Machine) -> dict[str, str]:
    """One line of the table."""
    row = {"": one.name, "ms/call": number(1e3 * one.seconds), "CPU ms": number(1e3 * one.cpu_seconds)}
    row |= {"per call": f"{number(one.items)} {one.variant.unit}", "per second": number(one.rate)}
    row |= {"per CPU s": number(one.cpu_rate), "spread": f"{100 * one.spread:.0f} %", "peak MB": number(one.peak / 1e6)}
    for clock in CLOCKS:
        row[f"x {clock}"] = row_ratio(one, baseline, clock)
    row |= {"arithmetic": percent(arithmetic_share(one, machine)), "copy": percent(copy_share(one, machine))}
    return row


def row_ratio(one: Measured, baseline: Measured | None, clock: str) -> str:
    """Ratio of medians, and the least and largest of single rounds."""
    if baseline is None:
        return ""
    ratio = compare(one, baseline, clock)
    return f"{number(ratio.of_medians)} ({number(ratio.least)}..{number(ratio.most)})"


def percent(share: float | None) -> str:
    return "" if share is None else f"{number(100 * share)} %"


def number(value: object) -> str:
    """Numbers with three significant digits, thousands apart; anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "" if value is None else str(value)
    if isinstance(value, int) or value == 0 or not abs(value) < float("inf"):
        return f"{value:,}"
    if abs(value) >= 1000:
        return f"{float(f'{value:.2e}'):,.0f}"
    return f"{value:.3g}"


def table(rows: Sequence[dict[str, str]]) -> list[str]:
    """Aligned columns; the first to the left, the others to the right. Columns without any entry are left out."""
    names = [name for name in rows[0] if any(row[name] for row in rows)]
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in names}

    def line(cells: dict[str, str]) -> str:
        first, *others = names
        return "  ".join(
            ["", f"{cells[first]:<{widths[first]}}", *(f"{cells[n]:>{widths[n]}}" for n in others)]
        ).rstrip()

    return [line(dict(zip(names, names))), *(line(row) for row in rows)]


def document(argv: list[str], settings: dict[str, object], machine: Machine, sections: list[Section]) -> dict:
    """Everything, for `--json`."""
    return {
        "argv": argv,
        "settings": settings,
        "machine": asdict(machine),
        "sections": [section.as_json(machine) for section in sections],
    }
