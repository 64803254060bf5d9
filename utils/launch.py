"""Which processes a launch starts, where, and by which command. Pure: nothing is looked up or started here."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from utils.errors import ConfigError
from utils.hardware_utils import Hardware
from utils.launch_environment import DEFAULT_PORT, Nodes, nodes

SCRIPT = "train_mimic_cxr.py"


@dataclass(frozen=True)
class Layout:
    """Processes of a run and what starts them: "python", "torchrun" or "DeepSpeed"."""

    processes: int
    """on each node"""
    nodes: Nodes
    launcher: str
    notes: list[str] = field(default_factory=list)

    @property
    def world_size(self) -> int:
        return self.processes * self.nodes.count


def layout(options: argparse.Namespace, hardware: Hardware, environ: Mapping[str, str]) -> Layout:
    """Where processes run, from the launcher's options, else from the environment; ConfigError where that cannot be."""
    _check_combination(options)
    hosts = read_hostfile(options.hostfile) if options.hostfile else None
    deepspeed = options.deepspeed or hosts is not None
    if hosts is not None:
        place = Nodes(len(hosts), 0, options.master_addr or "", options.master_port or 0, options.hostfile)
        processes, notes = _slots(hosts, options), []
    else:
        place = _nodes(options, environ)
        processes, notes = _processes(options.num_gpus, len(hardware.gpus))
        if deepspeed and place.count > 1:
            raise ConfigError(
                "--deepspeed on several nodes needs --hostfile FILE; or start torchrun on each: --torchrun"
            )
    if deepspeed:
        launcher = "DeepSpeed"
    else:
        alone = processes * place.count == 1 and not options.max_restarts
        launcher = "python" if alone else "torchrun"
    return Layout(processes, place, launcher, notes)


def _slots(hosts: Mapping[str, int], options: argparse.Namespace) -> int:
    """Processes on each host of the hostfile: as many on all, so that all have equal shares."""
    least, most = min(hosts.values()), max(hosts.values())
    if options.num_gpus is None and least < most:
        raise ConfigError(
            f"{options.hostfile}: hosts with {least} and with {most} slots: use as many on each: --num_gpus N"
        )
    if (options.num_gpus or 0) > least:
        raise ConfigError(f"--num_gpus {options.num_gpus}: a host has only {least} slots in {options.hostfile}")
    return options.num_gpus or least


