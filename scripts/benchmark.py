"""Measure training, data, building, inference and growth on this machine, with look-alike data that it makes itself.

    python scripts/benchmark.py train --images 8 --questions 20
    python scripts/benchmark.py train --config configs/tiny_config.yaml --json train.json

Compared variants are measured in turns in one run; each figure carries its share of what the machine can do at best.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # started by its path, Python looks in scripts/ only

from benchmarks.commands import build_parser
from utils import cli
from utils.quick_imports import quick_imports


def main(argv: list[str]) -> int:
    args = build_parser(__doc__).parse_args(argv)
    with quick_imports():
        from benchmarks.session import run

    return run(args, argv)


if __name__ == "__main__":
    cli.run(main)
