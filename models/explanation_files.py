"""Explanations as files: a picture, an array and what both are of. Each is complete or absent, and the owner's alone.

    <method>.png    the map over the film, with a legend
    <method>.npz    `map` (H, W) float32 in [0, 1] in the film's original pixels; `layers` of SIM's attention
    <method>.json   method, head, target, logit, probability, regions, fingerprint of the model; written last

No name of a file, no path and no text of the image goes into them, but the question does: they belong where the film is.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from models.cam_methods import CAM_METHODS
from models.explaining import Explanation, FilmPixels
from models.film_maps import peak
from utils.errors import DataError
from utils.overlays import overlay, png, shown_size, with_legend
from utils.utils import write_atomic, write_json, writing_to

FORMAT = 1
"""Raised when a field of the JSON file changes its meaning"""


def check_output(folder: Path, methods: Sequence[str], overwrite: bool) -> None:
    """DataError where explanations would be written over, unless that is wanted, or where `folder` is a file."""
    if folder.exists() and not folder.is_dir():
        raise DataError(f"--output {folder} is a file; name a folder")
    there = [path.name for path in _paths(folder, methods) if path.exists()]
    if there and not overwrite:
        raise DataError(f"--output {folder} already holds {', '.join(there)}; name another folder, or add --overwrite")


def write(
    folder: Path,
    film: FilmPixels,
    question: str,
    explanations: Sequence[Explanation],
    fingerprint: str,
    credentialed: bool,
) -> list[Path]:
    """Write the three files of each explanation, over older ones; their paths. DataError when the disk refuses.

    Args:
        film: as it is to be shown; it may have more pixels than the model saw.
        fingerprint: SHA-256 of the model's weights.
        credentialed: whether they are of credentialed or unknown lineage.
    """
    about = {"format": FORMAT, "question": question, "width": film.width, "height": film.height}
    model = {"model_sha256": fingerprint, "credentialed_model": credentialed}
    with writing_to(folder, "name another --output, or make room"):
        for one in explanations:
            picture, array, text = _paths(folder, [one.method])
            text.unlink(missing_ok=True)  # it vouches for the other two
            write_atomic(picture, png(_picture(film, one)))
            write_atomic(array, _npz(one))
            write_json(text, about | description(one) | model)
    return list(_paths(folder, [one.method for one in explanations]))


def description(one: Explanation) -> dict:
    """An explanation but for its arrays, for JSON."""
    place = peak(one.map)
    return {
        "method": one.method,
        "head": one.head.value,
        "target": one.target,
        "logit": one.logit,
        "probability": one.probability,
        "depends_on_target": one.depends_on_target,
        "stride": one.stride,
        "maximum": one.maximum,
        "peak": None if place is None else {"x": place[0], "y": place[1]},
        "regions": one.regions,
        "global_share": one.global_share,
        "warnings": list(one.warnings),
    }


def summary_lines(explanations: Sequence[Explanation]) -> list[str]:
    """For a terminal: the answer, and where each map is largest."""
    first = explanations[0]
    lines = [
        *(f"warning: {one}" for one in first.warnings),
        f"{first.head.value}: {first.target}, logit {first.logit:+.2f}, probability {first.probability:.2f} (not calibrated)",
    ]
    for one in explanations:
        place = peak(one.map)
        if place is None:
            where = "the same everywhere: it points nowhere"
        else:
            where = f"largest at {100 * place[0]:.0f} % of the width and {100 * place[1]:.0f} % of the height"
        if one.regions:
            top = sorted(one.regions.items(), key=lambda item: -item[1])[:3]
            where += "; " + ", ".join(f"{name} {share:.2f}" for name, share in top)
        lines.append(f"{one.method:<12} {where}")
    return lines


def _paths(folder: Path, methods: Sequence[str]) -> tuple[Path, ...]:
    return tuple(folder / f"{method}.{end}" for method in methods for end in ("png", "npz", "json"))


def _npz(one: Explanation) -> bytes:
    arrays = {"map": one.map} if one.layers is None else {"map": one.map, "layers": one.layers}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _picture(film: FilmPixels, one: Explanation):
    answer = f"{one.head.value}: {one.target}, logit {one.logit:+.2f}"
    if not one.maximum:
        end = "0: nothing speaks for this answer"
    elif one.method in CAM_METHODS:
        end = f"1 = {one.maximum:.3g}"
    else:
        end = f"1 = a share of {one.maximum:.3f}"
    what = "what speaks for the answer" if one.depends_on_target else "attention, whatever the answer"
    if one.warnings:
        answer += " - SHOULD BE REFUSED, see the json"
    lines = (f"{one.method}: {what}", answer)
    size = shown_size(film.width, film.height)
    return with_legend(overlay(film.pixels, one.map, size), lines, ("0", end))
