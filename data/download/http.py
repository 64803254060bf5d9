"""What HTTP requires and what its answers say: addresses, sessions, ranges, versions, and how long to wait."""

from __future__ import annotations

import email.utils
import re
import time
from urllib.parse import urlsplit

import requests

AGENT = "Wget/1.24 (compatible; ssg-vqa setup_data.py)"
"""PhysioNet takes a login over HTTP only from programs whose name begins with Wget or libwfdb."""
LOCAL = {"localhost", "127.0.0.1", "::1"}
NUMBER = "[0-9]{1,18}"


class Retry(Exception):
    """This attempt failed.

    Args:
        wait: seconds that the server asks for.
        progressed: some bytes came, so that it counts as the first failure.
    """

    def __init__(self, why: str, wait: float | None = None, progressed: bool = False):
        super().__init__(why)
        self.wait, self.progressed = wait, progressed


def is_safe(url: str) -> bool:
    """https, or this machine; and no name before the host, which libraries do not all find in the same place."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    if not parts.hostname or {"@", "\\"} & set(parts.netloc):
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOCAL)


def new_session(connections: int) -> requests.Session:
    session = requests.Session()
    session.headers.update({"User-Agent": AGENT, "Accept-Encoding": "identity"})
    adapter = requests.adapters.HTTPAdapter(pool_maxsize=connections, pool_connections=4, max_retries=0)
    for scheme in ("https://", "http://"):
        session.mount(scheme, adapter)
    return session


def no_login(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Keeps `requests` from looking into ~/.netrc by itself."""
    return request


def range_of(response: requests.Response) -> tuple[int, int, int]:
    """First byte, last byte and size of a partial answer."""
    match = re.fullmatch(rf"bytes ({NUMBER})-({NUMBER})/({NUMBER})", response.headers.get("Content-Range", ""))
    if not match:
        raise Retry("a partial answer that does not say which part")
    return tuple(int(number) for number in match.groups())


def length_of(response: requests.Response) -> int | None:
    """Content-Length; None where the server does not say."""
    length = response.headers.get("Content-Length", "").strip()
    return int(length) if re.fullmatch(NUMBER, length) else None


def require_plain(response: requests.Response) -> None:
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise Retry("the server compresses what must come as it is")


def version_of(response: requests.Response) -> str:
    """A strong ETag, else the date of the last change, else nothing."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified", "")


def wanted_wait(response: requests.Response) -> float | None:
    """Seconds of Retry-After, which may be a date."""
    wanted = response.headers.get("Retry-After", "").strip()
    if re.fullmatch(NUMBER, wanted):
        return float(wanted)
    try:
        return max(0.1, email.utils.parsedate_to_datetime(wanted).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def plain(error: Exception) -> str:
    """What went wrong, without an address: it might hold a login."""
    return str(error) if isinstance(error, Retry) else type(error).__name__


def without_query(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}{parts.path}"
