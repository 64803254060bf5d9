"""Folders and files that the owner alone can enter and read, whatever the umask; more readers when they are wanted."""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import setup_data
from data.archives import safe_extract
from tests.test_download_command import arguments as download_arguments
from tests.test_download_command import release, servers  # noqa: F401 (fixtures)
from utils import cli, privacy
from utils.errors import ConfigError
from utils.utils import atomic_directory, setup_logging, write_atomic


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def open_places(folder: Path, directories: int = 0o700, files: int = 0o600) -> list[str]:
    """Everything below a folder, and the folder, that has another mode."""
    found = [folder, *folder.rglob("*")]
    return [f"{mode_of(p):o} {p}" for p in found if mode_of(p) != (directories if p.is_dir() else files)]


@pytest.fixture
def no_umask():
    before = os.umask(0)
    yield
    os.umask(before)


def test_what_is_downloaded_and_unpacked_is_private(servers, tmp_path, no_umask):  # noqa: F811
    assert setup_data.main(download_arguments(servers, tmp_path)) == 0
    assert (
        list((tmp_path / "jpg").rglob("*.jpg")) and open_places(tmp_path / "jpg") == open_places(tmp_path / "qba") == []
    )
    target = tmp_path / "new" / "qa"
    assert safe_extract(next((tmp_path / "qba").rglob("qa.zip")), target, strip_top="qa")
    assert any(target.rglob("*.qa.json")) and open_places(target.parent) == []


def test_files_and_logs_are_the_owners_alone(tmp_path, no_umask):
    write_atomic(tmp_path / "a" / "b" / "file.txt", "x")
    setup_logging(tmp_path / "a" / "train.log")
    setup_logging()
    with privacy.open_private(tmp_path / "a" / "lines.jsonl", "a") as file:
        file.write("é")
    assert open_places(tmp_path / "a") == []


def test_a_group_may_read_when_that_is_wanted_whatever_the_umask(tmp_path, monkeypatch):
    monkeypatch.setenv("SSGVQA_SHARED_GROUP", "1")
    before = os.umask(0o077)
    try:
        with atomic_directory(tmp_path / "new" / "index") as folder:
            (folder / "inner").mkdir()
            (folder / "inner" / "file").write_text("x")
        write_atomic(tmp_path / "new" / "report.json", "{}")
        privacy.open_private(tmp_path / "new" / "log", "a").close()
    finally:
        os.umask(before)
    assert open_places(tmp_path / "new", 0o750, 0o640) == []


def test_a_folder_that_hands_its_group_on_goes_on_doing_so(tmp_path, monkeypatch):
    monkeypatch.setenv("SSGVQA_SHARED_GROUP", "1")
    parent = tmp_path / "lab"
    parent.mkdir()
    parent.chmod(0o2750)
    assert mode_of(privacy.private_directory(parent / "run")) == 0o2750


def test_an_unclear_wish_for_readers_ends_the_program(monkeypatch, capsys):
    monkeypatch.setenv("SSGVQA_SHARED_GROUP", "yes")
    with pytest.raises(ConfigError, match="must be 1"):
        privacy.shared_group()
    with pytest.raises(SystemExit) as stop:
        cli.run(lambda argv: 0, [])
    assert stop.value.code == ConfigError.exit_code and "SSGVQA_SHARED_GROUP=yes" in capsys.readouterr().err


@pytest.fixture
def within_reach(monkeypatch):
    """A folder that other users of this machine can get to."""
    monkeypatch.setattr(privacy, "_warned", set())
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_a_folder_that_others_can_read_stays_as_it_is_and_is_named_once(within_reach, caplog, monkeypatch):
    for _ in range(2):
        privacy.warn_if_open(within_reach)
    assert len(caplog.records) == 1 and "chmod 700 it" in caplog.text and str(within_reach) in caplog.text
    assert mode_of(privacy.private_directory(within_reach)) == 0o755
    caplog.clear()
    privacy.warn_if_open(within_reach / "not there yet")
    inner = privacy.private_directory(within_reach / "inner")
    (inner / "open").mkdir()
    (inner / "open").chmod(0o755)
    privacy.warn_if_open(inner)
    privacy.warn_if_open(inner / "open")
    assert caplog.text == "", "nobody gets past a closed folder"
    inner.chmod(0o750)
    monkeypatch.setenv("SSGVQA_SHARED_GROUP", "1")
    privacy.warn_if_open(inner)
    assert caplog.text == ""


def test_folders_are_made_in_one_place(root):
    """Every folder goes through `privacy.private_directory`; the benchmarks make look-alike data alone."""
    sources = [
        p for name in ("utils", "configs", "data", "models", "training", "scripts") for p in (root / name).rglob("*.py")
    ]
    made = re.compile(r"\.mkdir\(|makedirs\(|mkdtemp\(")
    found = [
        str(p.relative_to(root)) for p in [*sources, *root.glob("*.py")] if made.search(p.read_text(encoding="utf-8"))
    ]
    assert found == ["utils/privacy.py"]


def test_folders_are_made_by_many_threads_at_once(tmp_path):
    places = [tmp_path / "a" / "b" / str(n % 3) / str(n) for n in range(60)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(privacy.private_directory, places * 3))
    assert all(mode_of(place) == 0o700 for place in places)
