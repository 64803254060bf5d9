"""The harness of the benchmark: fair turns, honest figures, and a command that is quick to explain itself."""

import json
import subprocess
import sys
import time

import pytest
import torch
import torch.nn.functional as F

from benchmarks import machine, report, session
from benchmarks.commands import COMMANDS, build_parser, numbers
from benchmarks.flops import counted_flops
from benchmarks.machine import Ceilings, Machine
from benchmarks.timing import Measured, Round, Variant, compare, measure
from utils.errors import ConfigError

CPU = torch.device("cpu")
MACHINE = Machine("cpu", "a processor", 2, 1, 8.0, False, [], {}, None, Ceilings({"fp32": 1e9}, 1e9))


# Measuring


def test_variants_take_turns_and_each_begins_a_round():
    calls = []
    variants = [Variant(name, lambda name=name: calls.append(name), 1) for name in "abc"]
    measured = measure(variants, 4)
    assert calls == [*"abc", *"abc", *"bca", *"cab", *"abc"]
    assert [len(one.rounds) for one in measured] == [4, 4, 4]


def test_only_the_call_is_timed_and_it_may_count_its_items():
    prepared = []

    def prepare():
        time.sleep(0.05)
        prepared.append(len(prepared))
        return prepared[-1]

    (one,) = measure([Variant("a", lambda n: 10 * n, prepare=prepare)], 2)
    assert prepared == [0, 1, 2]
    assert [r.items for r in one.rounds] == [10, 20]
    assert one.seconds < 0.05


def test_short_calls_are_repeated():
    (one,) = measure([Variant("a", lambda: time.sleep(0.001), 3)], 1, least_seconds=0.02)
    assert 2 <= one.rounds[0].calls <= 20
    assert one.rounds[0].items == 3
    assert 0.001 <= one.rounds[0].wall < 0.01


def test_cpu_seconds_are_those_of_work_and_not_of_waiting():
    def work():
        end = time.process_time() + 0.05
        while time.process_time() < end:
            pass

    busy, idle = measure([Variant("busy", work, 1), Variant("idle", lambda: time.sleep(0.05), 1)], 1)
    assert busy.cpu_seconds > 0.04
    assert idle.cpu_seconds < 0.02


def test_cpu_seconds_include_processes_that_have_ended():
    program = "import time\nwhile time.process_time() < 0.3: pass"
    call = lambda: subprocess.run([sys.executable, "-c", program], check=True)  # noqa: E731
    (one,) = measure([Variant("a", call, 1)], 1)
    assert one.cpu_seconds >= 0.29


def measured_with(name: str, *walls: float, items: float = 1) -> Measured:
    return Measured(Variant(name, print, items), [Round(wall, 2 * wall, items, 1) for wall in walls])


def test_ratios_are_of_medians_and_of_single_rounds():
    ours, theirs = measured_with("ours", 1, 2, 4), measured_with("theirs", 4, 4, 6, items=0.5)
    ratio = compare(ours, theirs)
    assert (ratio.of_medians, ratio.median, ratio.least, ratio.most) == (4, 4, 3, 8)
    assert compare(ours, theirs, "cpu") == ratio


def test_the_peak_is_that_of_the_call():
    def fill(count: int) -> None:
        values = torch.ones(count)
        time.sleep(0.1)  # memory of this process is looked at from time to time
        assert values[-1] == 1

    small, large = (Variant(str(count), lambda count=count: fill(count), 1) for count in (2**10, 2**24))
    first, second, third = measure([large, small, large], 1)
    assert first.peak == pytest.approx(4 * 2**24, rel=0.1)
    assert second.peak < 2**24
    assert third.peak == pytest.approx(4 * 2**24, rel=0.1)


def test_operations_are_counted():
    query = torch.randn(2, 4, 8, 16, requires_grad=True)
    with counted_flops() as count:
        F.scaled_dot_product_attention(query, query, query).sum().backward()
    assert count.flops == 2 * 2 * 2 * 4 * 8 * 8 * 16 * 3.5  # two products forward, five backward
    layer, x = torch.nn.Linear(8, 4), torch.randn(3, 8, requires_grad=True)
    (one,) = measure([Variant("a", lambda: layer(x).sum().backward(), 1, count_flops=True)], 1)
    assert one.flops == 3 * 2 * 3 * 8 * 4
    assert one.flops_of == "counted"


