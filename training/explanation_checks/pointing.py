"""The pointing game (Zhang et al. 2018): does the largest value of a map lie in a box of the answer?

A method must do better than a random point (the boxes' share of the film), than the middle of the film, where much of what can
be found lies, and than its own map of the same question about another patient's film, which knows the question alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from data.label_space import HEADS
from models.explaining import Explainer
from models.film_maps import peak
from training.controls import swap_between_patients
from training.explanation_checks.items import Item
from training.explanation_checks.means import PatientMeans

MIDDLE = 0.5, 0.5
CHANCE, MIDDLE_ROW, OTHER = "chance", "middle", "other_film"
CONTROLS = (CHANCE, MIDDLE_ROW, OTHER)


@dataclass(frozen=True)
class Hits:
    """Of one method; (n,) each."""

    own: np.ndarray
    """bool: the map points into a box"""
    other: np.ndarray | None
    """bool: so does the map of another patient's film; None: films cannot be swapped between patients"""
    empty: np.ndarray
    """bool: the map is the same everywhere and points nowhere, which is no hit"""


def play(
    explainer: Explainer, items: Sequence[Item], methods: Sequence[str], stride: int, seed: int
) -> dict[str, Hits]:
    """Method -> its hits. Each item is explained for its right answer, the most probable one of several."""
    partner = swap_between_patients(np.array([item.patient for item in items]), seed)
    own: dict[str, list[bool]] = {method: [] for method in methods}
    other: dict[str, list[bool]] = {method: [] for method in methods}
    empty: dict[str, list[bool]] = {method: [] for method in methods}
    for number, item in enumerate(tqdm(items, desc="pointing game", unit="question", disable=None)):
        shape = item.film.pixels.shape
        for one in explainer.explain(item.film, item.text, methods, item.head, item.classes, stride, shape):
            place = peak(one.map)
            own[one.method].append(item.hit(place))
            empty[one.method].append(place is None)
            target = one.target
        if partner is not None:
            film = items[partner[number]].film
            for one in explainer.explain(film, item.text, methods, item.head, target, stride, film.pixels.shape):
                other[one.method].append(item.hit(peak(one.map)))
    return {
        m: Hits(np.array(own[m]), None if partner is None else np.array(other[m]), np.array(empty[m])) for m in methods
    }


def score(items: Sequence[Item], hits: dict[str, Hits], means: PatientMeans) -> dict:
    """What the report says of the game: `chance`, `middle`, and for each method its share of hits, that of the control,
    differences to all controls with intervals and p-values, shares by head, and whether it `passes` all."""
    chance = np.array([item.share for item in items])
    middle = np.array([item.hit(MIDDLE) for item in items], dtype=float)
    heads = np.array([item.head.value for item in items])
    methods = {}
    for method, found in hits.items():
        own = found.own.astype(float)
        controls = {CHANCE: chance, MIDDLE_ROW: middle}
        if found.other is not None:
            controls[OTHER] = found.other.astype(float)
        gains = {name: means.of(own - values, difference=True) for name, values in controls.items()}
        methods[method] = {
            "hits": means.of(own).as_json(),
            "other_film": means.of(controls[OTHER]).as_json() if OTHER in controls else None,
            "empty_maps": int(found.empty.sum()),
            "gain_over": {name: gain.as_json() for name, gain in gains.items()},
            "by_head": {h.value: float(own[heads == h.value].mean()) for h in HEADS if (heads == h.value).any()},
            "passes": all(gain.low is not None and gain.low > 0 for gain in gains.values()) and OTHER in gains,
        }
    return {
        "items": len(items),
        "patients": len({item.patient for item in items}),
        "chance": means.of(chance).as_json(),
        "middle": means.of(middle).as_json(),
        "methods": methods,
    }
