"""`setup_data.py --download`: a look-alike release comes over the wire, and the index is built from what came."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import setup_data
from configs.mimic_cxr_config import DataConfig
from data import setup_plan
from data.download import command, fetch, needed
from data.download.transfer import Site
from data.release import open_release
from data.synthetic import write_release
from tests import file_server
from tests.file_server import FileServer
from tests.lock_holder import held_by_another
from utils import privacy
from utils.errors import DataError


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("origin") / "r"
    write_release(folder, 12, 3, workers=1, progress=False)
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def servers(release):
    with (
        FileServer(files_of(release / "mimic-cxr-jpg")) as jpg,
        FileServer(files_of(release / "mimic-ext-cxr-qba")) as qba,
    ):
        yield jpg, qba


def arguments(servers, folder: Path) -> list[str]:
    jpg, qba = servers
    paths = ["--mimic_cxr_path", str(folder / "jpg"), "--mimic_qa_path", str(folder / "qba")]
    return ["--download", *paths, "--jpg_address", jpg.url(), "--qba_address", qba.url(), "--connections", "3"]


def test_what_is_needed_comes_and_nothing_else(servers, tmp_path, capsys, release):
    assert setup_data.main(arguments(servers, tmp_path)) == 0
    said = capsys.readouterr().out
    images = {path for path in files_of(tmp_path / "jpg") if path.endswith(".jpg")}
    own = open_release(release / "mimic-cxr-jpg", release / "mimic-ext-cxr-qba")
    assert images == set(needed.needed_images(own, DataConfig()))
    assert len(images) < len(own.images), "lateral films stay where they are"
    for path in images:
        assert (tmp_path / "jpg" / path).read_bytes() == (release / "mimic-cxr-jpg" / path).read_bytes()
    assert not list((tmp_path / "qba").rglob("*.csv.gz")), "tables that no one reads stay where they are"
    assert "files downloaded, 0 were there already" in said and "next:" in said
    assert open_release(tmp_path / "jpg", tmp_path / "qba").fingerprint() == own.fingerprint()
    assert setup_data.main(arguments(servers, tmp_path)) == 0
    assert "0 files downloaded" in capsys.readouterr().out


def test_what_does_not_come_is_named_in_private_and_comes_later(servers, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(privacy, "LOCAL_NAMES", tmp_path / "names.log")
    jpg, _ = servers
    one, other = sorted(path for path in jpg.files if path.endswith(".jpg"))[:2]
    everything = ["--set", "data.view_filter=all"]
    jpg.tricks[one] = [file_server.status(404)]
    jpg.tricks[other] = [file_server.garbage]
    assert setup_data.main([*arguments(servers, tmp_path), *everything]) == DataError.exit_code
    said = capsys.readouterr().out
    assert "not downloaded: files/p1" in said and "set aside in quarantine/" in said
    names = privacy.LOCAL_NAMES.read_text()
    assert f"not downloaded: {one}" in names and other in names and one not in said and other not in said
    assert setup_data.main([*arguments(servers, tmp_path), *everything]) == 0
    assert "2 files downloaded" in capsys.readouterr().out


def test_the_plan_asks_no_one(servers, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(setup_plan, "_free", lambda folder: 10**12)
    assert setup_data.main([*arguments(servers, tmp_path), "--dry_run"]) == 0
    said = capsys.readouterr().out
    assert "243,334 files" in said and "exports/A_frontal/" in said and "free in" in said
    assert not any(server.seen for server in servers) and not list(tmp_path.iterdir())


def test_the_plan_says_what_does_not_fit_and_what_is_there(servers, tmp_path, capsys, monkeypatch):
    assert setup_data.main(arguments(servers, tmp_path)) == 0
    capsys.readouterr()
    monkeypatch.setattr(setup_plan, "_free", lambda folder: 10**11)
    with pytest.raises(DataError, match=r"this will not fit: download images .*100\.0 GB are free"):
        setup_data.main([*arguments(servers, tmp_path), "--dry_run"])
    there = len(list((tmp_path / "jpg").rglob("*.jpg"))) * fetch.IMAGE_BYTES / 1e6
    assert f"{there:.1f} MB of it are there" in capsys.readouterr().out


def test_all_downloads_what_is_missing_and_builds_the_index(servers, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--all", *arguments(servers, tmp_path)[1:], "--num_workers", "1"]
    assert setup_data.main(words) == 0
    said = capsys.readouterr().out
    assert "download: " in said and "files downloaded, 0 were there already" in said and "index: data_cache" in said
    lost = next((tmp_path / "jpg").rglob("*.jpg"))
    lost.unlink()
    asked = [len(server.seen) for server in servers]
    assert setup_data.main(words) == 0
    said = capsys.readouterr().out
    assert "download: 1 images have no file" in said and "1 files downloaded" in said and lost.exists()
    assert setup_data.main(words) == 0
    assert "download: " not in capsys.readouterr().out
    assert len(servers[0].seen) == asked[0] + 1


def test_all_stops_where_something_does_not_come(servers, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    jpg, _ = servers
    jpg.tricks[min(path for path in jpg.files if path.endswith(".jpg"))] = [file_server.garbage]
    everything = ["--set", "data.view_filter=all"]
    assert setup_data.main(["--all", *arguments(servers, tmp_path)[1:], *everything]) == DataError.exit_code
    assert "set aside in quarantine/" in capsys.readouterr().out and not (tmp_path / "data_cache").exists()


def test_a_full_disk_is_said_before_the_images_come(servers, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "IMAGE_BYTES", 10**15)
    with pytest.raises(DataError, match=r"GB are needed in .*, .* GB are free"):
        setup_data.main(arguments(servers, tmp_path))
    assert not list(tmp_path.rglob("*.jpg"))


def test_folders_must_be_named_and_two(tmp_path):
    with pytest.raises(DataError, match="--mimic_qa_path: name the folder"):
        command.require_folders(DataConfig(mimic_cxr_path="x"))
    with pytest.raises(DataError, match="are the same folder"):
        command.require_folders(DataConfig(mimic_cxr_path=str(tmp_path), mimic_qa_path=f"{tmp_path}/."))


def test_another_download_into_the_same_folder_is_refused(servers, tmp_path):
    with (
        held_by_another(tmp_path / "qba") as number,
        pytest.raises(DataError, match=rf"qba is in use by process {number} .*or name another folder"),
    ):
        setup_data.main(arguments(servers, tmp_path))
    assert setup_data.main(arguments(servers, tmp_path)) == 0


def test_a_copy_of_wget_is_continued_where_it_lies(servers, tmp_path, release):
    deep = tmp_path / "jpg" / "physionet.org" / "files" / "mimic-cxr-jpg" / "2.1.0"
    deep.mkdir(parents=True)
    for path in (release / "mimic-cxr-jpg").glob("*.csv.gz"):
        (deep / path.name).write_bytes(path.read_bytes())
    assert setup_data.main(arguments(servers, tmp_path)) == 0
    assert list((deep / "files").rglob("*.jpg")) and not (tmp_path / "jpg" / "files").exists()


def test_images_without_their_folder_are_named(tmp_path, release):
    for path in (release / "mimic-cxr-jpg").glob("*.csv.gz"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "p10" / "p10000032").mkdir(parents=True)
    with pytest.raises(DataError, match="move these into"):
        fetch.jpg_root(str(tmp_path))


@pytest.mark.parametrize(
    ("grade", "view", "home"),
    [
        ("A++", "frontal_only", "exports/A_frontal/"),
        ("A", "frontal_only", "exports/A_frontal/"),
        ("B", "frontal_only", "exports/B_frontal/"),
        ("C", "frontal_only", ""),
        ("all", "frontal_only", ""),
        ("A", "all", ""),
    ],
)
def test_the_smallest_export_that_has_everything(grade, view, home):
    data = DataConfig(quality_grade=grade, view_filter=view)
    assert needed.export_of(data) == home
    listing = {f"{home}qa.zip", f"{home}scene_graph.zip", "metadata/dataset_info.json", "quality_mappings.csv"}
    listing.add(f"{home}metadata/question_metadata.parquet")
    assert set(needed.needed_of_qba(listing, data)) == listing


def test_a_release_without_what_is_needed_is_named():
    with pytest.raises(DataError, match="no scene graphs among the files of this release: looked for"):
        needed.needed_of_qba({"qa.zip"}, DataConfig())
    with pytest.raises(DataError, match="no table split"):
        needed.needed_of_jpg({"mimic-cxr-2.0.0-metadata.csv.gz"})


def test_bytes_are_counted(servers, tmp_path):
    counted = []

    class Bar:
        def __enter__(self):
            return counted.append

        def __exit__(self, *_):
            pass

    jpg, qba = (Site(server.url()) for server in servers)
    data = DataConfig(mimic_cxr_path=str(tmp_path / "jpg"), mimic_qa_path=str(tmp_path / "qba"))
    outcome = fetch.fetch(data, jpg, qba, lambda what, files: Bar(), {}, 2)
    size = sum(
        (tmp_path / kind / path).stat().st_size
        for kind in ("jpg", "qba")
        for path in outcome.downloaded
        if (tmp_path / kind / path).is_file()
    )
    assert np.sum(counted) == size
