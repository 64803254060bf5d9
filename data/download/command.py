"""What `setup_data.py --download` does and says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from configs.mimic_cxr_config import DataConfig
from data.checksums import read_listing
from data.download.credentials import Credentials, find_credentials
from data.download.fetch import fetch
from data.download.http import LOCAL
from data.download.needed import JPG_ADDRESS, QBA_ADDRESS
from data.download.release import QUARANTINE, Outcome
from data.download.transfer import Count, Site
from utils.errors import DataError

SHOWN = 5


@dataclass(frozen=True)
class Options:
    """Of the command line; None: as PhysioNet has it, or none."""

    jpg_address: str | None
    qba_address: str | None
    connections: int
    accept_checksums: Path | None


def require_folders(data: DataConfig) -> None:
    """DataError where the settings do not say where to put a release."""
    for value, option in ((data.mimic_cxr_path, "--mimic_cxr_path"), (data.mimic_qa_path, "--mimic_qa_path")):
        if not value:
            raise DataError(f"{option}: name the folder that the release is downloaded into")
    if Path(data.mimic_cxr_path).resolve() == Path(data.mimic_qa_path).resolve():
        raise DataError("--mimic_cxr_path and --mimic_qa_path are the same folder: each release needs one of its own")


def download(data: DataConfig, options: Options) -> Outcome:
    """Get what is missing, with progress bars. Errors as `fetch`."""
    require_folders(data)
    accepted = read_listing(options.accept_checksums) if options.accept_checksums else {}
    logins: dict[str, Credentials] = {}
    jpg, qba = (
        _site(address, options.connections, logins)
        for address in (options.jpg_address or JPG_ADDRESS, options.qba_address or QBA_ADDRESS)
    )
    return fetch(data, jpg, qba, _progress, accepted, options.connections)


def _site(address: str, connections: int, logins: dict[str, Credentials]) -> Site:
    """With the login of its host, which is asked for once."""
    site = Site(address, connections=connections)
    if site.host in LOCAL:
        return site
    if site.host not in logins:
        logins[site.host] = find_credentials(site.host)
    return Site(address, logins[site.host], connections)


@contextmanager
def _progress(what: str, files: int) -> Iterator[Count]:
    with tqdm(desc=f"{what} ({files:,} files)", unit="B", unit_scale=True, disable=None) as bar:
        yield bar.update


def outcome_lines(outcome: Outcome) -> list[str]:
    """For people: what came, and what did not and why."""
    lines = [f"{len(outcome.downloaded):,} files downloaded, {len(outcome.kept):,} were there already"]
    if outcome.mismatched:
        names = ", ".join(outcome.mismatched[:SHOWN]) + (", ..." if len(outcome.mismatched) > SHOWN else "")
        lines.append(
            f"{len(outcome.mismatched):,} files do not have the checksum of the release's list and were set aside in "
            f"{QUARANTINE}/: {names}; try again, and if the list is known to be wrong, give the right ones with "
            "--accept_checksums"
        )
    for path, why in list(outcome.failed.items())[:SHOWN]:
        lines.append(f"not downloaded: {path}: {why}")
    if len(outcome.failed) > SHOWN:
        lines.append(f"and {len(outcome.failed) - SHOWN:,} more; the same command tries them again")
    if outcome.is_complete:
        lines.append("next: python setup_data.py with the same options builds the index")
    return lines
