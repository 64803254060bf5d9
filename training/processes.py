"""The processes of a run: who this one is, and what they say to each other. One process alone needs no communication."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from utils.errors import ConfigError, PeerError
from utils.launch_environment import Placement, placement

START_TIMEOUT = timedelta(seconds=600)
"""For joining, and for each exchange: the watchdog of `utils.watchdog` acts much earlier while training."""

PREPARATION_TIMEOUT = timedelta(days=3)
"""For what one process does for all before training, such as building the index."""

T = TypeVar("T")


@dataclass
class Processes:
    """This process among its peers."""

    place: Placement
    device: torch.device
    store: dist.Store | None = None
    cpu_group: dist.ProcessGroup | None = None
    """for tensors and objects in main memory: the default group of GPUs takes tensors on GPUs only"""

    @property
    def rank(self) -> int:
        return self.place.rank

    @property
    def world_size(self) -> int:
        return self.place.world_size

    @property
    def is_main(self) -> bool:
        return self.place.rank == 0

    @property
    def several(self) -> bool:
        return self.place.world_size > 1

    def sum(self, values: Tensor) -> Tensor:
        """Sum of a tensor over all processes, on every process."""
        if self.several:
            values = values.clone()
            with self.exchange():
                dist.all_reduce(values, group=self.cpu_group if values.device.type == "cpu" else None)
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return bool(flag) if not self.several else self.sum(torch.tensor([float(flag)])).item() > 0

    def gather(self, thing: T) -> list[T]:
        """Everybody's thing, in the order of ranks, on every process."""
        if not self.several:
            return [thing]
        things: list = [None] * self.world_size
        with self.exchange():
            dist.all_gather_object(things, thing, group=self.cpu_group)
        return things

    def from_main(self, thing: T) -> T:
        """The main process's thing, on every process."""
        if not self.several:
            return thing
        things = [thing]
        with self.exchange():
            dist.broadcast_object_list(things, src=0, group=self.cpu_group)
        return things[0]

    @contextmanager
    def exchange(self) -> Iterator[None]:
        """Say in plain words what a broken connection means."""
        try:
            yield
        except RuntimeError as error:
            if str(error).startswith("DataLoader worker (pid"):  # PyTorch says so wherever the program happens to be
                raise
            reason = str(error).strip().splitlines()[0]
            raise PeerError(
                f"process {self.rank}: another process is gone, its own message says why ({reason})"
            ) from error

    def barrier(self) -> None:
        """Wait until all processes are here."""
        self.any(False)

    def main_first(self, name: str, action: Callable[[], T]) -> T:
        """Do something once for all, then in each process: what the first one leaves on disk, the others find.

        The main process goes first, then one process of every other node (which may have a disk of its own), then the
        rest. PeerError in the others when the first one fails.
        """
        if not self.several:
            return action()
        of_all, of_node = f"{name}/all", f"{name}/node-{self.place.node_rank}"
        leads_node = self.place.local_rank == 0 and self.place.node_rank > 0
        if not self.is_main:
            self._wait_for(of_all)
        if not self.is_main and not leads_node and self.place.node_rank > 0:
            self._wait_for(of_node)
        key = of_all if self.is_main else of_node if leads_node else None
        outcome = b"failed"
        try:
            result = action()
            outcome = b"done"
            return result
        finally:
            if key:
                self.store.set(key, outcome)

    def _wait_for(self, key: str) -> None:
        try:
            self.store.wait([key], PREPARATION_TIMEOUT)
            done = self.store.get(key) == b"done"
        except RuntimeError:  # whoever keeps the store is gone
            done = False
        if not done:
            raise PeerError(
                f"process {self.rank}: stopped because the process that prepares {key.split('/')[0]} failed"
            )

    def close(self) -> None:
        """Leave the group; the process may go on alone."""
        if self.several and dist.is_initialized():
            dist.destroy_process_group()
        self.place = Placement()
        self.store = self.cpu_group = None


def single(device: torch.device | None = None) -> Processes:
    """A run of one process."""
    return Processes(Placement(), device or torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def join(place: Placement | None = None) -> Processes:
    """Meet the other processes of this run, as the environment names them; see `utils.launch_environment`.

    Raises:
        ConfigError: there are more processes than GPUs on a node that has GPUs, or the others cannot be reached.
    """
    place = place or placement()
    device = _device(place)
    if place.world_size == 1:
        return Processes(place, device)
    # libraries read these
    os.environ.update(
        RANK=str(place.rank),
        LOCAL_RANK=str(place.local_rank),
        WORLD_SIZE=str(place.world_size),
        MASTER_ADDR=place.master_addr,
        MASTER_PORT=str(place.master_port),
    )
    try:
        store, rank, world_size = next(dist.rendezvous("env://", timeout=START_TIMEOUT))
        options = {"device_id": device} if device.type == "cuda" else {}
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=dist.PrefixStore("group", store),
            rank=rank,
            world_size=world_size,
            timeout=START_TIMEOUT,
            **options,
        )
        group = dist.new_group(backend="gloo", timeout=START_TIMEOUT) if device.type == "cuda" else None
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"process {place.rank} of {place.world_size} ({place.source}) cannot reach the others at "
            f"{place.master_addr}:{place.master_port}: {reason}; check that address and that all were started"
        ) from error
    return Processes(place, device, dist.PrefixStore("preparation", store), group)


def _device(place: Placement) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    found = torch.cuda.device_count()
    if place.local_world_size > found:
        raise ConfigError(
            f"{place.local_world_size} processes on a machine with {found} GPU(s): start at most one for each "
            "(--num_gpus of the launcher, --nproc_per_node of torchrun)"
        )
    device = torch.device("cuda", place.local_rank)
    torch.cuda.set_device(device)
    return device
