"""Where this process stands among the processes of a run, told from the environment that started it.

Launchers and schedulers each say it in their own variables. Those nearest to the process win: RANK, LOCAL_RANK and
WORLD_SIZE (torchrun, DeepSpeed, by hand), then mpirun's, then SLURM's, because torchrun and mpirun often run inside a
SLURM job, whose variables then describe the launchers and not their workers.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from utils.errors import ConfigError

DEFAULT_PORT = 29500
INTERACTIVE_JOBS = ("bash", "interactive")
"""SLURM_JOB_NAME of a shell in an allocation: what runs there was started by hand, not by srun."""


@dataclass(frozen=True)
class Placement:
    """One process among all of a run. `source` is who said so."""

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    local_world_size: int = 1
    node_rank: int = 0
    master_addr: str = "127.0.0.1"
    master_port: int = DEFAULT_PORT
    source: str = "single process"


@dataclass(frozen=True)
class Nodes:
    """One machine among all of a run, for a launcher that is started once on each."""

    count: int = 1
    rank: int = 0
    master_addr: str = "127.0.0.1"
    master_port: int = DEFAULT_PORT
    source: str = "one node"


def placement(environ: Mapping[str, str] | None = None) -> Placement:
    """Rank and company of this process (default: of `os.environ`); ConfigError where the variables do not fit together.

    A SLURM job of one task, an interactive shell in an allocation and a batch script outside srun are single processes.
    """
    environ = os.environ if environ is None else environ
    if any(environ.get(name) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")):
        return _from_launcher(environ)
    return _from_mpi(environ) or _from_slurm(environ) or Placement()


def nodes(environ: Mapping[str, str] | None = None) -> Nodes:
    """The machines of a run, for a launcher started once on each of them by srun or by Vertex AI; otherwise one.

    Vertex AI (and Kubernetes' PyTorchJob) say RANK and WORLD_SIZE of the node, not of a process: LOCAL_RANK is absent.
    """
    environ = os.environ if environ is None else environ
    if environ.get("LOCAL_RANK"):
        raise ConfigError(
            "LOCAL_RANK is set: this process was itself started by a launcher; start the launcher once on each "
            "node, or unset RANK, LOCAL_RANK and WORLD_SIZE"
        )
    if environ.get("RANK") and environ.get("WORLD_SIZE"):
        return _nodes(environ, "RANK", _required(environ, "WORLD_SIZE"), "node-wise RANK and WORLD_SIZE")
    return _slurm_nodes(environ)


def first_host(nodelist: str) -> str:
    """The first host of a SLURM node list such as "gpu[003,007-9],login": SLURM sorts it alike on every node."""
    first = re.match(r"[\s,]*((?:[^\s,\[\]]|\[[^\[\]]*\])+)(?=[\s,]|$)", nodelist)
    host = re.sub(r"\[\s*([^\s,\-\[\]]+)[^\[\]]*\]", r"\1", first[1]) if first else ""
    if not host or "[" in host:
        raise ConfigError(f'SLURM node list "{nodelist}": no first host can be read from it; set MASTER_ADDR')
    return host


# torchrun, DeepSpeed, by hand


def _from_launcher(environ: Mapping[str, str]) -> Placement:
    rank, world = _number(environ, "RANK"), _number(environ, "WORLD_SIZE")
    local = _number(environ, "LOCAL_RANK")
    if world == 1 and not rank and not local and None in (rank, local):
        return Placement()
    if local is None and rank is not None and world is not None:
        local = _scheduler_local_rank(environ, rank)
    missing = [name for name, value in (("RANK", rank), ("LOCAL_RANK", local), ("WORLD_SIZE", world)) if value is None]
    if missing:
        raise ConfigError(
            f"{missing[0]} is not set but others of RANK, LOCAL_RANK and WORLD_SIZE are: start through "
            f"scripts/launch_distributed_training.sh, set {missing[0]}, or unset the others for a single process"
        )
    _below(environ, "RANK", "WORLD_SIZE", rank, world)
    here = _local_size(environ, rank, local, world)
    node = _number(environ, "GROUP_RANK", "NODE_RANK", "CROSS_RANK", "SLURM_NODEID")
    return Placement(rank, local, world, here, rank // here if node is None else node, *_master(environ), _who(environ))


def _scheduler_local_rank(environ: Mapping[str, str], rank: int) -> int | None:
    """The place on its node that mpirun or srun gave to the process whose rank it also gave."""
    for of_all, of_node in (("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"), ("SLURM_PROCID", "SLURM_LOCALID")):
        if environ.get(of_node) and _number(environ, of_all) in (None, rank):
            return _number(environ, of_node)
    return None


def _local_size(environ: Mapping[str, str], rank: int, local: int, world: int) -> int:
    """Processes on this node: torchrun and DeepSpeed say it; else a whole number of nodes before this one is assumed."""
    size = _number(environ, "LOCAL_WORLD_SIZE", "LOCAL_SIZE")
    if size is not None:
        _below(environ, "LOCAL_RANK", "LOCAL_WORLD_SIZE", local, size)
        return size
    tasks = _slurm_tasks_here(environ) if environ.get("SLURM_PROCID") and slurm_tasks(environ) == world else None
    return max(local + 1, tasks or (world if rank == local else rank - local))


def _who(environ: Mapping[str, str]) -> str:
    if environ.get("TORCHELASTIC_RUN_ID"):
        return "torchrun"
    return "DeepSpeed" if environ.get("CROSS_SIZE") else "RANK and WORLD_SIZE"


# mpirun


def _from_mpi(environ: Mapping[str, str]) -> Placement | None:
    world = _number(environ, "OMPI_COMM_WORLD_SIZE")
    if world is None or world == 1:
        return None
    rank = _required(environ, "OMPI_COMM_WORLD_RANK")
    local = _required(environ, "OMPI_COMM_WORLD_LOCAL_RANK")
    _below(environ, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", rank, world)
    said = _number(environ, "OMPI_COMM_WORLD_LOCAL_SIZE")
    here = max(local + 1, said or (world if rank == local else rank - local))
    address, port = _master(environ)
    if said and said < world and address == Placement.master_addr:
        raise ConfigError("MASTER_ADDR is not set: mpirun on several nodes needs it (mpirun -x MASTER_ADDR=FIRST_HOST)")
    return Placement(rank, local, world, here, rank // here, address, port, "OpenMPI")


# SLURM


def slurm_tasks(environ: Mapping[str, str]) -> int:
    """Tasks of the job step; with --ntasks-per-node alone some clusters leave SLURM_NTASKS unset."""
    tasks = _number(environ, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_NPROCS")
    if tasks is not None:
        return tasks
    per_node, count = _number(environ, "SLURM_NTASKS_PER_NODE"), _number(environ, "SLURM_NNODES", "SLURM_JOB_NUM_NODES")
    if per_node is not None and count is not None:
        return per_node * count
    return sum(_tasks_per_node(environ)) or 1


def _from_slurm(environ: Mapping[str, str]) -> Placement | None:
    if not _in_srun(environ) or slurm_tasks(environ) == 1:
        return None
    rank, world = _required(environ, "SLURM_PROCID"), slurm_tasks(environ)
    local = _required(environ, "SLURM_LOCALID")
    if rank >= world:
        raise ConfigError(f"SLURM_PROCID={rank} is not below SLURM's {world} tasks: check SLURM_NTASKS")
    here = max(local + 1, _slurm_tasks_here(environ) or world)
    node = _number(environ, "SLURM_NODEID")
    return Placement(rank, local, world, here, rank // here if node is None else node, *_master(environ), "SLURM")


def _in_srun(environ: Mapping[str, str]) -> bool:
    """Whether srun started this process.

    A batch script has SLURM_NTASKS and SLURM_PROCID=0 like a task, but only srun sets the step's number; without that
    number rank 0 is taken for the script, which must not wait for tasks that nobody starts. A higher rank is a task.
    """
    if environ.get("SLURM_JOB_NAME") in INTERACTIVE_JOBS or not environ.get("SLURM_PROCID"):
        return False
    step = environ.get("SLURM_STEP_ID") or environ.get("SLURM_STEPID")
    return bool(step) or _number(environ, "SLURM_PROCID") != 0


def _tasks_per_node(environ: Mapping[str, str]) -> list[int]:
    """SLURM_TASKS_PER_NODE, such as "24(x2),8", as one number a node."""
    tasks = []
    name = "SLURM_STEP_TASKS_PER_NODE" if environ.get("SLURM_STEP_TASKS_PER_NODE") else "SLURM_TASKS_PER_NODE"
    for part in filter(None, environ.get(name, "").replace(" ", "").split(",")):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if not match:
            raise ConfigError(
                f'{name}={environ[name]}: numbers such as "4(x2),2" are expected; set RANK and WORLD_SIZE'
            )
        tasks += [int(match[1])] * int(match[2] or 1)
    return tasks


def _slurm_tasks_here(environ: Mapping[str, str]) -> int | None:
    node, tasks = _number(environ, "SLURM_NODEID") or 0, _tasks_per_node(environ)
    return tasks[node] if node < len(tasks) else _number(environ, "SLURM_NTASKS_PER_NODE")


def _slurm_nodes(environ: Mapping[str, str]) -> Nodes:
    count = _number(environ, "SLURM_STEP_NUM_NODES", "SLURM_NNODES", "SLURM_JOB_NUM_NODES") or 1
    if environ.get("SLURM_JOB_NAME") in INTERACTIVE_JOBS:
        return Nodes()
    if _in_srun(environ) and slurm_tasks(environ) != count:
        raise ConfigError(
            f"SLURM started {slurm_tasks(environ)} tasks on {count} node(s): the launcher starts the processes of a "
            "node itself, so start it once on each: srun --ntasks-per-node=1"
        )
    if count == 1:
        return Nodes(master_port=_master(environ)[1], source="SLURM" if environ.get("SLURM_JOB_ID") else "one node")
    if not _in_srun(environ):
        raise ConfigError(
            f"this SLURM job has {count} nodes but the launcher runs on one: start it with srun --ntasks-per-node=1 (see "
            "scripts/slurm/train.sbatch), or give --nnodes 1 to use this node alone"
        )
    return _nodes(environ, "SLURM_NODEID", count, "SLURM")


def _nodes(environ: Mapping[str, str], rank: str, count: int, source: str) -> Nodes:
    place = _required(environ, rank)
    if place >= count:
        raise ConfigError(f"{rank}={place} is not below the number of nodes, {count}: set both, or unset both")
    return Nodes(count, place, *_master(environ), source)


# Where rank 0 listens


def _master(environ: Mapping[str, str]) -> tuple[str, int]:
    """Address and port of rank 0, equal on all nodes. The port follows the SLURM job, so that two jobs do not meet."""
    port, job = _number(environ, "MASTER_PORT"), _number(environ, "SLURM_JOB_ID", "SLURM_JOBID")
    if port is None:
        port = DEFAULT_PORT if job is None else 15000 + job % 20000
    if not 0 < port < 65536:
        raise ConfigError(f"MASTER_PORT={port}: a port is between 1 and 65535")
    return environ.get("MASTER_ADDR") or _slurm_head(environ) or Placement.master_addr, port


def _slurm_head(environ: Mapping[str, str]) -> str | None:
    """The first node of the step: srun's own address where it runs there, as in a batch script, else from the list."""
    hosts = next((environ[name] for name in _NODELISTS if environ.get(name)), None)
    launched_from, batch = environ.get("SLURM_SUBMIT_HOST"), environ.get("ENVIRONMENT") == "BATCH"
    elsewhere = hosts and launched_from and not batch  # srun or salloc on a login node: its address is not rank 0's
    address = environ.get("SLURM_LAUNCH_NODE_IPADDR")
    if address and not elsewhere:
        return address
    return first_host(hosts) if hosts else None


_NODELISTS = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")


# Numbers


def _number(environ: Mapping[str, str], *names: str) -> int | None:
    """The first of these variables that is set and not empty."""
    for name in names:
        if text := environ.get(name):
            if not re.fullmatch(r"[0-9]+", text):
                raise ConfigError(
                    f'{name}="{text}" in the environment: a whole number is expected; set or unset {name}'
                )
            return int(text)
    return None


def _required(environ: Mapping[str, str], name: str) -> int:
    value = _number(environ, name)
    if value is None:
        raise ConfigError(f"{name} is not set though the other variables of its launcher are: set it")
    return value


def _below(environ: Mapping[str, str], name: str, limit: str, value: int, bound: int) -> None:
    if value >= bound:
        raise ConfigError(f"{name}={value} is not below {limit}={bound}: set both for the number of processes")
