"""A program that does what train_mimic_cxr.py does up to its first step, with an index that no release stands behind.

    python -m benchmarks.first_step INDEX [--config FILE] [--set KEY=VALUE]

Prints the seconds of its phases as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from utils.quick_imports import quick_imports

STARTED = time.perf_counter()
PHASES = ("imports", "index, data sets, model", "trial forward pass", "first batch", "first step")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.first_step", description=__doc__)
    parser.add_argument("index", type=Path)
    parser.add_argument("--config")
    parser.add_argument("--set", action="append", default=[])
    args = parser.parse_args(argv)
    with quick_imports():
        from configs.mimic_cxr_config import load_config
        from data.index import open_index
        from data.loader import Layout, windows
        from training.engine import global_batch
        from training.loss import MultiTaskLoss
        from training.probe.memory import private_bytes
        from training.run import prepare, try_forward
        from training.step import OptimizerStep
        from utils.watchdog import Watchdog

    config = load_config(args.config, args.set).config
    training = config.training
    ends = [time.perf_counter()]
    run = prepare(config, index=open_index(args.index))
    ends.append(time.perf_counter())
    try_forward(run)
    ends.append(time.perf_counter())
    layout = Layout(global_batch(training), training.batch_size_per_gpu)
    window = next(windows(run.train_data, layout, num_workers=config.data.num_workers))
    ends.append(time.perf_counter())
    take_step = OptimizerStep(run.engine, MultiTaskLoss(training), training, Watchdog("", 0))
    take_step(window, training.seed).outcome.settle()
    ends.append(time.perf_counter())
    seconds = [end - start for start, end in zip([STARTED, *ends], ends)]
    print(json.dumps(dict(zip(PHASES, seconds, strict=True)) | {"bytes": private_bytes()}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
