"""Which settings an evaluation has: model, image size and vocabulary are the checkpoint's, the rest is the user's.

Nothing here loads torch, so that `evaluate.py --print_config` answers at once.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from configs import loading
from configs.mimic_cxr_config import Config, LoadedConfig, config_from_args, load_config, to_dict
from utils.errors import CheckpointError

QUESTION_ONLY = "question_only"
BEST = "best_model"
FLAGS = {"output_dir": "evaluation.output_dir", "vqa_rad_path": "data.vqa_rad_path", "own_data": "data.own_data"}


@dataclass(frozen=True)
class EvaluationJob:
    """The choices of the command line that are no settings."""

    model_path: Path | None
    """None: answers come from `predictions`, and no model is at hand"""
    split: str = "validate"
    """`validate` or `test`"""
    graph: str = "predicted"
    """What the row `model` answers from: predicted, none, shuffled or oracle"""
    controls: bool = True
    attention: bool = False
    """Keep where the model looks, and score it against the answer's boxes"""
    pictures: bool = False
    """Films with boxes in report.html"""
    predictions: Path | None = None
    """Answers of any model, scored instead of the model's own"""
    compare: Path | None = None
    """Answers to the same questions that the row `model` is compared with"""

    @property
    def question_only(self) -> Path:
        """Folder of the text-only control."""
        return self.model_path / QUESTION_ONLY


def check_folders(job: EvaluationJob) -> None:
    """CheckpointError, with how to mend it, when the model folder or the text-only control is not there."""
    folder = job.model_path
    if folder is None:
        return
    if not folder.is_dir():
        raise CheckpointError(f"no model folder {folder}: train one with train_mimic_cxr.py or correct --model_path")
    if (folder / BEST / "config.yaml").is_file():
        raise CheckpointError(f"{folder} holds the checkpoints of a training: give {folder / BEST} as --model_path")
    if not (folder / "config.yaml").is_file():
        raise CheckpointError(
            f"{folder} is no model folder (config.yaml is missing): give the best_model folder as --model_path"
        )
    if job.controls and not job.question_only.is_dir():
        raise CheckpointError(
            f"no text-only control in {job.question_only}: train_mimic_cxr.py writes it at the end of training; "
            "let it finish (the same command resumes), or evaluate the model alone with --controls none"
        )


def load_settings(args: argparse.Namespace, job: EvaluationJob) -> tuple[LoadedConfig, list[str]]:
    """Settings from the command line's options, and one line for each that conflicts with the checkpoint.

    Without --config the settings stored with the model are used.
    """
    if job.model_path is None:
        return config_from_args(args, FLAGS), []
    stored = job.model_path / "config.yaml"
    checkpoint = load_config(stored).config
    if args.config is None:
        args = argparse.Namespace(**{**vars(args), "config": str(stored)})
    loaded = config_from_args(args, FLAGS)
    return loaded, adopt_model_settings(loaded, checkpoint)


def adopt_model_settings(loaded: LoadedConfig, checkpoint: Config) -> list[str]:
    """Replace `model` and `data.image_size` by the checkpoint's; one line for each that the user set otherwise."""
    conflicts = []
    for key in [*(f"model.{name}" for name in to_dict(checkpoint)["model"]), "data.image_size"]:
        given, stored = loading.get(loaded.config, key), loading.get(checkpoint, key)
        if given != stored and loaded.origin[key] != "default":
            conflicts.append(f"{key} = {given!r} ({loaded.origin[key]}) is not used: the checkpoint has {stored!r}")
        loading.put(loaded.config, key, stored)
        loaded.origin[key] = "checkpoint"
    return conflicts
