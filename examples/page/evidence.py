"""What the page shows, as plain numbers and names: nothing here knows a model, an index or a browser."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels of the original film"""
Named = tuple[tuple[str, float], ...]
"""Names with their probabilities in [0, 1]"""


@dataclass(frozen=True)
class Region:
    """A node of the predicted scene graph."""

    name: str
    box: Box
    findings: Named = ()
    """entities, the likeliest first"""
    weight: float | None = None
    """share of the answer's attention, in all regions 1; None before a question, or where the model reads no graph"""


@dataclass(frozen=True)
class Picture:
    """A film as it is shown: perhaps smaller than the original, whose size its boxes are given in."""

    pixels: np.ndarray
    """(h, w) uint8"""
    width: int
    height: int
    """of the original"""
    name: str = "film"


@dataclass(frozen=True)
class Truth:
    """What the data set says, from the report."""

    classes: frozenset[str] | None = None
    """the answer: names of the head's classes; None: this question was not asked about the study"""
    regions: frozenset[str] = frozenset()
    """that the answer speaks of"""
    boxes: dict[str, Box] = field(default_factory=dict)
    """of regions, in the report's scene graph"""
    findings: tuple[str, ...] = ()
    """that the report states, each with where it is"""


@dataclass(frozen=True)
class Reply:
    """An answer, or why there is none."""

    question: str
    refusal: str = ""
    """why it is not answered; then nothing else counts"""
    head: str = ""
    answer: str = ""
    chosen: frozenset[str] = frozenset()
    """names of the classes that are answered; with several possible ones perhaps none"""
    probability: float = 0.0
    """of the answer as a whole"""
    classes: Named = ()
    """all of the head, the likeliest first"""
    calibrated: bool = False
    blind_answer: str = ""
    """of the question-only model; empty: there is none beside the model"""
    blind_probability: float = 0.0
    warnings: tuple[str, ...] = ()
    regions: tuple[Region, ...] = ()
