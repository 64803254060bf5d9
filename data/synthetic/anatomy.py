"""The phantom's body: shape, pose, outlines of the organs, and the boxes of the named regions.

Chest frame: x = 0 on the midline and +-1 at the chest wall, positive towards the patient's LEFT, which is the right
of a frontal film; y = 0 at the top of the lungs and 1 at the diaphragm. A `Pose` takes frame points to image pixels.
Outlines are (n, 2) float arrays of frame points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np

SIDES = {"right": -1.0, "left": 1.0}
"""Sign of x of each side of the patient."""

_LATERAL_Y = (0.0, 0.04, 0.14, 0.32, 0.55, 0.8, 1.1)
_LATERAL_X = (0.32, 0.46, 0.64, 0.80, 0.89, 0.94, 0.96)
_MEDIAL_Y = (0.0, 0.05, 0.2, 0.45, 0.8, 1.1)
_MEDIAL_X = (0.26, 0.17, 0.15, 0.18, 0.2, 0.2)


@dataclass(frozen=True)
class Body:
    """What stays the same in all films of a patient, in chest-frame units."""

    aspect: float
    """Chest width over lung height in pixels, about 0.95 to 1.35."""
    wall: float
    """Thickness of the soft tissue outside the ribs."""
    heart: float
    """Width of the normal heart; the chest is 2 wide."""
    heart_tilt: float
    mediastinum: float
    """Half width of the normal mediastinum."""
    knob: float
    """How far the aortic knob stands out to the left."""
    dome: float
    """Height of the diaphragm domes."""
    step: float
    """How much higher the right dome stands."""
    shoulder: float
    breast: float
    """Opacity of the breast shadows, 0 to 0.2."""
    spine: float


@dataclass(frozen=True)
class Pose:
    """Chest frame to pixels of one image."""

    width: int
    height: int
    center: tuple[float, float]
    """Pixel of the frame point (0, 0.5)."""
    half_width: float
    """Pixels of one unit of x."""
    lung_height: float
    """Pixels of one unit of y."""
    tilt: float
    """Radians."""

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """(n, 2) frame points -> (n, 2) pixel coordinates."""
        points = np.asarray(points, dtype=np.float64)
        x, y = points[:, 0] * self.half_width, (points[:, 1] - 0.5) * self.lung_height
        cos, sin = math.cos(self.tilt), math.sin(self.tilt)
        return np.stack([self.center[0] + cos * x - sin * y, self.center[1] + sin * x + cos * y], axis=1)

    def half(self) -> Pose:
        """The same in a film of half the size, for what is soft enough to be drawn small and enlarged."""
        width, height = (self.width + 1) // 2, (self.height + 1) // 2
        center = (self.center[0] * width / self.width, self.center[1] * height / self.height)
        return Pose(width, height, center, self.half_width / 2, self.lung_height / 2, self.tilt)

    def boxes(self, outlines: list[np.ndarray]) -> np.ndarray:
        """(n, 4) bounding boxes x1, y1, x2, y2 of n outlines in pixels, to a tenth, clipped to the film."""
        pixels = self.pixels(np.concatenate(outlines))
        starts = np.cumsum([0, *(len(outline) for outline in outlines[:-1])])
        low, high = np.minimum.reduceat(pixels, starts), np.maximum.reduceat(pixels, starts)
        corners = np.clip(np.stack([low, high], axis=1), 0, (self.width, self.height))
        return np.round(corners.reshape(-1, 4), 1)


def draw_body(rng: np.random.Generator) -> Body:
    """A random patient within normal limits."""
    return Body(
        aspect=rng.uniform(0.98, 1.32),
        wall=rng.uniform(0.06, 0.22),
        heart=rng.uniform(0.72, 0.92),
        heart_tilt=rng.uniform(0.25, 0.6),
        mediastinum=rng.uniform(0.13, 0.17),
        knob=rng.uniform(0.02, 0.08),
        dome=rng.uniform(0.09, 0.16),
        step=rng.uniform(0.02, 0.07),
        shoulder=rng.uniform(-0.02, 0.08),
        breast=float(rng.random() < 0.4) * rng.uniform(0.06, 0.16),
        spine=rng.uniform(0.07, 0.1),
    )


def draw_pose(rng: np.random.Generator, body: Body, longest: tuple[int, int]) -> Pose:
    """A random frame and position of this body in a film whose longer side lies in `longest` (pixels)."""
    long_side = int(rng.integers(longest[0], longest[1] + 1))
    ratio = rng.uniform(0.8, 1.2)  # width over height
    width, height = (long_side, round(long_side / ratio)) if ratio >= 1 else (round(long_side * ratio), long_side)
    half_width = width * rng.uniform(0.36, 0.45)
    lung_height = 2 * half_width / body.aspect
    if lung_height > 0.82 * height:
        lung_height = height * rng.uniform(0.7, 0.82)
        half_width = lung_height * body.aspect / 2
    slack_x, slack_y = width / 2 - half_width * 0.95, height / 2 - lung_height * 0.54
    center = (
        width / 2 + np.clip(rng.uniform(-0.13, 0.13) * width, -slack_x, slack_x),
        height / 2 + np.clip(rng.uniform(-0.13, 0.13) * height, -slack_y, slack_y),
    )
    tilt = math.radians(rng.uniform(-6, 6))
    return Pose(width, height, (float(center[0]), float(center[1])), half_width, lung_height, tilt)


def lateral_edge(y: np.ndarray) -> np.ndarray:
    """|x| of the inner chest wall at height y."""
    return np.interp(y, _LATERAL_Y, _LATERAL_X)


def medial_edge(y: np.ndarray) -> np.ndarray:
    """|x| of the lung's inner border at height y."""
    return np.interp(y, _MEDIAL_Y, _MEDIAL_X)


