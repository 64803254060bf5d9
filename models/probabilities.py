"""From logits to answers: probabilities, the temperatures that calibrate them, and the classes that are answered.

Letters in shapes: n questions of one head, C classes of that head.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from data.label_space import HEADS, Head
from models.model_folder import WEIGHTS
from utils.errors import CheckpointError
from utils.utils import sha256_of

TEMPERATURES = "temperature.json"
"""In a model folder: temperatures by head, fitted on the validation split, and `model_sha256` of the weights they are for"""
THRESHOLD = 0.5
"""Probability from which on a class of a multi-label head is answered"""
LEAST = 1e-7
"""Probabilities are kept so far from 0 and 1 in logarithms: float32 answers reach both."""


def probabilities(logits: Mapping[str, Tensor]) -> dict[Head, np.ndarray]:
    """Head name -> (n, C) logits become (n, C) float32: softmax over classes, or a sigmoid for each of a multi-label head."""
    return {
        head: (values.float().sigmoid() if spec.multi_label else values.float().softmax(-1)).cpu().numpy()
        for head, spec in HEADS.items()
        for values in [logits[head.value]]
    }


def tempered(head: Head, values: np.ndarray, temperature: float) -> np.ndarray:
    """(n, C) probabilities as if their logits had been divided by `temperature` (Guo et al., ICML 2017)."""
    values = values.astype(np.float64).clip(LEAST, 1 - LEAST)
    if HEADS[head].multi_label:
        return 1 / (1 + np.exp(-(np.log(values) - np.log1p(-values)) / temperature))
    logits = np.log(values) / temperature
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def decide(head: Head, values: np.ndarray) -> np.ndarray:
    """(n, C) probabilities -> (n,) int64 most probable class; multi-label head: (n, C) int8 multi-hot."""
    if HEADS[head].multi_label:
        return (values >= THRESHOLD).astype(np.int8)
    return values.argmax(1)


def sureness(head: Head, values: np.ndarray, decided: np.ndarray) -> np.ndarray:
    """(n,) probability of each whole answer: that of the class, or that of the least sure of all classes' decisions."""
    if not HEADS[head].multi_label:
        return values[np.arange(len(values)), decided]
    return np.where(decided.astype(bool), values, 1 - values).min(1)


def weights_sha256(folder: Path) -> str:
    """SHA-256 of a model folder's weights, hex: what is measured of a model belongs to these weights alone."""
    return sha256_of(folder / WEIGHTS)


def read_measured(path: Path, sha256: str) -> dict | None:
    """A JSON object that an evaluation left in a model folder; None where there is none, or it is about other weights.

    CheckpointError: it cannot be read.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return stored if stored["model_sha256"] == sha256 else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise unreadable(path, error) from error


def read_temperatures(folder: Path, sha256: str) -> dict[Head, float]:
    """Head -> temperature, for the heads that have one; empty where nothing was fitted for these weights.

    CheckpointError: the file cannot be read, or a temperature is no positive number.
    """
    path = folder / TEMPERATURES
    stored = read_measured(path, sha256)
    if stored is None:
        return {}
    try:
        found = {head: float(stored[head.value]) for head in HEADS if stored.get(head.value) is not None}
        if not all(0 < value < np.inf for value in found.values()):
            raise ValueError("a temperature is no positive number")
    except (ValueError, TypeError) as error:
        raise unreadable(path, error) from error
    return found


def unreadable(path: Path, error: Exception) -> CheckpointError:
    """What is said of a damaged file of an evaluation."""
    return CheckpointError(f"{path} cannot be read ({error}): delete it and evaluate the validation split")