@pytest.mark.parametrize(("groups", "transposed"), [(1, False), (8, False), (4, True)])
def test_operations_of_convolutions_are_counted_by_groups(groups, transposed):
    kind = torch.nn.ConvTranspose2d if transposed else torch.nn.Conv2d
    layer, x = kind(8, 8, 3, padding=1, groups=groups), torch.randn(2, 8, 5, 5, requires_grad=True)
    with counted_flops() as forward:
        y = layer(x)
    with counted_flops() as backward:
        y.sum().backward()
    assert forward.flops == 2 * 2 * 8 * (8 // groups) * 9 * 25
    assert backward.flops == 2 * forward.flops


def test_shares_of_the_ceilings():
    one = measured_with("a", 2.0)
    one.flops = 1e9
    assert report.arithmetic_share(one, MACHINE) == 0.5
    one.variant = Variant("a", print, 1, precision="bf16", copied=5e8)
    assert report.arithmetic_share(one, MACHINE) is None
    assert report.copy_share(one, MACHINE) == 0.25


def test_the_machine_is_described(monkeypatch):
    monkeypatch.setattr(machine, "CEILING_SECONDS", 0.0)
    monkeypatch.setattr(machine, "MATRIX", {"cpu": 64})
    monkeypatch.setattr(machine, "COPIED_BYTES", {"cpu": 2**16})
    monkeypatch.setattr(machine, "_fastest", lambda call, device: call() is None or 0.5)
    found = machine.describe(CPU)
    assert found.ceilings == Ceilings(dict.fromkeys(found.ceilings.flops, 2 * 64**3 / 0.5), 2 * 2**16 / 0.5)
    assert found.versions["torch"].startswith(torch.__version__.split("+")[0])
    assert found.ceilings.best(Ceilings(dict.fromkeys(found.ceilings.flops, 1.0), 1e12)).copy == 1e12
    assert found.ceilings.best(Ceilings(dict.fromkeys(found.ceilings.flops, 1.0), 1e12)).flops == found.ceilings.flops


# Reporting


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0012345, "0.00123"),
        (12.345, "12.3"),
        (1234.5, "1,230"),
        (99_999_999.0, "100,000,000"),
        (12345, "12,345"),
        (0.0, "0.0"),
        (float("nan"), "nan"),
        (True, "True"),
        (None, ""),
        ("text", "text"),
    ],
)
def test_numbers_have_three_digits(value, text):
    assert report.number(value) == text


def test_a_section_as_table_and_as_json():
    ours, theirs = measured_with("ours", 1, 2, 4), measured_with("theirs", 10, 10, 10)
    section = report.Section("title", [ours, theirs], "theirs", facts={"share": 0.5}, notes=["a note"])
    lines = section.text(MACHINE).splitlines()
    assert "  share: 0.5" in lines
    (line,) = [line for line in lines if line.startswith("  ours")]
    assert "5 (2.5..10)" in line
    stored = json.loads(json.dumps(section.as_json(MACHINE)))
    assert [r["wall"] for r in stored["variants"][0]["rounds"]] == [1, 2, 4]
    assert stored["variants"][0]["ratio_wall"] == {"of_medians": 5, "median": 5, "least": 2.5, "most": 10}
    rows = report.Section("other", rows=[{"size": 10, "s": 1.5, "empty": None}]).text(MACHINE)
    assert rows.splitlines()[-2:] == ["  size    s", "  10    1.5"]


# The command


def test_help_is_instant_and_names_all_commands(root):
    program = (
        "import runpy, sys; sys.argv = ['benchmark.py', '--help']\n"
        "try: runpy.run_path('scripts/benchmark.py', run_name='__main__')\n"
        "except SystemExit as stop: code = stop.code\n"
        "print([name for name in ('torch', 'numpy', 'transformers') if name in sys.modules], code)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[] 0"
    assert all(command.name in done.stdout for command in COMMANDS)


def test_every_command_has_its_module(root):
    assert len({command.name for command in COMMANDS}) == len(COMMANDS)
    for command in COMMANDS:
        assert (root / "benchmarks" / f"{command.module}.py").is_file()
        args = build_parser("").parse_args([command.name])
        assert (args.rounds, args.seed, args.device) == (3, 0, "auto")


@pytest.mark.parametrize("wrong", [["--rounds", "0"], ["--questions", "1,-2"], ["--against", "nobody"]])
def test_wrong_options_are_refused(wrong, capsys):
    with pytest.raises(SystemExit) as stop:
        build_parser("").parse_args(["train", *wrong])
    assert stop.value.code == 2
    assert wrong[0] in capsys.readouterr().err


def test_lists_of_numbers():
    assert numbers("1,20,85") == [1, 20, 85]
    assert numbers("none") == []


def test_a_gpu_that_is_not_there():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ConfigError, match="--device cpu"):
        session.choose_device("cuda")
