"""A subset is a release: it reads, splits and indexes as the one that it was made of, with fewer patients."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import setup_data
from data.checksums import read_listing
from data.release import open_release
from data.release.subset import choose_patients, write_subset
from data.synthetic import write_release
from utils.errors import DataError
from utils.utils import sha256_of


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "r"
    write_release(folder, 60, 4, workers=1, progress=False)
    return open_release(folder / "mimic-cxr-jpg", folder / "mimic-ext-cxr-qba")


@pytest.fixture(scope="module")
def subset(release, tmp_path_factory):
    target = tmp_path_factory.mktemp("subset") / "s"
    counts = write_subset(release, target, patients=9, seed=1)
    return target, counts, open_release(target / "mimic-cxr-jpg", target / "mimic-ext-cxr-qba")


def test_it_has_so_many_patients_of_all_splits(release, subset):
    _, counts, small = subset
    assert counts["patients"] == small.images["subject_id"].nunique() == 9
    assert set(small.images["split"]) == {"train", "validate", "test"}
    owner = dict(zip(release.images["subject_id"], release.images["split"], strict=True))
    assert all(owner[subject] == split for subject, split in zip(small.images["subject_id"], small.images["split"]))
    assert counts["studies"] == len(small.studies()) and not small.problems


def test_all_of_a_patient_is_there_and_the_same(release, subset):
    _, counts, small = subset
    subjects = set(small.images["subject_id"])
    assert set(small.studies()) == {key for key in release.studies() if key[0] in subjects}
    for key in small.studies():
        assert small.read_qa(*key) == release.read_qa(*key)
        assert small.read_scene_graph(*key) == release.read_scene_graph(*key)
        assert small.read_metadata(*key) == release.read_metadata(*key)
    own = release.images[release.images["subject_id"].isin(subjects)]
    assert sorted(own["path"]) == sorted(small.images["path"]) and counts["images"] == len(own)
    for path in own["path"]:
        assert small.image_path(path).read_bytes() == release.image_path(path).read_bytes()
    labels = release.chexpert.loc[small.chexpert.index]
    assert small.chexpert.equals(labels)


def test_tables_have_the_rows_of_its_patients_alone(release, subset):
    target, _, small = subset
    studies = {f"s{study:08d}" for _, study in small.studies()}
    folder = target / "mimic-ext-cxr-qba" / "metadata"
    names = {path.name for path in folder.iterdir()}
    assert "question_metadata.parquet" in names and not any(".csv" in name for name in names)
    for path in folder.glob("*.parquet"):
        whole = pq.read_table(release.qba.metadata / path.name)
        table = pq.read_table(path)
        assert table.schema.equals(whole.schema)
        if "study_id" in table.column_names:
            wanted = [row for row in whole.to_pylist() if row["study_id"] in studies]
            assert table.to_pylist() == wanted
    small_table = target / "mimic-cxr-jpg" / release.jpg.tables["chexpert"].name
    lines, whole = (gzip.decompress(p.read_bytes()).splitlines() for p in (small_table, release.jpg.tables["chexpert"]))
    assert set(lines) < set(whole) and lines[0] == whole[0]


def test_its_list_of_files_is_right(subset):
    target, _, _ = subset
    for folder in (target / "mimic-cxr-jpg", target / "mimic-ext-cxr-qba"):
        listed = read_listing(folder / "SHA256SUMS.txt")
        there = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} - {"SHA256SUMS.txt"}
        assert set(listed) == there
        assert all(sha256_of(folder / name) == value for name, value in listed.items())


def test_the_same_seed_chooses_the_same_patients(release):
    assert choose_patients(release, 9, 1) == choose_patients(release, 9, 1) != choose_patients(release, 9, 2)


def test_missing_images_are_counted(release, tmp_path, monkeypatch):
    kind = type(release)
    known = kind.image_path
    lost = set(release.images["path"][:10])
    monkeypatch.setattr(kind, "image_path", lambda self, row: Path("/nowhere") if row in lost else known(self, row))
    counts = write_subset(release, tmp_path / "s", patients=release.images["subject_id"].nunique())
    assert counts["missing_images"] == 10 and counts["images"] == len(release.images) - 10


@pytest.mark.parametrize("patients", [0, 2, 10_000])
def test_an_impossible_number_is_refused(release, tmp_path, patients):
    with pytest.raises(DataError, match="a subset has 3 to"):
        write_subset(release, tmp_path / "s", patients=patients)
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_never_replaced(release, tmp_path):
    (tmp_path / "s").mkdir()
    with pytest.raises(DataError, match="name a new folder"):
        write_subset(release, tmp_path / "s", patients=9)


def test_the_command_writes_one_and_says_where(release, tmp_path, capsys):
    paths = ["--mimic_cxr_path", str(release.jpg.root), "--mimic_qa_path", str(release.qba.root)]
    assert setup_data.main(["--subset", "5", "--subset_dir", str(tmp_path / "five"), *paths]) == 0
    said = capsys.readouterr().out
    assert "5 patients" in said and f"MIMIC_CXR_PATH={tmp_path / 'five' / 'mimic-cxr-jpg'}" in said
    assert "agreement" not in said, "this one is generated"
