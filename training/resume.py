"""What a run must share with the run that wrote a checkpoint, to go on from there."""

from __future__ import annotations

import torch

from configs.mimic_cxr_config import PLACES, Config, to_dict
from data import label_space
from data.index import Index
from training.engine import global_batch
from training.processes import Processes
from utils.errors import CheckpointError
from utils.utils import get_logger

log = get_logger(__name__)

FREE = {
    *PLACES,
    *("data.max_bad_fraction", "data.on_bad_sample", "training.output_dir", "training.init_from"),
    *("training.logging_steps", "training.save_steps", "training.save_total_limit", "training.hub_model_id"),
    *("training.hub_private_repo", "training.push_to_hub_strategy", "training.hub_acknowledgement"),
    *("training.eval_steps", "training.eval_each_epoch", "training.max_eval_questions"),
    *("training.early_stopping_patience", "training.max_skipped_steps", "training.max_skipped_fraction"),
    *("training.hang_timeout", "training.batch_size_per_gpu", "training.gradient_accumulation_steps"),
}
"""Settings that may change between two runs without a word. The batch sizes are compared by their product."""

NUMERIC = {"training.precision", "training.fp16", "training.gradient_checkpointing", "training.compile"}
"""Settings that may change, but then numbers differ in the last digits."""

BUDGET = {"training.num_epochs", "training.max_steps"}
"""Settings that may change, and stretch the schedule."""

FREE_SECTIONS = ("evaluation", "wandb", "deepspeed")


def describe_run(config: Config, index: Index, processes: Processes) -> dict:
    """For the checkpoint."""
    return {
        "config": to_dict(config),
        "index": index.fingerprint,
        "label_space": label_space.checksum(),
        "global_batch": global_batch(config.training, processes.world_size),
        "world_size": processes.world_size,
        "torch": torch.__version__,
    }


def check_same_run(stored: dict, now: dict, folder: object) -> None:
    """CheckpointError that names what makes going on impossible; a message for what only changes digits."""
    if stored["index"] != now["index"]:
        raise CheckpointError(
            f"checkpoint {folder} was trained on another index ({stored['index']}, now {now['index']}): its place in the "
            "data means nothing here; give the same release and settings, or start a new run in another output_dir"
        )
    if stored["label_space"] != now["label_space"]:
        raise CheckpointError(
            f"checkpoint {folder} was trained with other classes or question types than this version of the code has"
        )
    if stored["global_batch"] != now["global_batch"]:
        raise CheckpointError(
            f"checkpoint {folder} was trained with {stored['global_batch']} image visits a step, now they are "
            f"{now['global_batch']}: choose training.batch_size_per_gpu x training.gradient_accumulation_steps x "
            f"{now['world_size']} process(es) = {stored['global_batch']}"
        )
    changed = _changes(stored["config"], now["config"])
    forbidden = [f"{key}: {old!r} -> {new!r}" for key, old, new in changed if key not in FREE | NUMERIC | BUDGET]
    if forbidden:
        raise CheckpointError(
            f"checkpoint {folder} belongs to another run: {'; '.join(forbidden)}; put these settings back, or start a new "
            f"run in another output_dir (--set training.init_from={folder} starts from its weights)"
        )
    for key, old, new in changed:
        if key in BUDGET:
            log.info("%s: %r -> %r, the learning rate follows the new schedule from here on", key, old, new)
    digits = [f"{key}: {old!r} -> {new!r}" for key, old, new in changed if key in NUMERIC]
    digits += [
        f"{name}: {stored[name]} -> {now[name]}" for name in ("world_size", "torch") if stored[name] != now[name]
    ]
    if digits:
        log.info("the run goes on, but not bit-identical to one that was not cut: %s", "; ".join(digits))


def _changes(old: dict, new: dict) -> list[tuple[str, object, object]]:
    """(dotted key, old value, new value) of all settings that differ; settings that one version lacks do not count."""
    return [
        (f"{section}.{name}", old[section][name], value)
        for section, values in new.items()
        if section in old and section not in FREE_SECTIONS
        for name, value in values.items()
        if name in old[section] and old[section][name] != value and f"{section}.{name}" not in FREE
    ]
