"""Evaluate a trained model beside its controls: predictions.parquet, report.json and report.md.

    python evaluate.py --model_path ./checkpoints/best_model --config configs/default_config.yaml

Model, image size and vocabulary come from the model folder; --config gives data and evaluation settings (without it,
those stored with the model are used).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from utils.cli import add_common_arguments, run
from utils.quick_imports import quick_imports


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="evaluate.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model_path", required=True, metavar="DIR", help="model folder, such as checkpoints/best_model"
    )
    parser.add_argument(
        "--split",
        choices=["validate", "test"],
        default="validate",
        help="default: validate; each use of test is recorded",
    )
    parser.add_argument("--output_dir", metavar="DIR", help="folder of the results (default: evaluation.output_dir)")
    parser.add_argument(
        "--graph",
        choices=["predicted", "none", "shuffled", "oracle"],
        default="predicted",
        help="graph the row `model` and predictions.parquet answer from (default: predicted, the only deployable one)",
    )
    parser.add_argument(
        "--controls", choices=["all", "none"], default="all", help="none: the model alone, without gain (default: all)"
    )
    add_common_arguments(parser)
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    args = parse(argv)
    with quick_imports():
        from configs.mimic_cxr_config import format_config
        from training.evaluation_settings import EvaluationJob, check_folders, load_settings

    job = EvaluationJob(Path(args.model_path), args.split, args.graph, args.controls == "all")
    check_folders(job)
    loaded, conflicts = load_settings(args, job)
    for line in conflicts:
        print(line, file=sys.stderr)
    if args.print_config:
        print(format_config(loaded))
        return 0
    with quick_imports():
        from training.evaluation_run import run_evaluation
        from training.markdown import headline_lines
        from utils.utils import setup_logging

    setup_logging()
    report, path = run_evaluation(job, loaded.config)
    print("\n".join(headline_lines(report)))
    print(f"\nreport: {path}")
    return 0


if __name__ == "__main__":
    run(main)
