"""Archives from outside: nothing unsafe is written, nothing incomplete gets its final name."""

import json
import stat
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.archives import STAMP, open_zip, safe_extract
from utils.errors import DataError

GOOD = {"qa/p10/p10000001/s50000001.qa.json": b'{"questions": []}', "qa/p10/p10000002/s50000002.qa.json": b"{}" * 50}


def write_zip(path: Path, files: dict[str, bytes] | list[tuple[zipfile.ZipInfo | str, bytes]]) -> Path:
    entries = files.items() if isinstance(files, dict) else files
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


def link(name: str, kind: int = stat.S_IFLNK) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (kind | 0o777) << 16
    return entry


def contents(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != STAMP
    }


def test_extracts_all_files_and_reports_progress(tmp_path):
    archive = write_zip(tmp_path / "qa.zip", GOOD)
    seen = []
    assert safe_extract(archive, tmp_path / "out", lambda done, total: seen.append((done, total)))
    assert contents(tmp_path / "out") == GOOD
    total = sum(map(len, GOOD.values()))
    assert seen[-1] == (total, total)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "qa.zip"], "no temporary folder is left"


def test_the_top_folder_is_left_out_only_when_all_files_lie_in_it(tmp_path):
    safe_extract(write_zip(tmp_path / "a.zip", GOOD), tmp_path / "qa", strip_top="qa")
    assert contents(tmp_path / "qa") == {name.removeprefix("qa/"): content for name, content in GOOD.items()}
    mixed = {**GOOD, "README": b"text"}
    safe_extract(write_zip(tmp_path / "b.zip", mixed), tmp_path / "b" / "qa", strip_top="qa")
    assert contents(tmp_path / "b" / "qa") == mixed


