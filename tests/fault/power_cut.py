"""Writes checkpoints and models under a recorder, and asks the readers what they find after a power cut at any moment."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from configs.mimic_cxr_config import Config
from models import model_folder
from tests.fault import crash_disk
from training.checkpoint import TrainingState, find_checkpoint, save_checkpoint
from training.engine import EngineState
from utils.errors import CheckpointError
from utils.utils import clean_leftovers, get_logger

ENOUGH = 1_000
"""Bad states after which the point is made"""

Writer = Callable[[Path, int], Path]
Reader = Callable[[Path], Path | None]


class Tokenizer:
    """Of one file."""

    def save_pretrained(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text("{}")


@dataclass
class Tally:
    states: int = 0
    wrong: int = 0
    """something that no save has written, or a refusal to start"""
    older: int = 0
    """sound, but older than the last save that had returned; or nothing although there was one"""


def write_model(folder: Path, version: int) -> Path:
    model = nn.Linear(2, 1)
    nn.init.constant_(model.weight, version)
    nn.init.constant_(model.bias, 0)
    model_folder.write(folder, model, Tokenizer(), Config(), {}, {"metrics.json": {"version": version}})
    return folder


def write_checkpoint(output: Path, step: int) -> Path:
    moments = EngineState({"exp_avg/weight": torch.full((2,), float(step))}, {"steps": step})
    state = TrainingState(step, moments, {"step": step}, {})
    return save_checkpoint(output, state, 2, lambda folder: write_model(folder, step))


def replace_checkpoint(output: Path, version: int) -> Path:
    """First a sound step 5; then, as after a resume from there, step 9 in the place of a damaged one."""
    if version == 1:
        return write_checkpoint(output, 5)
    damaged = output / "step-00000009"
    damaged.mkdir()
    (damaged / "optimizer.safetensors").write_bytes(b"damaged")
    return write_checkpoint(output, 9)


def write_best(output: Path, version: int) -> Path:
    return write_model(output / "best_model", version)


def read_best(output: Path) -> Path | None:
    return output / "best_model" if (output / "best_model").exists() else None


def read_checkpoint(output: Path) -> Path | None:
    return find_checkpoint(output, "auto")


def tally(writer: Writer, reader: Reader, times: int, work: Path, kept=crash_disk.everything, most=2_000) -> Tally:
    """Write `times` times below `work`, then read every state that a power cut may leave."""
    output = work / "run"
    output.mkdir(parents=True)
    recorder, finished, written = crash_disk.Recorder(output, kept), [], []
    with recorder.recording():
        for version in range(1, times + 1):
            folder = writer(output, version)
            recorder._look()
            finished.append(len(recorder.operations))
            written.append({folder.name: crash_disk.as_tree(folder)})
    result, read = Tally(), {}
    for moment, tree in crash_disk.states(recorder.operations, most):
        result.states += 1
        needed = sum(end <= moment for end in finished)
        key = repr(tree)
        if key not in read:
            read[key] = _found(tree, reader, work / "state")
        found = read[key]
        if found is None:
            result.older += needed > 0
        elif found not in written:
            result.wrong += 1
        else:
            result.older += len(written) - written[::-1].index(found) < needed
        if result.wrong + result.older == ENOUGH:
            break
    return result


def _found(tree: crash_disk.Tree, reader: Reader, folder: Path) -> crash_disk.Tree | None:
    """What the next start would go on with; an empty tree when it refuses to start."""
    crash_disk.materialise(tree, folder)
    log = get_logger("training.checkpoint")
    log.disabled = True  # rejected checkpoints are the rule here
    try:
        clean_leftovers(folder)
        found = reader(folder)
        return {found.name: crash_disk.as_tree(found)} if found else None
    except CheckpointError:
        return {}
    finally:
        log.disabled = False
        shutil.rmtree(folder)
