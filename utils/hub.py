"""The Hugging Face Hub: names of repositories, a client that does not wait for ever, and what went wrong as one line.

Nothing here loads huggingface_hub before it is needed. Reasons are our own words: a server's text, an address or a token is
in none of them.
"""

from __future__ import annotations

import os
import re
from functools import cache
from typing import TYPE_CHECKING

from utils.privacy import without_ids

if TYPE_CHECKING:
    from huggingface_hub import HfApi

REPOSITORY_FORM = '"user/name": letters, digits, ".", "_" and single "-", and no number like that of a patient or study'
SECONDS = 60.0
"""Longest silence of the server within one request"""
ONE_ANSWER = 10.0
"""Longest wait for a connection"""
BROKEN = "the Hub does not answer, or the connection broke: try again when the network is there"
_NOT_ANSWERED = "not in the local cache, and the Hub does not answer"
_PART = r"(?!.*(?:--|\.\.))[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9_])?"
_REPOSITORY = re.compile(rf"({_PART})/({_PART})", re.ASCII)
_OF_STATUS = {
    401: "the token is not accepted: make a new one at https://huggingface.co/settings/tokens and set HF_TOKEN",
    403: "the token may not do that: it needs write access to this repository",
    404: "no such repository, or no access to it: check the name, and that HF_TOKEN is set",
    409: "another upload came first: try again",
    413: "a file is larger than the Hub takes",
    429: "too many requests: try again in some minutes",
}


def is_repository(name: str) -> bool:
    """Whether `name` is `user/name` as the Hub allows it, and without the id of a patient or study."""
    return _REPOSITORY.fullmatch(name) is not None and without_ids(name) == name


def split_revision(name: str) -> tuple[str, str | None]:
    """`user/name@revision` -> (`user/name`, revision); the revision, a branch, tag or commit, is None where there is none."""
    repository, _, revision = name.partition("@")
    return repository, revision or None


def token() -> str | None:
    """HF_TOKEN (`~/.env` fills it, see `utils.secrets_file`), or what `hf auth login` has stored. Never print it."""
    from huggingface_hub import get_token

    return get_token()


def offline() -> bool:
    """Whether the environment, when huggingface_hub was loaded, forbade requests."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def client() -> HfApi:
    """A client whose requests end when the server is silent: huggingface_hub's own wait without a limit."""
    from huggingface_hub import HfApi

    _limit_waits()
    return HfApi(token=token())


@cache
def _limit_waits() -> None:
    """Once a process: it ends the connections that there are, which another thread may be using."""
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils import _http, logging

    def limited():
        made = _http.default_client_factory()  # no public name leads to it, and its HTTP library differs by release
        hooks = made.event_hooks
        made.event_hooks = hooks | {"request": [*hooks["request"], limit]}
        return made

    def limit(request) -> None:  # some of its requests ask for no limit in so many words
        asked = request.extensions.get("timeout") or {}
        most = dict.fromkeys(("read", "write", "pool"), SECONDS) | {"connect": ONE_ANSWER}
        request.extensions["timeout"] = {
            step: min(seconds, asked[step]) if asked.get(step) else seconds for step, seconds in most.items()
        }

    logging.set_verbosity_error()  # its lines about each retry have addresses that are keys for a while
    set_client_factory(limited)


def is_passing(error: BaseException) -> bool:
    """Whether the network or the Hub is to blame, and not the name, the revision or the token."""
    return reason(error) in (BROKEN, _NOT_ANSWERED) or "error of its own" in reason(error)


def reason(error: BaseException) -> str:
    """What went wrong, and how to mend it, on one line."""
    from huggingface_hub import errors

    kinds = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set: unset it to reach the Hub"
    if isinstance(error, errors.LocalTokenNotFoundError):
        return "no token: set HF_TOKEN, in the environment or in ~/.env"
    if isinstance(error, errors.GatedRepoError):
        return "access to this repository must be granted first: ask for it on its page, and set HF_TOKEN"
    if isinstance(error, errors.RevisionNotFoundError):
        return "it has no such revision"
    if isinstance(error, errors.HFValidationError):
        return f"the name must have the form {REPOSITORY_FORM}"
    if isinstance(error, errors.LocalEntryNotFoundError):
        if isinstance(error.__cause__, errors.HfHubHTTPError):
            return reason(error.__cause__)
        return "not in the local cache, and HF_HUB_OFFLINE is set" if offline() else _NOT_ANSWERED
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code if error.response is not None else 0
        if status >= 500:
            return f"the Hub has an error of its own ({status}): try again later"
        return _OF_STATUS.get(status, f"the Hub refused it ({status})")
    if kinds & {"TimeoutException", "TransportError", "ConnectionError", "TimeoutError"}:
        return BROKEN
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    if isinstance(error, RuntimeError) and "client has been closed" in str(
        error
    ):  # by another thread, whose connection broke
        return BROKEN
    if error.__cause__ is not None:  # uploads of large files wrap what went wrong
        return reason(error.__cause__)
    return type(error).__name__
