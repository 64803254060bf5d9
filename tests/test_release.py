"""Releases in every layout that is on users' disks read the same."""

import gzip
import json
import pickle
import shutil
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.label_space import CHEXPERT
from data.release import check, extract_release, open_release
from tests.release_files import GRAPHS, INFO, META, QA, STUDIES, facts, image_ids, write_jpg, write_members, write_qba
from utils.errors import DataError


@pytest.fixture
def jpg(tmp_path) -> Path:
    return write_jpg(tmp_path / "jpg")


@pytest.fixture
def qba(tmp_path) -> Path:
    return write_qba(tmp_path / "qba")


def test_what_a_release_says(jpg, qba):
    release = open_release(jpg, qba)
    said = facts(release)
    assert said["studies"] == sorted(QA)
    assert said["qa"] == [QA[key] for key in sorted(QA)]
    assert said["graphs"] == [GRAPHS.get(key) for key in sorted(QA)]
    assert said["metadata"] == [META.get(key) for key in sorted(QA)]
    assert said["words"] == (INFO["finding_entities"], INFO["regions"])
    assert said["problems"] == {} and release.radiologist is None
    assert list(release.chexpert.columns) == list(CHEXPERT)
    edema = release.chexpert["Edema"].to_dict()
    assert (edema[50000003], edema[50000001], edema[50000002]) == (1, 0, -1) and pd.isna(edema[50000004])
    expected = [
        (study, view, height, width, split, True)
        for _, study, split, images in sorted(STUDIES)
        for view, width, height in images
    ]
    columns = ["study_id", "view", "rows", "columns", "split", "path"]
    assert [tuple(i[c] for c in columns) for i in said["images"]] == expected
    assert release.is_credentialed and not release.is_synthetic
    assert release.images["path"][0] == f"files/p10/p10000001/s50000001/{image_ids(50000001, 1)[0]}.jpg"


JPG_LAYOUTS = {
    "plain csv": lambda d: write_jpg(d, gz=False),
    "without files/": lambda d: write_jpg(d, files=False),
    "newer names": lambda d: write_jpg(d, version="2.1.0"),
    "wget": lambda d: write_jpg(d / "physionet.org/files/mimic-cxr-jpg/2.1.0").parents[3],
    "parent": lambda d: write_jpg(d / "mimic-cxr-jpg").parent,
}


@pytest.mark.parametrize("layout", JPG_LAYOUTS)
def test_every_layout_of_the_images_reads_the_same(tmp_path, jpg, qba, layout):
    base = open_release(jpg, qba)
    release = open_release(JPG_LAYOUTS[layout](tmp_path / "other"), qba)
    assert facts(release) == facts(base)
    assert release.fingerprint() == base.fingerprint()


def test_a_gz_name_on_a_file_that_a_browser_unpacked(tmp_path, jpg, qba):
    base = facts(open_release(jpg, qba))
    for table in jpg.glob("*.csv.gz"):
        table.write_bytes(gzip.decompress(table.read_bytes()))
    assert facts(open_release(jpg, qba)) == base


QBA_LAYOUTS = {
    "zip without top folder": dict(qa=("qa.zip", ""), scenes=("scene_data.zip", "")),
    "scene_graph.zip": dict(scenes=("scene_graph.zip", "scene_graph/")),
    "unpacked": dict(qa=("qa", ""), scenes=("scene_data", "")),
    "unpacked into qa/qa": dict(qa=("qa", "qa/"), scenes=("scene_data", "scene_data/")),
    "unpacked scene_graph": dict(qa=("qa", ""), scenes=("scene_graph", "")),
    "unpacked in place": dict(qa=(".", ""), scenes=(".", "")),
    "zip and folder mixed": dict(scenes=("scene_data", "")),
    "byte order mark": dict(bom=True),
    "other keys": dict(info={"region_names": INFO["regions"], "entity_names": INFO["finding_entities"]}),
    "dict to number": dict(
        info={
            "regions": {"left lung": 1, "lungs": 0},
            "finding_entities": {str(i): n for i, n in enumerate(INFO["finding_entities"])},
        }
    ),
    "dict to details": dict(
        info={
            "regions": {n: {"parents": []} for n in INFO["regions"]},
            "entity_names": [{"name": n} for n in INFO["finding_entities"]],
        }
    ),
}


