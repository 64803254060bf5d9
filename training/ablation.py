"""Trained ablations: what each part of the model brings, with several seeds, measured on the same questions.

A run is a training and an evaluation with a seed, in a folder of its own; what is finished there is not done again.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path

import numpy as np
import yaml

from configs import loading
from configs.data_sets import external_setting
from configs.mimic_cxr_config import TYPES, Config, load_config, to_yaml
from data.index import ensure_index
from data.loader import Layout, windows
from training.bootstrap import interval
from training.engine import global_batch
from training.evaluation_run import question_set
from training.loss import MultiTaskLoss
from training.metrics import HEADLINE
from training.predictions import read_predictions
from training.report.groups import GROUPS, members_of
from training.report.scorer import Scored, Scorer
from training.run import prepare
from training.step import OptimizerStep
from utils.errors import ConfigError, UserError
from utils.utils import get_logger, write_atomic, write_json
from utils.version import ROOT
from utils.watchdog import Watchdog

PRESETS = ROOT / "configs" / "ablations"
FULL = "full"
"""The model without any ablation, which all are compared with"""
READ_NO_GRAPH = ("no_graph", "graph_not_read")
"""Ablations whose questions are answered without a graph, in evaluation too"""
RANDOM_TEXT = "random_text"
"""The ablation that needs pretrained encoders"""
MEASURED_STEPS = 3

log = get_logger(__name__)


@dataclass(frozen=True)
class AblationRun:
    """One training with its evaluation."""

    ablation: str
    seed: int
    folder: Path
    config: Config

    def results(self, split: str) -> Path:
        return self.folder / f"results-{split}"

    def predictions(self, split: str) -> Path:
        return self.results(split) / "predictions.parquet"

    def is_done(self, split: str) -> bool:
        return (self.results(split) / "report.json").exists()  # the last file that an evaluation writes

    @property
    def model(self) -> Path:
        return self.folder / "checkpoints" / "best_model"

    @property
    def is_trained(self) -> bool:
        return (self.model / "question_only").exists()  # the last thing that a training writes


def known_ablations() -> list[str]:
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def changing_ablations(config: Config) -> list[str]:
    """All but those that would train the full model again: there is nothing to take from a text encoder with random weights."""
    return [name for name in known_ablations() if name != RANDOM_TEXT or config.model.pretrained]


def plan_runs(
    base: str | None, sets: Sequence[str], ablations: Sequence[str], seeds: Sequence[int], workdir: Path
) -> list[AblationRun]:
    """The runs of the full model and of all ablations, seed by seed.

    ConfigError: an ablation is unknown or changes nothing, a folder holds a run with other settings, or a data set is named
        that is no release: its training starts from a model, which leaves nothing out.
    """
    runs = []
    for name in [FULL, *ablations]:
        deltas = [] if name == FULL else _deltas(name)
        for seed in seeds:
            folder = workdir / name / f"seed-{seed}"
            own = [f"training.seed={seed}", f"training.output_dir={folder / 'checkpoints'}"]
            config = load_config(base, [*sets, *deltas, *own]).config
            config.training.hub_model_id = ""  # each run would replace what the one before has uploaded
            if setting := external_setting(config.data):
                raise ConfigError(
                    f"data.{setting}: ablations are trained from nothing, on a release alone: leave it out"
                )
            if name in known_ablations() and name not in changing_ablations(config):
                raise ConfigError(
                    f"--ablation {name}: with model.pretrained=false this is the full model: leave it out"
                )
            run = AblationRun(name, seed, folder, config)
            _write_settings(run)
            runs.append(run)
    return runs


def _deltas(name: str) -> list[str]:
    path = PRESETS / f"{name}.yaml"
    if not path.exists():
        raise ConfigError(f"no ablation {name!r}: there are {', '.join(known_ablations())}")
    values = loading.flatten(yaml.safe_load(path.read_text(encoding="utf-8")), TYPES, str(path))
    return [f"{key}={value}" for key, value in values.items()]


def _write_settings(run: AblationRun) -> None:
    path, text = run.folder / "config.yaml", to_yaml(run.config)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise ConfigError(f"{run.folder} holds a run with other settings: delete it, or choose another --workdir")
    write_atomic(path, text)


def estimate(runs: Sequence[AblationRun]) -> float:
    """Seconds that the trainings which are not done may take on this machine, by steps measured with the first of them.

    Early stopping may end them sooner; evaluations come on top.
    """
    left = [run for run in runs if not run.is_trained]
    if not left:
        return 0.0
    job = prepare(left[0].config)
    training = left[0].config.training
    take_step = OptimizerStep(job.engine, MultiTaskLoss(training), training, Watchdog("", 0))
    windows = _windows(job, MEASURED_STEPS + 1)
    take_step(next(windows), training.seed).outcome.settle()
    start = time.perf_counter()
    for window in windows:
        take_step(window, training.seed).outcome.settle()
    return (time.perf_counter() - start) / MEASURED_STEPS * job.total_steps * len(left)


def _windows(job, number: int):
    training = job.config.training
    layout = Layout(global_batch(training), training.batch_size_per_gpu)
    return islice(chain.from_iterable(windows(job.train_data, layout, epoch=epoch) for epoch in count()), number)


def carry_out(run: AblationRun, split: str) -> None:
    """Train, or go on training, and evaluate. UserError when a program fails."""
    if not run.is_trained:
        _call("train_mimic_cxr.py", "--config", run.folder / "config.yaml", "--resume", "auto", "--no_auto")
    graph = "none" if run.ablation in READ_NO_GRAPH else "predicted"
    options = ["--model_path", run.model, "--split", split, "--controls", "none", "--graph", graph]
    _call("evaluate.py", *options, "--output_dir", run.results(split))


def _call(program: str, *arguments: object) -> None:
    command = [sys.executable, str(ROOT / program), *map(str, arguments)]
    done = subprocess.run(command)
    if done.returncode:
        raise UserError(f"{program} ended with {done.returncode}; the same command goes on where it stopped")


def compare(runs: Sequence[AblationRun], split: str, samples: int, confidence: float) -> dict:
    """ablation -> group -> `values` by seed, `mean`, `sd`, and the `difference` to the full model with its interval.

    The difference is the mean over seeds; its interval is over resampled patients, the same for all runs.
    """
    config = runs[0].config
    questions = question_set(ensure_index(config), split, config.data)
    scorer = Scorer(questions, samples=samples, confidence=confidence, seed=0)
    scored: dict[str, list[dict[str, Scored | None]]] = {}
    for run in runs:
        answered, _ = read_predictions(run.predictions(split), questions)
        of_groups = {name: scorer.score(answered, head, members_of(questions, name)) for name, head in GROUPS.items()}
        scored.setdefault(run.ablation, []).append(of_groups)
    return {
        name: {
            group: _compared(scorer, [of[group] for of in seeds], [of[group] for of in scored[FULL]], HEADLINE[head])
            for group, head in GROUPS.items()
        }
        for name, seeds in scored.items()
    }


def _compared(scorer: Scorer, seeds: list[Scored | None], full: list[Scored | None], metric: str) -> dict:
    values = [one.scores[metric] if one else None for one in seeds]
    defined = [value for value in values if value is not None]
    found = {
        "metric": metric,
        "values": values,
        "mean": statistics.fmean(defined) if defined else None,
        "sd": statistics.stdev(defined) if len(defined) > 1 else None,
        "difference": None,
    }
    pairs = [(a, b) for a, b in zip(seeds, full, strict=True) if a and b]
    if not pairs or any(a.scores[metric] is None or b.scores[metric] is None for a, b in pairs):
        return found
    value = statistics.fmean(a.scores[metric] - b.scores[metric] for a, b in pairs)
    drawn = np.mean([a.drawn[metric] - b.drawn[metric] for a, b in pairs], axis=0)
    patients = pairs[0][0].patients
    return found | {"difference": interval(value, drawn, scorer.confidence, patients, difference=True).as_json()}


def table_lines(compared: dict, seeds: int) -> list[str]:
    """Markdown: an ablation a line, a head a column."""
    lines = [f"| {seeds} seed(s): mean ± sd, difference to {FULL} | " + " | ".join(GROUPS) + " |"]
    lines.append("|---|" + "---:|" * len(GROUPS))
    for name, of_groups in compared.items():
        lines.append(f"| {name} | " + " | ".join(_cell(name, of) for of in of_groups.values()) + " |")
    return lines


def _cell(name: str, of: dict) -> str:
    if of["mean"] is None:
        return "n/a"
    text = f"{of['mean']:.3f}" + (f" ± {of['sd']:.3f}" if of["sd"] is not None else "")
    gap = of["difference"]
    if name == FULL or not gap or gap["low"] is None:
        return text
    return f"{text}; {gap['value']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}]"


def write_table(workdir: Path, compared: dict, seeds: int) -> None:
    """`ablations.json` and `ablations.md`."""
    write_json(workdir / "ablations.json", compared)
    write_atomic(workdir / "ablations.md", "\n".join(table_lines(compared, seeds)) + "\n")
