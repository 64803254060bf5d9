"""--help of every program: at once, without heavy imports, options in groups, each with its default."""

import os
import re
import resource
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAIN = ["setup_data.py", "analyze_data.py", "train_mimic_cxr.py", "evaluate.py"]
HEAVY = {"torch", "timm", "transformers", "pandas", "pyarrow", "sklearn", "wandb", "gradio", "deepspeed", "jupytext"}
SECONDS = 1.0
"""Most that a --help may take of a CPU"""


def programs() -> list[str]:
    """The four main programs, the hardware advice, and all that can be started in scripts/ and examples/."""
    found = [path for folder in ("scripts", "examples") for path in sorted((ROOT / folder).glob("*.py"))]
    started = [str(path.relative_to(ROOT)) for path in found if '__name__ == "__main__"' in path.read_text("utf-8")]
    return [*MAIN, "utils/hardware_utils.py", *started]


def words(program: str) -> list[str]:
    """How a program is started: by its path, or as a module where its documents say so."""
    if program in ("utils/hardware_utils.py", "scripts/launch.py"):
        return ["-m", program.removesuffix(".py").replace("/", ".")]
    return [program]


@cache
def help_of(program: str, *subcommand: str) -> tuple[str, set[str], float]:
    """The text, the top-level modules that were imported for it, and the seconds of a CPU that it took."""
    command = [sys.executable, "-X", "importtime", *words(program), *subcommand, "--help"]
    environment = {**os.environ, "COLUMNS": "1000"}  # no line is broken
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr[-2000:]
    imported = re.findall(r"^import time:.*\| +([\w.]+)$", done.stderr, re.MULTILINE)
    # not those of the clock: another program may have the core at the moment, and --help waits for nothing
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done.stdout, {name.partition(".")[0] for name in imported}, seconds


def subcommands(text: str) -> list[str]:
    listed = text.partition("\npositional arguments:\n  COMMAND\n")[2].partition("\n\n")[0]
    return re.findall(r"^    (\w+) ", listed, re.MULTILINE)


def problems(text: str) -> list[str]:
    """What a user would miss in a --help: a group of its own for an option, or its default."""
    usage, section, found = text.partition("\n\n")[0], "", []
    for line in re.sub(r"\n {8,}(?=\S)", "  ", text).splitlines():  # a long option has its help in the next line
        if re.match(r"\S.*:$", line):
            section = line
        elif option := re.match(r"  (?:-\w, )?(--?\w+)(.*)", line):
            name, rest = option.groups()
            if name == "--help" or section.startswith("usage"):
                continue
            if section in ("options:", "optional arguments:"):
                found.append(f"{name} is in no group")
            is_required = not re.search(rf"(\[|\| ){name}\b", usage)
            if not re.search("default|required", rest) and not is_required:
                found.append(f"{name} does not say its default")
    return found


@pytest.mark.parametrize("program", programs())
def test_help_is_complete_and_instant(program):
    text, imported, seconds = help_of(program)
    assert text.startswith("usage: ")
    assert problems(text) == []
    assert imported & HEAVY == set()
    assert "argparse" in imported  # the list of modules is one
    assert seconds < SECONDS
    for name in subcommands(text):
        text, imported, seconds = help_of(program, name)
        assert problems(text) == []
        assert imported & HEAVY == set()
        assert seconds < SECONDS


@pytest.mark.parametrize("program", MAIN)
def test_the_main_programs_share_their_common_options(program):
    common = help_of(program)[0].partition("\ncommon options:\n")[2]
    assert re.findall(r"^  (--\w+)", common, re.MULTILINE) == [
        *("--config", "--mimic_cxr_path", "--mimic_qa_path", "--set", "--print_config", "--debug")
    ]


@pytest.mark.parametrize("program", [*MAIN, "utils/hardware_utils.py"])
def test_an_unknown_option_ends_before_anything_heavy_is_imported(program):
    command = [sys.executable, "-X", "importtime", *words(program), "--no_such_option"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "unrecognized arguments: --no_such_option" in done.stderr
    assert set(re.findall(r"\| +(\w+)$", done.stderr, re.MULTILINE)) & HEAVY == set()


def test_a_poor_help_would_be_found():
    text = """usage: x.py [-h] [--loose N] [--flag] --needed FILE [--a | --b] [--very_long_name TEXT]

options:
  -h, --help  show this help message and exit
  --loose N   a number (default: 3)

group:
  --flag      does it
  --needed FILE  has to be given
  --a         one (default: off)
  --b         the other
  --very_long_name TEXT
              its text is in the next line (default: none)
"""
    assert problems(text) == [
        "--loose is in no group",
        "--flag does not say its default",
        "--b does not say its default",
    ]


def test_benchmarks_have_subcommands():
    assert {"train", "score"} <= set(subcommands(help_of("scripts/benchmark.py")[0]))
