"""Unpack a release's archives into the layout that the reader knows. Optional: the reader reads archives directly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from data.archives import Progress, safe_extract
from data.release.locate import SCENE_NAMES, existing_folder, find_qba, levels

ProgressFor = Callable[[Path], Progress]
"""Given an archive, the function that shows its progress."""


def extract_release(qa_path: Path | str, progress_for: ProgressFor | None = None) -> list[str]:
    """Unpack qa.zip and scene_data.zip (scene_graph.zip) of a release and of its exports; one line for each archive.

    `<name>.zip` goes to a folder `<name>/` beside it. What is unpacked already is not touched.

    Raises:
        DataError: no release, a damaged or unsafe archive, no space, or a folder that holds something else.
    """
    start = existing_folder(qa_path, "MIMIC-Ext-CXR-QBA", "--mimic_qa_path or MIMIC_QA_PATH")
    folders = [folder for level in levels(start) for folder in level]
    archives = [p for folder in folders for name in ("qa", *SCENE_NAMES) if (p := folder / f"{name}.zip").is_file()]
    if not archives:
        return [f"{find_qba(start).root}: no archives here, the release is already unpacked"]
    return [_extract(archive, progress_for(archive) if progress_for else None) for archive in archives]


def _extract(archive: Path, progress: Progress | None) -> str:
    target = archive.with_suffix("")
    if safe_extract(archive, target, progress, strip_top=target.name):
        return f"{archive}: unpacked to {target}"
    return f"{archive}: already unpacked in {target}"
