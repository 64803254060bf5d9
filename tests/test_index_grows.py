"""A release that grew or changed: unchanged studies are copied from the index before, and the index is the one from scratch."""

from __future__ import annotations

import logging
import os
import re
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from configs.mimic_cxr_config import Config, DataConfig
from data.index import build, ensure_index, part, prepare_index
from data.index.origin import ORIGIN
from tests.small_release import STUDIES, Studies, contents, image_path, qa_of, question, write_release, write_tables
from utils.errors import DataError

MORE: Studies = STUDIES | {
    49000001: (10000001, "train", ["PA"]),
    50000005: (10000005, "train", ["AP", "AP"]),
    50000006: (10000006, "validate", ["PA"]),
    50000007: (10000000, "train", [("PA", 50, 70)]),
}


@pytest.fixture
def data(tmp_path, monkeypatch) -> DataConfig:
    """Settings of a release that has the images of `MORE` and the tables and JSON files of `STUDIES`."""
    monkeypatch.setattr(build, "STUDIES_PER_PART", 2)
    monkeypatch.chdir(tmp_path)
    data = write_release(tmp_path, MORE)
    write_tables(tmp_path, STUDIES)
    return data


@pytest.fixture
def read(monkeypatch) -> list[int]:
    """Ids of the studies that were read."""
    found, real = [], part._read_study

    def counted(writer, notes, release, job, *rest):
        found.append(job.study_id)
        real(writer, notes, release, job, *rest)

    monkeypatch.setattr(part, "_read_study", counted)
    return found


@pytest.fixture
def said(caplog):
    """What was said of studies that were copied: (copied, all)."""
    logger = logging.getLogger("ssgvqa")
    logger.setLevel(logging.INFO)

    def numbers() -> tuple[int, int]:
        found = re.findall(r"(\d+) of (\d+) studies are unchanged and were copied", caplog.text)[-1]
        return int(found[0]), int(found[1])

    yield numbers
    logger.setLevel(logging.NOTSET)


def prepare(data: DataConfig):
    return prepare_index(Config(data=data), 1)


def from_scratch(data: DataConfig) -> dict[str, bytes]:
    """Contents of an index of the same release that was built where no other is known."""
    place, here = Path(data.index_dir or "."), Path.cwd()
    elsewhere = here / "elsewhere"
    elsewhere.mkdir()
    os.chdir(elsewhere)
    try:
        data.index_dir = str(elsewhere / "index")
        return contents(ensure_index(Config(data=data), 1).path)
    finally:
        os.chdir(here)
        data.index_dir = str(place) if place != Path(".") else ""
        shutil.rmtree(elsewhere)


def other_questions(study: int) -> dict:
    if study != 50000002:
        return qa_of(study)
    text = "Is there another effusion?"
    return {"questions": [question(0, "D02_has_finding", text, "No.", obs_entities=["pleural effusion"])]}


def one_more_film(root: Path) -> None:
    studies = MORE | {50000002: (10000002, "train", ["AP", "PA"])}
    path = image_path(DataConfig(mimic_cxr_path=str(root / "jpg")), 50000002, 0)
    shutil.copy(path, path.with_name(path.name.replace("-00000000-", "-00000001-")))
    write_tables(root, studies)


CHANGES = {
    "more patients": (lambda root: write_tables(root, MORE), set(MORE) - set(STUDIES)),
    "a film more of a known study": (one_more_film, set(MORE) - set(STUDIES) | {50000002}),
    "a changed question file": (lambda root: write_tables(root, STUDIES, other_questions), {50000002}),
    "a study less": (lambda root: write_tables(root, {s: v for s, v in STUDIES.items() if s != 50000001}), set()),
    "another split": (
        lambda root: write_tables(root, STUDIES | {50000003: (10000003, "test", ["PA"])}),
        {50000003},
    ),
}


@pytest.mark.parametrize("place", ["index", ""])
@pytest.mark.parametrize("change", CHANGES)
def test_what_is_unchanged_is_copied_and_the_index_is_the_one_from_scratch(data, tmp_path, read, said, change, place):
    data.index_dir = str(tmp_path / place) if place else ""
    first = prepare(data)
    assert len(read) == 5
    read.clear()
    apply, expected = CHANGES[change]
    apply(tmp_path)
    second = prepare(data)
    assert set(read) == expected and len(read) == len(expected)
    assert second.fingerprint != first.fingerprint
    whole = from_scratch(data)
    assert contents(second.path) == whole
    copied, total = said()
    assert total - copied == len(expected)


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_copies(data, tmp_path, said, workers):
    prepare(data)
    write_tables(tmp_path, MORE)
    index = prepare_index(Config(data=data), workers)
    assert said() == (5, 9)
    assert contents(index.path) == from_scratch(data)


def test_twice_grown(data, tmp_path, read):
    """Rows that were copied once are copied again."""
    prepare(data)
    for count in (5, 6, 7, 8):
        read.clear()
        write_tables(tmp_path, dict(list(MORE.items())[:count]))
        index = prepare(data)
        assert len(read) == 1
    assert contents(index.path) == from_scratch(data)


def test_images_that_came_later_are_found(data, read):
    """The tables and archives, and so the fingerprint, are the same."""
    path = image_path(data, 50000002)
    content = path.read_bytes()
    path.unlink()
    first = prepare(data)
    assert first.counts("train")["image_missing"] == 3
    read.clear()
    assert prepare(data).counts("train")["image_missing"] == 3 and not read, "nothing came"
    path.write_bytes(content)
    assert ensure_index(Config(data=data)).counts("train")["image_missing"] == 3, "a training takes what is there"
    second = prepare(data)
    assert read == [50000002] and second.fingerprint == first.fingerprint
    assert "image_missing" not in second.counts("train")
    assert contents(second.path) == from_scratch(data)