def _check_combination(options: argparse.Namespace) -> None:
    for name in ("num_gpus", "nnodes"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise ConfigError(f"--{name} {getattr(options, name)}: at least 1 (for the CPU set CUDA_VISIBLE_DEVICES=)")
    if options.hostfile and options.torchrun:
        raise ConfigError("--hostfile is for DeepSpeed's launcher: leave out --torchrun")
    if options.hostfile and (options.nnodes or options.node_rank is not None):
        raise ConfigError("--hostfile names the nodes: leave out --nnodes and --node_rank")
    if options.max_restarts and (options.deepspeed or options.hostfile):
        raise ConfigError("--max_restarts is for torchrun: leave out --deepspeed and --hostfile")
    if options.max_restarts is not None and options.max_restarts < 0:
        raise ConfigError(f"--max_restarts {options.max_restarts}: at least 0")
    if options.master_port is not None and not 0 < options.master_port < 65536:
        raise ConfigError(f"--master_port {options.master_port}: a port is between 1 and 65535")


def _processes(wanted: int | None, gpus: int) -> tuple[int, list[str]]:
    if wanted is None:
        return max(1, gpus), []
    if not gpus:
        note = f"no GPU here: {wanted} processes share the CPU over gloo, which is for trials"
        return wanted, [note] if wanted > 1 else []
    if wanted > gpus:
        raise ConfigError(f"--num_gpus {wanted}: PyTorch can use {gpus} GPU(s) here; give at most {gpus}")
    return wanted, [f"{wanted} of {gpus} GPUs are used"] if wanted < gpus else []


def _nodes(options: argparse.Namespace, environ: Mapping[str, str]) -> Nodes:
    if options.nnodes == 1:
        return Nodes(master_port=options.master_port or DEFAULT_PORT)
    if options.nnodes is None:
        found = nodes(environ)
        if found.count == 1 and (options.node_rank or options.master_addr):
            raise ConfigError("--node_rank and --master_addr go with --nnodes N, the number of nodes")
    else:
        rank, address = options.node_rank, options.master_addr
        if rank is None or not address:
            missing = "--node_rank K (0 on the first)" if rank is None else "--master_addr HOST (that of node 0)"
            raise ConfigError(f"--nnodes {options.nnodes}: each node also needs {missing}")
        found = Nodes(options.nnodes, rank, address, source="options")
    given = {"rank": options.node_rank, "master_addr": options.master_addr, "master_port": options.master_port}
    found = replace(found, **{name: value for name, value in given.items() if value is not None})
    if not 0 <= found.rank < found.count:
        raise ConfigError(f"--node_rank {found.rank}: from 0 to {found.count - 1}, one less than the number of nodes")
    return found


def read_hostfile(path: str) -> dict[str, int]:
    """Host -> slots (GPUs), from lines such as "worker-0 slots=4"."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--hostfile {path}: cannot be read ({error}); give a text file of hosts") from error
    hosts: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.strip().startswith("#"):
            continue
        match = re.match(r"\s*(\S+)\s+slots=(\d+)\b", line)
        if not match or match[1] in hosts or int(match[2]) < 1:
            raise ConfigError(f'{path}, line {number}: "{line.strip()}": write each host once, as "NAME slots=GPUS"')
        hosts[match[1]] = int(match[2])
    if not hosts:
        raise ConfigError(f'{path}: names no host; write lines such as "worker-0 slots=4"')
    return hosts


def command(where: Layout, training: list[str], options: argparse.Namespace) -> list[str]:
    """The words that start the training script with the options `training`."""
    if where.launcher == "DeepSpeed":
        return [*_deepspeed(where, options), SCRIPT, *training]
    if where.launcher == "torchrun":
        return [*_torchrun(where, options), SCRIPT, *training]
    return ["python", SCRIPT, *training]


def _torchrun(where: Layout, options: argparse.Namespace) -> list[str]:
    place = where.nodes
    meeting = ["--master_port", str(options.master_port)] if options.master_port else ["--standalone"]  # any free port
    if place.count > 1:
        meeting = ["--nnodes", str(place.count), "--node_rank", str(place.rank)]
        meeting += ["--master_addr", place.master_addr, "--master_port", str(place.master_port)]
    restarts = ["--max_restarts", str(options.max_restarts)] if options.max_restarts else []
    return ["python", "-m", "utils.torchrun", *meeting, "--nproc_per_node", str(where.processes), *restarts]


def _deepspeed(where: Layout, options: argparse.Namespace) -> list[str]:
    words = ["deepspeed", "--no_local_rank"]  # training reads LOCAL_RANK and has no such option
    if options.hostfile:
        words += ["--hostfile", options.hostfile]
    if not options.hostfile or options.num_gpus:
        words += ["--num_gpus", str(where.processes)]
    if options.master_addr:
        words += ["--master_addr", options.master_addr]
    if where.nodes.master_port not in (0, DEFAULT_PORT):
        words += ["--master_port", str(where.nodes.master_port)]
    return words


def environment(where: Layout, hardware: Hardware, debug: bool, environ: Mapping[str, str]) -> dict[str, str]:
    """Variables to set for the run; what the user has set stays."""
    wanted = {}
    if debug:
        wanted |= {"NCCL_DEBUG": "INFO", "TORCH_DISTRIBUTED_DEBUG": "DETAIL"}
    if not hardware.gpus and where.processes > 1:  # or each process would take all CPUs
        wanted["OMP_NUM_THREADS"] = str(max(1, hardware.cpus // where.processes))
    return {name: value for name, value in wanted.items() if not environ.get(name)}


def shell_line(words: list[str], variables: Mapping[str, str]) -> str:
    """The command as a shell takes it."""
    return " ".join([*(f"{name}={shlex.quote(value)}" for name, value in variables.items()), shlex.join(words)])
