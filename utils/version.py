"""Which version of the program this is."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def commit() -> str | None:
    """Short hash of the checked-out commit."""
    if not shutil.which("git") or not (ROOT / ".git").exists():
        return None

    def git(*words: str) -> str | None:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)  # noqa: S607
        return done.stdout.strip() if done.returncode == 0 else None

    found = git("rev-parse", "--short", "HEAD")
    return f"{found}+changes" if found and git("status", "--porcelain", "--untracked-files=no") else found
