"""Checkpoints that exist whole or not at all, and are verified before they are used.

```
<output_dir>/step-00001000/   a complete model folder (see `SSGVQA.save_pretrained`) that can be evaluated as it is
    training_state.pt         optimizer, schedule, scaler and trainer state; read with weights_only=True
    MANIFEST.json             size and SHA-256 of every other file
```
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from configs.mimic_cxr_config import Config
from utils.errors import CheckpointError
from utils.utils import atomic_directory, get_logger, write_json

log = get_logger(__name__)

MANIFEST = "MANIFEST.json"
STATE = "training_state.pt"
_NAME = re.compile(r"step-(\d{8,})")


@dataclass
class TrainingState:
    """What a checkpoint holds beside the weights."""

    step: int
    engine: dict
    trainer: dict


def step_directory(output_dir: Path | str, step: int) -> Path:
    return Path(output_dir) / f"step-{step:08d}"


def list_checkpoints(output_dir: Path | str) -> list[Path]:
    """Folders named like checkpoints, newest first; whether they are sound is not looked at."""
    folder = Path(output_dir)
    found = [p for p in folder.iterdir() if p.is_dir() and _NAME.fullmatch(p.name)] if folder.is_dir() else []
    return sorted(found, key=lambda p: int(_NAME.fullmatch(p.name)[1]), reverse=True)


def save_checkpoint(
    output_dir: Path | str,
    step: int,
    model,
    tokenizer,
    engine_state: dict,
    trainer_state: dict,
    config: Config,
    limit: int,
) -> Path:
    """Write `step-<step>` and delete all but the newest `limit` ones.

    Raises:
        CheckpointError: it could not be written; what was there before is untouched.
    """
    final = step_directory(output_dir, step)
    try:
        with atomic_directory(final) as folder:
            model.save_pretrained(folder, tokenizer, config)
            state = {"step": step, "engine": engine_state, "trainer": trainer_state}
            torch.save(state, folder / STATE)
            write_json(folder / MANIFEST, _manifest(folder))
    except OSError as error:
        raise CheckpointError(
            f"checkpoint {final} cannot be written: {error.strerror or error}; free space or choose another "
            "training.output_dir, then go on with --resume auto"
        ) from error
    prune(output_dir, limit)
    return final


def prune(output_dir: Path | str, limit: int) -> None:
    """Delete all but the newest `limit` checkpoints."""
    for old in list_checkpoints(output_dir)[limit:]:
        try:
            (old / MANIFEST).unlink(missing_ok=True)  # first: a half-deleted checkpoint must not verify
            shutil.rmtree(old)
        except OSError as error:
            log.warning("old checkpoint %s cannot be deleted: %s", old, error)


def verify(folder: Path) -> None:
    """Compare every file with the manifest. CheckpointError with the first difference."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: {MANIFEST} is missing or unreadable ({error})") from error
    for name, (size, digest) in manifest.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{folder}: {name} is missing")
        if path.stat().st_size != size:
            raise CheckpointError(f"{folder}: {name} has {path.stat().st_size} bytes instead of {size}")
        if _sha256(path) != digest:
            raise CheckpointError(f"{folder}: {name} is damaged (its SHA-256 differs from {MANIFEST})")


def find_checkpoint(output_dir: Path | str, resume: str) -> Path | None:
    """The checkpoint to go on from.

    Args:
        resume: `never`: none; `auto`: the newest of `output_dir` that verifies, None when there is none at all; or a
            folder.
    Raises:
        CheckpointError: the named one is not sound, or `auto` finds checkpoints but no sound one.
    """
    if resume == "never":
        return None
    if resume != "auto":
        verify(Path(resume))
        return Path(resume)
    candidates = list_checkpoints(output_dir)
    for folder in candidates:
        try:
            verify(folder)
            return folder
        except CheckpointError as error:
            log.warning("checkpoint rejected: %s", error)
    if candidates:
        raise CheckpointError(
            f"none of the {len(candidates)} checkpoints in {output_dir} is sound; delete them or choose another "
            "training.output_dir to start afresh"
        )
    return None


def load_checkpoint(folder: Path | str, model) -> TrainingState:
    """Load the weights of a verified checkpoint into `model` (strictly) and return the rest.

    Raises:
        CheckpointError: it does not fit the model, or cannot be read.
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
        state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"checkpoint {folder} does not fit this run: {reason}; use the settings it was written with "
            f"({folder}/config.yaml)"
        ) from error
    return TrainingState(state["step"], state["engine"], state["trainer"])


def _manifest(folder: Path) -> dict[str, list]:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    return {p.relative_to(folder).as_posix(): [p.stat().st_size, _sha256(p)] for p in files}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
