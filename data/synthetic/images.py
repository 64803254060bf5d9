"""From a study to its films: the normal chest, the exposure, and the JPEG.

Brightness grows with what the rays had to pass: air is dark, bone and metal bright.
"""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image, ImageDraw

from data.synthetic import anatomy, cases, findings
from data.synthetic.anatomy import SIDES, Body, Pose
from data.synthetic.canvas import Canvas
from data.synthetic.vocabulary import NOTICE

LONGER_SIDE = (360, 480)
"""Range of the longer side of the films in pixels."""
LATERAL_VIEWS = ("LATERAL", "LL")
_LEVELS = 1023
"""Steps of brightness before the exposure curve."""


def study_poses(study: cases.Study, seed: int, longest: tuple[int, int] = LONGER_SIDE) -> tuple[Body, list[Pose]]:
    """The patient's body, and the pose of each film of the study."""
    body = anatomy.draw_body(cases.generator(seed, cases.BODY, study.patient))
    rngs = (cases.generator(seed, cases.POSE, study.number, i) for i in range(len(study.views)))
    return body, [anatomy.draw_pose(rng, body, longest) for rng in rngs]


def draw_film(study: cases.Study, index: int, body: Body, pose: Pose, seed: int) -> np.ndarray:
    """Film number `index` of a study: (H, W) uint8."""
    rng = cases.generator(seed, cases.PIXELS, study.number, index)
    canvas, small = Canvas(pose), Canvas(pose.half())
    if study.views[index] in LATERAL_VIEWS:
        film = canvas.enlarge(_nuisances(_lateral(study, body, small, rng), study, small, rng))
    else:
        film, layers = _frontal(study, body, small, rng)
        film = canvas.enlarge(_nuisances(film, study, small, rng)) + _metal(layers, canvas)
    return _expose(film, canvas, rng)


def encode(film: np.ndarray) -> bytes:
    """8-bit grey JPEG, quality 95, with the notice as its comment."""
    buffer = io.BytesIO()
    Image.fromarray(film).save(buffer, "JPEG", quality=95, comment=NOTICE.encode("ascii"))
    return buffer.getvalue()


def _frontal(
    study: cases.Study, body: Body, canvas: Canvas, rng: np.random.Generator
) -> tuple[np.ndarray, findings.Layers]:
    """Attenuation of a frontal film without devices, about 0 (air) to 1, and what it is made of."""
    shape = (canvas.pose.height, canvas.pose.width)
    layers = findings.Layers(
        canvas, body, rng, *(np.zeros(shape, np.float32) for _ in range(4)), vessels=rng.uniform(0.85, 1.15)
    )
    findings.apply_findings(layers, study)
    lungs = canvas.fill([anatomy.lung(body, side) for side in SIDES], 1.0)
    heart = canvas.fill([anatomy.heart(body, layers.heart)], 1.6)
    middle = canvas.fill([anatomy.mediastinum(body, layers.mediastinum)], 1.6)
    organs = 1 - (1 - heart) * (1 - middle)
    air = lungs * (1 - 0.93 * organs)
    vessels = _vessels(layers, rng) * air * (1 - layers.quiet) * (1 - 0.7 * layers.solid)
    texture = canvas.noise(rng, 3.2) * 0.014 * air * (1 - layers.quiet) * (1 - 0.8 * layers.solid)
    air = air * (1 - layers.solid) * (1 + 0.18 * layers.clear)

    film = canvas.fill([anatomy.torso(body)], 3.0) * 0.6
    film += 0.09 * canvas.blob(0, 1.25, 1.3, 0.7)  # abdomen
    film += 0.05 * organs - rng.uniform(0.42, 0.54) * air + vessels + texture
    film += _bones(layers, rng) * (1 - 0.45 * heart) + layers.dense
    if body.breast:
        film += body.breast * (canvas.blob(-0.55, 0.78, 0.4, 0.35) + canvas.blob(0.55, 0.78, 0.4, 0.35))
    trachea = [(np.array([(0.0, -0.4), (0.005, 0.27)]), 9.0, 1.0)]
    trachea += [(np.array([(0.0, 0.27), (s * 0.17, 0.38)]), 7.0, 0.8) for s in SIDES.values()]
    film -= 0.13 * canvas.lines(trachea, 1.5)
    stomach = anatomy.ellipse(0.5, 1.12, rng.uniform(0.1, 0.22), rng.uniform(0.04, 0.08))
    film -= rng.uniform(0.08, 0.24) * canvas.fill([stomach], 1.5)
    if layers.lines:
        film += 0.36 * canvas.lines(layers.lines, 0.5)
    return film, layers