def diaphragm(body: Body, side: str, x: np.ndarray) -> np.ndarray:
    """y of the diaphragm of a side at |x|: a dome, lowest in the costophrenic angle."""
    top = 0.94 - body.dome - (body.step if side == "right" else 0.0) * 0.5
    x = np.abs(x)
    inner = np.clip((0.45 - x) / 0.3, 0, None) ** 2 * 0.35
    outer = np.clip((x - 0.45) / 0.5, 0, None) ** 2
    return top + (1.06 - top) * np.clip(inner + outer, 0, 1)


def lung(body: Body, side: str, inset: float = 0.0, apex: float = 0.0) -> np.ndarray:
    """Outline of a lung. A collapsed one ends `inset` inside the chest wall and `apex` below its top."""
    y_side = np.linspace(apex, 1.04, 24)
    lateral = lateral_edge((y_side - apex) / (1.04 - apex) * 1.04) - inset * np.clip((1.15 - y_side) / 0.5, 0.15, 1)
    lateral = np.maximum(lateral, medial_edge(y_side) + 0.1 * np.sqrt(np.clip((y_side - apex) / 0.2, 0, 1)))
    x_base = np.linspace(lateral[-1], 0.2, 20)
    base = np.stack([x_base, diaphragm(body, side, x_base)], axis=1)
    outer = np.stack([lateral, y_side], axis=1)
    outer = outer[outer[:, 1] < diaphragm(body, side, outer[:, 0])]
    y_in = np.linspace(base[-1, 1], apex + 0.01, 16)
    inner = np.stack([medial_edge(y_in), y_in], axis=1)
    points = np.concatenate([outer, base, inner])
    return points * (SIDES[side], 1.0)


def ellipse(x: float, y: float, rx: float, ry: float, tilt: float = 0.0, n: int = 40) -> np.ndarray:
    """Outline of an ellipse in the frame; `tilt` in radians."""
    t = np.linspace(0, 2 * math.pi, n, endpoint=False)
    u, v = rx * np.cos(t), ry * np.sin(t)
    return np.stack([x + u * math.cos(tilt) - v * math.sin(tilt), y + u * math.sin(tilt) + v * math.cos(tilt)], axis=1)


def heart(body: Body, enlarged: float = 1.0) -> np.ndarray:
    """Outline of the heart, `enlarged` times as wide as normal."""
    width = body.heart * enlarged
    height = 0.21 * (1 + 0.35 * (enlarged - 1))
    return ellipse(
        min(0.16, 0.13 * width / 0.8), 0.74 - 0.06 * (enlarged - 1), width / 2, height, body.heart_tilt * 0.35
    )


