"""Keys and data folders from ~/.env, for what the environment does not say itself. Values are never printed."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, MutableMapping
from pathlib import Path

logger = logging.getLogger(__name__)

SECRETS = ("WANDB_API_KEY", "HF_TOKEN")
NAMES = (*SECRETS, "MIMIC_CXR_PATH", "MIMIC_QA_PATH")
"""All that is taken from the file; whatever else it holds stays there."""

_ASSIGNMENT = re.compile(r"\s*(?:export\s+)?([A-Za-z_]\w*)=(.*)")
_PARTS = re.compile(r"""'([^']*)'|"((?:[^"\\]|\\.)*)"|\\(.)|([^\s'"\\#]+|(?<=\S)#)""", re.DOTALL)


def load_env_file(path: str | Path | None = None, environ: MutableMapping[str, str] | None = None) -> list[str]:
    """Set what `path` (default: ~/.env) says and the environment does not; the names that were set.

    Secrets are not read from a file that others may read or write: a warning says how to mend that.
    """
    path = Path.home() / ".env" if path is None else Path(path)
    environ = os.environ if environ is None else environ
    try:
        mode = path.stat().st_mode
        found = parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        logger.warning("%s is left out: %s", path, getattr(error, "strerror", None) or "it is not UTF-8 text")
        return []
    wanted = {name: found[name] for name in NAMES if found.get(name) and not environ.get(name)}
    if mode & 0o077:
        hidden = [name for name in SECRETS if wanted.pop(name, None)]
        if hidden:
            logger.warning("%s: others may open it, so %s is not read: chmod 600 %s", path, " and ".join(hidden), path)
    environ.update(wanted)
    return list(wanted)


def without_secrets(text: str, environ: Mapping[str, str] | None = None) -> str:
    """`text` with the names of `SECRETS` in the place of their values, and without user and password of its addresses."""
    environ = os.environ if environ is None else environ
    for name in SECRETS:
        if value := environ.get(name):
            text = text.replace(value, f"<{name}>")
    return re.sub(r"(?<=://)[^/@\s]+@", "", text)


def parse(text: str) -> dict[str, str]:
    """NAME=VALUE, also behind `export`, with quotes and comments as in a shell; no variables are expanded.

    The last of several values counts. What is no assignment is passed over.
    """
    values = {}
    for line in text.splitlines():
        if match := _ASSIGNMENT.fullmatch(line):
            values[match[1]] = _value(match[2])
    return values


def _value(text: str) -> str:
    """The first word of `text` as a shell reads it."""
    word, at = [], 0
    while match := _PARTS.match(text, at):
        single, double, escaped, plain = match.groups()
        word.append(re.sub(r'\\(["\\$`])', r"\1", double) if double is not None else single or escaped or plain or "")
        at = match.end()
    return "".join(word)