@pytest.mark.parametrize("layout", QBA_LAYOUTS)
def test_every_layout_of_the_questions_reads_the_same(tmp_path, jpg, qba, layout):
    other = write_qba(tmp_path / "other", **QBA_LAYOUTS[layout])
    assert facts(open_release(jpg, other)) == facts(open_release(jpg, qba))


def test_places_a_user_may_point_at(tmp_path, jpg, qba):
    base = facts(open_release(jpg, qba))
    whole = write_qba(tmp_path / "w/physionet.org/files/mimic-ext-cxr-qba/1.0.0")
    export = write_qba(whole / "exports/A_frontal", scenes=("scene_graph.zip", ""))
    shutil.rmtree(export / "metadata")  # the vocabulary is only in the parent release
    unpacked = write_qba(tmp_path / "unpacked", qa=("qa", ""))
    for place in (tmp_path / "w", whole, export, whole / "qa.zip", unpacked / "qa"):
        assert facts(open_release(jpg, place)) == base, place
    (export / "scene_graph.zip").unlink()  # the whole release has the graphs of the export's studies too
    release = open_release(jpg, export)
    assert facts(release) == base
    assert any("A_frontal/qa.zip" in line for line in release.describe())
    (whole / "metadata/dataset_info.json").rename(whole / "dataset_info.json")
    assert facts(open_release(jpg, export)) == base


@pytest.mark.parametrize("complete", [True, False])
def test_an_interrupted_unpacking_does_not_hide_the_archive(jpg, qba, complete):
    write_members(qba / "qa", {"qa": QA})
    if not complete:
        next((qba / "qa").rglob("*.json")).unlink()
    release = open_release(jpg, qba)
    assert release.studies() == sorted(QA)
    used = next(line for line in release.describe() if "questions:" in line)
    assert ("folder" in used) == complete and ("qa.zip" in used) != complete


def test_extracted_archives_are_read_from_their_folders(jpg, qba):
    base = facts(open_release(jpg, qba))
    export = write_qba(qba / "exports/B_frontal", qa=("qa.zip", ""), scenes=("scene_graph.zip", "scene_data/"))
    seen = []
    lines = extract_release(qba, lambda archive: lambda done, total: seen.append((archive.name, done, total)))
    assert len(lines) == 4 and all("unpacked to" in line for line in lines) and len(seen) > 4
    assert all("already unpacked" in line for line in extract_release(qba))
    for home in (qba, export):
        assert (home / "qa/p10/p10000001").is_dir()
        for archive in home.glob("*.zip"):
            archive.unlink()
        assert facts(open_release(jpg, home)) == base
    assert "already unpacked" in extract_release(qba)[0]


@pytest.mark.parametrize("scenes", ["scene_data.zip", "scene_data"])
def test_worker_processes_read_the_same_without_carrying_the_tables(tmp_path, jpg, scenes):
    release = open_release(jpg, write_qba(tmp_path / "q", scenes=(scenes, "")))
    copy = pickle.loads(pickle.dumps(release))
    assert facts(copy) == facts(release)
    assert max(len(pickle.dumps(release)), len(pickle.dumps(copy))) < 4000


def test_fingerprint_follows_the_contents_only(tmp_path, jpg, qba):
    base = open_release(jpg, qba).fingerprint()
    assert len(base) == 16 and int(base, 16) >= 0
    moved = shutil.copytree(qba, tmp_path / "moved")
    assert open_release(jpg, moved).fingerprint() == base
    first = next(iter(QA))
    changed = [
        dict(qa=("qa.zip", "qa/"), content={**QA, first: {"questions": [{"question": "Cafe??"}]}}),
        dict(qa=("qa.zip", "qa/"), content=dict(list(QA.items())[1:])),
        dict(qa=("qa", ""), content={**QA, first: {"questions": []}}),
    ]
    seen = {base, open_release(jpg, write_qba(tmp_path / "folder", qa=("qa", ""))).fingerprint()}
    for n, change in enumerate(changed):
        other = write_qba(tmp_path / f"changed{n}")
        (other / "qa.zip").unlink()
        write_members(other / change["qa"][0], {"qa": change["content"]}, change["qa"][1])
        seen.add(open_release(jpg, other).fingerprint())
    (moved / "scene_data.zip").unlink()
    seen.add(open_release(jpg, moved).fingerprint())
    seen.add(open_release(jpg, write_qba(tmp_path / "words", info={**INFO, "synthetic": True})).fingerprint())
    assert len(seen) == 7


