"""A full, read-only or protected disk is one clear line, leaves nothing half-written, and a second run finishes."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import analyze_data
from configs.mimic_cxr_config import Config
from data.index import build, ensure_index
from data.synthetic import write_release
from tests.fault.unprivileged import public_folder, unprivileged
from tests.small_release import contents
from tests.small_release import write_release as write_small_release
from training import evaluation_run
from utils.errors import DataError
from utils.run_lock import LOCK
from utils.utils import writing_to

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def run_with_small_files(root: Path, limit: int, *words: object) -> subprocess.CompletedProcess:
    """A command of the repository that may write no file of more than `limit` bytes."""
    resource = pytest.importorskip("resource", reason="this system does not limit the size of files")

    def lower():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, cwd=root, preexec_fn=lower, capture_output=True, text=True)


# The helper


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "EIO", "ENOTDIR", "EEXIST"])
def test_a_refused_write_says_where_why_and_what_to_do(name):
    number = getattr(errno, name)
    with pytest.raises(DataError) as caught, writing_to("some/place", "free space"):
        raise OSError(number, "words of a library")
    assert str(caught.value) == f"cannot write to some/place ({os.strerror(number)}); free space"


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, "gone"), OSError("no number"), ValueError("a bug")])
def test_other_errors_pass_as_they_are(error):
    with pytest.raises(type(error)) as caught, writing_to("some/place", "free space"):
        raise error
    assert caught.value is error


# The look-alike release


def test_a_release_without_space(root, tmp_path):
    target = tmp_path / "release"
    words = ("setup_data.py", "--synthetic", target, "--studies", 8, "--num_workers", 2)
    done = run_with_small_files(root, 30_000, *words)
    assert done.returncode == DataError.exit_code
    assert done.stderr.splitlines() == [
        f"error: cannot write to {target} (File too large); free space, or choose another folder with --synthetic"
    ]
    assert list(tmp_path.iterdir()) == []
    write_release(target, 8, 0, workers=1, progress=False)
    assert {p.name for p in target.iterdir()} == {"mimic-cxr-jpg", "mimic-ext-cxr-qba", "README.md"}


def test_a_release_where_nothing_may_be_written():
    with public_folder() as folder, unprivileged():
        with pytest.raises(DataError, match=r"cannot write to .*new \(Permission denied\); .*--synthetic"):
            write_release(folder / "new", 3, 0, workers=1, progress=False)
        assert list(folder.iterdir()) == []


# The index


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "STUDIES_PER_PART", 1)
    return write_small_release(tmp_path)


def make(data):
    return ensure_index(Config(data=data), 1)


def index_command(data) -> tuple:
    settings = [f"data.{name}={getattr(data, name)}" for name in ("mimic_cxr_path", "mimic_qa_path", "index_dir")]
    return ("setup_data.py", "--num_workers", 2, *(word for s in settings for word in ("--set", s)))


def test_an_index_without_space(root, data, tmp_path):
    done = run_with_small_files(root, 5_000, *index_command(data))
    assert done.returncode == DataError.exit_code
    assert done.stderr.splitlines()[1:] == [
        f"error: cannot write to {data.index_dir} (File too large); free space (finished parts are kept), or name "
        "another folder with --set data.index_dir=..."
    ]
    assert not Path(data.index_dir).exists()
    assert [p.name for p in Path(data.index_dir + ".partial").iterdir() if p.name != LOCK] == ["plan.json"], (
        "no half-written part"
    )
    make(data)
    assert not Path(data.index_dir + ".partial").exists()


def test_a_full_disk_at_the_end_keeps_the_finished_parts(data, monkeypatch):
    whole = contents(make(data).path)
    shutil.rmtree(data.index_dir)

    def full(*_):
        raise FULL

    with monkeypatch.context() as patch:
        patch.setattr(build.shutil, "copyfileobj", full)
        with pytest.raises(DataError, match="No space left on device.*finished parts are kept"):
            make(data)
    assert not any(p.name.startswith((".", "index.json")) for p in Path(data.index_dir).parent.iterdir())
    monkeypatch.setattr(build, "build_part", lambda *_: pytest.fail("a finished part was built again"))
    assert contents(make(data).path) == whole


def test_an_index_where_nothing_may_be_written():
    with public_folder() as folder:
        data = write_small_release(folder)
        (folder / "closed").mkdir(mode=0o700)
        with unprivileged():
            for place in (folder / "index", folder / "closed" / "index"):
                data.index_dir = str(place)
                with pytest.raises(DataError, match=r"cannot write to .*index \(Permission denied\).*data\.index_dir"):
                    make(data)


def test_an_index_never_takes_the_place_of_other_files(data):
    folder = Path(data.index_dir)
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match=r"exists and is no index; name another folder with --set data\.index_dir"):
        make(data)
    assert (folder / "thesis.txt").read_text() == "mine" and [p.name for p in folder.iterdir()] == ["thesis.txt"]
    data.index_dir = str(folder / "thesis.txt")
    with pytest.raises(DataError, match="exists and is no index"):
        make(data)
    data.index_dir = str(folder / "thesis.txt" / "index")
    with pytest.raises(DataError, match=r"cannot write to .*\(Not a directory\)"):
        make(data)


# Reports


def test_a_report_that_cannot_be_written(data, tmp_path):
    (tmp_path / "file").write_text("")
    settings = [f"data.{name}={getattr(data, name)}" for name in ("mimic_cxr_path", "mimic_qa_path", "index_dir")]
    words = ["--num_workers", "1", "--output_dir", str(tmp_path / "file")]
    words += [word for s in [*settings, "data.image_size=64"] for word in ("--set", s)]
    with pytest.raises(DataError, match=r"cannot write to .*file \((File exists|Not a directory)\).*--output_dir"):
        analyze_data.main(words)


def test_an_evaluation_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write to .*file \(File exists\).*--output_dir"):
        evaluation_run._write(tmp_path / "file", {}, None, False)
