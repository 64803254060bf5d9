"""Login for PhysioNet: from ~/.netrc or a prompt, never from a command line, and never shown.

PhysioNet lets programs log in by HTTP authentication over HTTPS (https://physionet.org/about/ and its open source).
"""

from __future__ import annotations

import getpass
import netrc
import os
import stat
import sys
from dataclasses import dataclass, field
from pathlib import Path

from utils.errors import UserError


class LoginError(UserError):
    """No login, a refused one, or one without access to the release."""


@dataclass(frozen=True)
class Credentials:
    """A name and a password that no log and no traceback shows."""

    user: str
    password: str = field(repr=False)


def find_credentials(host: str) -> Credentials:
    """The entry of `host` in the file that NETRC names, else ~/.netrc, else what is typed at a terminal.

    LoginError: others may read the file, it cannot be parsed, or there is neither an entry nor a terminal.
    """
    path = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
    found = _from_netrc(path, host) if path.is_file() else None
    if found:
        return found
    if not sys.stdin.isatty():
        raise LoginError(
            f"no login for {host}: put 'machine {host} login NAME password PASSWORD' into {path} and 'chmod 600' it, "
            "or start this at a terminal to be asked"
        )
    try:
        user = input(f"name at {host}: ").strip()
        return Credentials(user, getpass.getpass(f"password of {user} at {host}: "))
    except EOFError:
        raise LoginError(f"no login for {host}: nothing was typed") from None


def _from_netrc(path: Path, host: str) -> Credentials | None:
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise LoginError(f"{path} can be read by others: chmod 600 {path}")
    try:
        entry = netrc.netrc(path).hosts.get(host)
    except netrc.NetrcParseError as error:
        # its message may quote the file, and so the password
        raise LoginError(f"{path} is no netrc file: line {error.lineno} cannot be read") from None
    except (OSError, UnicodeDecodeError) as error:
        raise LoginError(f"{path} cannot be read ({type(error).__name__}): it must be yours, and UTF-8 text") from None
    return Credentials(entry[0], entry[2]) if entry else None
