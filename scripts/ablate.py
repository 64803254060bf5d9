"""Train and evaluate ablations with several seeds, and compare them with the full model in one table.

    python scripts/ablate.py --config configs/tiny_config.yaml --mimic_cxr_path DIR --mimic_qa_path DIR --workdir ablations

The same command goes on where it was stopped. The presets are the files of configs/ablations.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # started by its path, Python looks in scripts/ only

from utils.cli import HelpFormatter, add_common_arguments, run
from utils.quick_imports import quick_imports


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/ablate.py", description=__doc__, formatter_class=HelpFormatter)
    group = parser.add_argument_group("ablations")
    group.add_argument(
        "--ablation",
        default="all",
        metavar="NAMES",
        help="names with commas between; all: those that change the model; none: the full model alone (default: all)",
    )
    group.add_argument("--seeds", type=int, default=3, metavar="N", help="trainings of each (default: 3)")
    group.add_argument(
        "--workdir", type=Path, default=Path("ablations"), metavar="DIR", help="where the runs go (default: ablations)"
    )
    group.add_argument(
        "--split", choices=["validate", "test"], default="validate", help="that is evaluated (default: validate)"
    )
    group.add_argument("--dry_run", action="store_true", help="list the runs and what they cost, and stop")
    add_common_arguments(parser)
    args = parser.parse_args(argv)
    if args.seeds < 1:
        parser.error("--seeds: at least 1")
    return args


def main(argv: list[str]) -> int:
    args = parse(argv)
    with quick_imports():
        from configs.mimic_cxr_config import config_from_args, format_config
        from training import ablation
        from utils.utils import setup_logging

    loaded = config_from_args(args)
    if args.print_config:
        print(format_config(loaded))
        return 0
    setup_logging()
    data = loaded.config.data
    sets = [*args.set, f"data.mimic_cxr_path={data.mimic_cxr_path}", f"data.mimic_qa_path={data.mimic_qa_path}"]
    groups = {"all": ablation.changing_ablations(loaded.config), "none": []}
    names = groups.get(args.ablation, args.ablation.split(","))
    runs = ablation.plan_runs(args.config, sets, names, range(args.seeds), args.workdir)
    left = [one for one in runs if not one.is_done(args.split)]
    print(
        f"{len(runs)} runs of {len(names) + 1} models with {args.seeds} seed(s), {len(runs) - len(left)} of them done"
    )
    hours = ablation.estimate(runs) / 3600
    print(
        f"at most {hours:.1f} hours of training on this machine, by measured steps; evaluations come on top", flush=True
    )
    if args.dry_run:
        return 0
    for number, one in enumerate(left, 1):
        print(f"run {number} of {len(left)}: {one.ablation}, seed {one.seed}", flush=True)
        ablation.carry_out(one, args.split)
    evaluation = loaded.config.evaluation
    compared = ablation.compare(runs, args.split, evaluation.bootstrap_samples, evaluation.confidence)
    ablation.write_table(args.workdir, compared, args.seeds)
    print("\n".join(ablation.table_lines(compared, args.seeds)))
    print(f"table: {args.workdir / 'ablations.md'}")
    return 0


if __name__ == "__main__":
    run(main)