def mediastinum(body: Body, widened: float = 1.0) -> np.ndarray:
    """Outline of the mediastinum with the aortic knob; its upper part `widened` times as wide as normal."""
    y = np.linspace(-0.08, 0.9, 30)
    bulge = 1 + (widened - 1) * np.exp(-(((y - 0.2) / 0.2) ** 2))
    half = body.mediastinum * bulge * np.interp(y, (-0.1, 0.1, 0.9), (0.7, 0.95, 1.05))
    knob = body.knob * np.exp(-(((y - 0.24) / 0.07) ** 2))
    right, left = np.stack([-half, y], axis=1), np.stack([half + knob, y], axis=1)
    return np.concatenate([left, right[::-1]])


@cache
def posterior_rib(side: str, number: int) -> np.ndarray:
    """Centre line of the back part of rib 1 to 10 from the spine outwards."""
    t = np.linspace(0, 1, 18)
    start = -0.05 + 0.098 * (number - 1)
    y = start - 0.05 * np.sin(math.pi * t * 0.9) + (0.06 + 0.014 * number) * t**2
    x = 0.08 + (lateral_edge(y + 0.02) - 0.06) * t
    return np.stack([x * SIDES[side], y], axis=1)


@cache
def anterior_rib(side: str, number: int) -> np.ndarray:
    """Centre line of the front part of rib 1 to 6, from the chest wall inwards and down."""
    t = np.linspace(0, 1, 14)
    start = 0.1 + 0.11 * (number - 1)
    y = start + 0.2 * t + 0.05 * np.sin(math.pi * t)
    x = lateral_edge(start) * (1 - t) + 0.3 * t
    return np.stack([x * SIDES[side], y], axis=1)


def torso(body: Body) -> np.ndarray:
    """Outline of everything that is not air around the patient."""
    wall, lift = body.wall, body.shoulder
    half = [(0.24, -0.6), (0.24, -0.24 - lift), (0.6, -0.15 - lift), (1.1, -0.06 - lift), (1.42, 0.02)]
    half += [(1.52, 0.25), (1.38, 0.36), (1.02 + wall, 0.34), (1.0 + wall, 0.6), (1.02 + wall, 1.1)]
    half += [(1.0 + wall, 1.8)]
    left = np.array(half)
    return np.concatenate([left, (left * (-1, 1))[::-1]])


@cache
def clavicle(side: str) -> np.ndarray:
    """Centre line of a collar bone."""
    t = np.linspace(0, 1, 12)
    x = 0.1 + 0.85 * t
    y = 0.08 - 0.14 * t + 0.03 * np.sin(2 * math.pi * t)
    return np.stack([x * SIDES[side], y], axis=1)


# Boxes of named regions


def _rectangle(x0: float, x1: float, y0: float, y1: float) -> np.ndarray:
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


