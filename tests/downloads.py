"""A server with three files and a mirror of them, for the tests of downloads."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

from data.download import transfer
from data.download.credentials import Credentials
from data.download.release import Mirror
from data.download.transfer import Site
from tests.file_server import FileServer

SECRET = "pa55-canary"
BIG = random.Random(0).randbytes(10_500)


def make_pieces_small(monkeypatch) -> None:
    """`BIG` has eleven then."""
    monkeypatch.setattr(transfer, "PIECE", 1_000)
    monkeypatch.setattr(transfer, "BLOCK", 64)


def three_files() -> FileServer:
    """Not started: a context manager."""
    return FileServer({"qa.zip": BIG, "p/a.jpg": b"first", "p/b.jpg": b"second" * 100})


def sums(server: FileServer, **wrong: str) -> dict[str, str]:
    return {name: wrong.get(name, hashlib.sha256(content).hexdigest()) for name, content in server.files.items()}


def site(server: FileServer, login: tuple | None = None, sleeps: list | None = None) -> Site:
    """Nobody waits; `sleeps` collects for how long."""
    waits = [] if sleeps is None else sleeps
    return Site(server.url(), Credentials(*login) if login else None, connections=4, sleep=waits.append)


def get(server: FileServer, folder: Path, *paths: str, **options):
    """The outcome of bringing some files, or all, to a folder."""
    mirror = Mirror(site(server, **options), folder, connections=4)
    return mirror.get(paths or server.files, sums(server), lambda count: None)


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in folder.rglob("*") if ".part" in p.name]
