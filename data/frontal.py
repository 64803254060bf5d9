"""Is an image plainly no frontal chest film? Some measures of its grey levels, weighed by a fitted logistic model.

A model answers whatever it is shown, so that a photograph, a page or a slice of a CT would get an answer too. The measures can be
read one by one; their weights, and the template that a film is compared with, are fitted by `scripts/fit_frontal_check.py` and
lie in `configs/frontal_check.json`. What the check misses and what it refuses wrongly: docs/ASKING.md.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

CONSTANTS = Path(__file__).resolve().parent.parent / "configs" / "frontal_check.json"
COARSE, FINE = 16, 128
"""Sides of the squares that shape and texture are measured in"""
DARK, LIGHT = 12, 243
"""Grey levels below and above which a pixel counts as black or white"""
COLOURED = 8.0
"""`colourfulness` from which on an image counts as coloured: of 107 films of VQA-RAD the most had 2.7, photographs 16 and more"""
LIKE_ENOUGH = 5.0
"""Score of the template (log odds) beyond which more likeness says nothing more"""
LEAST_SPREAD = 4.0
"""Grey levels (standard deviation) below which an image shows nothing"""

MEASURES: dict[str, str] = {
    "template": "does not look like a chest from the front",
    "symmetry": "its left and right halves differ too much",
    "centre": "no bright middle between two darker lungs",
    "below": "nothing brighter below the lungs",
    "balance": "one half is much brighter than the other",
    "rough": "its texture is too rough or too smooth",
    "black": "too much of it is black",
    "white": "too much of it is white",
    "levels": "too few grey levels, as in a drawing or a page of text",
    "aspect": "its shape is too long or too wide",
}
"""Measure -> what is said where it speaks most against a film"""


@dataclass(frozen=True)
class FrontalCheck:
    """What was found."""

    is_frontal: bool
    """False: plainly no frontal chest film"""
    probability: float
    """of a frontal chest film, in [0, 1], by the fitted model; among images as those it was fitted on"""
    reason: str
    """the measure that speaks most against it; empty if it is one"""
    measures: dict[str, float]
    """of `MEASURES`; empty where colour or emptiness decided"""


@dataclass(frozen=True)
class Constants:
    """The fitted model."""

    template: np.ndarray
    """(16, 16) weight of each place of a coarse film: positive where frontal films are bright as nothing else is"""
    template_bias: float
    centre: np.ndarray
    """(measures,) where each measure is for films, and"""
    scale: np.ndarray
    """(measures,) its spread there"""
    weights: np.ndarray
    """(measures,) log odds lost for each squared spread beyond 1, see `against`; at least 0"""
    bias: float
    threshold: float


def check_frontal(pixels: np.ndarray, colour: float = 0.0) -> FrontalCheck:
    """Look at (h, w) uint8 grey levels, of any size; `colour` is the original's `colourfulness`."""
    if colour >= COLOURED:
        return FrontalCheck(False, 0.0, "it is in colour", {})
    fitted = constants()
    found = measure(pixels, fitted.template, fitted.template_bias)
    if found is None:
        return FrontalCheck(False, 0.0, "nothing is to be seen in it", {})
    lost = fitted.weights * against(np.array([list(found.values())]), fitted.centre, fitted.scale)[0]
    probability = float(1 / (1 + np.exp(np.clip(lost.sum() - fitted.bias, -50, 50))))
    is_frontal = probability >= fitted.threshold
    reason = "" if is_frontal else MEASURES[list(MEASURES)[int(lost.argmax())]]
    return FrontalCheck(is_frontal, probability, reason, found)


