"""`start`: seconds from the call of the training program to the end of its first step, imports included."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.big_index import big_index
from benchmarks.first_step import PHASES
from benchmarks.report import Section
from benchmarks.session import Session
from benchmarks.timing import Measured, Variant
from configs.mimic_cxr_config import to_yaml
from utils.errors import DataError
from utils.version import ROOT

MOST_SECONDS = 600
POLL_SECONDS = 0.002


def run(session: Session) -> Iterator[Section]:
    """The training program on a look-alike release, and the same up to the first step on indexes of several sizes."""
    variants, phases = [], {}
    if session.args.studies:
        variants.append(Variant("train_mimic_cxr.py", _command(session), 1, "starts"))
    for size in session.args.sizes:
        index = big_index(session.workdir / "index", size, side=_side(session))
        name = f"index of {size:,} questions"
        phases[name] = []
        variants.append(Variant(name, _first_step(session, index.path, phases[name]), 1, "starts"))
    measured = session.measure(variants)
    notes = [
        "files are warm; the processes are new; their memory is below, not in this table",
        "train_mimic_cxr.py: until the first line of metrics.jsonl; it also opens and checks the release",
    ]
    facts = {"model": f"{session.config.model.visual_backbone}, {session.config.data.image_size} px"}
    yield Section("from the call to the end of the first step", measured, facts=facts, notes=notes)
    if phases:
        yield Section("seconds of each phase, medians", rows=_phase_rows(measured, phases))


def _side(session: Session) -> int:
    return session.config.data.image_store_size or session.config.data.image_size


def _environment() -> dict[str, str]:
    """Of a program that looks for nothing outside this machine."""
    quiet = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "OMP_WAIT_POLICY": "PASSIVE"}
    return {name: value for name, value in os.environ.items() if name != "WANDB_API_KEY"} | quiet


def _config_file(session: Session, config, name: str) -> Path:
    path = session.workdir / f"{name}.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    return path


def _command(session: Session):
    config = session.with_release(session.args.studies)
    session.index(config)
    config.training.max_steps, config.training.logging_steps = 1, 1
    config.wandb.enabled = "false"
    output = session.workdir / "start-output"
    config.training.output_dir = str(output)
    file = _config_file(session, config, "start-release")

    def call() -> None:
        shutil.rmtree(output, ignore_errors=True)
        metrics, end = output / "metrics.jsonl", time.monotonic() + MOST_SECONDS
        command = [sys.executable, "train_mimic_cxr.py", "--config", str(file.resolve())]
        with subprocess.Popen(
            command, cwd=ROOT, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as process:
            while not (metrics.exists() and metrics.stat().st_size):
                if process.poll() is not None or time.monotonic() > end:
                    process.kill()
                    raise DataError(f"train_mimic_cxr.py took no step: {process.stderr.read().decode()[-500:]}")
                time.sleep(POLL_SECONDS)
            process.kill()

    return call


def _first_step(session: Session, index: Path, phases: list[dict[str, float]]):
    file = _config_file(session, session.config, "start-index")
    command = [sys.executable, "-m", "benchmarks.first_step", str(index.resolve()), "--config", str(file.resolve())]

    def call() -> None:
        done = subprocess.run(command, cwd=ROOT, env=_environment(), capture_output=True, text=True)
        if done.returncode:
            raise DataError(f"benchmarks.first_step failed: {done.stderr[-500:]}")
        phases.append(json.loads(done.stdout))

    return call


def _phase_rows(measured: list[Measured], phases: dict[str, list[dict]]) -> list[dict[str, object]]:
    """Medians without the warm-up, which read the files."""
    rows = []
    for one in measured:
        found = phases.get(one.name, [])[1:]
        if found:
            middle = {name: sorted(f[name] for f in found)[len(found) // 2] for name in (*PHASES, "bytes")}
            rows.append({"": one.name} | {k: middle[k] for k in PHASES} | {"MB in use": middle["bytes"] / 1e6})
    return rows