def _metal(layers: findings.Layers, canvas: Canvas) -> np.ndarray | float:
    """Devices, at full resolution because they are thin."""
    if not layers.metal and not layers.boxes:
        return 0.0
    metal = canvas.lines(layers.metal, 0.6)
    return 0.6 * (np.maximum(metal, 0.95 * canvas.fill(layers.boxes, 0.8)) if layers.boxes else metal)


def _vessels(layers: findings.Layers, rng: np.random.Generator) -> np.ndarray:
    """Branching vessels from both hila outwards, and the hila."""
    strength = layers.vessels
    width = 0.6 + 0.4 * strength
    paths: list[findings.Path] = []
    for s in SIDES.values():
        angles = np.linspace(-1.25, 1.3, 9) + rng.uniform(-0.1, 0.1, 9)
        ends = np.tile((s * 0.2, 0.44), (9, 1))
        for depth, thick in ((0.24, 4.6), (0.3, 3.0), (0.3, 1.8)):
            starts, branches = ends, angles + 0.5 * rng.choice((-1, 1), 9)
            ends = starts + depth * np.stack([s * np.cos(angles), 0.95 * np.sin(angles)], axis=1)
            tips = starts + depth * 0.8 * np.stack([s * np.cos(branches), 0.95 * np.sin(branches)], axis=1)
            paths += [(line, thick * width, 0.9) for line in np.stack([starts, ends], axis=1)]
            paths += [(line, thick * width * 0.6, 0.7) for line in np.stack([starts, tips], axis=1)]
            angles = angles + rng.uniform(-0.25, 0.25, 9)
    mask = layers.canvas.lines(paths, 0.7) * (0.075 * strength)
    for s in SIDES.values():
        mask += layers.canvas.blob(s * 0.22, 0.44, 0.11, 0.16) * (0.1 * strength)
    return mask


def _bones(layers: findings.Layers, rng: np.random.Generator) -> np.ndarray:
    canvas, body = layers.canvas, layers.body
    broken = {(side, rib): (t, shift) for side, rib, t, shift in layers.fractures}
    strength = rng.uniform(0.05, 0.075)
    ribs: list[findings.Path] = []
    ends: list[findings.Path] = []
    for side in SIDES:
        for number in range(1, 11):
            rib = anatomy.posterior_rib(side, number)
            if (side, number) in broken:
                for piece, cut in _break(rib, *broken[side, number]):
                    ribs.append((piece, 7.5, 1.0))
                    ends += [(cut, 10.0, 0.8), (cut[:1].repeat(2, axis=0) + _STUMP, 13.0, 1.0)]
            else:
                ribs += [(rib, 7.0, 0.85), (rib, 3.6, 0.6)]
    front = [(anatomy.anterior_rib(side, n), 7.0, 0.5) for side in SIDES for n in range(1, 7)]
    result = strength * (canvas.lines(ribs, 0.8) + 0.6 * canvas.lines(front, 1.0))
    if ends:
        result += 0.36 * canvas.lines(ends, 0.8)
    y = np.linspace(-0.6, 1.6, 60)
    bend = layers.scoliosis * np.sin((y - 0.05) * math.pi / 0.95)
    spine = np.stack([bend, y], axis=1)
    discs = [(np.array([(b - 0.09, v), (b + 0.09, v)]), 1.8, 1.0) for b, v in zip(bend[::2], y[::2], strict=True)]
    column = canvas.lines([(spine, 200 * body.spine, 1.0)], 2.0)
    result += 0.1 * column * (1 - 0.35 * canvas.lines(discs, 0.8))
    collar = [(anatomy.clavicle(side), 8.0, 1.0) for side in SIDES]
    result += 0.1 * canvas.lines(collar, 1.0)
    blades = [anatomy.ellipse(s * 1.02, 0.28, 0.16, 0.3, -0.3 * s) for s in SIDES.values()]
    joints = [anatomy.ellipse(s * 1.2, -0.0 - body.shoulder, 0.17, 0.13) for s in SIDES.values()]
    result += 0.12 * canvas.fill(blades + joints, 1.5, (0.42, 0.42, 1.0, 1.0))
    return result


