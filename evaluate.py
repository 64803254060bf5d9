"""Evaluate a trained model beside its controls: predictions.parquet, report.json, report.md and report.html.

    python evaluate.py --model_path ./checkpoints/best_model --config configs/default_config.yaml
    python evaluate.py --predictions answers.parquet --config configs/default_config.yaml
    python evaluate.py --model_path ./checkpoints/best_model --own_data films.csv --split test

Model, image size and vocabulary come from the model folder; --config gives data and evaluation settings (without it,
those stored with the model are used). The second form scores the answers of any model, in the form of predictions.parquet.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from utils.cli import HelpFormatter, add_common_arguments, run, say
from utils.quick_imports import quick_imports


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="evaluate.py", description=__doc__, formatter_class=HelpFormatter)
    answers = parser.add_argument_group("whose answers (one of the first two is needed)")
    answers.add_argument(
        "--model_path",
        metavar="DIR",
        help="model folder, such as checkpoints/best_model, or user/name[@revision] on the Hugging Face Hub; with "
        "--predictions: of the text-only control, or left out (default: none)",
    )
    answers.add_argument(
        "--predictions", metavar="FILE", help="score these answers (columns: docs/EVALUATION.md; default: none)"
    )
    answers.add_argument(
        "--graph",
        choices=["predicted", "none", "shuffled", "oracle"],
        default="predicted",
        help="graph the row `model` and predictions.parquet answer from (default: predicted, the only deployable one)",
    )
    answers.add_argument(
        "--compare",
        metavar="FILE",
        help="predictions.parquet of another model: paired differences to its answers (default: none)",
    )
    questions = parser.add_argument_group("to which questions")
    questions.add_argument(
        "--split",
        choices=["validate", "test"],
        default="validate",
        help="of the release; each use of test is recorded (default: validate)",
    )
    questions.add_argument(
        "--own_data",
        metavar="FILE",
        help="evaluate on your own questions instead, CSV or JSONL: docs/OWN_DATA.md (default: none)",
    )
    questions.add_argument(
        "--cross_dataset", action="store_true", help="evaluate on VQA-RAD instead, with the test split of the field"
    )
    questions.add_argument(
        "--vqa_rad_path", metavar="DIR", help="folder of VQA-RAD: trainset.json, testset.json, images/ (default: none)"
    )
    report = parser.add_argument_group("report")
    report.add_argument("--output_dir", metavar="DIR", help="folder of the results (default: evaluation.output_dir)")
    report.add_argument(
        "--controls", choices=["all", "none"], default="all", help="none: the model alone, without gain (default: all)"
    )
    report.add_argument(
        "--compute_attention", action="store_true", help="score where the model looks against the answer's boxes"
    )
    report.add_argument(
        "--with_images", action="store_true", help="films with boxes in report.html; on real data it must stay private"
    )
    add_common_arguments(parser)
    args = parser.parse_args(argv)
    if args.cross_dataset and not args.vqa_rad_path:
        parser.error("--cross_dataset: give the folder of VQA-RAD as --vqa_rad_path")
    if args.vqa_rad_path and not args.cross_dataset:
        parser.error("--vqa_rad_path: add --cross_dataset to evaluate on it")
    if args.own_data and args.cross_dataset:
        parser.error("--own_data, --cross_dataset: one data set at a time")
    if (args.cross_dataset or args.own_data) and not args.model_path:
        parser.error(f"--{'own_data' if args.own_data else 'cross_dataset'}: give the model as --model_path")
    if not (args.model_path or args.predictions):
        parser.error("one of --model_path and --predictions is needed")
    if (args.compute_attention or args.with_images) and args.graph != "predicted":
        parser.error("--compute_attention, --with_images: an answer looks at regions of the predicted graph only")
    if args.predictions and (args.compute_attention or args.with_images or args.graph != "predicted"):
        parser.error("--predictions: where another model looks, or from which graph it answers, is not in its file")
    return args


def main(argv: list[str]) -> int:
    args = parse(argv)
    with quick_imports():
        from configs.mimic_cxr_config import format_config
        from models.hub_folder import model_directory
        from training.evaluation_settings import EvaluationJob, check_folders, load_settings

    paths = [Path(path) if path else None for path in (args.model_path, args.predictions, args.compare)]
    job = EvaluationJob(
        model_path=model_directory(args.model_path) if args.model_path else None,
        split="test" if args.cross_dataset else args.split,
        graph=args.graph,
        controls=args.controls == "all",
        attention=args.compute_attention or args.with_images,
        pictures=args.with_images,
        predictions=paths[1],
        compare=paths[2],
    )
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
    say(*headline_lines(report))
    print(f"\nreport: {path}")
    return 0


if __name__ == "__main__":
    run(main)