def against(measures: np.ndarray, centre: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """(n, measures) -> (n, measures) at least 0: how far beyond a film's usual spread each measure is, logarithm of 1 + square."""
    return np.log1p(np.clip(np.abs(measures - centre) / scale - 1, 0, None) ** 2)


def colourfulness(source: Path | np.ndarray) -> float:
    """Mean distance of red, green and blue from their mean, in grey levels; 0 for grey images and DICOM.

    A file that cannot be opened counts as grey: to say why is the business of `data.images.decode`.
    """
    if isinstance(source, np.ndarray):
        return _colour(source) if source.ndim == 3 else 0.0
    try:
        with Image.open(source, formats=("JPEG", "PNG")) as image:
            if image.mode in ("L", "LA", "1"):
                return 0.0
            image.draft("RGB", (FINE, FINE))
            return _colour(np.asarray(image.convert("RGB").resize((FINE, FINE), Image.Resampling.BOX)))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return 0.0


def _colour(pixels: np.ndarray) -> float:
    values = pixels.astype(np.float32)
    return float(np.abs(values - values.mean(2, keepdims=True)).mean())


def measure(pixels: np.ndarray, template: np.ndarray, template_bias: float) -> dict[str, float] | None:
    """The `MEASURES` of (h, w) uint8 grey levels without their plain border; None where nothing is to be seen."""
    inner = without_border(pixels)
    coarse, fine = _coarse(inner), _reduced(inner, FINE)
    if coarse is None:
        return None
    height, width = inner.shape
    lungs = coarse[4:10, 2:6], coarse[4:10, 10:14]
    both = (lungs[0].mean() + lungs[1].mean()) / 2
    steps = np.abs(np.diff(fine, axis=0)).mean() + np.abs(np.diff(fine, axis=1)).mean()
    histogram = np.bincount(inner.ravel(), minlength=256) / inner.size
    filled = histogram[histogram > 0]
    values = {
        "template": template_score(coarse, template, template_bias),
        "symmetry": float((coarse * coarse[:, ::-1]).mean()),
        "centre": float(coarse[3:11, 7:9].mean() - both),
        "below": float(coarse[13:, 3:13].mean() - both),
        "balance": float(coarse[:, :8].mean() - coarse[:, 8:].mean()),
        "rough": float(np.log(steps / fine.std() + 1e-6)),
        "black": float((inner < DARK).mean()),
        "white": float((inner > LIGHT).mean()),
        "levels": float(-(filled * np.log2(filled)).sum()),
        "aspect": float(np.log(width / height)),
    }
    assert list(values) == list(MEASURES)
    return values


def coarse_film(pixels: np.ndarray) -> np.ndarray | None:
    """(16, 16) grey levels of an image without its border, as the template reads them; None: nothing is to be seen.

    The histogram is flattened first, so that window and exposure do not matter, then mean 0 and standard deviation 1.
    """
    return _coarse(without_border(pixels))


def template_score(coarse: np.ndarray, template: np.ndarray, bias: float) -> float:
    """Log odds of a frontal film by the template alone, `LIKE_ENOUGH` at most."""
    return min(float((coarse * template).sum()) + bias, LIKE_ENOUGH)


def without_border(pixels: np.ndarray) -> np.ndarray:
    """The image without outer rows and columns that are plain (black, white or of one grey); all of it if nothing else is left."""
    rows, columns = (np.flatnonzero(np.ptp(_quantiles(pixels, axis), axis=0) > 2 * LEAST_SPREAD) for axis in (1, 0))
    if len(rows) < COARSE or len(columns) < COARSE:
        return pixels
    return pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _quantiles(pixels: np.ndarray, axis: int) -> np.ndarray:
    return np.quantile(pixels, (0.1, 0.9), axis=axis)


def _reduced(pixels: np.ndarray, side: int) -> np.ndarray:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((side, side), Image.Resampling.BOX), dtype=np.float32)


def _coarse(inner: np.ndarray) -> np.ndarray | None:
    grey = _reduced(inner, FINE).astype(np.uint8)
    if grey.std() < LEAST_SPREAD:
        return None
    ranks = np.bincount(grey.ravel(), minlength=256).cumsum() / grey.size
    values = _reduced(np.uint8(255 * ranks[grey]), COARSE)
    spread = values.std()
    return None if spread < LEAST_SPREAD else (values - values.mean()) / spread


@cache
def constants(path: Path = CONSTANTS) -> Constants:
    """The fitted model as it is shipped."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    if list(stored["measures"]) != list(MEASURES):
        raise ValueError(f"{path} is of other measures: run scripts/fit_frontal_check.py")
    columns = {
        key: np.array([row[key] for row in stored["measures"].values()]) for key in ("centre", "scale", "weight")
    }
    template = np.array(stored["template"], dtype=np.float64)
    numbers = stored["bias"], stored["threshold"]
    return Constants(
        template, stored["template_bias"], columns["centre"], columns["scale"], columns["weight"], *numbers
    )
