"""An index that is there is opened without reading its release again, unless the release's files look other than then."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from configs.mimic_cxr_config import Config, DataConfig, to_yaml
from data.index import ensure_index
from data.index.origin import ORIGIN
from data.release import Release
from tests.small_release import write_release
from utils.errors import DataError


@pytest.fixture
def data(tmp_path) -> DataConfig:
    return write_release(tmp_path)


@pytest.fixture
def reads(monkeypatch) -> list[Release]:
    """The releases that were read."""
    found, load = [], Release.load

    def counted(self):
        found.append(self)
        load(self)

    monkeypatch.setattr(Release, "load", counted)
    return found


def open_it(data: DataConfig):
    return ensure_index(Config(data=data), 1)


def touch(path: Path) -> None:
    found = path.stat()
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 10**9))


@pytest.mark.parametrize("own_folder", [True, False])
def test_a_release_that_did_not_change_is_not_read(data, reads, own_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data.index_dir = data.index_dir if own_folder else ""
    first = open_it(data)
    reads.clear()
    assert open_it(data).fingerprint == first.fingerprint
    assert not reads


def test_files_that_were_only_touched_are_read_once_more(data, reads):
    first = open_it(data)
    touch(Path(data.mimic_qa_path) / "qa.zip")
    reads.clear()
    assert open_it(data).fingerprint == first.fingerprint
    assert len(reads) == 1
    open_it(data)
    assert len(reads) == 1


@pytest.mark.parametrize("part", ["jpg/mimic-cxr-2.0.0-chexpert.csv.gz", "qba/scene_data.zip"])
def test_other_contents_are_noticed(data, tmp_path, part):
    open_it(data)
    path = tmp_path / part
    if part.endswith("zip"):
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("scene_data/p10/p10000009/s59999999.scene_graph.json", "{}")
    else:
        path.write_bytes(path.read_bytes()[:-9])
    touch(path)
    with pytest.raises(DataError, match="release differ|chexpert"):
        open_it(data)


def test_a_release_that_lies_in_folders_is_always_read(data, reads):
    with zipfile.ZipFile(Path(data.mimic_qa_path) / "qa.zip") as archive:
        archive.extractall(data.mimic_qa_path)
    (Path(data.mimic_qa_path) / "qa.zip").unlink()
    first = open_it(data)
    assert not (first.path / ORIGIN).exists()
    reads.clear()
    open_it(data)
    assert len(reads) == 1


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"files": []}', "\x00"])
def test_what_an_index_says_of_its_release_may_be_damaged(data, reads, content):
    first = open_it(data)
    kept = (first.path / ORIGIN).read_text()
    (first.path / ORIGIN).write_text(content)
    reads.clear()
    assert open_it(data).fingerprint == first.fingerprint
    assert len(reads) == 1
    assert (first.path / ORIGIN).read_text() == kept


def test_an_index_from_other_settings_is_refused_as_before(data):
    open_it(data)
    data.view_filter = "all"
    with pytest.raises(DataError, match="view_filter differ"):
        open_it(data)


def test_opening_needs_no_pandas(data, tmp_path):
    """It takes a third of a second of every start."""
    open_it(data)
    (tmp_path / "c.yaml").write_text(to_yaml(Config(data=data)))
    program = """
import json, sys
from configs.mimic_cxr_config import load_config
from data.index import ensure_index
index = ensure_index(load_config(sys.argv[1], []).config)
used = [index.questions, index.studies, index.images, index.boxes, index.findings, index.texts([0, 1]), index.image_ids([0])]
print(json.dumps(["pandas" in sys.modules, len(index.questions["target"])]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "c.yaml")], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [False, 9]
