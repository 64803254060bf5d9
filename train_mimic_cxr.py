"""Train a model and its text-only control; leaves <output_dir>/best_model.

    python train_mimic_cxr.py --config configs/default_config.yaml --mimic_cxr_path DIR --mimic_qa_path DIR

The index of the release is built first if it is missing. Settings: command line > YAML > hardware advice > default.
"""

from __future__ import annotations

import argparse

from utils.cli import HelpFormatter, add_common_arguments, run
from utils.quick_imports import quick_imports

FLAGS = {
    "output_dir": "training.output_dir",
    "batch_size": "training.batch_size_per_gpu",
    "epochs": "training.num_epochs",
    "learning_rate": "training.learning_rate",
    "max_samples": "data.max_samples",
}
"""Options of this script and the settings they stand for."""


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="train_mimic_cxr.py", description=__doc__, formatter_class=HelpFormatter)
    run_options = parser.add_argument_group("run")
    run_options.add_argument(
        "--output_dir", metavar="DIR", help="checkpoints, logs and best_model (default: training.output_dir)"
    )
    run_options.add_argument(
        "--resume",
        default="never",
        metavar="auto|never|PATH",
        help="auto: the newest sound checkpoint of output_dir, a fresh start when there is none; never: a fresh start in "
        "an unused folder; PATH: this checkpoint (default: never)",
    )
    run_options.add_argument(
        "--no_auto", action="store_true", help="no hardware advice: settings as the configuration has them"
    )
    run_options.add_argument(
        "--dry_run", action="store_true", help="build everything, print the plan, stop; writes no output_dir"
    )
    short = parser.add_argument_group("short forms of settings")
    for option, kind, metavar, text in (
        ("batch_size", int, "N", "image visits of one micro-batch on one device"),
        ("epochs", int, "N", "passes over the training questions"),
        ("learning_rate", float, "RATE", "peak rate of the pretrained encoders"),
        ("max_samples", int, "N", "most training questions, for trials"),
    ):
        short.add_argument(f"--{option}", type=kind, metavar=metavar, help=f"{text} (default: {FLAGS[option]})")
    add_common_arguments(parser)
    return parser.parse_args(argv)


def settings(args: argparse.Namespace, place):
    """The configuration with the advice for this run's processes merged in; `place` is this one's `Placement`."""
    from dataclasses import replace

    from configs.advice import with_advice
    from utils import hardware_utils

    hardware = hardware_utils.detect()
    hardware = replace(hardware, gpus=hardware.gpus[: place.local_world_size])
    nodes = place.world_size // place.local_world_size
    return with_advice(args, FLAGS, hardware, place.local_world_size, nodes)[0]


def main(argv: list[str]) -> int:
    args = parse(argv)
    from configs.mimic_cxr_config import format_config
    from utils.interruption import interruption
    from utils.launch_environment import placement

    place = placement()
    with quick_imports():  # of PyTorch, which knows the GPUs
        loaded = settings(args, place)
    if args.print_config:
        if place.rank == 0:
            print(format_config(loaded))
        return 0
    interruption.install()
    with quick_imports():
        from training.processes import join
        from training.run import agreed, check_output, plan, prepare, train, try_forward
        from training.wandb_sink import mode_of
        from utils.utils import setup_logging

    setup_logging(rank=place.rank)
    processes = join(place)

    def check() -> None:
        check_output(loaded.config.training.output_dir, args.resume)
        if processes.is_main:  # the only one that needs a key
            mode_of(loaded.config.wandb)

    processes.main_first("the output folder", check)
    job = prepare(agreed(loaded.config, processes), processes)
    if processes.is_main:
        print("\n".join(plan(job)), flush=True)
    try_forward(job)
    if args.dry_run:
        if processes.is_main:
            print("dry run: everything fits together; nothing was trained")
        return 0
    best = train(job, args.resume)
    if best:
        print(f"best model: {best}")
    return 0


if __name__ == "__main__":
    run(main)
