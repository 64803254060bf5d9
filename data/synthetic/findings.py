"""What is drawn and how: each finding and device of a study, added to the layers of a frontal film.

A `Layers` object holds what the film is made of. Findings change it in frame units, so they move, tilt and scale with
the patient. The numbers decide how hard the task is: sizes and contrasts are tied to the severity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from data.synthetic import anatomy
from data.synthetic.anatomy import SIDES, Body
from data.synthetic.canvas import Canvas
from data.synthetic.cases import Finding, Study, rib_number

Path = tuple[np.ndarray, float, float]
"""Points, width in units, brightness in [0, 1]."""


@dataclass
class Layers:
    """Parts of a frontal film, before exposure."""

    canvas: Canvas
    body: Body
    rng: np.random.Generator
    """For what differs between two films of a study: never for a finding's place or form."""
    solid: np.ndarray
    """(H, W) share of the lung's air replaced by something, 0 to 1"""
    quiet: np.ndarray
    """(H, W) where vessels are absent, 0 to 1"""
    clear: np.ndarray
    """(H, W) extra transparency (free air)"""
    dense: np.ndarray
    """(H, W) what attenuates more than water does, added to the film"""
    lines: list[Path] = field(default_factory=list)
    """Thin bright things: pleural lines."""
    metal: list[Path] = field(default_factory=list)
    """Devices, brightest of all."""
    boxes: list[np.ndarray] = field(default_factory=list)
    """Filled outlines of metal."""
    heart: float = 1.0
    """How many times its normal width the heart has."""
    mediastinum: float = 1.0
    vessels: float = 1.0
    """Factor on the vessels' width and brightness."""
    scoliosis: float = 0.0
    """How far the spine bends to the side."""
    fractures: list[tuple[str, int, float, float]] = field(default_factory=list)
    """(side, rib, place along the rib in [0, 1], displacement)"""

    def add_solid(self, mask: np.ndarray) -> None:
        """Two opacities over each other leave the product of their transparencies."""
        self.solid = 1 - (1 - self.solid) * (1 - mask)


def apply_findings(layers: Layers, study: Study) -> None:
    """Put all findings, devices and artifacts of a study into the layers."""
    layers.heart = heart_width(study, layers.body)
    layers.mediastinum = mediastinum_width(study)
    for finding in (*study.findings, *study.devices, *study.artifacts):
        if finding.kind in _DRAW:
            _DRAW[finding.kind](layers, finding)


# Findings

_LOBE_CENTERS = {
    ("right", "upper"): (0.46, 0.24),
    ("right", "mid"): (0.40, 0.56),
    ("right", "lower"): (0.62, 0.74),
    ("left", "upper"): (0.46, 0.24),
    ("left", "lower"): (0.68, 0.72),
}


def _center(layers: Layers, f: Finding, margin: float, spread: float = 1.0) -> tuple[float, float]:
    """A place in the finding's lobe, `margin` away from diaphragm and chest wall so that it can be seen."""
    x, y = _LOBE_CENTERS[f.side, f.zone]
    x, y = x + 0.16 * spread * (f.shape[0] - 0.5), y + 0.16 * spread * (f.shape[1] - 0.5)
    y = min(y, float(anatomy.diaphragm(layers.body, f.side, np.array([x]))[0]) - margin)
    x = min(x, float(anatomy.lateral_edge(np.array([y]))[0]) - margin)
    return SIDES[f.side] * x, y


def _own_rng(f: Finding) -> np.random.Generator:
    """Texture of this very finding, the same in each film."""
    return np.random.default_rng([int(v * 2**32) for v in f.shape[:4]])


def heart_width(study: Study, body: Body) -> float:
    """How many times its normal width the heart has."""
    enlarged = study.of("cardiomegaly")
    if not enlarged:
        return 1.0
    target = (1.08, 1.22, 1.36)[enlarged[0].severity] + 0.06 * enlarged[0].shape[0]  # the chest is 1.9 wide
    return max(1.2, target / body.heart)


def mediastinum_width(study: Study) -> float:
    """How many times its normal width the upper mediastinum has."""
    widened = study.of("mediastinal widening")
    return (1.9, 2.4, 2.9)[widened[0].severity] + 0.25 * widened[0].shape[0] if widened else 1.0


