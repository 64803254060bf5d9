"""A release that is whole is said to be; each way of not being is found, counted and named."""

from __future__ import annotations

import shutil

import pytest

import setup_data
from data.release import open_release
from data.release.verify import used_files, verified_lines, verify, verify_used
from data.synthetic import write_release


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    folder = tmp_path_factory.mktemp("origin") / "r"
    write_release(folder, 10, 6, workers=1, progress=False)
    return folder


@pytest.fixture
def copy(origin, tmp_path):
    return shutil.copytree(origin, tmp_path / "r")


def opened(folder):
    return open_release(folder / "mimic-cxr-jpg", folder / "mimic-ext-cxr-qba")


def found_in(folder, view_filter="all"):
    return verify(opened(folder), view_filter, 2, lambda what, total: lambda n: None)


def test_a_whole_release_is_whole(origin):
    found = found_in(origin)
    assert found.is_whole and found.images == len(opened(origin).images)
    assert not (found.unlisted or found.without_row or found.unlisted_releases or found.not_there)
    files = sum(p.is_file() for folder in ("mimic-cxr-jpg", "mimic-ext-cxr-qba") for p in (origin / folder).rglob("*"))
    assert found.checksums == files - 2, "all but the two lists"
    assert verified_lines(found)[-1] == "whole"


def test_files_of_the_list_that_are_not_there_are_named_and_images_counted_apart(copy):
    names = "mimic-cxr-2.0.0-negbio.csv.gz", "IMAGE_FILENAMES"
    for name in names:
        (copy / "mimic-cxr-jpg" / name).unlink()
    found = found_in(copy)
    assert found.not_there == sorted(names) and found.is_whole, "not every release needs them"
    assert "2 files of the release's list are not there: IMAGE_FILENAMES, mimic-cxr" in "\n".join(verified_lines(found))


def test_everything_that_is_wrong_is_found(copy):
    jpg = copy / "mimic-cxr-jpg"
    paths = opened(copy).images["path"].tolist()
    changed, broken, lost = (jpg / path for path in paths[:3])
    content = bytearray(changed.read_bytes())
    content[-30] ^= 1
    changed.write_bytes(content)
    broken.write_bytes(broken.read_bytes()[:-200])
    lost.unlink()
    extra = broken.with_name("0-0-0-0-0.jpg")
    shutil.copy(jpg / paths[4], extra)
    (jpg / "index.html").write_text("left by wget")
    (jpg / "quarantine").mkdir()
    (jpg / "quarantine" / "x.jpg").write_bytes(b"")
    (copy / "mimic-ext-cxr-qba" / "SHA256SUMS.txt").unlink()
    found = found_in(copy)
    relative = str(extra.relative_to(jpg))
    assert set(found.mismatched) == {paths[0], paths[1]}
    assert set(found.unreadable) >= {paths[1]} and "truncated" in found.unreadable[paths[1]]
    assert found.absent == [paths[2]] and found.without_row == found.unlisted == [relative]
    assert found.unlisted_releases == [str(copy / "mimic-ext-cxr-qba")] and not found.is_whole
    text = "\n".join(verified_lines(found))
    assert all(name in text for name in (*paths[:3], relative)) and text.endswith("not whole")


def test_what_lies_behind_links_is_looked_at_too(origin, tmp_path):
    for name in ("mimic-cxr-jpg", "mimic-ext-cxr-qba"):
        shutil.copytree(origin / name, tmp_path / "disk" / name)
        (tmp_path / "own" / name).mkdir(parents=True)
        for path in (tmp_path / "disk" / name).iterdir():
            (tmp_path / "own" / name / path.name).symlink_to(path)
    images = tmp_path / "own" / "mimic-cxr-jpg" / "files"
    images.unlink()
    images.mkdir()
    for group in (tmp_path / "disk" / "mimic-cxr-jpg" / "files").iterdir():
        (images / group.name).symlink_to(group)
    (images / "round").symlink_to(tmp_path / "own" / "mimic-cxr-jpg")
    found, whole = found_in(tmp_path / "own"), found_in(origin)
    assert found.is_whole and (found.checksums, found.images) == (whole.checksums, whole.images)
    used = verify_used(opened(tmp_path / "own"), 1, lambda what, total: lambda n: None)
    assert used.checksums == len(used_files(opened(tmp_path / "own"))) >= 5
    with open(tmp_path / "disk" / "mimic-ext-cxr-qba" / "qa.zip", "ab") as file:
        file.write(b"x")
    assert verify_used(opened(tmp_path / "own"), 1, lambda what, total: lambda n: None).mismatched == ["qa.zip"]


def test_images_that_the_view_filter_keeps_out_may_be_absent(copy):
    images = opened(copy).images
    lateral = images[~images["view"].isin(("AP", "PA"))]
    assert len(lateral)
    for path in lateral["path"]:
        (copy / "mimic-cxr-jpg" / path).unlink()
    assert found_in(copy, "frontal_only").absent == [] and found_in(copy, "all").absent


def test_the_command_says_so_with_its_exit_code(copy, capsys):
    paths = ["--mimic_cxr_path", str(copy / "mimic-cxr-jpg"), "--mimic_qa_path", str(copy / "mimic-ext-cxr-qba")]
    assert setup_data.main(["--verify", "--num_workers", "2", *paths]) == 0
    assert "checksums are right" in capsys.readouterr().out
    (copy / "mimic-ext-cxr-qba" / "quality_mappings.csv").write_text("other")
    assert setup_data.main(["--verify", "--num_workers", "2", *paths]) == 3
    assert "quality_mappings.csv" in capsys.readouterr().out