def test_the_mark_of_a_synthetic_release(tmp_path, jpg):
    release = open_release(jpg, write_qba(tmp_path / "s", info={**INFO, "synthetic": True}))
    assert release.is_synthetic and not release.is_credentialed
    assert any("synthetic" in line for line in release.describe())


def test_radiologist_labels_use_the_same_names(tmp_path, qba):
    release = open_release(write_jpg(tmp_path / "r", radiologist=True), qba)
    assert list(release.radiologist.columns) == list(CHEXPERT)
    assert release.radiologist["Lung Opacity"].to_dict() == {50000004: 1.0}
    assert "2.1.0" in release.describe()[0]


@pytest.mark.parametrize("form", ["parquet, ids in the index", "parquet", "csv.gz", "csv"])
def test_question_table_finds_columns_by_the_last_part_of_their_names(jpg, qba, form):
    assert open_release(jpg, qba).question_table() is None
    frame = pd.DataFrame(
        {"patient_id": ["p1", "p1"], "question_id": ["A_000", "B_000"], "split": ["val", "train"]}
        | {"question.question_type": ["A_indication", "B03_is_abnormal"], "question.quality.rating": ["5_A+", "0_"]}
    )
    path = qba / "metadata/question_metadata"
    if form.startswith("parquet"):
        indexed = frame.set_index(["patient_id", "question_id"]) if "index" in form else frame
        pq.write_table(pa.Table.from_pandas(indexed), f"{path}.parquet")
    else:
        frame.to_csv(f"{path}.{form}", index=False)
    release = open_release(jpg, qba)
    expected = {
        "question_type": ["A_indication", "B03_is_abnormal"],
        "rating": ["5_A+", "0_"],
        "split": ["val", "train"],
    }
    assert release.question_table().to_pydict() == expected
    assert release.question_table(("question_id",)).to_pydict() == {"question_id": ["A_000", "B_000"]}
    found = next(path.parent.glob("question_metadata.*"))
    found.write_bytes(found.read_bytes()[:9])
    if "csv" not in form:
        with pytest.raises(DataError, match="question_metadata"):
            release.question_table()


# The shared examples


def test_shared_example_study(shared_dir):
    release = open_release(shared_dir / "examples/mimic-cxr-jpg", shared_dir / "examples/mimic-ext-cxr-qba")
    assert release.studies() == [(19999901, 59999901)]
    assert len(release.read_qa(19999901, 59999901)["questions"]) == release.question_table().num_rows == 9
    assert set(release.read_metadata(19999901, 59999901)["images"]) == set(release.images["dicom_id"])
    assert all(release.image_path(row).is_file() for row in release.images.itertuples())
    assert len(release.radiologist) == 1 and release.problems == {}


def test_shared_real_images(shared_dir):
    home = shared_dir / "real-release"
    counts = json.loads((home / "counts.json").read_text())
    release = open_release(home / "mimic-cxr-jpg", home / "mimic-ext-cxr-qba")
    assert release.images["split"].value_counts().to_dict() == counts["by_split"]
    assert len(release.studies()) == len(release.scene_graph_studies()) == counts["studies"] == 500
    assert release.images["subject_id"].nunique() == counts["patients"]
    assert release.question_table().num_rows == counts["questions"]
    assert sum(len(release.read_qa(*key)["questions"]) for key in release.studies()[::50]) > 0
    assert not [p for p in check(release) if p.severity == "error"]