def _scoliosis(layers: Layers, f: Finding) -> None:
    layers.scoliosis = (0.13, 0.2, 0.27)[f.severity] * (1 if f.shape[0] < 0.5 else -1)


def _effusion(layers: Layers, f: Finding) -> None:
    height = (0.22, 0.36, 0.53)[f.severity] + 0.06 * (f.shape[0] - 0.5)
    for side in SIDES if f.side == "bilateral" else (f.side,):
        x = np.linspace(0.12, 1.08, 30)
        level = anatomy.diaphragm(layers.body, side, np.array([0.95]))[0] - 0.06 - height
        rise = 0.12 + 0.08 * f.shape[1]  # the meniscus climbs along the chest wall
        top = level + rise * (1 - ((x - 0.12) / 0.96) ** 2) - 0.05 * np.exp(-(((x - 0.12) / 0.12) ** 2))
        outline = np.concatenate([np.stack([x, top], axis=1), [(1.08, 1.3), (0.12, 1.3)]]) * (SIDES[side], 1)
        layers.add_solid(layers.canvas.fill([outline], blur=2.5) * 0.96)


def _pneumothorax(layers: Layers, f: Finding) -> None:
    inset = (0.17, 0.28, 0.42)[f.severity] + 0.04 * f.shape[0]
    apex = (0.15, 0.22, 0.32)[f.severity] + 0.04 * f.shape[1]
    whole = anatomy.lung(layers.body, f.side)
    collapsed = anatomy.lung(layers.body, f.side, inset, apex)
    rim = layers.canvas.fill([whole], 1.0) * (1 - layers.canvas.fill([collapsed], 0.6))
    layers.quiet = np.maximum(layers.quiet, rim)
    layers.clear = np.maximum(layers.clear, rim)
    layers.add_solid(layers.canvas.fill([collapsed], 1.0) * (0.26, 0.34, 0.46)[f.severity])
    edge = collapsed[: int(len(collapsed) * 0.42)]  # its outer border
    layers.lines.append((edge, 3.6, 1.0))


def _patch(layers: Layers, f: Finding, radius: float, strength: float, sharp: float) -> np.ndarray:
    """An irregular opacity around the finding's lobe."""
    x, y = _center(layers, f, 0.1)
    stretch = 0.8 + 0.5 * f.shape[2]
    base = layers.canvas.blob(x, y, radius * 1.3 * stretch, radius * 1.3 / stretch)
    wobble = layers.canvas.noise(_own_rng(f), 14)
    field_ = base * (1 + 0.35 * wobble)
    return np.clip((field_ - 0.36) * sharp, 0, 1) * strength


def _consolidation(layers: Layers, f: Finding) -> None:
    radius = (0.19, 0.25, 0.32)[f.severity] + 0.03 * f.shape[3]
    layers.add_solid(_patch(layers, f, radius, (0.7, 0.8, 0.92)[f.severity], sharp=5))


def _pneumonia(layers: Layers, f: Finding) -> None:
    radius = (0.21, 0.26, 0.33)[f.severity] + 0.03 * f.shape[3]
    mask = _patch(layers, f, radius, (0.72, 0.82, 0.92)[f.severity], sharp=5)
    x, y = _center(layers, f, 0.1)
    heading = math.atan2(y - 0.45, x - SIDES[f.side] * 0.2)  # the bronchi come from the hilum
    paths = []
    for i, offset in enumerate((-0.75, -0.25, 0.25, 0.75)):
        angle = heading + 0.25 * offset
        side = np.array([-math.sin(heading), math.cos(heading)]) * offset * radius * 0.85
        t = np.linspace(-1.2, 1.2, 6)[:, None] * radius
        points = np.array([x, y]) + side + t * np.array([math.cos(angle), math.sin(angle)]) * (1, 0.9)
        paths.append((points, 5.0 if i % 2 else 4.2, 1.0))
    layers.add_solid(mask * (1 - 0.85 * layers.canvas.lines(paths, blur=0.8)))


