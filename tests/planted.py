"""A small sound release, and copies of it to plant oddities in, for the tests of the doctor."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

from configs.mimic_cxr_config import Config
from tests.small_release import Studies, question


def studies(count: int) -> Studies:
    """Of one patient and one film each, a quarter for validation."""
    return {50000001 + n: (10000001 + n, "validate" if n % 4 == 3 else "train", ["PA"]) for n in range(count)}


def questions(count: int) -> list[dict]:
    """Sound ones."""
    text = "Is there an effusion?", "Yes, there is."
    return [question(n, "D02_has_finding", *text, obs_entities=["pleural effusion"]) for n in range(count)]


def settings_of(root: Path, index: Path) -> Config:
    """Of the release below `root` that `tests.small_release.write_release` wrote."""
    config = Config()
    config.data.mimic_cxr_path, config.data.mimic_qa_path = str(root / "jpg"), str(root / "qba")
    config.data.index_dir, config.data.image_size = str(index), 64
    return config


def copied(clean: Path, folder: Path) -> Config:
    """The settings of a copy, to plant something in."""
    shutil.copytree(clean, folder / "release")
    return settings_of(folder / "release", folder / "index")


def rewrite(archive: Path, study: int, content: object) -> None:
    """Replace a study's member; text is written as it is."""
    with zipfile.ZipFile(archive) as old:
        members = {name: old.read(name) for name in old.namelist()}
    name = next(name for name in members if f"s{study}." in name)
    members[name] = (content if isinstance(content, str) else json.dumps(content)).encode()
    with zipfile.ZipFile(archive, "w") as new:
        for member, data in members.items():
            new.writestr(member, data)
