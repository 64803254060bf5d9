"""Files over HTTPS: in pieces that run in parallel, resumed, repeated with back-off, and checked before they get their name.

A file grows as `<name>.part`; `<name>.part.json` says which pieces are there, of which version of the file. Letters: bytes
are counted from 0, ends are exclusive.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote, urljoin, urlsplit

import requests

from data.download.credentials import Credentials, LoginError
from data.download.http import (
    Retry,
    is_safe,
    length_of,
    new_session,
    no_login,
    plain,
    range_of,
    require_plain,
    version_of,
    wanted_wait,
    without_query,
)
from data.download.space import require_space
from utils.errors import DataError
from utils.privacy import open_private, private_directory
from utils.utils import get_logger, sha256_of, write_atomic

PIECE = 16 * 2**20
"""Bytes of a request: what a kill loses of each connection at most"""
BLOCK = 2**18
LARGEST_WHOLE = 2**28
"""Bytes of a file that comes into memory: no reader would open a larger film"""
ATTEMPTS = 8
"""In a row without a byte of progress"""
LONGEST_WAIT = 300.0
"""Seconds between two attempts, whatever the server asks for"""
TIMEOUT = (15, 60)
"""Seconds to connect, and without a byte"""
REDIRECTS = 5
AGAIN = {408, 425, 429, 500, 502, 503, 504}
"""Statuses that may be others later"""

Sleep = Callable[[float], object]
Count = Callable[[int], None]
"""Is told of bytes that arrived"""

log = get_logger(__name__)


class _Changed(Exception):
    """The file on the server is not the one that was begun."""


class _Stopped(Exception):
    """`Site.stop` was called."""


@dataclass
class Part:
    """What is known of a file that is being downloaded."""

    size: int
    """bytes; -1: the server does not say, and the file comes in one piece"""
    version: str
    """ETag or Last-Modified"""
    in_pieces: bool = True
    """whether the server gives parts of it; else each would cost all that stands before it"""
    done: set[int] = field(default_factory=set)
    """beginnings of the pieces that are there"""

    @property
    def _step(self) -> int:
        return PIECE if self.in_pieces else max(self.size, 1)

    def missing(self) -> list[int]:
        return [start for start in range(0, max(self.size, 1), self._step) if start not in self.done]

    def end(self, place: int) -> int:
        """Of the piece that holds the byte at `place`."""
        return min(place - place % self._step + self._step, self.size)

    def left(self) -> int:
        """Bytes that are not there yet."""
        return max(self.size, 0) - sum(self.end(start) - start for start in self.done)


class Site:
    """The files below one address. Thread-safe.

    Args:
        base: for example https://physionet.org/files/mimic-cxr-jpg/2.1.0/. Plain http only on this machine.
        credentials: sent to this host alone, over this scheme alone.
        sleep: how to wait between attempts; None: until `stop` at most.
    """

    def __init__(
        self, base: str, credentials: Credentials | None = None, connections: int = 8, sleep: Sleep | None = None
    ):
        self._stopped = threading.Event()
        self.base, self._sleep = base.rstrip("/") + "/", sleep or self._stopped.wait
        if "@" in base:
            raise DataError("an address with a name or password in it: leave these out, the login comes from ~/.netrc")
        if not is_safe(base):
            raise DataError(f"{base}: only https addresses are downloaded from, a login must not travel in the open")
        self.host = urlsplit(base).hostname
        self._own = new_session(connections)
        # bytes: of text `requests` sends Latin-1, or fails
        self._own.auth = (credentials.user.encode(), credentials.password.encode()) if credentials else no_login
        self._foreign = new_session(connections)
        self._foreign.auth = no_login

    def stop(self) -> None:
        """All that wait or read in other threads give up at once."""
        self._stopped.set()

    def address(self, path: str) -> str:
        return urljoin(self.base, quote(path))

    def begin(self, path: str) -> Part:
        """Size and version of a file, from its first byte. Repeats like `fetch`."""
        return self._repeated(path, lambda: self._look(path))

    def fetch(self, path: str, part: Part, start: int, target: Path, count: Count | None = None) -> None:
        """Write the piece that begins at `start` into an open place of `target`, which exists.

        Raises:
            _Changed: the file on the server is another one now.
            LoginError: the server wants another login. DataError: there is no such file, or all attempts failed.
        """
        place = start

        def attempt() -> None:
            nonlocal place
            before = place
            try:
                for block in self._blocks(path, part, place):
                    _write(target, place, block)
                    place += len(block)
                    if count:
                        count(len(block))
            except (requests.RequestException, OSError) as error:
                if not isinstance(error, requests.RequestException):
                    raise
                raise Retry(type(error).__name__, progressed=place > before) from error
            if part.size >= 0 and place < part.end(start):
                raise Retry("the connection ended early", progressed=place > before)

        self._repeated(path, attempt)

    def whole(self, path: str) -> bytes:
        """A file of a few megabytes. Errors as `fetch`; DataError for more than `LARGEST_WHOLE`."""

        def attempt() -> bytes:
            content = bytearray()
            with self._get(path, {}) as response:
                require_plain(response)
                length = length_of(response)
                for block in response.iter_content(BLOCK):
                    content += block
                    if len(content) > LARGEST_WHOLE:
                        raise DataError(f"{self.address(path)} has more than {LARGEST_WHOLE:,} bytes: refused")
            if length is not None and len(content) != length:
                raise Retry("the connection ended early")
            return bytes(content)

        return self._repeated(path, attempt)

    def _repeated(self, path: str, attempt: Callable):
        failures = 0
        while not self._stopped.is_set():
            try:
                return attempt()
            except (Retry, requests.RequestException) as error:
                wait = getattr(error, "wait", None)
                failures = 0 if getattr(error, "progressed", False) else failures + 1
                if failures >= ATTEMPTS:
                    raise DataError(
                        f"{self.address(path)}: {ATTEMPTS} attempts failed, the last: {plain(error)}; "
                        "the same command goes on where it stopped"
                    ) from None
                backoff = min(2.0**failures, 60.0) * random.uniform(0.5, 1.0)
                self._sleep(min(max(wait or 0.0, backoff if failures else 0.1), LONGEST_WAIT))
        raise _Stopped

    def _look(self, path: str) -> Part:
        with self._get(path, {"Range": "bytes=0-0"}) as response:
            length = length_of(response)
            if response.status_code == 206:
                size = range_of(response)[2]
            elif response.status_code == 416:  # of an empty file there is no first byte
                size = 0
            else:
                size = -1 if length is None else length
            return Part(size, version_of(response), in_pieces=response.status_code != 200)

    def _blocks(self, path: str, part: Part, place: int):
        """Bytes of the piece from `place` on, never more than it has."""
        if part.size == 0:
            return
        end = part.end(place) if part.size >= 0 else None
        headers = {"Range": f"bytes={place}-{end - 1}"} if end is not None else {}
        if part.version and headers:
            headers["If-Match" if part.version.startswith('"') else "If-Unmodified-Since"] = part.version
        with self._get(path, headers) as response:
            skip = self._check(response, part, place, end)
            left = None if end is None else end - place
            for block in response.iter_content(BLOCK):
                if self._stopped.is_set():
                    raise _Stopped
                block, skip = block[skip:], max(0, skip - len(block))
                block = block if left is None else block[:left]
                if block:
                    yield block
                left = None if left is None else left - len(block)
                if left == 0:
                    return

    def _check(self, response: requests.Response, part: Part, place: int, end: int | None) -> int:
        """Bytes to skip at the beginning of the answer: it may be the whole file."""
        if response.status_code in (412, 416) or (part.version and version_of(response) not in ("", part.version)):
            raise _Changed
        require_plain(response)
        if response.status_code == 206:
            first, _, size = range_of(response)
            if size != part.size:
                raise _Changed
            if first != place:
                raise Retry(f"asked for byte {place:,}, the server sent from {first:,}")
            return 0
        if part.size >= 0 and length_of(response) not in (None, part.size):
            raise _Changed
        return place

    def _get(self, path: str, headers: dict[str, str]) -> requests.Response:
        """An answer with the wanted file; redirects are followed, but the login stays at home."""
        url = self.address(path)
        for _ in range(REDIRECTS + 1):
            at_home = urlsplit(url)[:2] == urlsplit(self.base)[:2]
            session = self._own if at_home else self._foreign
            try:
                response = session.get(url, headers=headers, stream=True, allow_redirects=False, timeout=TIMEOUT)
            except requests.RequestException:
                raise
            except ValueError:  # `requests` reads where a redirect leads, too
                raise DataError(f"{self.address(path)} leads to what is no address: refused") from None
            if not response.is_redirect:
                break
            response.close()
            url = urljoin(url, response.headers["Location"])
            if not is_safe(url):
                raise DataError(f"{self.address(path)} leads to {without_query(url)}, which is not https: refused")
        else:
            raise DataError(f"{self.address(path)}: more than {REDIRECTS} redirects")
        try:
            self._judge(path, response)
        except BaseException:
            response.close()
            raise
        return response

    def _judge(self, path: str, response: requests.Response) -> None:
        status = response.status_code
        if status in (401, 403):
            raise LoginError(
                f"{self.host} refuses {self.address(path)} ({status}): check name and password in ~/.netrc, and that you "
                "have signed the release's data use agreement on its page"
            )
        if status in (404, 410):
            raise DataError(f"{self.address(path)}: no such file ({status}): check the address and the version")
        if status in AGAIN:
            raise Retry(f"status {status}", wanted_wait(response))
        if status not in (200, 206, 412, 416):
            raise DataError(f"{self.address(path)}: status {status}")
        if response.headers.get("Content-Type", "").startswith("text/html") and not path.endswith((".html", ".htm")):
            raise LoginError(f"{self.address(path)} is a web page, not the file: a login page?")


def download(site: Site, path: str, target: Path, run: Callable[[list[Callable[[], None]]], None], count: Count) -> str:
    """Download a file to `<target>.part` and give its SHA-256; `run` executes pieces, in any order or in parallel.

    What an earlier call has is not asked for again, unless the file on the server has changed.
    """
    for _ in range(3):
        part = _begun(site, path, target)
        lock = threading.Lock()

        def piece(start: int, part: Part = part, lock: threading.Lock = lock) -> None:
            site.fetch(path, part, start, _partial(target), count)
            with lock:
                part.done.add(start)
                _remember(target, part)

        try:
            run([lambda start=start: piece(start) for start in part.missing()])
        except _Changed:
            discard(target)
            continue
        return sha256_of(_partial(target))
    raise DataError(f"{site.address(path)} changes while it is downloaded: try again later")


def download_whole(site: Site, path: str, target: Path, count: Count) -> str:
    """As `download`, for a small file: one request, from the beginning after each cut."""
    private_directory(target.parent)
    content = site.whole(path)
    with open_private(_partial(target), "wb") as file:
        file.write(content)
    count(len(content))
    return hashlib.sha256(content).hexdigest()


def _begun(site: Site, path: str, target: Path) -> Part:
    fresh = site.begin(path)
    known = _remembered(target)
    same = known and fresh.size >= 0 and replace(known, done=set()) == fresh
    part = known if same else fresh
    require_space(target.parent, part.left())
    if same:
        return part
    discard(target)
    private_directory(target.parent)
    with open_private(_partial(target), "wb") as file:
        file.truncate(max(fresh.size, 0))
    _remember(target, part)
    return part


def finish(target: Path) -> None:
    """Give the downloaded file its name."""
    with open(_partial(target), "rb") as file:
        os.fsync(file.fileno())
    os.replace(_partial(target), target)
    _memory(target).unlink(missing_ok=True)


def discard(target: Path) -> None:
    """Forget what there is of the file."""
    for path in (_memory(target), _partial(target)):
        path.unlink(missing_ok=True)


def set_aside(target: Path, place: Path) -> None:
    """Move what was downloaded to another place, where no reader looks."""
    private_directory(place.parent)
    os.replace(_partial(target), place)
    _memory(target).unlink(missing_ok=True)


def _partial(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def _memory(target: Path) -> Path:
    return target.with_name(target.name + ".part.json")


def _remember(target: Path, part: Part) -> None:
    state = {"size": part.size, "version": part.version, "in_pieces": part.in_pieces, "done": sorted(part.done)}
    state["piece"] = PIECE
    write_atomic(_memory(target), json.dumps(state))


def _remembered(target: Path) -> Part | None:
    try:
        state = json.loads(_memory(target).read_text(encoding="utf-8"))
        if state["piece"] != PIECE or _partial(target).stat().st_size != state["size"]:
            return None
        done = {int(start) for start in state["done"]}
        return Part(int(state["size"]), str(state["version"]), bool(state.get("in_pieces", True)), done)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(target: Path, place: int, block: bytes) -> None:
    with open(target, "r+b") as file:
        file.seek(place)
        file.write(block)