def _opacity(layers: Layers, f: Finding) -> None:
    radius = (0.27, 0.33, 0.40)[f.severity] + 0.03 * f.shape[3]
    layers.add_solid(_patch(layers, f, radius, (0.42, 0.52, 0.62)[f.severity], sharp=2.2))


def _atelectasis(layers: Layers, f: Finding) -> None:
    for side in SIDES if f.side == "bilateral" else (f.side,):
        slope = (f.shape[2] - 0.5) * 0.35
        plates = []
        for i in range(1 + f.severity):
            y = 0.75 + 0.05 * f.shape[1] - 0.095 * i
            x = np.linspace(0.28 + 0.08 * f.shape[0], 0.82 + 0.06 * f.shape[3] - 0.06 * i, 12)
            thick = (0.032 + 0.007 * f.severity) * np.sqrt(np.sin(np.linspace(0.15, math.pi - 0.15, 12)))
            middle = y + slope * (x - x[0]) + 0.02 * np.sin(5 * x)
            upper, lower = np.stack([x, middle - thick], 1), np.stack([x, middle + thick], 1)
            plates.append(np.concatenate([upper, lower[::-1]]) * (SIDES[side], 1))
        mask = layers.canvas.fill(plates, blur=0.9)
        layers.add_solid(mask * (0.85, 0.9, 0.95)[f.severity])
        layers.dense += 0.14 * mask


def _edema(layers: Layers, f: Finding) -> None:
    strength = (0.42, 0.58, 0.74)[f.severity]
    layers.vessels = (2.0, 2.4, 2.8)[f.severity]
    reticular = layers.canvas.noise(_own_rng(f), 4.5)
    for side in SIDES.values():
        haze = layers.canvas.blob(side * 0.36, 0.5, 0.42, 0.56)
        layers.add_solid(np.clip(haze * strength * (1 + 0.3 * reticular), 0, 1))


def _lesion(layers: Layers, f: Finding) -> None:
    radius = (0.09, 0.11, 0.14)[f.severity] + 0.015 * f.shape[2]
    x, y = _center(layers, f, radius + 0.04, spread=1.6)
    ry = radius * layers.canvas.pose.half_width / layers.canvas.pose.lung_height
    mask = layers.canvas.fill([anatomy.ellipse(x, y, radius, ry)], blur=0.9)
    layers.add_solid(mask * (0.9 + 0.1 * f.shape[3]))
    layers.dense += 0.24 * mask


def _thickening(layers: Layers, f: Finding) -> None:
    depth = (0.14, 0.19, 0.24)[f.severity]
    y = np.linspace(0.2 + 0.12 * f.shape[0], 0.68 + 0.14 * f.shape[1], 16)
    edge = anatomy.lateral_edge(y)
    bump = depth * np.clip(np.sin(np.linspace(0.12, math.pi - 0.12, 16)) * 1.6, 0, 1)
    inner = edge - bump * (1 + 0.12 * np.sin(40 * y + 6 * f.shape[2]))
    outline = np.concatenate([np.stack([edge + 0.08, y], 1), np.stack([inner, y], 1)[::-1]]) * (SIDES[f.side], 1)
    mask = layers.canvas.fill([outline], blur=0.8)
    layers.add_solid(mask * 0.92)
    layers.dense += 0.06 * mask


def _fracture(layers: Layers, f: Finding) -> None:
    for step in range(2):  # neighbours break together
        place = 0.5 + 0.22 * f.shape[1] + 0.05 * step
        layers.fractures.append((f.side, rib_number(f.shape) + step, place, 0.07 + 0.025 * f.shape[2]))


# Devices and artifacts


def _curve(*points: tuple[float, float], n: int = 12) -> np.ndarray:
    """A smooth path through points (Catmull-Rom)."""
    p = np.array([points[0], *points, points[-1]], dtype=float)
    t = np.linspace(0, 1, n, endpoint=False)[:, None]
    parts = []
    for a, b, c, d in zip(p, p[1:], p[2:], p[3:], strict=False):
        parts.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3))
    return np.concatenate([*parts, p[-1:]])


