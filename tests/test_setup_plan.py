"""`setup_data.py --dry_run` of every step: what it says is what happens, it writes nothing, and a full disk is said."""

from __future__ import annotations

import re
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

import setup_data
from configs.mimic_cxr_config import DataConfig
from data import setup_plan
from data.setup_plan import Step
from data.synthetic import write_release
from tests.small_release import contents
from tests.test_hostile_archives import write_tar
from utils.errors import ConfigError, DataError

STUDIES = 30


@pytest.fixture(scope="module")
def origin(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("origin") / "r"
    write_release(folder, STUDIES, 3, workers=1, progress=False)
    return folder


@pytest.fixture
def release(origin, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(origin, tmp_path / "r")


def paths(folder: Path) -> list[str]:
    return ["--mimic_cxr_path", str(folder / "mimic-cxr-jpg"), "--mimic_qa_path", str(folder / "mimic-ext-cxr-qba")]


def data_of(folder: Path, **settings) -> DataConfig:
    jpg, qba = str(folder / "mimic-cxr-jpg"), str(folder / "mimic-ext-cxr-qba")
    return DataConfig(mimic_cxr_path=jpg, mimic_qa_path=qba, **settings)


def size_of(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize(
    "step", [[], ["--prepare"], ["--all"], ["--verify"], ["--extract_all"], ["--subset", "5"], ["--synthetic", "new"]]
)
def test_a_plan_says_everything_and_writes_nothing(release, tmp_path, capsys, step):
    before = contents(tmp_path)
    assert setup_data.main([*step, *paths(release), "--dry_run"]) == 0
    said = capsys.readouterr().out
    assert said.count("  reads:  ") == said.count("  writes: ") == said.count("  time:   ") >= 1
    assert "free in " in said or step == ["--verify"]
    assert contents(tmp_path) == before


def test_sizes_are_about_what_is_written(release, tmp_path):
    (index,) = setup_plan.prepare_steps(data_of(release), 1)
    assert setup_data.main(["--prepare", *paths(release), "--num_workers", "1"]) == 0
    assert index.folder.is_dir() and 0.5 < index.size / size_of(index.folder) < 2
    assert index.peak == 2 * index.size and index.seconds > 0 and str(STUDIES) in index.what
    (made,) = setup_plan.synthetic_steps(tmp_path / "x", STUDIES, 3, True, 1)
    assert 0.5 < made.size / size_of(release) < 2 and made.seconds > 0
    steps = setup_plan.extract_steps(str(release / "mimic-ext-cxr-qba"))
    assert setup_data.main(["--extract_all", "--mimic_qa_path", str(release / "mimic-ext-cxr-qba")]) == 0
    for step in steps:
        assert step.size == size_of(step.folder) - (step.folder / ".extracted.json").stat().st_size
    assert all(step.folder is None for step in setup_plan.extract_steps(str(release / "mimic-ext-cxr-qba")))


def test_what_is_there_already_is_not_planned_again(release, capsys):
    assert setup_data.main(["--prepare", *paths(release)]) == 0
    capsys.readouterr()
    assert setup_data.main(["--dry_run", *paths(release)]) == 0
    assert "is up to date" in capsys.readouterr().out
    path = next(release.rglob("*.jpg"))
    path.write_bytes(path.read_bytes())
    next((release / "mimic-cxr-jpg").glob("*split.csv.gz")).touch()
    assert setup_data.main(["--dry_run", *paths(release)]) == 0
    found = re.search(r"index of (\d+) studies, (\d+) of them copied from data_cache/", capsys.readouterr().out)
    assert found is None or int(found[1]) == int(found[2]) + 1


def test_the_plan_of_a_release_in_folders_and_in_tar_archives(release, tmp_path):
    root = release / "mimic-ext-cxr-qba"
    write_tar(root / "qa.tar.gz", {f"qa/{n}.json": b"{}" * 1000 for n in range(20)})
    names = [step.what for step in setup_plan.extract_steps(str(root))]
    assert [name.split(":")[0] for name in names] == ["unpack qa.zip", "unpack qa.tar.gz", "unpack scene_data.zip"]
    (root / "qa.tar.gz").unlink()
    setup_data.main(["--extract_all", "--mimic_qa_path", str(root)])
    for name in ("qa.zip", "scene_data.zip"):
        (root / name).unlink()
    data = data_of(release)
    assert setup_plan.prepare_steps(data, 1)[0].size > 0
    assert setup_plan.verify_steps(data, 1)[0].seconds > 0
    assert setup_plan.subset_steps(data, tmp_path / "s", 5, 0)[0].size > 0
    assert [step.folder is None for step in setup_plan.all_steps(data, 1)] == [True, False]


Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(
    "step", [["--prepare"], ["--all"], ["--extract_all"], ["--subset", "5"], ["--synthetic", "new"]]
)
def test_what_does_not_fit_is_one_line_after_the_plan(release, monkeypatch, capsys, step):
    monkeypatch.setattr(setup_plan.shutil, "disk_usage", lambda _: Usage(10**6, 10**6 - 1000, 1000))
    with pytest.raises(DataError, match=r"this will not fit: .* needs about .* are free; make room") as error:
        setup_data.main([*step, *paths(release), "--dry_run"])
    assert "\n" not in str(error.value)
    assert "  writes: " in capsys.readouterr().out


def test_steps_on_one_disk_add_up(tmp_path, monkeypatch):
    monkeypatch.setattr(setup_plan.shutil, "disk_usage", lambda _: Usage(100, 0, 100))
    first, second = Step("a", "", tmp_path, size=40, peak=90), Step("b", "", tmp_path / "b", size=20, peak=60)
    setup_plan.require_space([first, second])
    with pytest.raises(DataError, match="b needs"):
        setup_plan.require_space([first, Step("b", "", tmp_path, size=20, peak=61)])


def test_before_anything_is_there_the_plan_goes_by_published_numbers(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(setup_plan.shutil, "disk_usage", lambda _: Usage(10**13, 0, 10**13))
    assert setup_data.main(["--all", "--dry_run", *paths(tmp_path / "r")]) == 0
    said = capsys.readouterr().out
    assert "243,334 files" in said and "index, by published numbers" in said and said.count("not estimated") == 5
    size = float(re.search(r"data_cache: about ([\d.]+) GB", said)[1])
    assert 14.6 < size < 15.2, "14.7 GB of images, 7.5 million questions"
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--subset", "5", "--download"], "--download and --subset: one step at a time"),
        (["--synthetic", "x", "--prepare"], "--synthetic and --prepare: one step at a time"),
        (["--all", "--verify"], "--verify and --all: one step at a time"),
        (["--unzipped"], "--unzipped is an option of --synthetic"),
        (["--connections", "3"], "--connections is an option of --download and --all"),
        (["--subset_dir", "x", "--verify"], "--subset_dir is an option of --subset"),
        (["--studies", "0", "--synthetic", "x"], "--studies must be at least 1"),
        (["--num_workers", "0"], "--num_workers must be at least 1"),
    ],
)
def test_options_that_make_no_sense_are_one_line(words, match):
    with pytest.raises(ConfigError, match=match) as error:
        setup_data.main(words)
    assert "\n" not in str(error.value)


# --all


def test_all_of_what_is_there_needs_no_network(release, capsys):
    assert setup_data.main(["--all", *paths(release)]) == 0
    said = capsys.readouterr().out
    assert "8 tables and archives have the checksums" in said and "index: data_cache" in said
    assert "download" not in said


def test_all_stops_at_an_archive_with_another_checksum(release, capsys):
    path = next((release / "mimic-cxr-jpg").glob("*negbio*"))
    path.write_bytes(path.read_bytes() + b"\0")
    assert setup_data.main(["--all", *paths(release)]) == DataError.exit_code
    said = capsys.readouterr().out
    assert f"another checksum: {path.name}" in said and not Path("data_cache").exists()


def test_all_without_a_list_says_that_nothing_was_compared(release, capsys):
    for path in release.rglob("SHA256SUMS.txt"):
        path.unlink()
    assert setup_data.main(["--all", *paths(release)]) == 0
    assert "not compared, there is no SHA256SUMS.txt" in capsys.readouterr().out
