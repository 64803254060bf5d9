"""The command blocks of the documents, and the comments that say how they are run.

A line `<!-- run -->` before a fence, which readers do not see, means: these commands run in the tests as they are written.

    <!-- run -->                                                  the release is there, nothing else
    <!-- run: with checkpoints, films.csv; writes results/report.html -->

`with` names what lies in the folder before (tests/user_checkout.py), `writes` the files and folders that are there after it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*.md")])
SHELL = ("bash", "sh", "shell", "console")

_FENCE = re.compile(r"^(?:<!-- *(run\b.*?) *-->\n)?```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Run:
    """How a block is run."""

    needs: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Block:
    """A fenced block: `name` is its document and the number of its first line."""

    document: str
    line: int
    language: str
    text: str
    run: Run | None

    @property
    def name(self) -> str:
        return f"{self.document}:{self.line}"

    @property
    def first(self) -> str:
        """The first line, without its comment: what a list of blocks can call it by while documents grow."""
        return re.sub(r"\s+#.*", "", self.text.splitlines()[0]).strip()


def parse_run(text: str) -> Run:
    """`run`, `run: with A, B; writes C`. ValueError for anything else: a comment with a slip would not be noticed."""
    match = re.fullmatch(r"run(?:: *(.+))?", text)
    if match is None:
        raise ValueError(f"<!-- {text} -->: write `run` or `run: with A, B; writes C`")
    found: dict[str, tuple[str, ...]] = {}
    for part in (match[1] or "").split(";"):
        word, _, names = part.strip().partition(" ")
        if not word and match[1] is None:
            continue
        if word not in ("with", "writes") or word in found or not names.strip():
            raise ValueError(f"<!-- {text} -->: {part.strip()!r} is neither `with A, B` nor `writes C`")
        found[word] = tuple(name.strip() for name in names.split(","))
    return Run(found.get("with", ()), found.get("writes", ()))


def blocks(text: str, document: str) -> Iterator[Block]:
    """Every fenced block of a document."""
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start(2)) + 1
        yield Block(document, line, match[2], match[3], parse_run(match[1]) if match[1] else None)


def shell_blocks() -> list[Block]:
    """The command blocks of all documents."""
    found = []
    for path in DOCUMENTS:
        document = str(path.relative_to(ROOT))
        found += [one for one in blocks(path.read_text(encoding="utf-8"), document) if one.language in SHELL]
    return found
