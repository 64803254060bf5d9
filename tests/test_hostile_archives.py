"""Tar archives from outside, as `test_archives` for zip; and for both what a hostile one may try."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.archives import STAMP, content_bytes, entries, safe_extract, tars
from data.release import extract_release
from data.release.locate import find_qba
from tests.release_files import write_qba
from tests.test_archives import GOOD, contents, write_zip
from utils.errors import DataError

KINDS = {"symlink": tarfile.SYMTYPE, "hardlink": tarfile.LNKTYPE, "device": tarfile.CHRTYPE, "disk": tarfile.BLKTYPE}
KINDS |= {"fifo": tarfile.FIFOTYPE, "sparse": tarfile.GNUTYPE_SPARSE, "unknown": b"Z"}


def member(name: str, content: bytes = b"x", kind: bytes = tarfile.REGTYPE, link: str = "") -> tuple:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(content) if kind == tarfile.REGTYPE else 0
    return info, content


def in_pax(name: str) -> tuple:
    """An entry whose extended header has this name; in a plain header a NUL is where a name ends."""
    info, content = member("qa/plain.json")
    info.pax_headers = {"path": name}
    return info, content


def write_tar(path: Path, members: list, form: int = tarfile.PAX_FORMAT) -> Path:
    if isinstance(members, dict):
        members = [member(name, content) for name, content in members.items()]
    mode = "w:gz" if path.suffix in (".gz", ".tgz") else "w"
    with tarfile.open(path, mode, format=form) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("name", ["qa.tar", "qa.tar.gz", "qa.tgz"])
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_tar_archives_are_extracted(tmp_path, name, form):
    long = "qa/" + "p" * 90 + "/" + "q" * 90 + "/é.json"
    files = GOOD | {long: b"long", "qa/empty.json": b"", "qa/large.bin": os.urandom(3 * 2**20 + 5)}
    archive = write_tar(tmp_path / name, files, form)
    seen = []
    assert safe_extract(archive, tmp_path / "qa", lambda *numbers: seen.append(numbers), strip_top="qa")
    assert contents(tmp_path / "qa") == {path.removeprefix("qa/"): content for path, content in files.items()}
    total = sum(map(len, files.values()))
    assert seen[-1] == (total, total) and content_bytes(archive) == (len(files), total)
    assert not safe_extract(archive, tmp_path / "qa", strip_top="qa")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["qa", name])


def test_a_tar_of_a_folder_itself_with_its_folders(tmp_path):
    (tmp_path / "in" / "qa" / "p10").mkdir(parents=True)
    (tmp_path / "in" / "qa" / "p10" / "a.json").write_text("{}")
    with tarfile.open(tmp_path / "qa.tar", "w") as archive:
        archive.add(tmp_path / "in", ".")
    assert safe_extract(tmp_path / "qa.tar", tmp_path / "qa", strip_top="qa")
    assert contents(tmp_path / "qa") == {"p10/a.json": b"{}"}


def test_permissions_of_an_archive_are_not_taken_over(tmp_path):
    info, content = member("qa/a.sh")
    info.mode, info.uid = 0o6777, 12345
    safe_extract(write_tar(tmp_path / "a.tar", [(info, content)]), tmp_path / "out")
    found = (tmp_path / "out" / "qa" / "a.sh").stat()
    assert not found.st_mode & 0o6111 and found.st_uid == os.getuid()


EVIL = {
    "parent": [member("../evil.txt")],
    "deep parent": [member("qa/../../evil.txt")],
    "absolute": [member("/tmp/evil.txt")],
    "drive": [member("C:/evil.txt")],
    "drive relative": [member("c:evil.txt")],
    "backslash": [member("..\\evil.txt")],
    "line end": [member("qa/a\nb.json")],
    "nul": [in_pax("qa/good.json\0evil")],
    "full-width dots": [member("qa/\uff0e\uff0e/evil.txt")],
    "full-width slash": [member("\uff0fevil.txt")],
    "right to left": [member("qa/\u202enosj.exe")],
    "zero width": [member("qa/a\u200b.json")],
    "not UTF-8": [member("qa/\udcff.json")],
    "empty name": [member("")],
    "duplicate": [member("qa/a.json", b"1"), member("qa/a.json", b"2")],
    "same after normalising": [member("qa/a.json", b"1"), member("qa/./a.json", b"2")],
    "case collision": [member("qa/A.json", b"1"), member("qa/a.json", b"2")],
    "unicode collision": [member("qa/\u00e9.json", b"1"), member("qa/e\u0301.json", b"2")],
    "file as folder": [member("qa/a", b"1"), member("qa/a/b", b"2")],
    "link and a file through it": [member("qa/l", kind=tarfile.SYMTYPE, link=".."), member("qa/l/evil.txt")],
    "hardlink to outside": [member("qa/h", kind=tarfile.LNKTYPE, link="../../a.tar")],
} | {f"kind {name}": [member("qa/odd", b"", kind, "/etc/passwd")] for name, kind in KINDS.items()}


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
@pytest.mark.parametrize("kind", EVIL)
def test_unsafe_archives_are_refused_before_anything_is_written(tmp_path, kind, name, first):
    good = [member(*pair) for pair in GOOD.items()]
    (home := tmp_path / "home").mkdir()
    archive = write_tar(home / name, EVIL[kind] + good if first else good + EVIL[kind])
    with pytest.raises(DataError, match=r"not safe to extract: entry |not a complete tar file") as error:
        safe_extract(archive, home / "inner" / "out")
    assert "\n" not in str(error.value) and str(error.value).isprintable()
    assert [p.name for p in home.iterdir()] == [name] and [p.name for p in tmp_path.iterdir()] == ["home"]


def refused(archive: Path, match: str, **options) -> None:
    with pytest.raises(DataError, match=match):
        safe_extract(archive, archive.parent / "out", **options)
    assert [p.name for p in archive.parent.iterdir()] == [archive.name]


def test_bombs(tmp_path, monkeypatch):
    zeros = bytes(2**22)
    refused(write_tar(tmp_path / "b.tar.gz", {"qa/zeros.json": zeros * 4}), "more than 200 times its size")
    (tmp_path / "b.tar.gz").unlink()
    small = {f"{i}.json": bytes(2**17) for i in range(200)}
    many = write_tar(tmp_path / "m.tar.gz", small)
    refused(many, "more than 200 times its size")
    many.unlink()
    with zipfile.ZipFile(tmp_path / "m.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in small.items():
            archive.writestr(name, content)
    refused(tmp_path / "m.zip", "the archive unpacks to more than 200 times its size")


def test_a_second_process_does_not_remove_what_the_first_unpacks(tmp_path, root):
    archive, second = write_zip(tmp_path / "a.zip", GOOD), []

    def meanwhile(done: int, total: int) -> None:
        code = f"from data.archives import *; from pathlib import Path; safe_extract(Path({str(archive)!r}), Path({str(out)!r}))"
        second.append(
            subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
        )

    out = tmp_path / "out"
    assert safe_extract(archive, out, meanwhile)
    assert all("DataError" in run.stderr and "is in use by process" in run.stderr for run in second) and second
    assert contents(out) == GOOD and sorted(p.name for p in tmp_path.iterdir()) == ["a.zip", "out"]
    assert {p.name for p in out.iterdir() if p.name.startswith(".")} == {STAMP}


@pytest.mark.parametrize("ending", ["zip", "tar", "tar.gz"])
def test_budgets_of_bytes_and_of_entries(tmp_path, monkeypatch, ending):
    write = write_zip if ending == "zip" else write_tar
    archive = write(tmp_path / f"a.{ending}", GOOD)
    refused(archive, "s50000002.qa.json.*more than 50 bytes", max_total_bytes=50)
    monkeypatch.setattr(entries, "MAX_ENTRIES", 1)
    refused(archive, "s50000002.qa.json.*more than 1 files")


def test_a_size_that_is_a_lie_is_refused_before_it_is_passed_over(tmp_path):
    """The header says a petabyte: neither is it read, nor looked for on the disk."""
    info, content = member("qa/huge.json")
    archive = write_tar(tmp_path / "a.tar", [(info, content)], tarfile.GNU_FORMAT)
    info.size = 2**50
    header = info.tobuf(tarfile.GNU_FORMAT)
    archive.write_bytes(header + archive.read_bytes()[512:])
    refused(archive, "huge.json.*take more than")
    info.size = 2**20
    archive.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + archive.read_bytes()[512:])
    refused(archive, "not a complete tar file")


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_a_header_of_gigabytes_is_not_read_into_memory(tmp_path, kind):
    info = tarfile.TarInfo("long")
    info.type, info.size = kind, 2**31
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(2**22)))
    refused(tmp_path / "a.tar.gz", "a header of 2,147,483,648 bytes")


@pytest.mark.parametrize("damage", ["empty", "html", "cut", "cut between entries", "bit in a header", "no entries"])
@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_damaged_archives_are_one_clear_line_naming_the_file(tmp_path, name, damage):
    whole = write_tar(tmp_path / "w.tar", {} if damage == "no entries" else GOOD).read_bytes()
    second = whole.find(b"qa/p10/p10000002")
    broken = {
        "empty": b"",
        "html": b"<html>" * 500,
        "cut": whole[: second + 520],
        "cut between entries": whole[:second],
        "bit in a header": whole[:second] + b"Q" + whole[second + 1 :],
        "no entries": whole,
    }[damage]
    (tmp_path / "w.tar").unlink()
    (tmp_path / name).write_bytes(gzip.compress(broken) if name.endswith("gz") else broken)
    refused(tmp_path / name, rf"{name} is (not a complete|an empty) tar file")


def test_a_gzip_checksum_is_compared(tmp_path):
    raw = bytearray(write_tar(tmp_path / "a.tar.gz", GOOD).read_bytes())
    raw[-6] ^= 1
    (tmp_path / "a.tar.gz").write_bytes(raw)
    refused(tmp_path / "a.tar.gz", "CRC check failed")


@pytest.mark.parametrize("ending", ["zip", "tar"])
def test_an_archive_that_changes_while_it_is_read_leaves_nothing(tmp_path, monkeypatch, ending):
    write = write_zip if ending == "zip" else write_tar
    archive = write(tmp_path / f"a.{ending}", GOOD)
    for other in ({"qa/b": b"1"}, GOOD | {"qa/b": b"1"}, {name: content * 2 for name, content in GOOD.items()}):
        judged = _judged(archive)
        write(archive, other)
        with monkeypatch.context() as patch:
            patch.setattr("data.archives.extraction.checked_files", lambda *_, judged=judged: judged)
            refused(archive, "changed while it was read")
        write(archive, GOOD)


def _judged(archive: Path) -> dict:
    from data.archives.extraction import _entries

    return entries.checked_files(_entries(archive), archive, 2**30)


def test_each_entry_is_read_once(tmp_path, monkeypatch):
    """A gzip stream that is sought backwards is unpacked anew from its beginning."""
    files = {f"{i}.json": os.urandom(1000 + i) for i in range(300)}
    archive = write_tar(tmp_path / "a.tar.gz", files)
    read = []
    real = tars._Forward.read
    monkeypatch.setattr(tars._Forward, "read", lambda self, size: (data := real(self, size), read.append(len(data)))[0])
    assert safe_extract(archive, tmp_path / "out")
    assert sum(read) <= 2 * len(gzip.decompress(archive.read_bytes()))


NAMES = st.lists(st.sampled_from(["..", ".", "a", "A", "b", "qa", "", "C:", "x\\y", "é", "\n"]), min_size=1, max_size=4)
TYPES = st.sampled_from([tarfile.REGTYPE] * 6 + [tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(NAMES, TYPES), min_size=1, max_size=4), st.integers(0, 4000))
def test_any_tar_is_extracted_inside_the_target_or_refused(tmp_path_factory, parts, flipped):
    home = tmp_path_factory.mktemp("fuzz")
    archive = write_tar(home / "a.tar", [member("/".join(p) or "/", b"content", kind, "../x") for p, kind in parts])
    raw = bytearray(archive.read_bytes())
    if flipped % 3 == 0 and flipped < len(raw):
        raw[flipped] ^= 1 << flipped % 8
        archive.write_bytes(raw)
    try:
        safe_extract(archive, home / "out")
    except DataError:
        assert [p.name for p in home.iterdir()] == ["a.tar"]
        return
    assert sorted(p.name for p in home.iterdir()) == ["a.tar", "out"]
    with tarfile.open(archive) as opened:
        assert len(contents(home / "out")) == sum(m.isreg() for m in opened)
    assert (home / "out" / STAMP).exists()


def test_a_release_in_tar_archives_is_unpacked_and_read(tmp_path):
    root = write_qba(tmp_path / "qba")
    for name, ending in (("qa", "tar.gz"), ("scene_data", "tar")):
        with zipfile.ZipFile(root / f"{name}.zip") as packed:
            files = {info.filename: packed.read(info) for info in packed.infolist()}
        (root / f"{name}.zip").unlink()
        write_tar(root / f"{name}.{ending}", files)
    lines = extract_release(root)
    assert len(lines) == 2 and all("unpacked to" in line for line in lines)
    found = find_qba(root)
    assert found.qa_folder == root / "qa" and found.scene_folder == root / "scene_data"
    assert all("already unpacked" in line for line in extract_release(root))
