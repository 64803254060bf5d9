"""The box that users know, the table behind it, and advice that always makes a valid configuration."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.mimic_cxr_config import load_config
from utils import hardware_utils
from utils.errors import ConfigError
from utils.hardware_utils import (
    CARDS,
    Gpu,
    Hardware,
    cpu_count,
    cpu_has_bf16,
    detect,
    format_box,
    main,
    recommend,
    settings,
    simulate,
)

PROMISED_BOX = """\
HARDWARE DETECTION RESULTS
  GPUs:              4 x NVIDIA L4
  GPU Memory:        24 GB per GPU (96 GB total)
  Optimal Settings:
    Batch per GPU:     16
    Grad accumulation: 4
    Effective batch:   256
    DeepSpeed:         ZeRO-2
"""


def advice(text, cpus=None, **options):
    return {item.key: item.value for item in recommend(simulate(text, cpus), **options)}


def test_the_promised_box(capsys):
    assert main(["--simulate", "4x NVIDIA L4"]) == 0
    assert capsys.readouterr().out.startswith(PROMISED_BOX)


@pytest.mark.parametrize(
    ("machine", "batch", "accumulation", "effective"),
    [
        ("NVIDIA L4", 16, 16, 256),
        ("2x L4", 16, 8, 256),
        ("8x L4", 16, 2, 256),
        ("1x T4", 12, 21, 252),
        ("4x T4", 12, 5, 240),
        ("4x RTX 2080 Ti", 8, 8, 256),
        ("RTX 3060 Ti", 4, 64, 256),
        ("A100 40GB", 32, 8, 256),
        ("NVIDIA A100-SXM4-80GB", 64, 4, 256),
        ("2x H200", 128, 1, 256),
        ("8x H100", 32, 1, 256),
        ("cpu", 4, 64, 256),
    ],
)
def test_batches(machine, batch, accumulation, effective):
    found = advice(machine)
    assert found["training.batch_size_per_gpu"] == batch
    assert found["training.gradient_accumulation_steps"] == accumulation
    assert found["effective_batch"] == effective


@pytest.mark.parametrize(
    ("machine", "precision"),
    [("L4", "bf16"), ("A100", "bf16"), ("T4", "fp16"), ("V100 32GB", "fp16"), ("P100", "fp32"), ("cpu", "fp32")],
)
def test_precision_follows_the_compute_capability(machine, precision):
    assert advice(machine)["training.precision"] == precision


def test_the_weakest_gpu_of_a_mixture_decides():
    mixed = Hardware([Gpu("NVIDIA A100 80GB PCIe", 79.2, 8.0), Gpu("Tesla T4", 14.6, 7.5)], 32, 128.0)
    found = {item.key: item.value for item in recommend(mixed)}
    assert (found["training.batch_size_per_gpu"], found["training.precision"]) == (12, "fp16")
    box = format_box(mixed, recommend(mixed))
    assert "1 x NVIDIA A100 80GB PCIe, 1 x Tesla T4" in box
    assert "16 to 80 GB per GPU (96 GB total)" in box


def test_deepspeed_only_where_there_is_something_to_share():
    assert advice("L4")["deepspeed.enabled"] is False
    assert advice("cpu")["deepspeed.stage"] == 0
    assert advice("2x L4")["deepspeed.stage"] == 2
    small = Hardware([Gpu("small", 4.0, 7.5)] * 2, 8, 32.0)
    assert {item.key: item.value for item in recommend(small)}["deepspeed.stage"] == 3


def test_checkpointing_goes_where_memory_allows():
    assert advice("4x L4")["training.gradient_checkpointing"] is False
    assert advice("RTX 3060 Ti")["training.gradient_checkpointing"] is True


def test_the_users_batch_is_kept_and_accumulation_fits_it():
    found = advice("4x L4", batch_size_per_gpu=8)
    assert found["training.batch_size_per_gpu"] == 8
    assert found["training.gradient_accumulation_steps"] == 8
    assert advice("4x L4", global_batch=64)["training.gradient_accumulation_steps"] == 1


def test_nodes_and_processes_share_the_batch():
    found = advice("4x L4", nodes=2)
    assert (found["training.batch_size_per_gpu"], found["training.gradient_accumulation_steps"]) == (16, 2)
    assert found["data.num_workers"] == advice("4x L4")["data.num_workers"]
    assert advice("L4", nodes=2)["deepspeed.enabled"] is True
    found = advice("cpu", cpus=8, processes=4)
    assert (found["training.gradient_accumulation_steps"], found["effective_batch"]) == (16, 256)
    assert (found["deepspeed.enabled"], found["data.num_workers"]) == (False, 0)


def test_two_cores_are_left_to_the_training_itself():
    assert advice("cpu", cpus=2)["data.num_workers"] == 0


machines = st.builds(
    lambda card, count, cpus: simulate(f"{count}x {card}", cpus),
    st.sampled_from(sorted(CARDS)),
    st.integers(1, 300),
    st.integers(1, 512),
)


@given(machines | st.builds(lambda cpus: simulate("cpu", cpus), st.integers(1, 512)), st.integers(1, 4096))
def test_advice_is_consistent_for_every_machine(hardware, global_batch):
    items = recommend(hardware, global_batch)
    value = {item.key: item.value for item in items}
    devices = max(1, len(hardware.gpus))
    per_step = value["training.batch_size_per_gpu"] * devices
    effective = value["effective_batch"]
    assert effective == per_step * value["training.gradient_accumulation_steps"]
    for other in (effective - per_step, effective + per_step):
        assert other < per_step or abs(other - global_batch) >= abs(effective - global_batch)
    assert value["data.num_workers"] * devices <= max(0, hardware.cpus - 1)
    assert all(item.reason for item in items)
    loaded = load_config(hardware=settings(items))
    assert loaded.origin["training.batch_size_per_gpu"] == "hardware"
    format_box(hardware, items)


@pytest.mark.parametrize(
    ("name", "gib", "gb"),
    [
        ("NVIDIA L4", 22.0, 24),
        ("Tesla T4", 14.6, 16),
        ("NVIDIA A10G", 22.1, 24),
        ("NVIDIA A100-SXM4-40GB", 39.4, 40),
        ("NVIDIA A100-SXM4-80GB", 79.1, 80),
        ("NVIDIA H100 80GB HBM3", 79.1, 80),
        ("NVIDIA H100 NVL", 93.0, 94),
        ("NVIDIA H200", 139.8, 141),
        ("NVIDIA GeForce RTX 3060", 11.6, 12),
        ("NVIDIA GeForce RTX 3060 Ti", 7.8, 8),
        ("A card of tomorrow", 300.4, 300),
    ],
)
def test_the_box_shows_the_size_that_a_card_is_sold_with(name, gib, gb):
    assert Gpu(name, gib, 8.0).nominal_gb == gb


@pytest.mark.parametrize("text", ["4x Foo 9000", "0x L4", "", "4x", "-1x L4"])
def test_an_unknown_machine_lists_the_known_ones(text):
    with pytest.raises(ConfigError) as error:
        simulate(text)
    assert "\n" not in str(error.value)
    assert all(card in str(error.value) for card in ("T4", "L4", "H200", "RTX 3090"))


def test_every_known_card_is_its_own_best_match():
    for card, (sizes, capability) in CARDS.items():
        gpu = simulate(f"nvidia {card.lower()}").gpus[0]
        assert (gpu.memory_gib, gpu.compute_capability) == (sizes[0], capability)


def test_impossible_numbers_of_cpus():
    with pytest.raises(ConfigError, match="--cpus 0"):
        simulate("L4", 0)


def test_detection_without_a_gpu(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    hardware = detect()
    assert hardware.gpus == []
    assert hardware.cpus == cpu_count() >= 1
    assert hardware.memory_gib > 0
    assert "none (CPU only)" in format_box(hardware, recommend(hardware))


def test_detection_reads_what_torch_sees(monkeypatch):
    import torch

    card = SimpleNamespace(name="NVIDIA L4", total_memory=22 * 2**30, major=8, minor=9)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    hardware = detect()
    assert hardware.gpus == [Gpu("NVIDIA L4", 22.0, 8.9)] * 4
    assert format_box(hardware, recommend(hardware)).startswith(PROMISED_BOX)


def test_a_container_quota_counts(monkeypatch):
    monkeypatch.setattr(hardware_utils, "_cgroup", lambda name: {"cpu.max": "100000 100000"}.get(name, "max"))
    assert cpu_count() == 1


def test_json_says_the_same_and_needs_no_torch(root):
    program = (
        "import sys; from utils.hardware_utils import main; "
        "main(['--json', '--simulate', '4x NVIDIA L4', '--cpus', '9']); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["hardware"]["cpus"] == 9
    assert found["settings"]["training.batch_size_per_gpu"] == 16
    assert found["settings"]["data.num_workers"] == 2
    assert {item["key"] for item in found["advice"]} == {*found["settings"], "effective_batch"}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu avx2 avx512f avx512_bf16 avx512_vnni", True),
        ("fpu avx2 avx512f amx_bf16 amx_tile", True),
        ("fpu avx2 avx512f avx512_vnni avx512_bf16x", False),
        ("fpu avx2 avx512f", False),
    ],
)
def test_bf16_needs_its_own_instructions(tmp_path, flags, expected):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags : {flags}\n")
    assert cpu_has_bf16(tmp_path / "cpuinfo") is expected
    assert cpu_has_bf16(tmp_path / "missing") is False
