"""Both checks of explanations in one report: numbers for a file, lines for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from configs.mimic_cxr_config import DataConfig
from data.index import Index
from data.summary import SYNTHETIC_NOTICE
from models.explaining import Explainer
from training.evaluation_run import append_to_ledger, dataset_of
from training.explanation_checks import pointing, randomisation
from training.explanation_checks.items import Item, choose_items
from training.explanation_checks.means import PatientMeans
from utils.errors import DataError
from utils.version import commit

FORMAT = 1
BAR_WIDTH = 20


@dataclass(frozen=True)
class CheckSettings:
    """What the checks are made with."""

    split: str = "validate"
    items: int = 300
    """Most questions of the pointing game"""
    randomised_items: int = 24
    """Most patients of the randomisation, one question each"""
    seed: int = 0
    samples: int = 2000
    """Resamples of patients"""
    confidence: float = 0.95


def run_checks(
    explainer: Explainer, index: Index, data: DataConfig, methods: Sequence[str], stride: int, settings: CheckSettings
) -> dict:
    """The report of both checks; DataError when the index has no question with a place, or films too small for the model.

    `data`: settings of the model's training, whose filters choose the questions.
    """
    items = choose_items(index, data, settings.split, settings.items, settings.seed)
    check_resolution(items, explainer.model.image_size, index)
    hits = pointing.play(explainer, items, methods, stride, settings.seed)
    few = one_of_each_patient(items, settings.randomised_items, settings.seed)
    alike = randomisation.compare(explainer, few, methods, stride, settings.seed, _means(few, settings))
    return {
        "format": FORMAT,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "model_sha256": explainer.fingerprint,
        "dataset": dataset_of(index),
        "index_fingerprint": index.fingerprint,
        "synthetic": index.is_synthetic,
        "credentialed": bool(index.is_credentialed or explainer.model.credentialed is not False),
        "settings": asdict(settings) | {"stride": stride, "methods": list(methods)},
        "pointing": pointing.score(items, hits, _means(items, settings)),
        "randomisation": alike,
    }


def check_resolution(items: Sequence[Item], image_size: int, index: Index) -> None:
    """DataError where an index holds less of its films than the model sees: the maps would be of other films."""
    for item in items:
        stored, original = max(item.film.pixels.shape), max(item.film.width, item.film.height)
        if stored < min(image_size, original):
            raise DataError(
                f"index {index.path} holds films of {stored} pixels, and the model sees {image_size}: "
                f"build one with data.image_store_size={image_size}"
            )


def record_test(model: Path, report: dict) -> None:
    """A look at the test split is one line of the ledger beside the model folder; CheckpointError when it cannot be written."""
    if report["settings"]["split"] == "test":
        keys = ("date", "dataset", "model_sha256", "index_fingerprint")
        line = {key: report[key] for key in keys} | {"explanations": report["settings"]["methods"]}
        append_to_ledger(model, line)


def one_of_each_patient(items: Sequence[Item], most: int, seed: int) -> list[Item]:
    """A random question of at most so many patients."""
    order = np.random.default_rng(seed).permutation(len(items))
    chosen: dict[int, int] = {}
    for place in order.tolist():
        chosen.setdefault(items[place].patient, place)
    return [items[place] for place in sorted(list(chosen.values())[:most])]


def passes(report: dict) -> bool:
    """Whether every method passes both checks."""
    checks = (report["pointing"], report["randomisation"])
    return all(method["passes"] for check in checks for method in check["methods"].values())


def table_lines(report: dict) -> list[str]:
    """The report for a terminal; no id in it."""
    lines = [SYNTHETIC_NOTICE, ""] if report["synthetic"] else []
    return [*lines, *_pointing_lines(report), "", *_randomisation_lines(report)]


def _pointing_lines(report: dict) -> list[str]:
    game = report["pointing"]
    interval = f"{100 * report['settings']['confidence']:g} % interval"
    lines = [
        f"pointing game: {game['items']} questions of {game['patients']} patients, {report['settings']['split']} split",
        f"{'':<14}{'in the box':>11}{interval:>18}{'other film':>12}{'over chance':>13}{'middle':>9}{'other':>8}  passes",
    ]
    for name, row in game["methods"].items():
        gains = [_gain(row["gain_over"].get(control)) for control in pointing.CONTROLS]
        other = _number(row["other_film"])
        lines.append(
            f"{name:<14}{_number(row['hits']):>11}{_range(row['hits']):>18}{other:>12}{gains[0]:>13}{gains[1]:>9}{gains[2]:>8}"
            f"  {_verdict(row)}"
        )
    lines += [f"{name:<14}{_number(game[name]):>11}{_range(game[name]):>18}" for name in ("chance", "middle")]
    return lines


def _randomisation_lines(report: dict) -> list[str]:
    check = report["randomisation"]
    lines = [
        f"randomised from the answer back to the pixels: absolute rank correlation with the trained model's map, "
        f"{check['items']} questions; bar {check['bar']}"
    ]
    for name, row in check["methods"].items():
        lines.append(f"{name}: {_verdict(row)}")
        for part in row["parts"]:
            alike = part["absolute_rank_correlation"]
            drawn = "#" * round(BAR_WIDTH * (alike["value"] or 0))
            lines.append(
                f"  {part['part']:<20}{_number(alike):>7}{_range(alike):>18}  {drawn:<{BAR_WIDTH}}  SSIM {_number(part['ssim'])}"
            )
    return lines


def _verdict(row: dict) -> str:
    return "yes" if row["passes"] else "NO"


def _number(interval: dict | None) -> str:
    return "n/a" if interval is None or interval["value"] is None else f"{interval['value']:.3f}"


def _gain(interval: dict | None) -> str:
    return "n/a" if interval is None or interval["value"] is None else f"{interval['value']:+.3f}"


def _range(interval: dict | None) -> str:
    return "" if interval is None or interval["low"] is None else f"[{interval['low']:.3f}, {interval['high']:.3f}]"


def _means(items: Sequence[Item], settings: CheckSettings) -> PatientMeans:
    patients = np.array([item.patient for item in items])
    return PatientMeans(patients, samples=settings.samples, confidence=settings.confidence, seed=settings.seed)
