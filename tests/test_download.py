"""Downloads from a server that cuts, lies, redirects and throttles: every file ends right, set aside, or named."""

from __future__ import annotations

import hashlib
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.checksums import is_inside, read_listing
from data.download import credentials, transfer
from data.download.credentials import Credentials, LoginError, find_credentials
from data.download.release import QUARANTINE, Mirror
from data.download.transfer import Site
from tests import file_server
from tests.downloads import BIG, SECRET, get, leftovers, make_pieces_small, site, sums, three_files
from tests.file_server import FileServer
from utils.errors import DataError


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    make_pieces_small(monkeypatch)


@pytest.fixture
def server():
    with three_files() as running:
        yield running


def test_everything_arrives_in_pieces_and_no_piece_twice(server, tmp_path):
    arrived = []
    outcome = Mirror(site(server), tmp_path).get(server.files, sums(server), arrived.append)
    assert sorted(outcome.downloaded) == sorted(server.files) and outcome.is_complete
    for name, content in server.files.items():
        assert (tmp_path / name).read_bytes() == content
    assert sum(arrived) == sum(map(len, server.files.values()))
    pieces = [r for r in server.ranges("qa.zip") if r != "bytes=0-0"]
    assert len(pieces) == len(set(pieces)) == 11
    assert not leftovers(tmp_path)


def test_a_second_call_asks_for_nothing(server, tmp_path):
    get(server, tmp_path)
    server.seen.clear()
    outcome = get(server, tmp_path)
    assert not server.seen and sorted(outcome.kept) == sorted(server.files)


