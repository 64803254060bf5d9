"""Does asking many questions about one image hurt? Trainings that differ in the questions of a visit and in their draw.

The M questions of a visit share one image, its augmentation and its features, so M x B of them teach less than as many
about M x B images. All trainings take the same number of questions a step, so that they differ in M alone, and are
compared at the same number of questions and at the same time. Time is counted in steps, by the cost of a step of each M
as measured in turns in the same run: what else the machine did in one of the trainings does not matter.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

from scipy import stats

from benchmarks.ours import endless_windows
from benchmarks.report import Section
from benchmarks.session import Session
from benchmarks.timing import Variant
from configs.mimic_cxr_config import Config, to_dict
from training.loss import MultiTaskLoss
from training.metrics import HEADLINE
from training.run import Run, prepare
from training.step import OptimizerStep
from training.tracking import Sinks
from training.trainer import BEST, Trainer
from utils.utils import write_json
from utils.watchdog import Watchdog

ONCE = 10**9
"""Steps between two looks or saves: once, at the end"""


@dataclass(frozen=True)
class Way:
    """What a training differs in."""

    questions_per_image: int
    draw: str

    @property
    def name(self) -> str:
        return f"M = {self.questions_per_image}" + (", balanced" if self.draw == "balanced" else "")


@dataclass(frozen=True)
class Cost:
    """Of a training step."""

    visits: int
    """of images"""
    questions: float
    seconds: float


def run(session: Session) -> Iterator[Section]:
    """Times of the steps, then the trainings."""
    args = session.args
    config = session.with_release(args.studies)
    config.data.quality_grade = args.grade
    ways = [Way(m, "epoch") for m in args.questions]
    if args.balanced:
        ways.append(Way(args.balanced, "balanced"))
    runs = {way: prepare(_settings(config, way, args.step_questions)) for way in ways}
    costs = _kept_costs(session, config, runs)
    yield _cost_section(costs, next(iter(runs.values())), args.studies)
    slowest = max(costs, key=lambda way: costs[way].seconds / costs[way].questions)
    for title, budget in (
        ("the same number of questions", _equal_questions(costs, slowest, args.seconds)),
        ("the same time", {way: round(args.seconds / cost.seconds) for way, cost in costs.items()}),
    ):
        yield _trained(session, config, costs, budget, title)


def _settings(config: Config, way: Way, step_questions: int) -> Config:
    """Of one way: as many questions a step as all others, and the same learning rate."""
    config = deepcopy(config)
    config.data = replace(config.data, questions_per_image=way.questions_per_image, draw=way.draw)
    config.training = replace(
        config.training,
        gradient_accumulation_steps=1,
        num_epochs=ONCE,
        max_steps=1,
        eval_steps=ONCE,
        eval_each_epoch=False,
        save_steps=ONCE,
        logging_steps=ONCE,
    )
    trial = prepare(config).train_data
    visits = max(1, round(step_questions * trial.num_visits() / trial.num_questions))
    config.training = replace(config.training, batch_size_per_gpu=visits, reference_batch_size=visits)
    return config


def _folder(session: Session, config: Config) -> Path:
    """Of what an interrupted study goes on from: another one for other settings or data."""
    settings = json.dumps([to_dict(config), session.args.step_questions, session.args.threads], sort_keys=True)
    return session.workdir / "learning" / hashlib.sha256(settings.encode()).hexdigest()[:16]


def _kept_costs(session: Session, config: Config, runs: dict[Way, Run]) -> dict[Way, Cost]:
    """Of an interrupted study, those that it has gone by."""
    file = _folder(session, config) / "costs.json"
    kept = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if set(kept) != {way.name for way in runs}:
        kept = {way.name: vars(cost) for way, cost in _costs(session, runs).items()}
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, kept)
    return {way: Cost(**kept[way.name]) for way in runs}


def _costs(session: Session, runs: dict[Way, Run]) -> dict[Way, Cost]:
    """Steps of all ways, measured in turns."""
    variants = []
    for way, one in runs.items():
        training = one.config.training
        stream = endless_windows(one.train_data, training.batch_size_per_gpu, training.batch_size_per_gpu, 0)
        step = OptimizerStep(one.engine, MultiTaskLoss(training), training, Watchdog("/dev/null", 0))

        def call(stream=stream, step=step) -> int:
            window = next(stream)
            step(window, 0).outcome.settle()
            return window.questions

        variants.append(Variant(way.name, call))
    measured = session.measure(variants, least_seconds=2.0)
    return {
        way: Cost(one.config.training.batch_size_per_gpu, m.items, m.seconds)
        for (way, one), m in zip(runs.items(), measured, strict=True)
    }


def _equal_questions(costs: dict[Way, Cost], slowest: Way, seconds: float) -> dict[Way, int]:
    """Steps of each way, so that all see as many questions as the slowest can within its time."""
    questions = round(seconds / costs[slowest].seconds) * costs[slowest].questions
    return {way: round(questions / cost.questions) for way, cost in costs.items()}


def _cost_section(costs: dict[Way, Cost], one: Run, studies: int) -> Section:
    data = one.train_data
    facts = {
        "look-alike studies": studies,
        "training questions": data.num_questions,
        "of studies": len(data.studies),
        "questions a study": data.num_questions / len(data.studies),
    }
    rows = [
        {
            "": way.name,
            "images a step": cost.visits,
            "questions a step": cost.questions,
            "ms a step": 1e3 * cost.seconds,
            "questions a second": cost.questions / cost.seconds,
        }
        for way, cost in costs.items()
    ]
    return Section("training steps of the study, measured in turns", rows=rows, facts=facts)


def _trained(session: Session, config: Config, costs: dict[Way, Cost], budget: dict[Way, int], title: str) -> Section:
    """All seeds of all ways with a budget of steps each."""
    args, rows = session.args, []
    for way, steps in budget.items():
        scores = []
        for seed in range(args.seed, args.seed + args.seeds):
            session.say(f"{title}: {way.name}, seed {seed}, {steps} steps")
            scores.append(_scores(session, config, way, steps, seed))
        row = {"": way.name, "steps": steps, "questions": steps * costs[way].questions}
        row |= {"images": steps * costs[way].visits, "minutes": steps * costs[way].seconds / 60}
        rows.append(row | {name: interval([one[name] for one in scores]) for name in scores[0]})
    notes = [f"mean over {args.seeds} seeds and half the width of its 95 % interval (t), on the validation split"]
    return Section(f"trained with {title}", rows=rows, notes=notes)


def _scores(session: Session, config: Config, way: Way, steps: int, seed: int) -> dict[str, float | None]:
    """Of one training; an interrupted study finds the ones that it has."""
    folder = _folder(session, config) / f"{way.questions_per_image}-{way.draw}-{steps}-{seed}"
    if not (folder / "scores.json").exists():
        settings = _settings(config, way, session.args.step_questions)
        settings.training = replace(settings.training, seed=seed, max_steps=steps, output_dir=str(folder / "run"))
        write_json(folder / "scores.json", _train(prepare(settings)))
    return json.loads((folder / "scores.json").read_text(encoding="utf-8"))


def _train(one: Run) -> dict[str, float | None]:
    loss, data = MultiTaskLoss(one.config.training), (one.train_data, one.val_data)
    trainer = Trainer(
        one.config, one.model, one.tokenizer, one.engine, *data, loss, Sinks([]), one.total_steps, resume="auto"
    )
    trainer.fit()
    metrics = json.loads((Path(one.config.training.output_dir) / BEST / "metrics.json").read_text(encoding="utf-8"))
    found = metrics["validation"]
    return {"headline": found["headline"]} | {
        head.value: found["heads"][head.value][score] for head, score in HEADLINE.items()
    }


def interval(values: list[float | None]) -> str:
    """Mean and half the width of its 95 % interval by Student's t; `n/a` where a split is too small for the score."""
    if None in values:
        return "n/a"
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:.3f}"
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:.3f} ± {half:.3f}"
