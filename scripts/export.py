"""Export a trained model to three ONNX graphs that answer on a CPU without PyTorch, and compare them with it.

    python scripts/export.py checkpoints/best_model exported --int8
    python scripts/export.py checkpoints/best_model exported --int8 --index data_cache/FINGERPRINT

The folder appears only if every output equals the model's up to 1e-4. docs/EXPORT.md says how to use it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # started by its path, Python looks in scripts/ only

from utils.cli import run, say
from utils.quick_imports import quick_imports


def count(text: str, least: int) -> int:
    """A whole number from `least` up."""
    if not text.strip().isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text}: a whole number from {least} up")
    return int(text)


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/export.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model_folder", type=Path, metavar="MODEL_FOLDER", help="such as checkpoints/best_model")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="folder to write; an earlier export is replaced")
    group = parser.add_argument_group("export")
    group.add_argument("--int8", action="store_true", help="graphs with 8-bit weights too (default: fp32 alone)")
    group = parser.add_argument_group("checks")
    group.add_argument(
        "--samples", type=lambda text: count(text, 1), default=32, metavar="N", help="films compared (default: 32)"
    )
    group.add_argument(
        "--index",
        type=Path,
        metavar="DIR",
        help="index whose validation questions are asked, and scored by precision (default: generated films, no scores)",
    )
    group.add_argument(
        "--questions",
        type=lambda text: count(text, 0),
        default=5000,
        metavar="N",
        help="most questions that are scored; 0: all of the split (default: 5000)",
    )
    group = parser.add_argument_group("common options")
    group.add_argument(
        "--threads",
        type=lambda text: count(text, 0),
        default=0,
        metavar="N",
        help="CPU threads (default: 0, all cores)",
    )
    group.add_argument("--debug", action="store_true", help="show the traceback of an error (default: one line)")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    args = parse(argv)
    from models.onnx_folder import require_exporter, require_replaceable

    require_exporter()
    require_replaceable(args.output)
    with quick_imports():
        from training.export_run import ExportJob, lines, run_export
        from utils.utils import setup_logging

    setup_logging()
    report = run_export(
        ExportJob(args.model_folder, args.output, args.int8, args.samples, args.index, args.questions, args.threads)
    )
    say(*lines(report))
    print(f"\nexport: {args.output}")
    return 0


if __name__ == "__main__":
    run(main)
