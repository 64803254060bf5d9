"""Image files that cannot be read are named and left out, the same way each time, and only so many of them."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from configs.mimic_cxr_config import Config, DataConfig
from data.images import MAX_BYTES, decode
from data.index import Index, build, ensure_index
from tests.fault.bad_files import BAD, GOOD, film, jpeg, png
from tests.fault.unprivileged import public_folder, unprivileged
from tests.small_release import STUDIES, Studies, contents, image_id, image_path, write_release
from utils.errors import DataError

# One file


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_named_with_its_reason(tmp_path, name):
    path = tmp_path / f"{name}.jpg"
    BAD[name].put(path)
    for shorter_side in (0, 32):
        with pytest.raises(DataError, match=BAD[name].reason) as caught:
            decode(path, shorter_side)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", GOOD)
def test_an_unusual_file_is_read_as_it_is(tmp_path, name):
    path = tmp_path / "film.jpg"
    path.write_bytes(GOOD[name]())
    pixels, width, height = decode(path)
    assert pixels.shape == film().shape == (height, width)
    assert abs(pixels.astype(int) - film()).mean() < 2


@example(jpeg(), 0.99999)
@example(png(), 0.99999)  # all but a byte of the last checksum
@given(st.sampled_from([jpeg(), png()]), st.floats(0, 1, exclude_max=True))
def test_no_beginning_of_a_file_passes_for_the_whole(tmp_path_factory, data, share):
    path = tmp_path_factory.getbasetemp() / "beginning.jpg"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(DataError, match="beginning"):
        decode(path, 32)


@given(st.sampled_from([jpeg(), png()]), st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255))))
def test_damaged_bytes_never_end_in_another_error(tmp_path_factory, data, changes):
    changed = bytearray(data)
    for share, by in changes:
        changed[int(share * len(data))] ^= by
    path = tmp_path_factory.getbasetemp() / "changed.jpg"
    path.write_bytes(changed)
    with suppress(DataError):
        pixels, width, height = decode(path, 32)
        assert pixels.dtype == np.uint8 and min(pixels.shape) >= 16 and min(width, height) >= 16


def test_a_file_too_large_for_an_image_is_not_read(tmp_path):
    path = tmp_path / "disk.jpg"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(DataError, match="bytes are more than"):
        decode(path)


def test_files_and_folders_that_must_not_be_read():
    with public_folder() as folder:
        (folder / "film.jpg").write_bytes(jpeg())
        (folder / "closed").mkdir()
        shutil.copy(folder / "film.jpg", folder / "closed")
        decode(folder / "film.jpg"), decode(folder / "closed/film.jpg")
        os.chmod(folder / "film.jpg", 0)
        os.chmod(folder / "closed", 0)
        with unprivileged():
            for name in ("film.jpg", "closed/film.jpg"):
                with pytest.raises(DataError, match=f"{name}: Permission denied"):
                    decode(folder / name)
        os.chmod(folder / "closed", 0o700)


# The index


def make(data: DataConfig, workers: int = 1) -> Index:
    return ensure_index(Config(data=data), workers)


def damage(path: Path, name: str) -> None:
    path.unlink()
    BAD[name].put(path)


@pytest.fixture
def data(tmp_path) -> DataConfig:
    return write_release(tmp_path)


EACH: Studies = {60000000 + i: (10000000 + i, "train", ["PA"]) for i in range(len(BAD))} | {
    61000000 + i: (11000000 + i, "validate", ["PA"]) for i in range(3)
}
"""A study for each kind of damage, and good ones."""


@pytest.fixture
def each(tmp_path, monkeypatch) -> DataConfig:
    monkeypatch.setattr(build, "STUDIES_PER_PART", 7)
    data = write_release(tmp_path, EACH)
    data.max_bad_fraction = 1.0
    for study, name in zip(EACH, BAD, strict=False):
        damage(image_path(data, study, studies=EACH), name)
    return data


def test_each_bad_image_is_named_once_and_any_number_of_workers_agrees(each):
    index = make(each)
    lines = [json.loads(line) for line in (index.path / "problems.jsonl").read_text().splitlines()]
    assert [(p["study"], p["kind"]) for p in lines] == [
        (study, bad.kind) for study, bad in zip(EACH, BAD.values(), strict=False)
    ]
    for problem in lines:
        path = image_path(each, problem["study"], studies=EACH)
        assert problem["path"] == str(path) and problem["image"] == image_id(problem["study"], 0)
        assert str(path) in problem["message"]
    assert index.studies["study_id"].tolist() == [study for study in EACH if study >= 61000000]
    assert index.counts("train")["image_unreadable"] == 3 * (len(BAD) - 2)
    assert index.counts("train")["image_missing"] == 3 * 2
    whole = contents(index.path)
    shutil.rmtree(index.path)
    assert contents(make(each, workers=2).path) == whole


@pytest.mark.parametrize("workers", [1, 2])
def test_with_error_the_first_bad_sample_in_the_order_of_the_index_stops_the_build(each, monkeypatch, workers):
    for study in list(EACH)[:5]:  # the first part is good
        image_path(each, study, studies=EACH).unlink(missing_ok=True)
        image_path(each, study, studies=EACH).write_bytes(jpeg())
    monkeypatch.setattr(build, "STUDIES_PER_PART", 3)
    each.on_bad_sample = "error"
    first = list(BAD)[5]
    with pytest.raises(DataError, match=f"s60000005.*{BAD[first].reason}.*data.on_bad_sample=quarantine"):
        make(each, workers)
    assert not Path(each.index_dir).exists()


def test_after_mending_the_build_goes_on(data, monkeypatch):
    monkeypatch.setattr(build, "STUDIES_PER_PART", 1)
    whole = contents(make(data).path)
    shutil.rmtree(data.index_dir)
    path = image_path(data, 50000002)
    good, data.on_bad_sample = path.read_bytes(), "error"
    damage(path, "jpeg_half")
    for _ in range(2):
        with pytest.raises(DataError, match=r"s50000002/.*truncated.*mend that file, or leave it out"):
            make(data)
    path.write_bytes(good)
    build_part, built = build.build_part, []
    monkeypatch.setattr(build, "build_part", lambda *args: (built.append(args[-1].name), build_part(*args)))
    assert contents(make(data).path) == whole
    assert "part-000000" not in built and "part-000001" in built


def test_an_index_with_bad_samples_is_refused_later_too(data):
    damage(image_path(data, 50000002), "html")
    make(data)
    data.on_bad_sample = "error"
    with pytest.raises(DataError, match=r"s50000002/.*not a JPEG or PNG.*delete the index"):
        make(data)


def test_the_next_good_film_takes_the_place_of_a_bad_one(tmp_path):
    films = ["LATERAL", ("AP", 100, 120), ("AP", 200, 240), ("AP", 200, 240), ("PA", 100, 120), ("PA", 200, 240)]
    order = [5, 4, 2, 3, 1]  # PA before AP, then the larger, then the lower id; the lateral film is not used
    studies: Studies = {50000001: (10000001, "train", films), 50000002: (10000002, "validate", ["PA"])}
    data = write_release(tmp_path, studies)
    data.max_bad_fraction = 1.0
    for bad in range(len(order)):
        index = make(data)
        assert index.image_ids(np.arange(index.studies["image_count"][0])) == [
            image_id(50000001, n) for n in order[bad:]
        ]
        assert index.counts("train")["target"] == 3
        np.testing.assert_array_equal(
            index.pixels[0], decode(image_path(data, 50000001, order[bad], studies), data.image_size)[0]
        )
        shutil.rmtree(index.path)
        damage(image_path(data, 50000001, order[bad], studies), "jpeg_zero_tail")
    assert make(data).counts("train")["image_unreadable"] == 3


def test_frontal_films_come_first_among_all(tmp_path):
    films = [("LATERAL", 400, 480), "AP", ("", 300, 300)]
    data = write_release(tmp_path, {50000001: (10000001, "train", films), 50000002: (10000002, "validate", ["PA"])})
    data.view_filter = "all"
    index = make(data)
    assert index.image_ids(np.arange(3)) == [image_id(50000001, n) for n in (1, 0, 2)]


def test_more_bad_images_than_allowed_stop_the_build(each):
    each.max_bad_fraction = 0.5
    with pytest.raises(DataError, match=r"28 of 31 image files cannot be read.*first: .*s60000000/.*max_bad_fraction"):
        make(each)
    assert not Path(each.index_dir).exists()


def test_a_folder_that_must_not_be_looked_into_is_a_bad_image():
    with public_folder() as folder:
        data = write_release(folder)
        (folder / "open").mkdir(mode=0o777)
        os.chmod(folder / "open", 0o777)
        data.index_dir = str(folder / "open/index")
        closed = image_path(data, 50000002).parent
        os.chmod(closed, 0)
        with unprivileged():
            index = make(data)
        os.chmod(closed, 0o700)
        assert index.meta["problems"] == {"image_unreadable": 1}
        assert index.problems()[0]["message"].endswith("Permission denied")
        assert len(index.studies["study_id"]) == len(STUDIES) - 2