def _pacemaker(layers: Layers, f: Finding) -> None:
    s = SIDES[f.side]
    x, y = s * (0.62 + 0.12 * f.shape[0]), 0.12 + 0.1 * f.shape[1]
    t = np.linspace(0, 2 * math.pi, 40)
    power = 0.55  # a rounded rectangle
    rx, ry = 0.16, 0.1
    outline = np.stack(
        [
            x + rx * np.sign(np.cos(t)) * np.abs(np.cos(t)) ** power,
            y + ry * np.sign(np.sin(t)) * np.abs(np.sin(t)) ** power,
        ],
        axis=1,
    )
    layers.boxes.append(outline)
    lead = _curve((x, y - 0.07), (s * 0.4, -0.02), (-0.1 + 0.05 * s, 0.15), (-0.12, 0.5), (0.05, 0.72), (0.28, 0.82))
    layers.metal.append((lead, 2.8, 0.9))


def _venous_catheter(layers: Layers, f: Finding) -> None:
    s = SIDES[f.side]
    tip = (-0.13, 0.38 + 0.12 * f.shape[0])
    if f.shape[1] < 0.5:  # from the neck
        path = _curve((s * 0.2, -0.42), (s * 0.19, -0.15), (-0.12, 0.12), tip)
    else:  # from below the collar bone
        path = _curve((s * 0.98, 0.1), (s * 0.6, 0.02), (s * 0.2, 0.02), (-0.12, 0.16), tip)
    layers.metal.append((path, 3.4, 0.9))


def _endotracheal_tube(layers: Layers, f: Finding) -> None:
    end = 0.14 + 0.1 * f.shape[0]
    for shift in (-0.03, 0.03):
        layers.metal.append((_curve((0.01 + shift, -0.6), (shift, -0.2), (shift, end)), 2.4, 0.95))


def _nasogastric_tube(layers: Layers, f: Finding) -> None:
    path = _curve((0.06, -0.6), (0.04, -0.1), (0.05, 0.4), (0.08, 0.85), (0.28, 1.05), (0.48 + 0.1 * f.shape[0], 1.12))
    layers.metal.append((path, 3.0, 0.9))


def _chest_tube(layers: Layers, f: Finding) -> None:
    s = SIDES[f.side]
    path = _curve(
        (s * 1.2, 0.72 + 0.1 * f.shape[0]),
        (s * 0.84, 0.62 + 0.1 * f.shape[0]),
        (s * (0.55 + 0.1 * f.shape[1]), 0.42),
        (s * 0.42, 0.18 + 0.1 * f.shape[2]),
    )
    layers.metal.append((path, 6.5, 1.0))


def _sternotomy_wires(layers: Layers, f: Finding) -> None:
    for i in range(6):
        y = 0.1 + 0.125 * i + 0.02 * f.shape[0]
        layers.metal.append((anatomy.ellipse(0.0, y, 0.07, 0.03, 0.15, 14), 2.8, 1.0))
        layers.metal.append((np.array([(0.02, y), (-0.03, y + 0.03)]), 2.8, 1.0))


def _jewelry(layers: Layers, f: Finding) -> None:
    depth = 0.0 + 0.12 * f.shape[0]
    t = np.linspace(-1, 1, 15)
    for x, y in zip(0.32 * t, depth - 0.2 * t**2, strict=True):
        layers.boxes.append(anatomy.ellipse(float(x), float(y), 0.026, 0.024, n=10))


# Heart and mediastinum are outlines that change; a grid lies over the whole film (images.py).
_DRAW = {
    "pleural effusion": _effusion,
    "pneumothorax": _pneumothorax,
    "consolidation": _consolidation,
    "pneumonia": _pneumonia,
    "lung opacity": _opacity,
    "atelectasis": _atelectasis,
    "pulmonary edema": _edema,
    "lung lesion": _lesion,
    "pleural thickening": _thickening,
    "rib fracture": _fracture,
    "scoliosis": _scoliosis,
    "pacemaker": _pacemaker,
    "central venous catheter": _venous_catheter,
    "endotracheal tube": _endotracheal_tube,
    "nasogastric tube": _nasogastric_tube,
    "chest tube": _chest_tube,
    "sternotomy wires": _sternotomy_wires,
    "jewelry artifact": _jewelry,
}
