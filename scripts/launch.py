"""Plan and start training on the GPUs at hand: the program behind scripts/launch_distributed_training.sh."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NoReturn

import train_mimic_cxr
from configs.advice import with_advice
from configs.mimic_cxr_config import Config, format_config
from utils import cli
from utils.errors import ConfigError
from utils.hardware_utils import Hardware, detect, format_box, simulate
from utils.launch import Layout, command, environment, layout, shell_line

HEAD = "scripts/launch_distributed_training.sh"


@dataclass(frozen=True)
class LaunchPlan:
    """What is started, with which additional variables, and the text that says so."""

    command: list[str]
    environment: dict[str, str]
    text: str
    starts: bool


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The launcher's options, and the rest, which is the training script's."""
    parser = argparse.ArgumentParser(
        prog=HEAD, description=__doc__, allow_abbrev=False, formatter_class=cli.HelpFormatter
    )
    run = parser.add_argument_group("run")
    run.add_argument("--config", default="configs/default_config.yaml", metavar="FILE", help="YAML file of settings")
    run.add_argument("--no_auto", action="store_true", help="no hardware advice: settings as they are written")
    run.add_argument("--dry_run", action="store_true", help="print hardware, plan and command, and start nothing")
    run.add_argument(
        "--simulate",
        metavar="TEXT",
        help='plan for another machine, such as "4x NVIDIA L4": with --dry_run (default: this one)',
    )
    run.add_argument("--cpus", type=int, metavar="N", help="CPUs of the simulated machine (default: 12 for each GPU)")
    run.add_argument("--debug", action="store_true", help="tracebacks, and messages of NCCL and torch.distributed")
    _add_process_options(parser)
    return parser.parse_known_args(argv)


def _add_process_options(parser: argparse.ArgumentParser) -> None:
    nodes = parser.add_argument_group("processes and machines (defaults: what SLURM or Vertex AI says, else as named)")
    nodes.add_argument("--num_gpus", type=int, metavar="N", help="GPUs of this machine (default: all)")
    nodes.add_argument("--nnodes", type=int, metavar="N", help="machines (default: 1)")
    nodes.add_argument("--node_rank", type=int, metavar="K", help="which of them this is, from 0 (default: none)")
    nodes.add_argument("--master_addr", metavar="HOST", help="address of node 0 (default: none)")
    nodes.add_argument("--master_port", type=int, metavar="P", help="a free port of node 0 (default: 29500)")
    nodes.add_argument(
        "--hostfile",
        metavar="FILE",
        help='DeepSpeed\'s launcher on these hosts: lines "NAME slots=GPUS" (default: none)',
    )
    which = nodes.add_mutually_exclusive_group()
    which.add_argument("--deepspeed", action="store_true", help="DeepSpeed's launcher, and deepspeed.enabled=true")
    which.add_argument("--torchrun", action="store_true", help="torchrun (the default for several processes)")
    nodes.add_argument(
        "--max_restarts", type=int, metavar="N", help="start again after a failure, at most so often (default: 0)"
    )


def training_options(options: argparse.Namespace, rest: list[str]) -> list[str]:
    """The options of the training script. The last --resume counts: the user's own stands behind ours."""
    words = ["--config", options.config, "--resume", "auto"]
    words += ["--no_auto"] * options.no_auto + ["--debug"] * options.debug
    if options.deepspeed or options.hostfile:
        words += ["--set", "deepspeed.enabled=true"]
    return [*words, *rest]


def launch_plan(argv: list[str], hardware: Hardware, environ: Mapping[str, str]) -> LaunchPlan:
    """From the command line, the machine and its environment to the command; ConfigError where they do not fit."""
    options, rest = parse(argv)
    where = layout(options, hardware, environ)
    trained = training_options(options, rest)
    used = replace(hardware, gpus=hardware.gpus[: where.processes], notes=[*hardware.notes, *where.notes])
    args = train_mimic_cxr.parse(trained)  # what training does not know ends here, before any process is started
    loaded, advice = with_advice(args, train_mimic_cxr.FLAGS, used, where.processes, where.nodes.count)
    words = command(where, trained, options)
    variables = environment(where, hardware, options.debug, environ)
    if args.print_config:
        return LaunchPlan(words, variables, format_config(loaded), starts=False)
    lines = [format_box(used, advice), "", *plan_lines(where, loaded.config, bool(used.gpus), options.no_auto)]
    lines += ["", "COMMAND", f"  {shell_line(words, variables)}"]
    if options.dry_run:
        lines += ["", "dry run of the launcher: nothing was started"]
    return LaunchPlan(words, variables, "\n".join(lines), starts=not options.dry_run)


def plan_lines(where: Layout, config: Config, gpus: bool, as_written: bool) -> list[str]:
    """What training will use: the user's values, and the advice for the rest."""
    training, several = config.training, where.world_size > 1
    sharded = several and config.deepspeed.enabled and config.deepspeed.stage > 0
    zero = f"ZeRO-{config.deepspeed.stage}" if sharded else "not used"
    engine = f"DeepSpeed {zero}" if sharded else "plain data parallelism" if several else "one process"
    batch, steps = training.batch_size_per_gpu, training.gradient_accumulation_steps
    node = "" if where.nodes.count == 1 or where.launcher == "DeepSpeed" else f" (this is node {where.nodes.rank})"
    return [
        "LAUNCH PLAN" + (" (settings as written: --no_auto)" if as_written else ""),
        f"  Batch per {'GPU:    ' if gpus else 'process:'} {batch}",
        f"  Grad accumulation: {steps}",
        f"  Effective batch:   {batch * steps * where.world_size}",
        f"  DeepSpeed:         {zero}",
        f"  Precision:         {training.precision}",
        f"  Processes:         {where.processes} per node x {where.nodes.count} node(s) = {where.world_size}{node}",
        f"  Engine:            {engine}",
        f"  Launcher:          {where.launcher}",
    ]


def start(plan: LaunchPlan) -> NoReturn:
    """Become the command."""
    if not shutil.which(plan.command[0]):
        raise ConfigError(f"{plan.command[0]} is not in this environment: pip install -r requirements.txt")
    os.execvpe(plan.command[0], plan.command, {**os.environ, **plan.environment})  # noqa: S606


def main(argv: list[str]) -> int:
    options, _ = parse(argv)
    if options.simulate is not None and not options.dry_run:
        raise ConfigError(f'--simulate "{options.simulate}": such a machine can only be planned for: add --dry_run')
    if options.simulate is None and options.cpus is not None:
        raise ConfigError("--cpus goes with --simulate")
    hardware = detect() if options.simulate is None else simulate(options.simulate, options.cpus)
    plan = launch_plan(argv, hardware, os.environ)
    print(plan.text, flush=True)
    if plan.starts:
        start(plan)
    return 0


if __name__ == "__main__":
    cli.run(main)
