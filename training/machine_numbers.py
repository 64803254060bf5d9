"""What the machine does while it trains, as numbers of our own: a tracker's monitor would send names of host and hardware too.

Read with each line of the log in the main process: they are those of its node and its GPU. Names and units:

| name `system/...` | meaning |
|---|---|
| `cpu_percent` | of all CPUs of the node that are busy, 0 to 100, since the last line |
| `memory_gb`, `memory_percent` | main memory in use on the node, in 10^9 bytes and of all there is |
| `process_memory_gb` | resident memory of the main process and those that it started; shared pages count in each |
| `loader_wait_percent` | share of the time since the last line that the main process waited for batches, 0 to 100 |
| `gpu_memory_gb`, `gpu_memory_percent` | memory in use on the GPU, by whichever process |
| `gpu_peak_gb` | most memory that this process's tensors had at a time so far |
| `gpu_utilization_percent` | share of the last second in which a kernel ran; only where nvidia-ml-py is installed |

Questions and images a second are those of the meter: `train/questions_per_second`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil
import torch

GB = 1e9


class MachineNumbers:
    """Numbers since the last `read`."""

    def __init__(self, device: torch.device):
        self._device = device
        self._process = psutil.Process()
        self._has_utilization = device.type == "cuda"
        self.start()

    def start(self) -> None:
        """A new interval."""
        self._begin, self._waited = time.monotonic(), 0.0
        psutil.cpu_percent()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around a wait for data."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self._waited += time.monotonic() - begin

    def read(self) -> dict[str, float]:
        """The numbers of the table above; starts a new interval. What this machine does not tell is left out."""
        seconds = max(time.monotonic() - self._begin, 1e-9)
        memory = psutil.virtual_memory()
        values = {
            "cpu_percent": psutil.cpu_percent(),
            "memory_gb": memory.used / GB,
            "memory_percent": memory.percent,
            "process_memory_gb": self._process_memory() / GB,
            "loader_wait_percent": min(100.0, 100 * self._waited / seconds),
        }
        if self._device.type == "cuda":
            values |= self._gpu()
        self._begin, self._waited = time.monotonic(), 0.0
        return {f"system/{name}": value for name, value in values.items()}

    def _process_memory(self) -> int:
        total = 0
        for process in (self._process, *self._process.children()):
            with suppress(psutil.Error):  # a loader process that has just ended
                total += process.memory_info().rss
        return total

    def _gpu(self) -> dict[str, float]:
        free, total = torch.cuda.mem_get_info(self._device)
        values = {
            "gpu_memory_gb": (total - free) / GB,
            "gpu_memory_percent": 100 * (total - free) / total,
            "gpu_peak_gb": torch.cuda.max_memory_allocated(self._device) / GB,
        }
        if self._has_utilization:
            try:
                values["gpu_utilization_percent"] = float(torch.cuda.utilization(self._device))
            except Exception:  # no nvidia-ml-py, or a driver that does not tell, such as that of a part of a GPU
                self._has_utilization = False
        return values
