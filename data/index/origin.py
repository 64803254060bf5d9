"""Which release an index was made of, without reading the release again.

At full size the tables and the archives' directories take seconds to read. So an index keeps what the release's files looked
like when they were read: place, size and time of change. While they look the same, so does the fingerprint.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from configs.mimic_cxr_config import DataConfig
from data.release import Release
from utils.utils import get_logger, write_json

ORIGIN = "release.json"
CACHE = Path("data_cache")
"""Where indexes are kept that have no place of their own."""

log = get_logger(__name__)


def known_fingerprint(release: Release, data: DataConfig) -> str | None:
    """The release's fingerprint as an index knows it; None when its files are others, have changed, or are a folder tree."""
    if release.file_states:
        for place in _places(data):
            with suppress(OSError, ValueError, KeyError, TypeError):
                origin = json.loads(place.read_text(encoding="utf-8"))
                if origin["files"] == release.file_states:
                    return str(origin["fingerprint"])
    return None


def keep_fingerprint(release: Release, index: Path) -> None:
    """For the next time; where nothing can be written, the release is read again then."""
    if release.file_states:
        try:
            write_json(index / ORIGIN, {"fingerprint": release.fingerprint(), "files": release.file_states})
        except OSError as error:
            log.info("the release is read again at each start: %s cannot be written (%s)", index / ORIGIN, error)


def _places(data: DataConfig) -> Iterator[Path]:
    if data.index_dir:
        yield Path(data.index_dir) / ORIGIN
    else:
        with suppress(OSError):
            yield from sorted(CACHE.glob(f"*/{ORIGIN}"))
