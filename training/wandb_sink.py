"""Weights & Biases: numbers with listed names, and nothing else.

`metrics.jsonl` stays the truth, and the service follows it: a run has one id for as long as it is resumed, each line of the
file has its own row there, and what the service lacks is sent when the run goes on, or by `scripts/track.py replay`.
The client would by itself send more than numbers; `SETTINGS` takes that away.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import string
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue

from configs.mimic_cxr_config import Config, WandbConfig
from training.tracking import METRICS, read_metrics
from utils.errors import CheckpointError, ConfigError, DataError
from utils.privacy import private_directory, remote_config, remote_values, without_ids
from utils.secrets_file import without_secrets
from utils.utils import get_logger, write_json, writing_to

log = get_logger(__name__)

INIT_TIMEOUT = 20.0
"""Seconds to wait for the service at the start; then the numbers are kept offline."""
OFFLINE_TIMEOUT = 90.0
"""Seconds for the client to start without the service: on a busy machine its second process takes a while."""
FINISH_TIMEOUT = 30.0
"""Seconds to wait at the end until the service has taken the last numbers."""
RUN_FILE = "wandb_run.json"
"""In the output folder: the run's `id`."""
STEP = "train/step"
"""The optimizer step, which every row has: the axis of all charts."""
REPLAY = "python scripts/track.py replay"

SETTINGS = {
    # no source code, no versions, no file names, no console output, no arguments, no figures of the client's own
    **dict.fromkeys("disable_git disable_code label_disable x_disable_meta x_disable_stats".split(), True),
    "x_disable_machine_info": True,
    "x_save_requirements": False,
    "console": "off",
    "save_code": False,
    # the names of host, user and program, and what environment or settings files say of the run in words
    "host": "-",
    "program": "train_mimic_cxr.py",
    "run_tags": (),
    **dict.fromkeys("username email docker git_commit git_remote_url run_notes run_group run_job_type".split(), ""),
    "resume": "allow",
    "silent": True,
    "finish_timeout_raises": True,
}
"""What the client sends, and what it does not. An option that a later client lacks stops it, not the training."""

WORDS = ("WANDB_PROJECT", "WANDB_ENTITY", "WANDB_NAME")
"""Of the environment: the client sends them where the settings of these names are empty, and in a sweep."""


def mode_of(settings: WandbConfig) -> str:
    """`online`, `offline` or `disabled`; see `WandbConfig.enabled`.

    ConfigError: online is a must, but there is no key; or a word that would be sent has an id.
    """
    key, wanted = bool(os.environ.get("WANDB_API_KEY")), settings.enabled
    if wanted == "online" and not key:
        raise ConfigError(
            "wandb.enabled = online, but WANDB_API_KEY is neither in the environment nor in ~/.env (mode 600): "
            "set it, or choose wandb.enabled=offline"
        )
    if wanted == "auto":
        switch = os.environ.get("WANDB_MODE", "")  # the client's own switch; what the configuration says goes before it
        if not key or switch in ("disabled", "offline"):
            return "offline" if key and switch == "offline" else "disabled"
    if wanted == "false":
        return "disabled"
    words = {f"wandb.{name}": getattr(settings, name) for name in ("project", "entity", "name")}
    words |= {name: os.environ.get(name, "") for name in WORDS}
    for name, word in words.items():
        if without_ids(word) != word:
            raise ConfigError(f"{name} has a number like that of a patient or study, and would be sent: choose another")
    return "online" if key and wanted != "offline" else "offline"


def maybe_wandb(config: Config) -> list[WandbSink]:
    """The sink that the configuration asks for, not yet started, or none. ConfigError as of `mode_of`."""
    mode = mode_of(config.wandb)
    return [] if mode == "disabled" else [WandbSink(config, mode)]


# The run


def row_of(step: int, values: dict[str, float]) -> int:
    """The place of a line of `metrics.jsonl` in W&B: each step has one row for training and one for validation.

    It depends on the line alone, so a line that is sent again, after a resume or by a replay, is known by its row.
    """
    return 2 * step + any(name.startswith("val/") for name in values)


def choose_id(output_dir: Path | str, step: int, stored: str = "") -> str:
    """The id of the run in W&B, eight letters and digits.

    Args:
        step: 0 begins a new run; behind that the one of the output folder goes on.
        stored: the id in the checkpoint, for an output folder that has none.
    """
    if given := os.environ.get("WANDB_RUN_ID"):  # of a sweep's agent, or the user's
        return given
    known = stored_id(output_dir) or stored if step else ""
    letters = string.ascii_lowercase + string.digits
    return known or "".join(secrets.choice(letters) for _ in range(8))


