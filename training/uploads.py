"""Uploads beside a training: they never delay it, and whatever becomes of them, it goes on.

A model folder that is to be uploaded is kept by hard links, at once; a thread makes the files of the upload from that and pushes
them, one folder at a time. Of several that wait for the same branch only the newest is pushed.
"""

from __future__ import annotations

import secrets
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from configs.mimic_cxr_config import Config
from data.vocabulary import Vocabulary
from training import hub
from training.acknowledgement import FILE, Acknowledgement, acknowledge, record, recorded
from training.checkpoint import OPTIMIZER
from training.hub_files import check_words, link_or_copy
from utils.errors import ConfigError, HubError, UserError
from utils.privacy import private_directory
from utils.utils import TEMPORARY, get_logger

log = get_logger(__name__)

BRANCH = "checkpoints"
LAST_WAIT = 3600.0
"""Most seconds that a finished training waits for its last upload; silent servers end earlier, see `utils.hub`"""
HOW = "training.hub_acknowledgement"


@dataclass(frozen=True)
class _Job:
    folder: Path
    """a private copy, removed afterwards"""
    message: str
    branch: str | None
    metrics: dict | None


class Uploads:
    """Of the main process of one training, in a `with` statement. All methods return at once, but for `finish`."""

    def __init__(self, config: Config, acknowledgement: Acknowledgement | None = None):
        settings = config.training
        self.repository, self.private = settings.hub_model_id, settings.hub_private_repo
        self.strategy, self.output_dir = settings.push_to_hub_strategy, Path(settings.output_dir)
        self.acknowledgement = acknowledgement
        self._waiting: dict[str | None, _Job] = {}
        self._change = threading.Condition()
        self._busy, self._closed, self._said = True, False, False

    def __enter__(self) -> Uploads:
        """Begin to work, and make the repository."""
        threading.Thread(target=self._work, name="uploads", daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def plan(self) -> str:
        """What will be uploaded where, for the plan of a run."""
        moments = {
            "best": "each best model",
            "checkpoint": "each best model and checkpoint",
            "end": "the finished model",
        }
        return f"{moments[self.strategy]} to {self.repository} ({'private' if self.private else 'PUBLIC'})"

    def records(self) -> dict[str, str]:
        """File of the model folder -> what is recorded there."""
        return {FILE: self.acknowledgement.line()} if self.acknowledgement else {}

    def best(self, folder: Path, step: int) -> None:
        """The best model was replaced."""
        if self.strategy != "end":
            self._offer(folder, f"Best model, step {step}")

    def checkpoint(self, folder: Path, step: int, metrics: dict) -> None:
        """A checkpoint is complete. `metrics`: what its card says of it."""
        if self.strategy == "checkpoint":
            self._offer(folder, f"Checkpoint, step {step}", BRANCH, metrics)

    def finish(self, folder: Path) -> None:
        """Push the finished model folder, with its control, and wait for it."""
        try:
            self._record(folder)
        except HubError as error:
            self._warn(error)
            self.close()
            return
        self._offer(folder, "Best model of the finished training")
        try:
            with self._change:
                idle = self._change.wait_for(lambda: not (self._waiting or self._busy), LAST_WAIT)
            if not idle:
                self._warn(HubError(f"{self.repository}: the upload has not ended after {LAST_WAIT / 60:.0f} minutes"))
        except BaseException:
            self._warn(HubError(f"{self.repository}: interrupted before the upload had ended"))
            raise
        finally:
            self.close()

    def _record(self, folder: Path) -> None:
        """Keep the acknowledgement in a model folder that an earlier part of the run has written without it."""
        found = recorded(folder, self.repository)
        if self.acknowledgement and (found is None or found.text != self.acknowledgement.text):
            record(folder, self.acknowledgement)

    def close(self) -> None:
        """Begin nothing any more. What is being sent ends with the process: the repository then stays as it was."""
        with self._change:
            self._closed = True
            for job in self._waiting.values():
                shutil.rmtree(job.folder, ignore_errors=True)
            self._waiting.clear()
            self._change.notify_all()

    def _offer(self, folder: Path, message: str, branch: str | None = None, metrics: dict | None = None) -> None:
        try:
            job = _Job(self._keep(folder), message, branch, metrics)
        except OSError as error:
            self._warn(
                HubError(
                    f"{folder} cannot be kept for the upload ({error.strerror or 'not all files could be copied'})"
                )
            )
            return
        with self._change:
            older = self._waiting.pop(branch, None)
            self._waiting[branch] = job
            self._change.notify_all()
        if older:
            shutil.rmtree(older.folder, ignore_errors=True)

    def _keep(self, folder: Path) -> Path:
        """The folder's files as they are now, under other names on the same disk."""
        kept = private_directory(self.output_dir / f".{folder.name}{TEMPORARY}upload-{secrets.token_hex(4)}")
        left_out = shutil.ignore_patterns(OPTIMIZER)
        try:
            shutil.copytree(folder, kept, ignore=left_out, copy_function=link_or_copy, dirs_exist_ok=True)
            if self.acknowledgement:
                (kept / FILE).unlink(missing_ok=True)  # a link: the model folder's own must not grow
                (kept / FILE).write_text(self.acknowledgement.line(), encoding="utf-8")
        except OSError:
            shutil.rmtree(kept, ignore_errors=True)
            raise
        return kept

    def _work(self) -> None:
        self._try(lambda: hub.ensure_repository(self.repository, self.private))  # what is wrong shows at once
        while True:
            with self._change:
                self._busy = False
                self._change.notify_all()
                self._change.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                branch = next(iter(self._waiting))
                job, self._busy = self._waiting.pop(branch), True
            self._try(lambda job=job: self._push(job))
            shutil.rmtree(job.folder, ignore_errors=True)

    def _push(self, job: _Job) -> None:
        begin = time.monotonic()
        options = {
            "private": self.private,
            "metrics": job.metrics,
            "message": job.message,
            "branch": job.branch,
            "how": HOW,
        }
        hub.push(job.folder, self.repository, **options)
        log.info("uploaded to %s in %.0f s: %s", self.repository, time.monotonic() - begin, job.message)

    def _try(self, do: Callable[[], None]) -> None:
        try:
            do()
        except UserError as error:
            self._warn(error)
        except Exception as error:  # a fault of ours must not end a training either
            self._warn(HubError(f"{self.repository}: {type(error).__name__}"))

    def _warn(self, error: UserError) -> None:
        """Once a training: every later upload is tried too."""
        if self._said:
            return
        self._said = True
        log.warning(
            "not uploaded, training goes on: %s; later: python scripts/hub.py push %s %s%s",
            error,
            self.output_dir / "best_model",
            self.repository,
            "" if self.private else " --public",
        )


def uploads_of(config: Config, vocabulary: Vocabulary, credentialed: bool) -> Uploads | None:
    """What `training.hub_model_id` asks for; None when it is empty.

    ConfigError as `check_uploads`, and where a model of this lineage and these words must not be uploaded.
    """
    settings = config.training
    if not settings.hub_model_id:
        return None
    check_uploads(config)
    text, given = settings.hub_acknowledgement, None
    try:
        if credentialed and text:
            given = acknowledge(settings.hub_model_id, text)
        hub.check_lineage(credentialed, settings.hub_private_repo, given is not None, settings.hub_model_id, HOW)
        if credentialed:
            check_words(config, vocabulary)
    except HubError as error:
        raise ConfigError(f"training.hub_model_id = {error}") from None
    return Uploads(config, given)


def check_uploads(config: Config) -> None:
    """ConfigError where the uploads that are asked for could never succeed."""
    if not config.training.hub_model_id:
        return
    try:
        hub.check_repository(config.training.hub_model_id)
        hub.check_reachable()
    except HubError as error:
        raise ConfigError(
            f"training.hub_model_id = {config.training.hub_model_id}: {error}; or leave it empty and push the finished model later"
        ) from None
