"""Downloads files of a release into a folder: what is there is kept, what fails its checksum is set aside and named."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from data.checksums import NAME, read_listing
from data.download import transfer
from data.download.transfer import Count, Site
from utils.errors import DataError, UserError
from utils.privacy import open_private, private_directory
from utils.utils import get_logger, sha256_of, writing_to

LEDGER = ".downloaded.jsonl"
"""In the folder: size, time and checksum of each file that passed, so that a second call reads none of them"""
QUARANTINE = "quarantine"
"""In the folder: files that failed their checksum, under their own paths"""
SMALL = ".jpg"
"""Files with this ending come as one request each, many at a time; others in pieces"""

ADVICE = "free space, or mend its permissions; the same command goes on where it stopped"

log = get_logger(__name__)


@dataclass
class Outcome:
    """What became of the files that were asked for."""

    downloaded: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    """set aside: what the server sends has another checksum than its list says"""
    failed: dict[str, str] = field(default_factory=dict)
    """path -> why"""

    def add(self, other: Outcome) -> None:
        self.downloaded += other.downloaded
        self.kept += other.kept
        self.mismatched += other.mismatched
        self.failed |= other.failed

    @property
    def is_complete(self) -> bool:
        return not self.mismatched and not self.failed


class Mirror:
    """A folder that gets files of a site.

    Args:
        accepted: path -> SHA-256 that is right too, for files whose entry in the release's list is known to be wrong.
    """

    def __init__(self, site: Site, folder: Path, connections: int = 8, accepted: Mapping[str, str] | None = None):
        self.site, self.folder, self.connections = site, folder, connections
        self._accepted = dict(accepted or {})
        self._lock = threading.Lock()
        self._passed = _read_ledger(folder / LEDGER)

    def listing(self) -> dict[str, str]:
        """The release's list of files, downloaded at the first call."""
        path = self.folder / NAME
        if not path.is_file():
            with writing_to(self.folder, ADVICE):
                self._transfer(NAME, lambda count: None)
                transfer.finish(path)
        return read_listing(path)

    def get(self, paths: Iterable[str], listing: Mapping[str, str], count: Count) -> Outcome:
        """Download what is not there yet. One file that fails does not keep the others from coming.

        Raises:
            LoginError: nothing more can come. DataError: the folder cannot be written to.
        """
        outcome = Outcome()
        small, large = [], []
        for path in paths:
            (small if path.endswith(SMALL) else large).append(path)
        with writing_to(self.folder, ADVICE):
            for path in large:
                self._one(path, listing[path], outcome, count)
            self._in_parallel([partial(self._one, path, listing[path], outcome, count) for path in small])
        return outcome

    def _one(self, path: str, sha256: str, outcome: Outcome, count: Count) -> None:
        target = self.folder / path
        right = {sha256, self._accepted.get(path, sha256)}
        if self._is_there(path, right):
            outcome.kept.append(path)
            return
        try:
            found = self._transfer(path, count)
        except transfer.LoginError:
            raise
        except UserError as error:
            outcome.failed[path] = str(error)
            return
        if found not in right:
            transfer.set_aside(target, self.folder / QUARANTINE / path)
            outcome.mismatched.append(path)
            return
        transfer.finish(target)
        self._pass(path, found)
        outcome.downloaded.append(path)

    def _is_there(self, path: str, right: set[str]) -> bool:
        """Is the file there and right? A wrong one is set aside."""
        target = self.folder / path
        if not target.is_file():
            return False
        known = self._passed.get(path)
        if known and known.get("state") == _state(target) and known.get("sha256") in right:
            return True
        found = sha256_of(target)
        if found in right:
            self._pass(path, found)
            return True
        place = self.folder / QUARANTINE / path
        private_directory(place.parent)
        target.replace(place)
        log.warning("%s has another checksum than the release's list: set aside in %s", target, QUARANTINE)
        return False

    def _transfer(self, path: str, count: Count) -> str:
        target = self.folder / path
        if path.endswith(SMALL):
            return transfer.download_whole(self.site, path, target, count)
        return transfer.download(self.site, path, target, self._in_parallel, count)

    def _in_parallel(self, tasks: list[Callable[[], None]]) -> None:
        with ThreadPoolExecutor(self.connections) as pool:
            running = [pool.submit(task) for task in tasks]
            try:
                for task in as_completed(running):
                    task.result()
            except BaseException as error:
                if not isinstance(error, Exception):  # ctrl-C: nobody waits for what waits
                    self.site.stop()
                pool.shutdown(cancel_futures=True)
                raise

    def _pass(self, path: str, sha256: str) -> None:
        entry = {"path": path, "state": _state(self.folder / path), "sha256": sha256}
        with self._lock:
            self._passed[path] = entry
            with open_private(self.folder / LEDGER, "a") as file:
                file.write(json.dumps(entry) + "\n")


def _state(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def _read_ledger(path: Path) -> dict[str, dict]:
    """path -> entry; the last line of a process that was killed may be cut off."""
    found = {}
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error})") from error
    for line in lines:
        try:
            entry = json.loads(line)
            found[entry["path"]] = entry
        except (ValueError, KeyError, TypeError):
            continue
    return found
