"""Measured hardware advice: takes real training steps of the configured model, and says what they and a whole run cost.

    python -m utils.hardware_utils --probe --config configs/default_config.yaml

Writes nothing, builds no index and downloads nothing.
"""

from __future__ import annotations

import argparse
import json
import time

from configs.advice import with_advice
from configs.mimic_cxr_config import LoadedConfig, format_config
from training.probe.bench import Bench, Rig, build_rig, loader_rates
from training.probe.choices import Search, Trial, best_trial, choose_workers, search, stopped_growing, with_loader
from training.probe.costs import forecast, needed_memory
from training.probe.memory import line
from training.probe.report import Findings, format_findings
from utils import hardware_utils
from utils.errors import ConfigError, OutOfMemoryError
from utils.hardware_utils import Hardware
from utils.utils import setup_logging

BATCH, ACCUMULATION = "training.batch_size_per_gpu", "training.gradient_accumulation_steps"
WORKERS = "data.num_workers"
MAX_MINUTES = 5.0
GPU_MARGIN = 0.9
"""Share of a GPU that a recommended micro-batch may use: in a long run memory is cut into pieces."""


class Probe:
    """One machine and one configuration; what the user wrote stays.

    Args:
        devices: that the forecast is for.
    """

    def __init__(self, loaded: LoadedConfig, hardware: Hardware, devices: int, max_minutes: float):
        self.loaded, self.config, self.hardware, self.devices = loaded, loaded.config, hardware, devices
        self.max_minutes = max_minutes

    def written(self, key: str) -> int | None:
        """The user's own value, or None."""
        section, name = key.split(".")
        own = self.loaded.origin[key] not in ("default", "hardware")
        return getattr(getattr(self.config, section), name) if own else None

    def accumulation(self, size: int) -> int:
        """Micro-batches a step that keep the global batch, or the user's own number."""
        reference = self.config.training.reference_batch_size
        advice = hardware_utils.recommend(self.hardware, reference, size, processes=self.devices)
        return self.written(ACCUMULATION) or hardware_utils.settings(advice)[ACCUMULATION]

    def run(self) -> Findings:
        """Measure, choose and forecast.

        OutOfMemoryError: not even one image visit fits, or not the user's own size.
        """
        rig, training = build_rig(self.config), self.config.training
        deadline = time.monotonic() + 60 * self.max_minutes
        bench = Bench(rig, self.hardware.memory_gib * 2**30, deadline)
        found = self.search(bench)
        share = max(1, training.reference_batch_size // self.devices)
        limit = bench.limit * (GPU_MARGIN if rig.engine.device.type == "cuda" else 1)
        best = best_trial(found.trials, self.accumulation, share, limit)
        accumulation = self.accumulation(best.size)
        step = best.questions_per_second(accumulation)
        loader, workers, keeps_up = self.workers(rig, best, step, deadline)
        reached = with_loader(step, loader[workers], workers) if loader else step
        visits_per_second = reached * best.size / best.questions
        return Findings(
            hardware=self.hardware,
            rig=rig,
            search=found,
            rates={trial.size: trial.questions_per_second(self.accumulation(trial.size)) for trial in found.trials},
            peaks=bench.peaks,
            limit=bench.limit,
            best=best,
            accumulation=accumulation,
            loader=loader,
            workers=workers,
            keeps_up=keeps_up,
            questions_per_second=reached,
            forecast=forecast(self.config, rig.size, best.size, accumulation, self.devices, visits_per_second),
            memory=needed_memory(
                rig.engine.model, training.save_total_limit, line(bench.peaks)[1], rig.size.index_bytes
            ),
            settings={BATCH: best.size, ACCUMULATION: accumulation, WORKERS: workers},
            written=[key for key in (BATCH, ACCUMULATION, WORKERS) if self.written(key) is not None],
        )

    def search(self, bench: Bench) -> Search:
        """The largest micro-batch, and trials on the way to it; the user's own size alone where there is one."""
        own = self.written(BATCH)
        if own is not None:
            trial = bench.measure(own) if bench.is_safe(own) else None
            if trial is None:
                origin = self.loaded.origin[BATCH]
                raise OutOfMemoryError(
                    f"{BATCH} = {own} (from {origin}) does not fit: leave it out to have it measured"
                )
            return Search([trial], own, None, "it is your own size")
        most = self.config.training.reference_batch_size // (self.devices * (self.written(ACCUMULATION) or 1))

        def hurdle(trials: list[Trial], size: int) -> str:
            if stopped_growing([trial.questions_per_second(self.accumulation(trial.size)) for trial in trials]):
                return "larger ones are no faster"
            return "" if bench.in_time(size) else f"the time of --max_minutes {self.max_minutes:g} is used up"

        found = search(max(1, most), bench.measure, bench.fits, hurdle)
        if not found.trials:
            raise OutOfMemoryError(
                "out of memory with one image visit at a time: lower data.questions_per_image or data.image_size, set "
                "training.gradient_checkpointing to true, or use a smaller model"
            )
        return found

    def workers(self, rig: Rig, best: Trial, step: float, deadline: float) -> tuple[dict[int, float], int, bool | None]:
        """Loader rates, the number of workers, and whether they keep up; None where there is nothing to load."""
        if rig.dataset is None:
            return {}, self.config.data.num_workers, None
        here = min(self.devices, max(1, len(self.hardware.gpus)))
        most = max(0, (self.hardware.cpus - 1) // here)
        rates = loader_rates(rig.dataset, best.size, most, self.written(WORKERS), deadline)
        if not rates:
            return {}, self.config.data.num_workers, None
        return rates, *choose_workers(rates, step)


def main(args: argparse.Namespace) -> int:
    """`--probe` of `utils.hardware_utils`, with that program's options."""
    if args.devices is not None and args.devices < 1:
        raise ConfigError(f"--devices {args.devices}: must be at least 1")
    if args.max_minutes is not None and not args.max_minutes > 0:
        raise ConfigError(f"--max_minutes {args.max_minutes:g}: must be greater than 0")
    setup_logging()
    hardware = hardware_utils.detect()
    devices = args.devices or max(1, len(hardware.gpus))
    args.no_auto = False
    loaded, _ = with_advice(args, {}, hardware, devices)
    if args.print_config:
        print(format_config(loaded))
        return 0
    findings = Probe(loaded, hardware, devices, args.max_minutes or MAX_MINUTES).run()
    print(json.dumps(findings.as_json(), indent=2) if args.json else format_findings(findings))
    return 0
