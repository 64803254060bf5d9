"""Downloads that go wrong in ways that no honest server knows, a full disk, and what the user does meanwhile."""

from __future__ import annotations

import errno
import gzip
import time

import pytest

from data.download import credentials, transfer
from data.download.credentials import LoginError, find_credentials
from data.download.release import LEDGER, Mirror
from data.download.transfer import Site
from tests import file_server
from tests.downloads import BIG, SECRET, get, make_pieces_small, sums, three_files
from tests.file_server import FileServer
from utils.errors import DataError


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    make_pieces_small(monkeypatch)


@pytest.fixture
def server():
    with three_files() as running:
        yield running


def test_a_server_that_asks_for_no_pause_is_not_asked_for_ever(server, tmp_path):
    sleeps = []
    server.tricks["p/a.jpg"] = [file_server.status(429, Retry_After="0")] * 1000
    assert (
        "8 attempts failed, the last: status 429" in get(server, tmp_path, "p/a.jpg", sleeps=sleeps).failed["p/a.jpg"]
    )
    assert len(sleeps) == 7 and sleeps[-1] > 1


@pytest.mark.parametrize(
    "headers",
    [
        {"Retry_After": "\u00b2"},
        {"Retry_After": "Fri, 31 Dec 9999 23:59:59 -2359"},
        {"Retry_After": "9" * 5000},
        {"Location": "https://[half", "code": 302},
        {"Location": r"http://example.com\@localhost/a.jpg", "code": 302},
        {"Location": "https:///a.jpg", "code": 302},
    ],
)
def test_headers_without_sense_are_no_reason_to_fall_over(server, tmp_path, headers):
    code = headers.pop("code", 503)
    server.tricks["p/a.jpg"] = [file_server.status(code, **headers)]
    outcome = get(server, tmp_path, "p/a.jpg")
    if code == 503:
        assert outcome.is_complete
    else:
        assert "refused" in outcome.failed["p/a.jpg"] and len(server.seen) == 1


def test_a_server_without_ranges_sends_a_file_once(server, tmp_path):
    server.tricks["qa.zip"] = [file_server.whole] * 100
    assert get(server, tmp_path, "qa.zip").is_complete and (tmp_path / "qa.zip").read_bytes() == BIG
    assert len(server.ranges("qa.zip")) == 2, "its first byte, and all of it"


def test_a_server_without_ranges_that_cuts(server, tmp_path):
    def cut_whole(handler, content, first, last):
        handler.answer(200, content, {"ETag": handler.tag()}, send=6_000)

    server.tricks["qa.zip"] = [file_server.whole, cut_whole, cut_whole] + [file_server.whole] * 5
    assert get(server, tmp_path, "qa.zip").is_complete and (tmp_path / "qa.zip").read_bytes() == BIG


@pytest.mark.parametrize("size", [10**15, 10**18 - 1])
def test_a_size_that_no_disk_has_is_refused_before_anything_is_written(server, tmp_path, size):
    def huge(handler, content, first, last):
        handler.answer(206, content[:1], {"ETag": handler.tag(), "Content-Range": f"bytes 0-0/{size}"})

    server.tricks["qa.zip"] = [huge]
    outcome = get(server, tmp_path, "qa.zip", "p/a.jpg")
    assert "GB are free" in outcome.failed["qa.zip"] and outcome.downloaded == ["p/a.jpg"]
    assert not list(tmp_path.glob("qa*"))


def test_what_is_there_of_a_file_needs_no_space_again(server, tmp_path, monkeypatch):
    server.tricks["qa.zip"] = [lambda h, c, a, b: h.serve(c, a, b)] * 9 + [file_server.status(404)] * 9
    assert get(server, tmp_path, "qa.zip").failed
    asked = []
    monkeypatch.setattr(transfer, "require_space", lambda folder, needed: asked.append(needed))
    server.tricks["qa.zip"].clear()
    assert get(server, tmp_path, "qa.zip").is_complete
    assert 0 < asked[0] < len(BIG)


