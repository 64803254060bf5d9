"""Who took responsibility for uploading a model of credentialed lineage: when, to which repository, and in which words.

One JSON line each in `acknowledgements.jsonl` of the model folder, which is private and never uploaded.
"""

from __future__ import annotations

import getpass
import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from utils.errors import HubError
from utils.privacy import open_private

FILE = "acknowledgements.jsonl"
FEWEST_WORDS = 8
AGREEMENT = "https://physionet.org/content/mimic-ext-cxr-qba/1.0.0/"
EXAMPLE = (
    "Only the members of our group can open this repository, and all of them have signed the data use agreements of MIMIC-CXR-JPG "
    "and MIMIC-Ext-CXR-QBA."
)


@dataclass(frozen=True)
class Acknowledgement:
    """One line of the file."""

    who: str
    when: str
    repository: str
    text: str

    def line(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False) + "\n"


def acknowledge(repository: str, text: str, who: str = "") -> Acknowledgement:
    """One of now. `who`: the login name when empty. HubError for a text that says nothing."""
    words = text.split()
    if len(words) < FEWEST_WORDS:
        raise HubError(
            f"the acknowledgement must say who can open {repository} and under which agreement they may have the model, in at "
            f'least {FEWEST_WORDS} words of your own, such as "{EXAMPLE}"; the agreement: {AGREEMENT}'
        )
    return Acknowledgement(
        who or _login(), datetime.now(UTC).isoformat(timespec="seconds"), repository, " ".join(words)
    )


def record(folder: Path, acknowledgement: Acknowledgement) -> None:
    """Add it to the model folder's file. HubError when that cannot be written: then nothing may be uploaded."""
    try:
        with open_private(folder / FILE, "a") as file:
            file.write(acknowledgement.line())
    except OSError as error:
        raise HubError(
            f"{folder / FILE} cannot be written ({error.strerror}): an acknowledgement must be recorded before the upload"
        ) from error


def recorded(folder: Path, repository: str) -> Acknowledgement | None:
    """The newest one for this repository. A damaged line counts for none."""
    try:
        lines = (folder / FILE).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return None
    for line in reversed(lines):
        try:
            found = Acknowledgement(**json.loads(line))
        except (ValueError, TypeError):
            continue
        if found.repository == repository and len(str(found.text).split()) >= FEWEST_WORDS:
            return found
    return None


def _login() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # an account without a name, as in some containers
        return "unknown"
