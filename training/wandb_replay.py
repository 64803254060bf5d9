"""Send a finished or interrupted run's `metrics.jsonl` to Weights & Biases: what was kept offline, or never arrived."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from configs.mimic_cxr_config import Config, load_config
from training.tracking import METRICS, read_metrics
from training.wandb_sink import choose_id, mode_of, open_run, reason_of, rows, send
from utils.errors import DataError, UserError
from utils.run_lock import run_lock

PATIENCE = 600.0
"""Seconds to wait until the service has taken all numbers."""


@dataclass
class Replayed:
    run_id: str
    url: str
    """of the run's page"""
    lines: int
    """of `metrics.jsonl`"""
    sent: int
    """those that the service lacked"""


def replay(output_dir: Path | str, project: str = "", entity: str = "", name: str = "") -> Replayed:
    """Send the lines that the service lacks, under the run's own id; sent twice, they are there once.

    Args:
        output_dir: of a training that is not running at the moment.
        project, entity, name: in the place of those in its `config.yaml`, where they are not empty.

    Raises:
        DataError: the folder is not that of a training.
        ConfigError: there is no key.
        UserError: the service cannot be reached; the same command may be given again.
    """
    output = Path(output_dir)
    lines = sum(1 for _ in read_metrics(output / METRICS))  # all of it is sound before anything is sent
    config = _configuration(output)
    for key, value in {"project": project, "entity": entity, "name": name}.items():
        if value:
            setattr(config.wandb, key, value)
    config.wandb.enabled = "online"
    mode_of(config.wandb)
    with run_lock(output, "replay it when the training has ended", DataError):
        try:
            run = open_run(config, choose_id(output, 1, _id_in_checkpoint(output)), "online", PATIENCE)
            sent = 0
            for row, step, values in rows(output, run.starting_step):
                send(run, row, step, values)
                sent += 1
            run.finish()
        except UserError:
            raise
        except Exception as error:  # whatever the service or its client does
            reason = reason_of(error)
            raise UserError(f"Weights & Biases: {reason}: nothing is lost, give the same command again") from None
    return Replayed(run.id, run.url or "", lines, sent)


def _configuration(output: Path) -> Config:
    """That of the run, in its output folder, whatever the defaults are by now."""
    path = output / "config.yaml"
    if not path.is_file():
        raise DataError(f"{path} is not there: name the output folder of a training")
    config = load_config(path).config
    config.training.output_dir = str(output)
    return config


def _id_in_checkpoint(output: Path) -> str:
    """The newest that a checkpoint has; empty where none has one."""
    for path in sorted(output.glob("step-*/training_state.json"), reverse=True):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))["trainer"]["tracker_run"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if isinstance(found, str) and found:
            return found
    return ""