def test_a_film_without_end_does_not_fill_the_memory(server, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "LARGEST_WHOLE", 500)
    outcome = get(server, tmp_path, "p/a.jpg", "p/b.jpg")
    assert outcome.downloaded == ["p/a.jpg"] and "more than 500 bytes" in outcome.failed["p/b.jpg"]


def test_a_film_that_comes_compressed_is_named_as_such(server, tmp_path):
    packed = gzip.compress(b"first")
    squeeze = lambda h, *_: h.answer(200, packed, {"Content-Encoding": "gzip"})  # noqa: E731
    server.tricks["p/a.jpg"] = [squeeze] * 1000
    assert "the server compresses" in get(server, tmp_path, "p/a.jpg").failed["p/a.jpg"]
    server.tricks["p/a.jpg"] = [squeeze] * 2
    assert get(server, tmp_path, "p/a.jpg").is_complete


@pytest.mark.parametrize("path", ["qa.zip", "p/b.jpg"])
def test_a_full_disk_ends_the_download_in_one_line(server, tmp_path, monkeypatch, path):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(transfer, "_write", full)
    monkeypatch.setattr(transfer, "finish", full)
    with pytest.raises(DataError, match=r"cannot write to .* \(No space left on device\); free space"):
        get(server, tmp_path, path)
    monkeypatch.undo()
    assert get(server, tmp_path, path).is_complete


def test_ctrl_c_does_not_wait_for_what_waits(server, tmp_path, monkeypatch):
    server.tricks["p/a.jpg"] = [file_server.status(429, Retry_After="300")] * 10
    mirror = Mirror(Site(server.url()), tmp_path, connections=2)

    def press(count):
        raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        mirror.get(["p/a.jpg", "p/b.jpg"], sums(server), press)
    assert time.monotonic() - started < 10


def test_a_ledger_with_anything_in_it_is_no_more_than_forgotten(server, tmp_path):
    get(server, tmp_path)
    ledger = tmp_path / LEDGER
    ledger.write_bytes(b'\xff\xfe{"path": "qa.zip"}\n{"path": "qa.zip"}\n[]\n7\n{"path": "p/a.jpg", "state": 3}\n')
    assert sorted(get(server, tmp_path).kept) == sorted(server.files)


def test_a_login_in_an_address_is_refused_and_not_repeated():
    with pytest.raises(DataError, match="name or password in it") as caught:
        Site(f"https://me:{SECRET}@physionet.org/files/x/")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("address", ["https://[half/", "https:///x/", "physionet.org/files", ""])
def test_what_is_no_address_is_one_line(address):
    with pytest.raises(DataError, match="only https"):
        Site(address)


def test_a_login_of_any_letters_is_sent(tmp_path):
    login = ("Zoë", "pass wörd:€")
    with FileServer({"a.jpg": b"picture"}, login) as own:
        assert get(own, tmp_path, "a.jpg", login=login).is_complete


def test_a_netrc_in_another_encoding_is_one_line(tmp_path, monkeypatch):
    path = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(path))
    path.write_bytes(f"machine physionet.org login me password {SECRET}\xff\n".encode("latin-1"))
    path.chmod(0o600)
    with pytest.raises(LoginError, match="netrc cannot be read") as caught:
        find_credentials("physionet.org")
    assert SECRET not in str(caught.value) and caught.value.__cause__ is None


def test_nothing_typed_is_no_login(tmp_path, monkeypatch):
    monkeypatch.setenv("NETRC", str(tmp_path / "nowhere"))
    monkeypatch.setattr(credentials.sys.stdin, "isatty", lambda: True, raising=False)

    def closed(prompt):
        raise EOFError

    monkeypatch.setattr("builtins.input", closed)
    with pytest.raises(LoginError, match="nothing was typed"):
        find_credentials("physionet.org")
