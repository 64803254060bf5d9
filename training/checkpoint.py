"""Checkpoints that exist whole or not at all, and are verified before they are used.

```
<output_dir>/step-00001000/    a complete model folder (see `SSGVQA.save_pretrained`) that can be evaluated as it is
    optimizer.safetensors      AdamW's moments by parameter name, whatever engine and number of processes wrote them
    training_state.json        steps, schedule, loss scale, trainer state, and what a run must share to go on from here
    MANIFEST.json              size and SHA-256 of every other file
```

Each is built in a hidden folder, reaches the disk, and gets its name by one rename. Nothing points to the newest: it is the
newest that verifies. Nothing is unpickled.
"""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.model_folder import WEIGHTS, compare
from training.engine import EngineState
from utils.errors import CheckpointError
from utils.utils import atomic_directory, get_logger, sha256_of, write_json

log = get_logger(__name__)

MANIFEST = "MANIFEST.json"
OPTIMIZER = "optimizer.safetensors"
STATE = "training_state.json"
KEPT_AT_LEAST = 2
"""Checkpoints that are never deleted to make room for another."""
_NAME = re.compile(r"step-(\d{8,})")


@dataclass
class TrainingState:
    """What a checkpoint holds beside the weights."""

    step: int
    engine: EngineState
    trainer: dict
    run: dict
    """What a run must share to go on from here; see `training.resume`."""


def step_directory(output_dir: Path | str, step: int) -> Path:
    return Path(output_dir) / f"step-{step:08d}"


def list_checkpoints(output_dir: Path | str) -> list[Path]:
    """Folders named like checkpoints, newest first; whether they are sound is not looked at."""
    folder = Path(output_dir)
    found = [p for p in folder.iterdir() if p.is_dir() and _NAME.fullmatch(p.name)] if folder.is_dir() else []
    return sorted(found, key=_step_of, reverse=True)


def save_checkpoint(
    output_dir: Path | str, state: TrainingState, limit: int, save_model: Callable[[Path], None]
) -> Path:
    """Write `step-<step>` and delete all but the newest `limit` ones.

    `save_model` writes a model folder. On a full disk the oldest checkpoint goes and the saving is tried once more, as
    long as two are left.

    Raises:
        CheckpointError: it could not be written; all that was there before is untouched, but for that oldest one.
    """
    final = step_directory(output_dir, state.step)
    try:
        _write(final, state, save_model)
    except (OSError, SafetensorError, CheckpointError) as error:
        old = list_checkpoints(output_dir)
        if len(old) <= KEPT_AT_LEAST:
            raise _cannot_write(final, error) from error
        log.warning("checkpoint %s cannot be written (%s); once more without %s", final, error, old[-1].name)
        _delete(old[-1])
        try:
            _write(final, state, save_model)
        except (OSError, SafetensorError, CheckpointError) as again:
            raise _cannot_write(final, again) from again
    prune(output_dir, limit)
    return final


def _write(final: Path, state: TrainingState, save_model: Callable[[Path], None]) -> None:
    if not final.parent.is_dir():  # it would be made again, without the rest of the run
        raise FileNotFoundError(errno.ENOENT, f"{final.parent} is gone")
    with atomic_directory(final) as folder:
        save_model(folder)
        save_file(state.engine.tensors, folder / OPTIMIZER, metadata={"format": "pt"})
        numbers = {"step": state.step, "engine": state.engine.numbers, "trainer": state.trainer, "run": state.run}
        write_json(folder / STATE, numbers)
        write_json(folder / MANIFEST, _manifest(folder))


def _cannot_write(final: Path, error: Exception) -> CheckpointError:
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    free = shutil.disk_usage(final.parent).free if final.parent.is_dir() else 0
    return CheckpointError(
        f"checkpoint {final} cannot be written: {reason} ({free / 1e9:.2f} GB free); free space or choose another "
        "training.output_dir, then go on with --resume auto"
    )


def prune(output_dir: Path | str, limit: int) -> None:
    """Delete all but the newest `limit` checkpoints."""
    for old in list_checkpoints(output_dir)[limit:]:
        _delete(old)


def _delete(folder: Path) -> None:
    try:
        (folder / MANIFEST).unlink(missing_ok=True)  # first: a half-deleted checkpoint must not verify
        shutil.rmtree(folder)
    except OSError as error:
        log.warning("old checkpoint %s cannot be deleted: %s", folder, error)


def verify(folder: Path) -> None:
    """Compare every file with the manifest. CheckpointError with the first difference."""
    try:
        _verify(folder)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{folder}: cannot be read ({' '.join(str(error).split())})") from error


def _verify(folder: Path) -> None:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        entries = [(str(name), int(size), str(digest)) for name, (size, digest) in manifest.items()]
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"{folder}: {MANIFEST} is missing or unreadable ({error})") from error
    unnamed = {WEIGHTS, OPTIMIZER, STATE} - {name for name, _, _ in entries}
    if unnamed:
        raise CheckpointError(f"{folder}: {MANIFEST} does not name {', '.join(sorted(unnamed))}")
    for name, size, digest in entries:
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{folder}: {name} is missing")
        if path.stat().st_size != size:
            raise CheckpointError(f"{folder}: {name} has {path.stat().st_size} bytes instead of {size}")
        if sha256_of(path) != digest:
            raise CheckpointError(f"{folder}: {name} is damaged (its SHA-256 differs from {MANIFEST})")
    step = json.loads((folder / STATE).read_text(encoding="utf-8"))["step"]
    if _NAME.fullmatch(folder.name) and step != _step_of(folder):
        raise CheckpointError(f"{folder}: holds step {step}: the folder was renamed")


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
    reasons = []
    for folder in list_checkpoints(output_dir):
        try:
            verify(folder)
            return folder
        except CheckpointError as error:
            log.warning("checkpoint rejected: %s", error)
            reasons.append(str(error))
    if reasons:
        raise CheckpointError(
            f"none of the {len(reasons)} checkpoints in {output_dir} is sound ({'; '.join(reasons)}); delete them or choose "
            "another training.output_dir to start afresh"
        )
    return None


def load_checkpoint(folder: Path | str, expected: dict[str, Tensor]) -> tuple[dict[str, Tensor], TrainingState]:
    """Weights and the rest of a verified checkpoint.

    `expected`: tensors with the names and shapes that the weights must have. CheckpointError when they have not, or when a
    file cannot be read.
    """
    folder = Path(folder)
    try:
        weights, tensors = load_file(folder / WEIGHTS), load_file(folder / OPTIMIZER)
        stored = json.loads((folder / STATE).read_text(encoding="utf-8"))
        engine = EngineState(tensors, stored["engine"])
        state = TrainingState(stored["step"], engine, stored["trainer"], stored["run"])
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"checkpoint {folder} cannot be read: {' '.join(str(error).split())[:300]}") from error
    differences = compare(expected, weights)
    if differences:
        raise CheckpointError(
            f"checkpoint {folder} does not fit this run: {'; '.join(differences[:3])}; use the settings it was written "
            f"with ({folder}/config.yaml)"
        )
    return weights, state


def _step_of(folder: Path) -> int:
    return int(_NAME.fullmatch(folder.name)[1])


def _manifest(folder: Path) -> dict[str, list]:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    return {p.relative_to(folder).as_posix(): [p.stat().st_size, sha256_of(p)] for p in files}