_STUMP = np.array([(-0.012, 0.0), (0.012, 0.0)])
"""A broken end is thicker than the rib."""


def _break(rib: np.ndarray, place: float, shift: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Two pieces of a rib with a gap and a step between them, each with its broken end (the end first)."""
    t = np.linspace(0, 1, len(rib))
    at = np.linspace(0, place - 0.045, 12), np.linspace(place + 0.045, 1, 12)
    inner, outer = (np.stack([np.interp(a, t, rib[:, 0]), np.interp(a, t, rib[:, 1])], axis=1) for a in at)
    outer = outer + np.stack([np.zeros(12), shift * np.linspace(1, 0.1, 12)], axis=1)
    inner = inner - np.stack([np.zeros(12), shift * 0.5 * np.linspace(0, 1, 12) ** 2], axis=1)
    return [(inner, inner[:-5:-1]), (outer, outer[:4])]


def _lateral(study: cases.Study, body: Body, canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    """Attenuation of a crude side view: front on the left, findings at their height only."""
    big = 1.35 if "cardiomegaly" in study.kinds else 1.0
    torso = np.array([(-0.3, -0.5), (-0.35, -0.2), (-0.8, 0.1), (-0.98, 0.5), (-0.95, 1.8), (0.95, 1.8), (1.0, 0.3)])
    torso = np.concatenate([torso, [(0.75, -0.1), (0.35, -0.2), (0.3, -0.5)]])
    lung = np.array([(0.0, 0.0), (-0.35, 0.12), (-0.68, 0.35), (-0.75, 0.75), (-0.6, 0.9), (-0.2, 0.86), (0.3, 0.92)])
    lung = np.concatenate([lung, [(0.66, 1.1), (0.72, 0.7), (0.68, 0.3), (0.4, 0.05)]])
    heart = canvas.fill([anatomy.ellipse(-0.38, 0.68, 0.3 * big, 0.2 * big, 0.5)], 2.0)
    solid = np.zeros_like(heart)
    for finding in study.findings:
        height = {"upper": 0.25, "mid": 0.55, "lower": 0.78}.get(finding.zone)
        if finding.kind == "pleural effusion":
            solid = np.maximum(solid, canvas.blob(0.6, 1.0, 0.3, 0.2 + 0.15 * finding.severity))
        elif height is not None:
            x = (0.5 if finding.zone == "lower" else -0.1) + 0.3 * (finding.shape[0] - 0.5)
            solid = np.maximum(solid, 0.7 * canvas.blob(x, height, 0.2, 0.2))
    air = canvas.fill([lung], 1.5) * (1 - 0.8 * heart) * (1 - solid)
    spine = [(np.array([(0.26, -0.5), (0.4, -0.1), (0.68, 0.3), (0.7, 0.7), (0.58, 1.7)]), 15.0, 1.0)]
    ribs = [(np.array([(0.75, y), (0.1, y + 0.12), (-0.7, y + 0.3)]), 5.0, 0.6) for y in np.arange(-0.05, 0.95, 0.12)]
    film = 0.62 * canvas.fill([torso], 3.0) - 0.4 * air + 0.12 * canvas.lines(spine, 2.0)
    film += 0.06 * canvas.lines(ribs, 1.0) + 0.02 * canvas.noise(rng, 3.5) * air
    return film + 0.1 * canvas.blob(0, 1.3, 1.2, 0.6)


def _nuisances(film: np.ndarray, study: cases.Study, canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    """What lies on the film without belonging to the patient: plates, a grid, uneven exposure."""
    height, width = film.shape
    if study.occluded:
        film = film + _occluder(canvas, rng)
    if "grid artifact" in study.kinds:
        period = rng.uniform(7, 10) * canvas.unit
        film = film + (0.04 * np.sign(np.sin(np.arange(height) * (2 * math.pi / period))))[:, None].astype(np.float32)
    strength, angle = rng.uniform(0, 0.2), rng.uniform(0, 2 * math.pi)
    x = np.linspace(-0.5, 0.5, width, dtype=np.float32)[None, :] * np.float32(strength * math.cos(angle))
    y = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None] * np.float32(strength * math.sin(angle))
    return film + x + y + np.float32(rng.uniform(0.01, 0.05)) * canvas.noise(rng, 60)


def _expose(film: np.ndarray, canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    """Attenuation -> uint8: exposure, gamma, equalisation, noise, marker, collimation."""
    low, high = rng.uniform(-0.12, 0.08), rng.uniform(1.0, 1.25)
    levels = np.clip((film - np.float32(low)) * np.float32(_LEVELS / (high - low)), 0, _LEVELS).astype(np.uint16)
    curve = (np.arange(_LEVELS + 1, dtype=np.float32) / _LEVELS) ** np.float32(rng.uniform(0.75, 1.35))
    if rng.random() < 0.5:
        share = np.float32(rng.uniform(0.3, 0.7))
        counts = np.bincount(levels.ravel(), minlength=_LEVELS + 1)
        curve = (1 - share) * curve + share * (np.cumsum(counts).astype(np.float32) / levels.size)
    film = curve[levels]
    film += np.float32(rng.uniform(0.008, 0.024)) * rng.standard_normal(film.shape, dtype=np.float32)
    _marker(film, rng)
    _collimate(film, rng)
    return (np.clip(film, 0, 1) * 255).astype(np.uint8)


def _occluder(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    """A strip or plate of no meaning, faint and with straight edges."""
    x, y, angle = rng.uniform(-1, 1), rng.uniform(0, 1.1), rng.uniform(-0.8, 0.8)
    half = np.array([rng.uniform(0.08, 0.2), rng.uniform(0.75, 1.35)])
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * half
    turn = np.array([(math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))])
    return canvas.fill([corners @ turn + (x, y)], 0.8) * np.float32(rng.uniform(-0.06, 0.06))


_LETTERS = {"L": [[(0, 0), (0, 1), (0.6, 1)]], "R": [[(0, 1), (0, 0), (0.55, 0.1), (0.55, 0.4), (0, 0.5), (0.6, 1)]]}


def _marker(film: np.ndarray, rng: np.random.Generator) -> None:
    """The letter of a side, in an upper corner."""
    letter = "L" if rng.random() < 0.6 else "R"
    height, width = film.shape
    size = 0.05 * width
    x = width * (rng.uniform(0.86, 0.92) if letter == "L" else rng.uniform(0.05, 0.1))
    y = height * rng.uniform(0.05, 0.2)
    image = Image.new("L", (round(size) + 4, round(size) + 4), 0)
    for stroke in _LETTERS[letter]:
        ImageDraw.Draw(image).line([(2 + size * u, 2 + size * v) for u, v in stroke], fill=255, width=3)
    top, left = int(y), int(x)
    window = film[top : top + image.height, left : left + image.width]
    window[np.asarray(image)[: window.shape[0], : window.shape[1]] > 0] = 0.97


def _collimate(film: np.ndarray, rng: np.random.Generator) -> None:
    """Dark or bright borders."""
    if rng.random() < 0.45:
        return
    height, width = film.shape
    value = 0.0 if rng.random() < 0.9 else 0.7
    for edge in range(4):
        depth = int(rng.uniform(0.0, 0.045) * (height if edge % 2 else width))
        if depth:
            slices = [film[:, :depth], film[:depth], film[:, -depth:], film[-depth:]]
            slices[edge][...] = value
