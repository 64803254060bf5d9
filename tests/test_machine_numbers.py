"""The machine's own numbers: listed names, sound values, an interval each."""

from __future__ import annotations

import math
import time

import psutil
import pytest
import torch

from training import machine_numbers
from training.machine_numbers import MachineNumbers
from utils.privacy import remote_values

ALWAYS = {"cpu_percent", "memory_gb", "memory_percent", "process_memory_gb", "loader_wait_percent"}


def test_numbers_are_sound_and_may_leave():
    values = MachineNumbers(torch.device("cpu")).read()
    assert {name.removeprefix("system/") for name in values} == ALWAYS
    assert remote_values(values) == values
    assert all(math.isfinite(value) and value >= 0 for value in values.values())
    assert all(value <= 100 for name, value in values.items() if name.endswith("_percent"))
    assert 0 < values["system/process_memory_gb"] < 10 * psutil.virtual_memory().total / 1e9


def test_waiting_counts_from_one_reading_to_the_next():
    machine = MachineNumbers(torch.device("cpu"))
    with machine.waiting():
        time.sleep(0.05)
    waited = machine.read()["system/loader_wait_percent"]
    assert 20 < waited <= 100
    time.sleep(0.01)
    assert machine.read()["system/loader_wait_percent"] == 0
    with pytest.raises(RuntimeError), machine.waiting():
        time.sleep(0.02)
        raise RuntimeError
    assert machine.read()["system/loader_wait_percent"] > 0, "also where the wait ends with an error"


def test_a_process_that_ends_meanwhile_costs_nothing(monkeypatch):
    machine = MachineNumbers(torch.device("cpu"))

    class Gone:
        def memory_info(self):
            raise psutil.NoSuchProcess(1)

    monkeypatch.setattr(machine._process, "children", lambda: [Gone()])
    assert machine.read()["system/process_memory_gb"] > 0


def test_a_gpu_tells_its_memory_and_where_it_can_its_utilization(monkeypatch):
    """A made-up GPU of 80 GB, 20 of them free."""
    monkeypatch.setattr(machine_numbers.torch.cuda, "mem_get_info", lambda device: (20e9, 80e9))
    monkeypatch.setattr(machine_numbers.torch.cuda, "max_memory_allocated", lambda device: 48e9)
    monkeypatch.setattr(machine_numbers.torch.cuda, "utilization", lambda device: 97)
    machine = MachineNumbers(torch.device("cuda", 0))
    values = machine.read()
    assert (values["system/gpu_memory_gb"], values["system/gpu_memory_percent"]) == (60, 75)
    assert (values["system/gpu_peak_gb"], values["system/gpu_utilization_percent"]) == (48, 97)

    asked = []

    def unknown(device):
        asked.append(device)
        raise ModuleNotFoundError("pynvml")

    monkeypatch.setattr(machine_numbers.torch.cuda, "utilization", unknown)
    machine = MachineNumbers(torch.device("cuda", 0))
    assert all("system/gpu_utilization_percent" not in machine.read() for _ in range(2)) and len(asked) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_real_gpu():
    kept = torch.zeros(25_000_000, device="cuda")  # 0.1 GB
    values = MachineNumbers(torch.device("cuda", 0)).read()
    assert values["system/gpu_peak_gb"] >= kept.nbytes / 1e9 and 0 < values["system/gpu_memory_percent"] <= 100