_SIDED_RECTANGLES = {  # name: |x| from, |x| to (None: the chest wall at that height), y from, y to
    "upper lobe": (0.14, None, 0.0, 0.52),
    "lower lobe": (0.18, None, 0.44, 1.0),
    "upper lung zone": (0.14, None, 0.0, 0.36),
    "mid lung zone": (0.15, None, 0.36, 0.62),
    "lower lung zone": (0.18, None, 0.62, 1.0),
    "lung apex": (0.14, None, 0.0, 0.14),
    "lung base": (0.18, None, 0.8, 1.02),
    "hilum": (0.1, 0.36, 0.33, 0.56),
    "perihilar region": (0.1, 0.52, 0.25, 0.68),
    "costophrenic angle": (0.7, 0.98, 0.87, 1.08),
    "cardiophrenic angle": (0.14, 0.42, 0.78, 0.98),
    "chest wall": (0.55, 1.12, 0.0, 1.08),
    "shoulder": (0.95, 1.42, -0.2, 0.16),
    "scapula": (0.84, 1.2, -0.02, 0.58),
    "ribs": (0.06, 1.0, -0.1, 1.08),
}
_MIDLINE_RECTANGLES = {  # x from, x to, y from, y to
    "right middle lobe": (-0.66, -0.15, 0.46, 0.8),
    "lingula": (0.2, 0.72, 0.46, 0.8),
    "upper mediastinum": (-0.2, 0.24, -0.08, 0.36),
    "aorta": (-0.06, 0.25, 0.12, 0.8),
    "aortic arch": (-0.02, 0.25, 0.14, 0.34),
    "descending aorta": (0.02, 0.18, 0.3, 0.88),
    "superior vena cava": (-0.2, -0.06, 0.08, 0.46),
    "trachea": (-0.07, 0.07, -0.42, 0.28),
    "carina": (-0.12, 0.12, 0.22, 0.36),
    "esophagus": (-0.02, 0.12, -0.34, 0.98),
    "stomach": (0.22, 0.8, 0.96, 1.28),
    "abdomen": (-1.0, 1.0, 0.92, 1.7),
    "liver": (-0.96, -0.06, 0.86, 1.4),
    "spine": (-0.12, 0.12, -0.6, 1.6),
    "thoracic spine": (-0.12, 0.12, -0.1, 1.0),
    "sternum": (-0.1, 0.1, 0.04, 0.78),
    "neck": (-0.26, 0.26, -0.6, -0.1),
}


Outlines = dict[str, list[np.ndarray]]


@cache
def _constant_outlines() -> Outlines:
    """Outlines that are the same in every patient."""
    found = {name: [_rectangle(*numbers)] for name, numbers in _MIDLINE_RECTANGLES.items()}
    for side, sign in SIDES.items():
        for name, (x0, x1, y0, y1) in _SIDED_RECTANGLES.items():
            wall = float(lateral_edge(np.linspace(y0, min(y1, 1.0), 5)).max()) if x1 is None else x1
            found[f"{side} {name}"] = [_rectangle(x0, wall, y0, y1) * (sign, 1)]
        found[f"{side} clavicle"] = [clavicle(side) + (0, 0.03), clavicle(side) - (0, 0.03)]
        for number, ordinal in zip(range(3, 10), ("3rd", *(f"{n}th" for n in range(4, 10))), strict=True):
            rib = posterior_rib(side, number)
            found[f"{side} {ordinal} rib"] = [rib - (0, 0.03), rib + (0, 0.03)]
    return found


def region_outlines(body: Body, heart_width: float = 1.0, mediastinum_width: float = 1.0) -> Outlines:
    """Frame outlines of every named region; unions of both sides have two."""
    found = dict(_constant_outlines())
    for side, sign in SIDES.items():
        found[f"{side} lung"] = [lung(body, side)]
        found[f"{side} pleura"] = [lung(body, side) * (1.02, 1.0)]
        top = float(diaphragm(body, side, np.array([0.45]))[0])
        found[f"{side} hemidiaphragm"] = [_rectangle(0.15, 0.96, top - 0.02, 1.06) * (sign, 1)]
    found["heart"] = found["cardiac silhouette"] = [heart(body, heart_width)]
    found["mediastinum"] = [mediastinum(body, mediastinum_width)]
    for union, part in (("lungs", "lung"), ("pleura", "pleura"), ("ribs", "ribs"), ("diaphragm", "hemidiaphragm")):
        found[union] = [found[f"{side} {part}"][0] for side in SIDES]
    return found


_ONE_BOX = ("clavicle", "rib")


def region_boxes(pose: Pose, outlines: Outlines) -> dict[str, list[list[float]]]:
    """Boxes in pixels of every region that is on the film: x1, y1, x2, y2; names that are off it are left out."""
    parts = [
        (name, part)
        for name, outline in outlines.items()
        # upper and lower border of one thing
        for part in ([np.concatenate(outline)] if name.endswith(_ONE_BOX) else outline)
    ]
    boxes: dict[str, list[list[float]]] = {}
    for (name, _), box in zip(parts, pose.boxes([part for _, part in parts]).tolist(), strict=True):
        if box[2] - box[0] >= 2 and box[3] - box[1] >= 2:
            boxes.setdefault(name, []).append(box)
    return boxes