def test_an_image_that_became_another_is_found(data, tmp_path, read):
    first = prepare(data)
    shutil.copy(image_path(data, 50000001), image_path(data, 50000002))
    read.clear()
    second = prepare(data)
    assert read == [50000002] and second.fingerprint == first.fingerprint
    assert contents(second.path) == from_scratch(data)


def test_what_was_bad_is_read_again(data, tmp_path, read):
    image_path(data, 50000002).write_bytes(b"no image")
    prepare(data)
    read.clear()
    write_tables(tmp_path, MORE)
    index = prepare(data)
    assert set(read) == set(MORE) - set(STUDIES) | {50000002}
    assert contents(index.path) == from_scratch(data)


def test_a_release_in_folders_grows_too(data, tmp_path, read):
    def unpacked(studies: Studies) -> None:
        write_tables(tmp_path, studies)
        for name in ("qa", "scene_data"):
            archive = tmp_path / "qba" / f"{name}.zip"
            with zipfile.ZipFile(archive) as opened:
                opened.extractall(tmp_path / "new")
            archive.unlink()
            for path in sorted((tmp_path / "new" / name).rglob("*.json")):
                target = tmp_path / "qba" / path.relative_to(tmp_path / "new")
                if not target.exists():  # what is there keeps its time
                    target.parent.mkdir(parents=True, exist_ok=True)
                    path.rename(target)

    unpacked(STUDIES)
    first = prepare(data)
    assert not (first.path / ORIGIN).exists()
    read.clear()
    unpacked(MORE)
    index = prepare(data)
    assert set(read) == set(MORE) - set(STUDIES)
    assert contents(index.path) == from_scratch(data)


def test_other_settings_copy_what_they_have_in_common(data, read, monkeypatch):
    """Of the studies here only the first has a lateral film beside frontal ones."""
    data.index_dir = ""
    prepare(data)
    read.clear()
    data.view_filter = "all"
    index = prepare(data)
    assert set(read) == {50000001, 50000004}
    assert contents(index.path) == from_scratch(data)
    read.clear()
    data.image_size = 32
    prepare(data)
    assert len(read) == 5, "other sizes are other pixels"


def test_an_index_of_another_release_is_not_replaced(data, tmp_path):
    prepare(data)
    before = contents(Path(data.index_dir))
    (tmp_path / "other").mkdir()
    other = write_release(tmp_path / "other", {60000000 + n: (12000000 + n, "train", ["PA"]) for n in range(3)})
    other.index_dir = data.index_dir
    with pytest.raises(DataError, match="release differ"):
        prepare(other)
    assert contents(Path(data.index_dir)) == before


def test_a_training_refuses_the_index_of_what_the_release_was(data, tmp_path):
    prepare(data)
    write_tables(tmp_path, MORE)
    with pytest.raises(DataError, match="release differ"):
        ensure_index(Config(data=data), 1)


def test_an_index_that_does_not_say_what_it_was_made_of_is_used_as_it_is(data, read, caplog):
    first = prepare(data)
    (first.path / "sources.arrow").unlink()
    read.clear()
    assert prepare(data).fingerprint == first.fingerprint and not read


def test_an_interrupted_update_leaves_the_index_and_goes_on(data, tmp_path, monkeypatch, read):
    before = contents(prepare(data).path)
    write_tables(tmp_path, MORE)
    real, built = build.build_part, []

    def stops(*arguments):
        if len(built) == 2:
            raise KeyboardInterrupt
        built.append(arguments[3].name)
        real(*arguments)

    monkeypatch.setattr(build, "build_part", stops)
    with pytest.raises(KeyboardInterrupt):
        prepare(data)
    assert contents(Path(data.index_dir)) == before
    monkeypatch.setattr(build, "build_part", lambda *a: (built.append(a[3].name), real(*a)))
    index = prepare(data)
    assert len(built) == len(set(built)) == 5
    assert contents(index.path) == from_scratch(data)


def test_what_a_killed_build_left_beside_a_whole_index_is_removed(data):
    whole = contents(prepare(data).path)
    for name in ("index.partial", ".index.tmp-1a2b3c4d", ".index.old-1a2b3c4d", ".other.tmp-1a2b3c4d"):
        (Path(data.index_dir).parent / name).mkdir()
    assert contents(prepare(data).path) == whole
    left = sorted(p.name for p in Path(data.index_dir).parent.iterdir())
    assert left == [".other.tmp-1a2b3c4d", "index", "jpg", "qba"]


def test_a_kill_while_finished_parts_are_removed_does_no_harm(data, monkeypatch):
    def half(folder):
        if Path(folder).name == "index.partial":
            (Path(folder) / "part-000001" / "columns.npz").unlink()
            raise KeyboardInterrupt
        shutil.rmtree(folder)

    with monkeypatch.context() as patch:
        patch.setattr(build, "shutil", SimpleNamespace(rmtree=half, copyfileobj=shutil.copyfileobj))
        with pytest.raises(KeyboardInterrupt):
            prepare(data)
    whole = contents(Path(data.index_dir))
    shutil.rmtree(data.index_dir)
    assert contents(prepare(data).path) == whole


def test_a_finished_part_whose_image_changed_since_is_built_again(data, monkeypatch, read):
    def stops(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build, "assemble", stops)
        with pytest.raises(KeyboardInterrupt):
            prepare(data)
    shutil.copy(image_path(data, 50000001), image_path(data, 50000003))
    read.clear()
    index = prepare(data)
    assert 50000003 in read and 50000001 not in read
    assert contents(index.path) == from_scratch(data)
