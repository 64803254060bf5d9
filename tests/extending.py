"""The blocks of CONTRIBUTING.md, applied to a copy of the repository, and programs that run there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = "benchmarks configs data models scripts tests training utils".split()
SKIPPED = shutil.ignore_patterns("__pycache__", ".*", "fault")

FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


class Change(NamedTuple):
    """A block of CONTRIBUTING.md that changes or adds a file."""

    file: str
    text: str
    """of a new file; of another, its parts between `@@`"""
    is_new: bool


def blocks(section: str, language: str, document: str | None = None) -> list[str]:
    """The fenced blocks of a language below a heading of CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8") if document is None else document
    parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    below = dict(zip(parts[1::2], parts[2::2], strict=True))
    return [block for kind, block in FENCE.findall(below[section]) if kind == language]


def changes(section: str, document: str | None = None) -> list[Change]:
    """What a section changes: its `python` blocks are new files, its `diff` blocks parts of others."""
    found = []
    for block in blocks(section, "python", document):
        first, _, rest = block.partition("\n")
        found.append(Change(first.removeprefix("# "), rest, True))
    for block in blocks(section, "diff", document):
        first, _, rest = block.partition("\n")
        assert first.startswith("--- "), f"{section}: a diff begins with the file's name, not {first!r}"
        found.append(Change(first.removeprefix("--- "), rest, False))
    return found


def apply(section: str, folder: Path, document: str | None = None) -> None:
    """Make the changes of a section in a copy. AssertionError: what a block leaves or removes does not stand there just once."""
    for change in changes(section, document):
        path = folder / change.file
        if change.is_new:
            assert not path.exists(), f"{section}: {change.file} is there already"
            path.write_text(change.text, encoding="utf-8")
            continue
        text = path.read_text(encoding="utf-8")
        for before, after in _parts(change.text):
            assert text.count(before) == 1, f"{section}: {change.file} has {text.count(before)} times\n{before}"
            text = text.replace(before, after)
        path.write_text(text, encoding="utf-8")


def _parts(text: str) -> Iterator[tuple[str, str]]:
    for part in text.split("@@\n"):
        lines = part.splitlines(keepends=True)
        if lines:
            before = "".join(line[1:] for line in lines if line[0] != "+")
            yield "\n" + before, "\n" + "".join(line[1:] for line in lines if line[0] != "-")


def copy_with(section: str | None, folder: Path) -> Path:
    """A copy of the repository's code with the changes of a section; None: without."""
    copy = folder / "repository"
    copy.mkdir(parents=True)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, copy / name, ignore=SKIPPED)
    for path in (*ROOT.glob("*.py"), ROOT / "pyproject.toml"):
        shutil.copy(path, copy)
    if section:
        apply(section, copy)
    return copy


def run_there(copy: Path, program: str, *arguments: object) -> dict:
    """What the function `program` of `tests.extended` returns in that copy, as a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(copy), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "tests.extended", program, *map(str, arguments)]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])
