"""Uploads of model folders to the Hugging Face Hub: who may, what, and in one commit or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from models.hub_folder import HUB_FILES
from models.model_folder import read_lineage
from training.acknowledgement import recorded
from training.hub_files import write_shared_folder
from utils import hub
from utils.errors import HubError, UserError
from utils.privacy import without_ids
from utils.utils import TEMPORARY


def check_repository(repository: str) -> None:
    """HubError for a name that the Hub, or our rules of privacy, do not allow."""
    if not hub.is_repository(repository):
        raise HubError(f"{repository}: a repository must have the form {hub.REPOSITORY_FORM}")


def check_message(message: str) -> None:
    """HubError for a commit's message with the id of a patient, study or image."""
    if without_ids(message) != message:
        raise HubError("--message has a number like that of a patient or study, and would be sent: leave it out")


def check_lineage(credentialed: bool, private: bool, acknowledged: bool, repository: str, how: str) -> None:
    """HubError for a model of credentialed lineage without acknowledgement, or for a public repository.

    `how`: the option or setting by which an acknowledgement is given.
    """
    if not credentialed:
        return
    if not private:
        raise HubError(
            f"{repository}: a model of credentialed lineage is never uploaded to a public repository, whatever is acknowledged: "
            "make it private, or share the model through PhysioNet under the agreement of its data"
        )
    if not acknowledged:
        raise HubError(
            f"{repository}: this model is of credentialed lineage, and no acknowledgement for this repository is recorded: say "
            f"who can open it and under which agreement with {how} (docs/HUB.md)"
        )


def check_reachable() -> None:
    """HubError where no upload can ever succeed: without a token, or with HF_HUB_OFFLINE."""
    if hub.offline():
        raise HubError("HF_HUB_OFFLINE is set: unset it to upload")
    if not hub.token():
        raise HubError(
            "no token to upload with: make one with write access at https://huggingface.co/settings/tokens and set HF_TOKEN in "
            "the environment or in ~/.env (chmod 600)"
        )


def ensure_repository(repository: str, private: bool, branch: str | None = None) -> None:
    """Make repository and branch where they are missing. HubError: not allowed, or public where it must be private."""

    def make() -> bool:
        api = hub.client()
        api.create_repo(repository, private=private, exist_ok=True)
        if branch:
            api.create_branch(repository, branch=branch, exist_ok=True)
        # one that was there already keeps its visibility
        return bool(api.model_info(repository, timeout=hub.SECONDS).private)

    if private and not _asked(repository, make):
        raise HubError(
            f"{repository} is there already and public: make it private on its page, choose another name, or ask for a public "
            "one"
        )
    if not private:
        _asked(repository, make)


def push(
    folder: Path,
    repository: str,
    *,
    private: bool = True,
    report: dict | None = None,
    metrics: dict | None = None,
    message: str = "Upload model",
    branch: str | None = None,
    how: str = "--acknowledge_credentialed",
) -> str:
    """Upload a model folder as one commit, in which files of an earlier upload are replaced or gone; returns its address.

    Args:
        report: `report.json` about these weights, for the card.
        metrics: see `write_shared_folder`.
        branch: not the main one.
    Raises:
        CheckpointError: it is no complete model folder.
        HubError: it must not be uploaded, or the Hub did not take it; then the repository is as it was.
    """
    check_repository(repository)
    check_lineage(read_lineage(folder), private, recorded(folder, repository) is not None, repository, how)
    check_reachable()
    with _empty_folder(folder) as temporary:
        clean = Path(temporary) / "model"
        write_shared_folder(folder, clean, report, metrics)
        ensure_repository(repository, private, branch)
        return _asked(repository, lambda: _commit(clean, repository, message, branch))


def _empty_folder(beside: Path) -> tempfile.TemporaryDirectory:
    """A private one on the same disk, so that weights need not be copied, if that can be; a killed run's goes with the next."""
    place = beside.resolve()
    try:
        return tempfile.TemporaryDirectory(prefix=f".{place.name}{TEMPORARY}upload-", dir=place.parent)
    except OSError:
        return tempfile.TemporaryDirectory(prefix="ssgvqa-upload-")


def _commit(clean: Path, repository: str, message: str, branch: str | None) -> str:
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()  # they would go through the lines of a training
    done = hub.client().upload_folder(
        repo_id=repository,
        folder_path=clean,
        commit_message=message,
        revision=branch,
        allow_patterns=list(HUB_FILES),
        delete_patterns=list(HUB_FILES),
    )
    return str(done.commit_url)


def _asked(repository: str, ask: Callable):
    """What the Hub answers; HubError with the reason in our words."""
    try:
        return ask()
    except UserError:
        raise
    except Exception as error:  # the HTTP library's own exceptions, which differ between releases
        raise HubError(f"{repository}: {hub.reason(error)}") from None
