"""Do the sources of labels agree? CheXpert, NegBio, the scene graph and, for some test studies, a radiologist."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from data.index import Index
from data.label_space import CHEXPERT
from data.names import entity_classes
from data.order import ranges
from data.release import Release
from data.scene_graph import ABSENT
from data.vocabulary import RESERVED

if TYPE_CHECKING:
    import pandas


def agreement(index: Index, release: Release) -> dict[str, dict[str, dict]]:
    """`a and b` -> label -> `n` studies where both say present or absent, `agree`, Cohen's `kappa`, `present` in a and in b.

    Uncertain and not mentioned are left out. Kappa is None where a source says the same of all studies.
    """
    studies = index.studies["study_id"]
    sources = {"CheXpert": np.asarray(index.studies["chexpert"], dtype=np.float64), "scene graph": graph_labels(index)}
    for name, frame in (("NegBio", release.negbio), ("radiologist", release.radiologist)):
        if frame is not None:
            sources[name] = _rows(frame, studies)
    return {
        f"{a} and {b}": {label: _pair(sources[a][:, c], sources[b][:, c]) for c, label in enumerate(CHEXPERT)}
        for a, b in combinations(sources, 2)
    }


def graph_labels(index: Index) -> np.ndarray:
    """(studies, 14) 1: the graph of the study's canonical image says that it is somewhere; 0: only that it is not; else nan."""
    first = index.studies["image_start"].astype(np.int64)
    rows, study = ranges(index.images["finding_start"][first], index.images["finding_count"][first])
    entity, present = index.findings["entity"][rows].astype(np.int64), index.findings["kind"][rows] != ABSENT
    classes = [frozenset()] * RESERVED + [entity_classes(name) or frozenset() for name in index.vocabulary.entities]
    labels = np.full((len(first), len(CHEXPERT)), np.nan)
    for c in range(len(CHEXPERT)):
        own = np.array([c in found for found in classes])[entity]
        labels[study[own & ~present], c] = 0.0
        labels[study[own & present], c] = 1.0  # present somewhere wins over absent elsewhere
    return labels


def _rows(frame: pandas.DataFrame, studies: np.ndarray) -> np.ndarray:
    return frame.reindex(studies).to_numpy(dtype=np.float64)


def _pair(a: np.ndarray, b: np.ndarray) -> dict[str, float | int | None]:
    both = np.isin(a, (0, 1)) & np.isin(b, (0, 1))
    n, a, b = int(both.sum()), a[both], b[both]
    if not n:
        return {"n": 0, "agree": None, "kappa": None, "present": [0, 0]}
    agree = float((a == b).mean())
    chance = float(a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean()))
    kappa = (agree - chance) / (1 - chance) if chance < 1 else None
    return {"n": n, "agree": agree, "kappa": kappa, "present": [int(a.sum()), int(b.sum())]}
