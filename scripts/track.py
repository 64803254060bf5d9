"""Weights & Biases: send the numbers of a run that is over, and try settings in a sweep. Numbers only; see docs/TRACKING.md.

python scripts/track.py replay checkpoints                                                     # what the service lacks
python scripts/track.py sweep --parameter training.learning_rate=1e-5..1e-3 > sweep.yaml       # for `wandb sweep sweep.yaml`
python scripts/track.py trial --training.learning_rate=3e-5                                    # what `wandb agent` calls
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # started by its path, Python looks in scripts/ only

from utils.cli import run
from utils.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent
CONFIG = "SSGVQA_TRIAL_CONFIG"
"""Environment: the YAML file of a sweep's trials, which stays on this machine."""
PLAIN = argparse.RawDescriptionHelpFormatter


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/track.py", description=__doc__, formatter_class=PLAIN)
    commands = parser.add_subparsers(dest="command", required=True, metavar="replay|sweep|agent|trial")
    _add_replay(commands)
    _add_sweep(commands)
    _add_agent(commands)
    _add_trial(commands)
    return parser


def _add_replay(commands) -> None:
    text = "Send the lines of OUTPUT_DIR/metrics.jsonl that the service lacks, under the run's own id. May be repeated."
    parser = commands.add_parser(
        "replay", help="send the numbers of a run that is over", description=text, allow_abbrev=False
    )
    parser.add_argument("output_dir", type=Path, metavar="OUTPUT_DIR", help="output folder of a training")
    where = parser.add_argument_group("where to (default: as in the run's config.yaml)")
    where.add_argument("--project", default="", help="project (default: wandb.project of the run)")
    where.add_argument("--entity", default="", help="user or team (default: wandb.entity, or the account's own)")
    where.add_argument("--name", default="", help="name of the run (default: wandb.name, or chosen by the service)")
    _add_common(parser)


def _add_sweep(commands) -> None:
    from configs.sweep import DEFAULT, METHODS

    text = (
        "Print a sweep file with types, ranges and choices of the configuration. It has no path and no text of yours."
    )
    parser = commands.add_parser("sweep", help="print a file for `wandb sweep`", description=text, allow_abbrev=False)
    what = parser.add_argument_group("what to try")
    what.add_argument(
        "--parameter",
        action="append",
        default=[],
        metavar="KEY=VALUES",
        help="low..high, or value,value, or KEY alone for all its choices; may be repeated "
        f"(default: {' '.join(DEFAULT).replace('%', '%%')})",
    )
    what.add_argument("--method", choices=METHODS, default="random", help="how values are chosen (default: random)")
    what.add_argument("--name", default="", help="name of the sweep (default: chosen by the service)")
    trials = parser.add_argument_group("the trials")
    _add_config(trials)
    _add_common(parser)


def _add_agent(commands) -> None:
    text = (
        "Train what the service chooses, one trial after the other, as `wandb agent` does, but without telling the name of "
        "this machine. On several GPUs: one agent each, with CUDA_VISIBLE_DEVICES set."
    )
    parser = commands.add_parser("agent", help="carry out trials of a sweep", description=text, allow_abbrev=False)
    parser.add_argument("sweep", metavar="ENTITY/PROJECT/SWEEP", help="as `wandb sweep` has printed it")
    trials = parser.add_argument_group("the trials")
    _add_config(trials)
    trials.add_argument("--count", type=int, default=0, metavar="N", help="most trials (default: 0, no limit)")
    _add_common(parser)


def _add_trial(commands) -> None:
    text = (
        "One training of a sweep, with --section.key=value for each setting that is tried. An agent calls it; it goes on "
        "where it was stopped when it is called again with the same id."
    )
    parser = commands.add_parser(
        "trial", help="one training of a sweep, called by an agent", description=text, allow_abbrev=False
    )
    trial = parser.add_argument_group("the training")
    _add_config(trial)
    trial.add_argument(
        "--output_dir",
        metavar="DIR",
        help="default: a folder of the sweep's and the run's ids in training.output_dir of the configuration",
    )
    trial.add_argument("--dry_run", action="store_true", help="print the command and stop (default: train)")
    _add_common(parser)


def _add_config(group) -> None:
    group.add_argument(
        "--config",
        metavar="FILE",
        default=os.environ.get(CONFIG) or "configs/default_config.yaml",
        help=f"settings of all trials (default: {CONFIG} of the environment, or configs/default_config.yaml)",
    )


def _add_common(parser: argparse.ArgumentParser) -> None:
    common = parser.add_argument_group("common options")
    common.add_argument("--debug", action="store_true", help="show the traceback of an error (default: one line)")


def main(argv: list[str]) -> int:
    args, rest = build_parser().parse_known_args(argv)
    if args.command == "trial":
        return trial(args, rest)
    if rest:
        raise ConfigError(f"{args.command} has no {' '.join(rest)}: see python scripts/track.py {args.command} --help")
    return {"replay": replay, "sweep": sweep, "agent": agent}[args.command](args)


def replay(args: argparse.Namespace) -> int:
    from training.wandb_replay import replay
    from utils.utils import setup_logging

    setup_logging()
    done = replay(args.output_dir, args.project, args.entity, args.name)
    print(
        f"run {done.run_id}: {done.sent} of {done.lines} lines sent; the service has all of them now. {done.url}".rstrip()
    )
    return 0


def sweep(args: argparse.Namespace) -> int:
    from configs.mimic_cxr_config import load_config
    from configs.sweep import sweep_file

    print(sweep_file(args.parameter, load_config(args.config).config, args.method, args.name), end="")
    hint = f"next: wandb sweep FILE, then for each GPU: python scripts/track.py agent ID --config {args.config}"
    print(hint, file=sys.stderr)
    return 0


def agent(args: argparse.Namespace) -> int:
    from configs.mimic_cxr_config import load_config
    from training.wandb_sink import run_agent

    if args.count < 0:
        raise ConfigError("--count: must be 0 or greater")
    load_config(args.config)  # before the service gives away a trial
    os.environ[CONFIG] = str(Path(args.config).resolve())
    os.chdir(ROOT)  # the file of the sweep names this script
    run_agent(args.sweep, args.count)
    return 0


def trial_command(args: argparse.Namespace, settings: list[str]) -> list[str]:
    """The training's command line. ConfigError: the configuration, a setting or the folder of the trial is missing or wrong."""
    from configs.mimic_cxr_config import load_config
    from configs.sweep import trial_settings

    sets = trial_settings(settings)
    config = load_config(args.config, sets).config
    ids = [os.environ.get(name, "") for name in ("WANDB_SWEEP_ID", "WANDB_RUN_ID")]
    if not args.output_dir and not all(ids):
        raise ConfigError("trial: WANDB_SWEEP_ID and WANDB_RUN_ID are not set, as by an agent: give --output_dir DIR")
    folder = args.output_dir or str(Path(config.training.output_dir) / "-".join(ids))
    command = [sys.executable, str(ROOT / "train_mimic_cxr.py"), "--config", args.config, "--output_dir", folder]
    command += ["--resume", "auto", *(part for one in sets for part in ("--set", one))]
    return command + (["--debug"] if args.debug else [])


def trial(args: argparse.Namespace, settings: list[str]) -> int:
    import shlex

    command = trial_command(args, settings)
    print(shlex.join(command), flush=True)
    if not args.dry_run:
        os.execv(command[0], command)  # noqa: S606 (a list; the agent's signals reach the training itself)
    return 0


if __name__ == "__main__":
    run(main)