def stored_id(output_dir: Path | str) -> str:
    """The id in `RUN_FILE` of an output folder; empty where it is missing or damaged."""
    try:
        found = json.loads((Path(output_dir) / RUN_FILE).read_text(encoding="utf-8"))["id"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return found if isinstance(found, str) else ""


def import_client():
    """The module `wandb`, which does not report its own errors, with stack traces and names of files, to its makers."""
    os.environ["WANDB_ERROR_REPORTING"] = "false"  # read at the import and when its second process starts
    import wandb

    return wandb


def open_run(config: Config, run_id: str, mode: str, patience: float | None = None):
    """A started run of the W&B client, in its folder `wandb` in the output folder, which is private.

    `patience`: seconds for the service to take the numbers at the end, `FINISH_TIMEOUT` unless given.
    The id is in `RUN_FILE` before anything is sent. Exceptions of any kind from the client; see `reason_of`.
    """
    output, settings = Path(config.training.output_dir), config.wandb
    with writing_to(output, "choose another training.output_dir", CheckpointError):
        private_directory(output / "wandb")
        write_json(output / RUN_FILE, {"id": run_id})
    os.environ["WANDB_ERROR_REPORTING"] = (
        "false"  # before the import: stack traces and file names, to the client's makers
    )
    os.environ["WANDB_SILENT"] = "true"
    import wandb

    run = wandb.init(
        project=settings.project,
        entity=settings.entity or None,
        name=settings.name or None,
        id=run_id,
        dir=str(output),
        mode=mode,
        config=remote_config(config),
        settings=wandb.Settings(
            init_timeout=INIT_TIMEOUT if mode == "online" else OFFLINE_TIMEOUT,
            finish_timeout=patience or FINISH_TIMEOUT,
            **SETTINGS,
        ),
    )
    run.define_metric(STEP, hidden=True)
    run.define_metric("*", step_metric=STEP)
    return run


def forget_client() -> None:
    """End the client's own process, which keeps the id of a run that it could not start."""
    import wandb

    with suppress(Exception):  # it is on its way out already
        wandb.teardown(exit_code=1)


def reason_of(error: Exception) -> str:
    """What an exception of the client says, on one line and without keys or passwords."""
    return without_secrets(" ".join(f"{type(error).__name__}: {error}".split()))[:300]


def rows(output_dir: Path | str, first: int = 0) -> Iterator[tuple[int, int, dict[str, float]]]:
    """(row, step, numbers) of the lines of `metrics.jsonl` from row `first` on. DataError as of `read_metrics`."""
    for step, values in read_metrics(Path(output_dir) / METRICS):
        if (row := row_of(step, values)) >= first:
            yield row, step, values


def send(run, row: int, step: int, values: dict[str, float]) -> None:
    """One row. ValueError for a value that is not a number."""
    if numbers := remote_values(values):
        run.log(numbers | {STEP: float(step)}, step=row)


def run_agent(sweep: str, count: int = 0) -> None:
    """`wandb agent`: start the trials of a sweep until there are no more, or `count` of them.

    The client's agent would tell the service the name of this machine. ConfigError: there is no key.
    """
    mode_of(WandbConfig(enabled="online"))
    socket.gethostname = lambda: SETTINGS["host"]
    import_client().agent(sweep, count=count or None)


# The sink


class WandbSink:
    """Gets allow-listed numbers only; the first failure of the service ends it with a warning.

    A thread hands the numbers over: a service that is slow delays no step, and one that hangs does not end the run.
    """

    def __init__(self, config: Config, mode: str):
        self._config, self._mode = config, mode
        self._output = Path(config.training.output_dir)
        self._run = None
        self._next_row = 0
        self._actions: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)

    def start(self, step: int, run_id: str = "") -> str:
        """Begin or go on. A service that does not answer within `INIT_TIMEOUT` gets its numbers later: see `REPLAY`."""
        run_id = choose_id(self._output, step, run_id)
        self._run = self._open(run_id, self._mode)
        if self._run is None and self._mode == "online":
            forget_client()
            self._mode = "offline"
            self._run = self._open(run_id, self._mode)
        if self._run is None:
            log.warning("Weights & Biases: training goes on without it")
            return run_id
        log.info("Weights & Biases: %s, run %s, numbers only", self._mode, run_id)
        if self._mode == "offline":
            log.info("send the numbers later with: %s %s", REPLAY, self._output)
        self._next_row = self._run.starting_step  # behind the last one that the service has
        self._thread.start()
        if self._mode == "online" and step:
            self._catch_up()
        return run_id

    def _catch_up(self) -> None:
        """Send what the service missed before the run was cut."""
        try:
            for row, step, values in rows(self._output, self._next_row):
                self._put(row, step, remote_values(values))
        except DataError as error:  # nothing in the file of numbers is worth a training
            log.warning("Weights & Biases: earlier numbers are not sent: %s", error)

    def log(self, step: int, values: dict[str, float]) -> None:
        values = remote_values(values)  # here, not in the thread: text is an error of the program
        self._put(row_of(step, values), step, values)

    def close(self) -> None:
        if self._run is None:
            return
        self._actions.put(self._run.finish)
        self._actions.put(None)
        self._thread.join(FINISH_TIMEOUT + 5)
        if self._thread.is_alive():
            log.warning(
                "Weights & Biases has not taken all numbers within %.0f s; send the rest with: %s %s",
                FINISH_TIMEOUT,
                REPLAY,
                self._output,
            )

    def _open(self, run_id: str, mode: str):
        """A run, or None and a warning: tracking never stops a training."""
        try:
            return open_run(self._config, run_id, mode)
        except CheckpointError:
            raise  # a disk that refuses, which the checkpoints will find too
        except Exception as error:  # whatever the service or its client does, the run is worth more than its plots
            log.warning("Weights & Biases did not start %s (%s)", mode, reason_of(error))
            return None

    def _put(self, row: int, step: int, values: dict[str, float]) -> None:
        if self._run is not None and row >= self._next_row:
            self._next_row = row + 1
            self._actions.put(lambda: send(self._run, row, step, values))

    def _work(self) -> None:
        while action := self._actions.get():
            try:
                action()
            except Exception as error:
                log.warning(
                    "Weights & Biases stopped (%s); training goes on without it. Send the rest with: %s %s",
                    reason_of(error),
                    REPLAY,
                    self._output,
                )
                return
