"""What is wrong with a release is one clear line, or counted; never guessed and never silent."""

import shutil
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from data.release import check, open_release
from tests.release_files import QA, STUDIES, write_jpg, write_members, write_qba
from utils.errors import DataError


@pytest.fixture
def jpg(tmp_path) -> Path:
    return write_jpg(tmp_path / "jpg")


@pytest.fixture
def qba(tmp_path) -> Path:
    return write_qba(tmp_path / "qba")


def edit_table(root: Path, name: str, edit) -> None:
    path = next(root.glob(f"*-{name}.csv.gz"))
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    changed = edit(frame)
    (frame if changed is None else changed).to_csv(path, index=False)


def set_value(column: str, value: str, row: int = 0):
    def edit(frame):
        frame.loc[row, column] = value

    return edit


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def only(pattern: str):
    return lambda root: next(root.glob(pattern)).unlink()


def rewrite_member(root: Path, content: bytes) -> None:
    with zipfile.ZipFile(root / "qa.zip", "a") as archive:
        archive.writestr("qa/p10/p10000001/s50000001.qa.json", content)


BROKEN = {
    "no split table": ("jpg", only("*split*"), "split.csv.gz"),
    "no chexpert table": ("jpg", only("*chexpert*"), "chexpert.csv.gz.*PhysioNet"),
    "no metadata table": ("jpg", only("*metadata*"), "no MIMIC-CXR-JPG release"),
    "truncated table": ("jpg", lambda r: truncate(next(r.glob("*metadata*"))), "metadata.csv.gz cannot be read"),
    "empty table": ("jpg", lambda r: next(r.glob("*split*")).write_bytes(b""), "split.csv.gz cannot be read"),
    "header only": ("jpg", lambda r: edit_table(r, "split", lambda f: f.head(0)), "split.csv.gz has no rows"),
    "missing column": ("jpg", lambda r: edit_table(r, "split", lambda f: f.drop(columns="split")), "no column split"),
    "label missing": ("jpg", lambda r: edit_table(r, "chexpert", lambda f: f.drop(columns="Edema")), "no column Edema"),
    "bad id": ("jpg", lambda r: edit_table(r, "metadata", set_value("study_id", "abc", 2)), "study_id.*line 4"),
    "patient in two splits": (
        "jpg",
        lambda r: edit_table(r, "split", lambda f: f.assign(split=["train", "test"] * 3)),
        "patients are in more than one split",
    ),
    "study of two patients": (
        "jpg",
        lambda r: edit_table(r, "metadata", lambda f: f.assign(study_id="50000001")),
        "belong to more than one patient",
    ),
    "other images": (
        "jpg",
        lambda r: edit_table(r, "metadata", lambda f: f.assign(dicom_id="x" + f.dicom_id)),
        "different releases",
    ),
    "no vocabulary": ("qba", only("metadata/dataset_info.json"), "no dataset_info.json"),
    "vocabulary not JSON": (
        "qba",
        lambda r: (r / "metadata/dataset_info.json").write_text("{"),
        "dataset_info.json.*JSON",
    ),
    "no names": ("qba", lambda r: (r / "metadata/dataset_info.json").write_text('{"regions": []}'), "finding_entities"),
    "no questions": ("qba", only("qa.zip"), "neither qa.zip nor a folder qa/"),
    "zero bytes": ("qba", lambda r: (r / "qa.zip").write_bytes(b""), "qa.zip is not a complete zip"),
    "truncated zip": ("qba", lambda r: truncate(r / "qa.zip"), "qa.zip is not a complete zip"),
    "no entries": ("qba", lambda r: write_members(r / "qa.zip", {}), "qa.zip is an empty zip"),
    "other zip": ("qba", lambda r: shutil.copy(r / "scene_data.zip", r / "qa.zip"), "qa.zip holds no file like"),
    "scenes truncated": ("qba", lambda r: truncate(r / "scene_data.zip"), "scene_data.zip is not a complete zip"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_release_is_one_clear_line(jpg, qba, what):
    side, damage, message = BROKEN[what]
    damage({"jpg": jpg, "qba": qba}[side])
    with pytest.raises(DataError, match=message) as error:
        open_release(jpg, qba)
    assert "\n" not in str(error.value) and not any(str(p) in str(error.value) for p, *_ in STUDIES)


def test_wrong_paths_say_what_to_do(tmp_path, jpg, qba):
    (tmp_path / "empty").mkdir()
    table = next(jpg.glob("*split*"))
    cases = [
        (tmp_path / "nowhere", qba, "nowhere does not exist.*--mimic_cxr_path"),
        (jpg, tmp_path / "nowhere", "nowhere does not exist.*--mimic_qa_path"),
        (tmp_path / "empty", qba, "empty.*metadata.csv.gz"),
        (jpg, tmp_path / "empty", "empty.*neither qa.zip"),
        ("", qba, "MIMIC_CXR_PATH"),
        (table, qba, "is a file"),
        (qba, jpg, "swapped"),
        (jpg, jpg, "swapped"),
    ]
    for cxr, qa, message in cases:
        with pytest.raises(DataError, match=message):
            open_release(cxr, qa)
    shutil.copytree(jpg, tmp_path / "two/2.0.0")
    shutil.copytree(jpg, tmp_path / "two/2.1.0")
    with pytest.raises(DataError, match="2 copies of MIMIC-CXR-JPG.*pass one of"):
        open_release(tmp_path / "two", qba)
    write_qba(tmp_path / "exports/A_frontal")
    write_qba(tmp_path / "exports/B_frontal")
    with pytest.raises(DataError, match="2 copies of MIMIC-Ext-CXR-QBA.*A_frontal and .*B_frontal"):
        open_release(jpg, tmp_path / "exports")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("content", [b'{"questions": [', b"[1]", b"\xff\xfe", b"[" * 200_000, b""])
def test_invalid_json_names_archive_and_member(jpg, qba, content):
    rewrite_member(qba, content)
    release = open_release(jpg, qba)
    with pytest.raises(DataError, match=r"qa\.zip.*s50000001\.qa\.json") as error:
        release.read_qa(10000001, 50000001)
    assert "\n" not in str(error.value)
    assert release.problems == {"duplicate_members": 1}
    assert release.read_qa(10000001, 50000003) == QA[10000001, 50000003], "other studies are not affected"


def test_a_flipped_bit_in_an_archive_is_found(jpg, qba):
    raw = bytearray((qba / "qa.zip").read_bytes())
    raw[80] ^= 16  # inside the data of the first member
    (qba / "qa.zip").write_bytes(raw)
    release = open_release(jpg, qba)
    with pytest.raises(DataError, match=r"qa\.zip: member .*damaged"):
        for key in release.studies():
            release.read_qa(*key)


def test_a_study_without_questions_is_an_error_and_without_graph_is_none(jpg, qba):
    release = open_release(jpg, qba)
    assert release.read_scene_graph(1, 2) is None and release.read_metadata(1, 2) is None
    with pytest.raises(DataError, match="no questions"):
        release.read_qa(10000001, 50000009)


def test_oddities_in_tables_are_counted_not_guessed(jpg, qba):
    edit_table(jpg, "chexpert", lambda f: pd.concat([f.assign(Fracture=["2.0", "yes", "", "1.0"]), f.head(1)]))
    edit_table(
        jpg, "split", lambda f: f.assign(split=f.split.replace({"validate": "val", "train": "Train", "test": "?"}))
    )
    edit_table(jpg, "metadata", lambda f: pd.concat([f.drop(columns="Rows"), f.tail(1)]).assign(Rows=""))
    release = open_release(jpg, qba)
    assert dict(release.problems) == {
        "label_values_unknown": 2,
        "duplicate_label_rows": 1,
        "split_unknown": 2,
        "images_without_split": 2,
        "duplicate_images": 1,
    }
    assert release.chexpert["Fracture"].fillna(-9).tolist() == [-9, -9, -9, 1]
    assert sorted(set(release.images["split"])) == ["train", "validate"]
    assert release.images["rows"].eq(0).all()


def messages(release) -> list[str]:
    return [f"{p.severity}: {p.what}" for p in check(release)]


def test_check_names_what_stands_in_the_way(jpg, qba):
    base = messages(open_release(jpg, qba))
    assert base == [
        "warning: 1 of 4 studies have no scene graph",
        "warning: no radiologist's labels (mimic-cxr-2.1.0-test-set-labeled.csv)",
    ]
    first, *more = sorted(jpg.rglob("*.jpg"))[:4]
    first.unlink()
    release = open_release(jpg, qba)
    assert "warning: 1 of 6 images looked for have no file" in [
        f"{p.severity}: {p.what}" for p in check(release, view_filter="all")
    ]
    for path in more:
        path.unlink()
    assert "error: 4 of 6 images looked for have no file" in [
        f"{p.severity}: {p.what}" for p in check(release, view_filter="all")
    ]
    assert not any("no file" in p.what and p.severity == "error" for p in check(release, 2000, 0.7, "all"))
    (qba / "scene_data.zip").unlink()
    edit_table(jpg, "split", lambda f: f.assign(split="test"))
    edit_table(jpg, "metadata", lambda f: f[f.study_id != "50000003"].assign(ViewPosition="LATERAL"))
    found = messages(open_release(jpg, qba))
    for message in (
        "error: no scene graphs",
        "error: no study of the validate split has questions",
        "error: no study of the train split has questions",
        "error: no image of a study with questions passes data.view_filter frontal_only",
        "warning: 1 of 4 studies with questions have no image of their patient in the tables",
        "warning: 2 rows are of images that the metadata table does not have",
    ):
        assert message in found
    assert all(p.mend and p.where for p in check(open_release(jpg, qba)))
    assert not any("\n" in line for line in open_release(jpg, qba).describe())