def test_a_copy_from_elsewhere_is_checked_and_kept_and_a_wrong_one_set_aside(server, tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.jpg").write_bytes(b"first")
    (tmp_path / "p" / "b.jpg").write_bytes(b"broken")
    outcome = get(server, tmp_path, "p/a.jpg", "p/b.jpg")
    assert (outcome.kept, outcome.downloaded) == (["p/a.jpg"], ["p/b.jpg"])
    assert (tmp_path / "p" / "b.jpg").read_bytes() == b"second" * 100
    assert (tmp_path / QUARANTINE / "p" / "b.jpg").read_bytes() == b"broken"


def test_cut_connections_go_on_where_they_were_cut(server, tmp_path):
    server.tricks["qa.zip"] = [file_server.cut(n) for n in (1, 300, 0, 70, 999, 500)]
    server.tricks["p/b.jpg"] = [file_server.cut(10), file_server.cut(0)]
    outcome = get(server, tmp_path)
    assert outcome.is_complete and (tmp_path / "qa.zip").read_bytes() == BIG


def test_what_a_stopped_download_has_is_not_asked_for_again(server, tmp_path):
    class Stop(Exception):
        pass

    arrived = 0

    def stop_half_way(count):
        nonlocal arrived
        arrived += count
        if arrived > 5_000:
            raise Stop

    with pytest.raises(Stop):
        Mirror(site(server), tmp_path, connections=1).get(["qa.zip"], sums(server), stop_half_way)
    assert not (tmp_path / "qa.zip").exists() and leftovers(tmp_path)
    server.seen.clear()
    assert get(server, tmp_path, "qa.zip").is_complete
    assert (tmp_path / "qa.zip").read_bytes() == BIG and not leftovers(tmp_path)
    asked = [r for r in server.ranges("qa.zip") if r != "bytes=0-0"]
    assert len(asked) == 6, "five of eleven pieces were there"


def test_a_file_that_changes_between_two_calls_is_begun_again(server, tmp_path):
    server.tricks["qa.zip"] = [lambda h, c, a, b: h.serve(c, a, b)] * 4 + [file_server.status(404)]
    assert "no such file" in get(server, tmp_path, "qa.zip").failed["qa.zip"]
    assert leftovers(tmp_path)
    server.files["qa.zip"], server.tags["qa.zip"] = BIG[::-1], '"2"'
    assert get(server, tmp_path, "qa.zip").is_complete
    assert (tmp_path / "qa.zip").read_bytes() == BIG[::-1]


def test_a_file_that_changes_under_way_is_begun_again(server, tmp_path):
    new = bytes(reversed(BIG))

    def change(handler, content, first, last):
        server.files["qa.zip"], server.tags["qa.zip"] = new, '"2"'
        handler.serve(new, first, last)

    server.tricks["qa.zip"] = [lambda h, c, a, b: h.serve(c, a, b)] * 3 + [change]
    listing = {"qa.zip": hashlib.sha256(new).hexdigest()}
    assert Mirror(site(server), tmp_path, connections=1).get(["qa.zip"], listing, lambda n: None).is_complete
    assert (tmp_path / "qa.zip").read_bytes() == new


@pytest.mark.parametrize(
    "trick", [file_server.whole, file_server.lie_about_range, file_server.status(500), file_server.status(503)]
)
def test_answers_that_are_no_help_are_asked_for_again(server, tmp_path, trick):
    server.tricks["qa.zip"] = [trick] * 5
    server.tricks["p/a.jpg"] = [file_server.status(502)] * 3
    assert get(server, tmp_path).is_complete
    assert (tmp_path / "qa.zip").read_bytes() == BIG


def test_a_server_without_ranges_will_do(server, tmp_path):
    server.tricks["qa.zip"] = [file_server.whole] * 100
    assert get(server, tmp_path, "qa.zip").is_complete and (tmp_path / "qa.zip").read_bytes() == BIG


def test_it_waits_as_long_as_it_is_told_and_longer_each_time(server, tmp_path):
    sleeps = []
    server.tricks["p/a.jpg"] = [file_server.status(429, Retry_After="7")] + [file_server.status(500)] * 4
    assert get(server, tmp_path, "p/a.jpg", sleeps=sleeps).is_complete
    assert sleeps[0] >= 7 and len(sleeps) == 5
    assert sleeps[4] > sleeps[1], "back-off grows"
    server.tricks["p/b.jpg"] = [file_server.status(429, Retry_After="99999999")]
    get(server, tmp_path, "p/b.jpg", sleeps=sleeps)
    assert max(sleeps) == transfer.LONGEST_WAIT


def test_it_gives_up_in_one_line_and_the_others_still_come(server, tmp_path):
    server.tricks["p/a.jpg"] = [file_server.status(500)] * 1000
    server.tricks["qa.zip"] = [file_server.status(404)]
    outcome = get(server, tmp_path)
    assert outcome.downloaded == ["p/b.jpg"] and set(outcome.failed) == {"p/a.jpg", "qa.zip"}
    assert "8 attempts failed, the last: status 500" in outcome.failed["p/a.jpg"]
    assert "no such file (404)" in outcome.failed["qa.zip"]
    assert not (tmp_path / "qa.zip").exists() and not (tmp_path / "p" / "a.jpg").exists()


def test_what_fails_its_checksum_is_set_aside(server, tmp_path):
    server.tricks["qa.zip"] = [lambda h, c, a, b: h.serve(c, a, b)] * 2 + [file_server.garbage]
    server.tricks["p/a.jpg"] = [file_server.garbage]
    outcome = get(server, tmp_path)
    assert set(outcome.mismatched) == {"qa.zip", "p/a.jpg"} and outcome.downloaded == ["p/b.jpg"]
    assert not (tmp_path / "qa.zip").exists() and (tmp_path / QUARANTINE / "qa.zip").stat().st_size == len(BIG)
    assert get(server, tmp_path).is_complete, "the next call tries again"


def test_a_checksum_that_is_known_to_be_wrong_can_be_replaced(server, tmp_path):
    right, wrong = hashlib.sha256(b"first").hexdigest(), {"p/a.jpg": "0" * 64}
    plain = Mirror(site(server), tmp_path)
    assert plain.get(["p/a.jpg"], wrong, lambda n: None).mismatched == ["p/a.jpg"]
    knowing = Mirror(site(server), tmp_path, accepted={"p/a.jpg": right})
    assert knowing.get(["p/a.jpg"], wrong, lambda n: None).is_complete


# Logins


def test_the_login_goes_to_its_host_alone(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    login = ("me", SECRET)
    with FileServer({"a.jpg": b"picture"}) as other, FileServer({"a.jpg": b"picture"}, login) as own:
        own.tricks["a.jpg"] = [file_server.redirect(other.url("localhost") + "a.jpg")]
        assert get(own, tmp_path, "a.jpg", login=login).is_complete
        assert any("Authorization" in headers for _, headers in own.seen)
        assert other.seen and not any(SECRET in str(h) or "Authorization" in h or "Cookie" in h for _, h in other.seen)
    assert SECRET not in caplog.text and SECRET not in repr(Credentials(*login))


@pytest.mark.parametrize("target", ["http://example.com/a.jpg", "ftp://127.0.0.1/a.jpg", "file:///etc/passwd"])
def test_it_follows_no_one_into_the_open(server, tmp_path, target):
    server.tricks["p/a.jpg"] = [file_server.redirect(target)]
    assert "refused" in get(server, tmp_path, "p/a.jpg").failed["p/a.jpg"]
    server.tricks["p/a.jpg"] = [file_server.redirect(server.url() + "p/a.jpg")] * 20
    assert "redirects" in get(server, tmp_path, "p/a.jpg").failed["p/a.jpg"]


def test_an_address_that_is_not_https_is_refused():
    with pytest.raises(DataError, match="only https"):
        Site("http://physionet.org/files/x/1.0/")


@pytest.mark.parametrize("trick", [file_server.status(403), file_server.page])
def test_a_refused_login_stops_everything_and_is_not_repeated(server, tmp_path, trick):
    server.tricks["p/a.jpg"] = [trick] * 5
    with pytest.raises(LoginError) as caught:
        get(server, tmp_path, "p/a.jpg", login=("me", SECRET))
    assert SECRET not in str(caught.value) and "\n" not in str(caught.value)
    assert len(server.seen) == 1 and not (tmp_path / "p" / "a.jpg").exists()


def test_the_login_comes_from_netrc(tmp_path, monkeypatch):
    path = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(path))
    monkeypatch.setattr(credentials.sys.stdin, "isatty", lambda: False, raising=False)
    with pytest.raises(LoginError, match=r"no login for physionet\.org: put 'machine physionet\.org login"):
        find_credentials("physionet.org")
    path.write_text(f"machine physionet.org login me password {SECRET}\n")
    path.chmod(0o644)
    with pytest.raises(LoginError, match="can be read by others: chmod 600"):
        find_credentials("physionet.org")
    path.chmod(0o600)
    assert find_credentials("physionet.org") == Credentials("me", SECRET)
    path.write_text(f"machine physionet.org login me pass {SECRET}\n")
    with pytest.raises(LoginError, match="is no netrc file") as caught:
        find_credentials("physionet.org")
    assert SECRET not in str(caught.value) and caught.value.__cause__ is None


def test_at_a_terminal_it_asks(tmp_path, monkeypatch):
    monkeypatch.setenv("NETRC", str(tmp_path / "nowhere"))
    monkeypatch.setattr(credentials.sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda prompt: " me ")
    monkeypatch.setattr(credentials.getpass, "getpass", lambda prompt: SECRET)
    assert find_credentials("physionet.org") == Credentials("me", SECRET)


# The list of files


def test_the_list_in_both_spellings(tmp_path):
    path = tmp_path / "SHA256SUMS.txt"
    path.write_text(f"{'a' * 64} files/p10/a b.jpg\n{'B' * 64}  ./x.csv.gz\n\n{'c' * 64} *y\n")
    assert read_listing(path) == {"files/p10/a b.jpg": "a" * 64, "x.csv.gz": "b" * 64, "y": "c" * 64}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "lists no file"),
        ("<html>", "line 1: not a checksum"),
        (f"{'a' * 64} ../x", "does not lie in the release"),
        (f"{'a' * 64} /etc/passwd", "does not lie"),
        (f"{'a' * 64} x\n{'b' * 64} x", "line 2: another checksum of x"),
    ],
)
def test_what_is_no_list_is_one_line(tmp_path, text, match):
    path = tmp_path / "SHA256SUMS.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=match) as caught:
        read_listing(path)
    assert "\n" not in str(caught.value)


@given(st.text(alphabet="ab./\\:\0", max_size=12))
def test_no_path_of_a_list_leaves_its_folder(tmp_path_factory, name):
    from pathlib import Path

    if is_inside(name):
        inside = Path("/root/of/release", name)
        assert ".." not in inside.parts and str(inside).startswith("/root/of/release/")
