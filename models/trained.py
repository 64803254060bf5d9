"""Does a model folder hold a trained model? Nothing untrained is ever asked."""

from __future__ import annotations

import json
from pathlib import Path

from models.mimic_vqa_model import SSGVQA
from utils.errors import CheckpointError

RECORDS = ("metrics.json", "training_state.json")
"""What a training leaves in a best model and in a checkpoint, with the number of its steps"""


def check_trained_record(folder: Path) -> None:
    """CheckpointError unless a training left its number of steps in a model folder.

    `metrics.json` of a best model and `training_state.json` of a checkpoint have it. A folder that is not there, or not
    complete, is left to `models.model_folder.read`.
    """
    if not (folder / "config.yaml").is_file():
        return
    steps = [_step(folder / name) for name in RECORDS]
    if not any(steps):
        raise CheckpointError(
            f"{folder}: no record of a training (metrics.json with a number of steps): untrained weights are not asked; "
            "give the best_model folder that train_mimic_cxr.py wrote"
        )


def _step(path: Path) -> int:
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["step"])
    except FileNotFoundError:
        return 0
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); copy the model folder again") from error


def check_trained_weights(model: SSGVQA, folder: Path) -> None:
    """CheckpointError where every weight that starts from a fixed value still has it: no step was ever taken.

    Such are the last layer of the boxes (zeros), and the trust in the graph (ones).
    """
    at_start = [not model.region_predictor.box[-1].weight.any()]
    if model.reader is not None:
        at_start.append(bool((model.reader.trust == 1).all()))
    if all(at_start):
        raise CheckpointError(
            f"{folder}: these weights are as they were drawn, no training has changed them; "
            "give the best_model folder that train_mimic_cxr.py wrote"
        )
