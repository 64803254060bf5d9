"""Is there space for what is to come?"""

from __future__ import annotations

import shutil
from pathlib import Path

from utils.errors import DataError


def require_space(folder: Path, needed: int) -> None:
    """DataError where the disk of `folder` has less than so many bytes."""
    free = shutil.disk_usage(existing_part(folder)).free
    if free < needed:
        raise DataError(
            f"about {format_bytes(needed)} are needed in {folder}, {format_bytes(free)} are free: name a folder on a larger "
            "disk, or choose fewer questions (data.quality_grade)"
        )


def format_bytes(number: float) -> str:
    return f"{number / 1e9:,.1f} GB" if number >= 1e8 else f"{number / 1e6:,.1f} MB"


def existing_part(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
