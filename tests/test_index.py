"""Building an index from a small release written by hand: contents, counts, faults, interruption."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs.mimic_cxr_config import Config, DataConfig
from data.index import SPLITS, build, build_index, ensure_index, open_index
from data.label_space import REGIONS, TYPE_INDEX
from data.release import open_release
from tests.lock_holder import held_by_another
from tests.small_release import contents, image_id, image_path, write_release
from utils.errors import DataError


@pytest.fixture
def data(tmp_path) -> DataConfig:
    return write_release(tmp_path)


def make(data: DataConfig, workers: int = 1):
    return ensure_index(Config(data=data), workers)


def test_questions_and_their_fates(data):
    index = make(data)
    assert index.counts("train") == {"target": 6, "unsupported_type": 2, "severity_unspecified": 2, "unknown_type": 2}
    assert index.counts("test") == {
        "no_frontal_image": 3, "unsupported_type": 1, "severity_unspecified": 1, "unknown_type": 1,
    }  # fmt: skip
    assert index.counts("unknown")["study_not_in_image_tables"] == 3
    total = sum(sum(index.counts(split).values()) for split in (*SPLITS, "unknown"))
    assert total == 6 * 5
    questions = index.questions
    assert questions["type"][:3].tolist() == [
        TYPE_INDEX[t] for t in ("D02_has_finding", "D03_where_is_finding", "D04_how_severe_is_finding")
    ]
    assert questions["target"][:3].tolist() == [1, 1 << REGIONS.index("left costophrenic angle"), 1]
    assert index.texts(questions["text"][:3]) == ["Is there an effusion?", "Where?", "How severe?"]
    assert index.question_key(questions["question_id"][2]) == "D04_how_severe_is_finding_002"
    assert index.studies["study_id"].tolist() == [50000001, 50000002, 50000003]
    assert index.studies["split"].tolist() == [0, 0, 1]
    assert (index.studies["chexpert"] == 1).all()


def test_images_are_stored_pa_first_and_boxes_in_their_own_frame(data):
    index = make(data)
    assert index.image_ids(np.arange(4)) == [
        image_id(50000001, 1), image_id(50000001, 0), image_id(50000002, 0), image_id(50000003, 0),
    ]  # fmt: skip
    assert index.studies["image_count"].tolist() == [2, 1, 1]
    assert (index.images["width"][0], index.images["height"][0]) == (100, 150)
    assert index.pixels[0].shape == (96, 64) and index.pixels[1].shape == (64, 85)
    original = np.asarray(Image.open(image_path(data, 50000002)).resize((85, 64), Image.Resampling.BICUBIC))
    assert abs(index.pixels[2].astype(int) - original).mean() < 4
    # the graph has a box for the AP film only, and that one's findings go to both films of the study
    assert index.images["box_count"].tolist() == [0, 1, 1, 1]
    np.testing.assert_allclose(index.boxes["box"][0], [10 / 120, 20 / 90, 0.5, 0.5], rtol=1e-6)
    assert index.images["finding_count"].tolist() == [1, 1, 1, 1]


def test_a_second_look_opens_what_is_there_and_other_settings_are_refused(data):
    first = make(data)
    before = (first.path / "index.json").stat().st_mtime_ns
    assert make(data).path == first.path and (first.path / "index.json").stat().st_mtime_ns == before
    data.image_size = 32
    with pytest.raises(DataError, match="image_store_size differ"):
        make(data)


def test_any_number_of_workers_writes_the_same_index(data, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "STUDIES_PER_PART", 2)
    one = contents(make(data, workers=1).path)
    shutil.rmtree(data.index_dir)
    assert contents(make(data, workers=2).path) == one


def test_a_second_build_into_the_same_folder_is_refused(data):
    with held_by_another(data.index_dir + ".partial") as number:
        with pytest.raises(
            DataError, match=rf"in use by process {number} .*or name another folder with --set data.index"
        ):
            make(data)
        assert Path(data.index_dir + ".partial").exists(), "it is the other's"
    assert make(data).path.exists()
    assert not Path(data.index_dir + ".partial").exists()


def test_an_interrupted_build_goes_on_and_ends_the_same(data, monkeypatch):
    monkeypatch.setattr(build, "STUDIES_PER_PART", 1)
    whole = contents(make(data).path)
    shutil.rmtree(data.index_dir)
    build_part, built = build.build_part, []

    def stops_at_the_third(release, jobs, form, target):
        if len(built) == 2:
            raise KeyboardInterrupt
        built.append(target.name)
        build_part(release, jobs, form, target)

    monkeypatch.setattr(build, "build_part", stops_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        make(data)
    assert not Path(data.index_dir).exists()
    monkeypatch.setattr(build, "build_part", lambda *args: (built.append(args[-1].name), build_part(*args)))
    assert contents(make(data).path) == whole
    assert len(built) == len(set(built)) == 5
    assert not Path(data.index_dir + ".partial").exists()


def test_a_truncated_image_is_counted_and_its_questions_named(data):
    path = image_path(data, 50000002)
    path.write_bytes(path.read_bytes()[:400])
    index = make(data)
    assert index.counts("train")["image_unreadable"] == 3
    assert index.meta["problems"] == {"image_unreadable": 1}
    line = json.loads((index.path / "problems.jsonl").read_text())
    assert image_id(50000002, 0) in line["message"]


def test_many_missing_images_stop_the_build_and_leave_no_index(data):
    shutil.rmtree(Path(data.mimic_cxr_path) / "files")
    with pytest.raises(DataError, match=r"4 of 4 image files cannot be read.*max_bad_fraction"):
        make(data)
    assert not Path(data.index_dir).exists()
    data.max_bad_fraction = 1.0
    assert make(data).counts("train")["image_missing"] == 6


def test_unreadable_json_is_counted(data):
    release = open_release(data.mimic_cxr_path, data.mimic_qa_path)
    read = type(release).read_scene_graph

    def broken(self, subject, study):
        if study == 50000002:
            raise DataError("scene_data.zip: s50000002.scene_graph.json is not valid JSON")
        return read(self, subject, study)

    type(release).read_scene_graph = broken
    try:
        index = build_index(release, data, Path(data.index_dir), workers=1)
    finally:
        type(release).read_scene_graph = read
    assert index.meta["problems"] == {"graph_unreadable": 1}
    assert index.images["finding_count"].tolist() == [1, 1, 0, 1]


def test_a_damaged_index_is_named(data):
    path = make(data).path
    (path / "tables" / "questions.arrow").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"questions\.arrow cannot be read"):
        open_index(path).questions  # noqa: B018
    (path / "index.json").write_text("{")
    with pytest.raises(DataError, match=r"index\.json cannot be read"):
        open_index(path)
    with pytest.raises(DataError, match="no index"):
        open_index(path / "nowhere")


def test_the_default_folder_is_named_by_the_fingerprint(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data.index_dir = ""
    index = make(data)
    assert index.path == Path("data_cache") / index.fingerprint


def test_lateral_and_all_views(data):
    data.view_filter = "lateral_only"
    index = make(data)
    assert index.studies["study_id"].tolist() == [50000001, 50000004]
    data.view_filter, data.index_dir = "all", data.index_dir + "-all"
    assert make(data).studies["image_count"].tolist() == [3, 1, 1, 1]
