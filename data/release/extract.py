"""Unpack a release's archives into the layout that the reader knows. Optional: the reader reads zip archives directly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from data.archives import Progress, safe_extract
from data.release.locate import SCENE_NAMES, existing_folder, find_qba, levels

ENDINGS = (".zip", ".tar.gz", ".tgz", ".tar")
"""PhysioNet has zip archives; copies that were packed anew are often tar archives."""

ProgressFor = Callable[[Path], Progress]
"""Given an archive, the function that shows its progress."""


def extract_release(qa_path: Path | str, progress_for: ProgressFor | None = None) -> list[str]:
    """Unpack qa.zip and scene_data.zip (scene_graph.zip) of a release and of its exports; one line for each archive.

    `<name>.zip` (or .tar, .tar.gz, .tgz) goes to a folder `<name>/` beside it. What is unpacked already is not touched.

    Raises:
        DataError: no release, a damaged or unsafe archive, no space, or a folder that holds something else.
    """
    archives = find_archives(qa_path)
    if not archives:
        return [f"{find_qba(qa_path).root}: no archives here, the release is already unpacked"]
    return [_extract(*pair, progress_for(pair[0]) if progress_for else None) for pair in archives]


def find_archives(qa_path: Path | str) -> list[tuple[Path, Path]]:
    """Each archive with the folder that it is unpacked to; DataError when there is no such path."""
    start = existing_folder(qa_path, "MIMIC-Ext-CXR-QBA", "--mimic_qa_path or MIMIC_QA_PATH")
    return [
        (path, folder / name)
        for level in levels(start)
        for folder in level
        for name in ("qa", *SCENE_NAMES)
        for ending in ENDINGS
        if (path := folder / f"{name}{ending}").is_file()
    ]


def _extract(archive: Path, target: Path, progress: Progress | None) -> str:
    if safe_extract(archive, target, progress, strip_top=target.name):
        return f"{archive}: unpacked to {target}"
    return f"{archive}: already unpacked in {target}"