EVIL = {
    "parent": [("../evil.txt", b"x")],
    "deep parent": [("qa/../../evil.txt", b"x")],
    "absolute": [("/tmp/evil.txt", b"x")],
    "drive": [("C:/evil.txt", b"x")],
    "drive relative": [("c:evil.txt", b"x")],
    "backslash": [("..\\evil.txt", b"x")],
    "control character": [("qa/a\nb.json", b"x")],
    "nul": [("qa/good.jsonXevil", b"x")],  # the X becomes a NUL below
    "dot": [(".", b"x")],
    "symlink": [(link("qa/link"), b"/etc/passwd")],
    "fifo": [(link("qa/pipe", stat.S_IFIFO), b"")],
    "device": [(link("qa/null", stat.S_IFCHR), b"")],
    "duplicate": [("qa/a.json", b"1"), ("qa/a.json", b"2")],
    "same after normalising": [("qa/a.json", b"1"), ("qa/./a.json", b"2")],
    "case collision": [("qa/A.json", b"1"), ("qa/a.json", b"2")],
    "unicode collision": [("qa/\u00e9.json", b"1"), ("qa/e\u0301.json", b"2")],
    "file as folder": [("qa/a", b"1"), ("qa/a/b", b"2")],
    "bomb": [("qa/zeros.json", bytes(4 * 2**20))],
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", EVIL)
@pytest.mark.parametrize("first", [True, False])
def test_unsafe_archives_are_refused_before_anything_is_written(tmp_path, kind, first):
    good = list(GOOD.items())
    home = tmp_path / "home"
    home.mkdir()
    archive = write_zip(home / "a.zip", EVIL[kind] + good if first else good + EVIL[kind])
    if kind == "nul":
        archive.write_bytes(archive.read_bytes().replace(b"good.jsonXevil", b"good.json\0evil"))
    with pytest.raises(DataError, match=r"not safe to extract: entry .*") as error:
        safe_extract(archive, home / "inner" / "out")
    assert "\n" not in str(error.value)
    assert sorted(p.name for p in home.iterdir()) == ["a.zip"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["home"]


def test_encrypted_entries_and_archives_over_the_budget_are_refused(tmp_path):
    archive = write_zip(tmp_path / "a.zip", GOOD)
    with pytest.raises(DataError, match="s50000002.qa.json.*more than 50 bytes"):
        safe_extract(archive, tmp_path / "out", max_total_bytes=50)
    raw = bytearray(archive.read_bytes())
    raw[raw.find(b"PK\x01\x02") + 8] |= 1  # "encrypted" in the directory's flags
    archive.write_bytes(raw)
    with pytest.raises(DataError, match="s50000001.qa.json.*encrypted"):
        safe_extract(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("declared", [50, 5000])
def test_content_that_does_not_fit_its_entry_is_found_and_nothing_stays(tmp_path, declared):
    """Sizes in the directory are what the budget believes: more or less data than declared is damage."""
    archive = write_zip(tmp_path / "a.zip", {"a.json": b"{}" * 100})
    raw = bytearray(archive.read_bytes())
    size = raw.find(b"PK\x01\x02") + 24
    raw[size : size + 4] = declared.to_bytes(4, "little")
    archive.write_bytes(raw)
    with pytest.raises(DataError, match="a.json.*damaged"):
        safe_extract(archive, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zip"]


def test_a_complete_copy_is_recognised_and_an_incomplete_one_is_not_touched(tmp_path):
    archive = write_zip(tmp_path / "qa.zip", GOOD)
    assert safe_extract(archive, tmp_path / "out")
    before = (tmp_path / "out" / STAMP).stat().st_mtime_ns
    assert not safe_extract(archive, tmp_path / "out")
    assert (tmp_path / "out" / STAMP).stat().st_mtime_ns == before

    (tmp_path / "out" / STAMP).unlink()  # unpacked by hand
    assert not safe_extract(archive, tmp_path / "out")
    next(iter((tmp_path / "out").rglob("s50000002*"))).unlink()
    with pytest.raises(DataError, match="1 of the 2 files"):
        safe_extract(archive, tmp_path / "out")
    (tmp_path / "out" / STAMP).write_text("not json")
    with pytest.raises(DataError, match="1 of the 2 files"):
        safe_extract(archive, tmp_path / "out")


def test_another_archive_is_not_taken_for_the_unpacked_one(tmp_path):
    safe_extract(write_zip(tmp_path / "qa.zip", GOOD), tmp_path / "out")
    write_zip(tmp_path / "qa.zip", {**GOOD, "qa/p10/p10000003/s50000003.qa.json": b"{}"})
    with pytest.raises(DataError, match="2 of the 3 files"):
        safe_extract(tmp_path / "qa.zip", tmp_path / "out")


def test_an_interrupted_extraction_leaves_no_target_and_is_started_again(tmp_path):
    archive = write_zip(tmp_path / "qa.zip", GOOD)

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        safe_extract(archive, tmp_path / "out", stop)
    assert not (tmp_path / "out").exists()
    left = tmp_path / ".out.partial"  # what a killed run leaves
    left.mkdir()
    (left / "half.json").write_text("{")
    assert safe_extract(archive, tmp_path / "out")
    assert contents(tmp_path / "out") == GOOD
    assert not left.exists()


@pytest.mark.parametrize("damage", ["empty file", "truncated", "html", "no entries"])
def test_damaged_archives_are_one_clear_line_naming_the_file(tmp_path, damage):
    archive = write_zip(tmp_path / "qa.zip", GOOD if damage != "no entries" else {})
    raw = archive.read_bytes()
    if damage != "no entries":
        archive.write_bytes({"empty file": b"", "truncated": raw[:-30], "html": b"<html>" * 100}[damage])
    with pytest.raises(DataError, match=r"qa\.zip") as error:
        open_zip(archive)
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match=r"qa\.zip"):
        safe_extract(archive, tmp_path / "out")


NAMES = st.lists(st.sampled_from(["..", ".", "a", "A", "b", "qa", "", "C:", "x\\y", "é", "\n"]), min_size=1, max_size=4)


@settings(max_examples=150, deadline=None)
@given(st.lists(NAMES, min_size=1, max_size=4))
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_any_archive_is_extracted_inside_the_target_or_refused(tmp_path_factory, parts):
    home = tmp_path_factory.mktemp("fuzz")
    archive = write_zip(home / "a.zip", [("/".join(p) or "/", b"content") for p in parts])
    try:
        safe_extract(archive, home / "out")
    except DataError:
        assert sorted(p.name for p in home.iterdir()) == ["a.zip"]
        return
    assert sorted(p.name for p in home.iterdir()) == ["a.zip", "out"]
    with zipfile.ZipFile(archive) as opened:
        files = [e for e in opened.infolist() if not e.is_dir()]
    assert len(contents(home / "out")) == len(files)
    assert json.loads((home / "out" / STAMP).read_text())["archive_bytes"] == archive.stat().st_size
