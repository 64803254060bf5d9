"""The W&B sink: modes, what happens when the service is not there, ids that survive a resume, and no text."""

from __future__ import annotations

import json
import logging
import time

import pytest
import wandb

from configs.mimic_cxr_config import WandbConfig
from tests.tiny_training import make_config
from training import wandb_sink
from training.tracking import JsonlSink, Sinks
from utils.errors import ConfigError

KEY = "x" * 40


@pytest.fixture(autouse=True)
def no_switch(monkeypatch):
    """What the tests set for all libraries would keep W&B off."""
    monkeypatch.delenv("WANDB_MODE")


# Modes


@pytest.mark.parametrize(
    ("enabled", "key", "switch", "mode"),
    [
        ("auto", "", "", "disabled"),
        ("auto", KEY, "", "online"),
        ("auto", KEY, "offline", "offline"),
        ("auto", KEY, "disabled", "disabled"),
        ("auto", "", "online", "disabled"),
        ("true", "", "", "offline"),
        ("true", KEY, "disabled", "online"),
        ("online", KEY, "", "online"),
        ("offline", "", "", "offline"),
        ("offline", KEY, "online", "offline"),
        ("false", KEY, "online", "disabled"),
    ],
)
def test_modes(monkeypatch, tmp_path, enabled, key, switch, mode):
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setenv("WANDB_MODE", switch)
    assert wandb_sink.mode_of(WandbConfig(enabled=enabled)) == mode
    config = make_config(tmp_path)
    config.wandb.enabled = enabled
    assert len(wandb_sink.maybe_wandb(config)) == (mode != "disabled")


def test_online_without_a_key_is_said_before_anything_is_built():
    with pytest.raises(ConfigError, match=r"WANDB_API_KEY is neither in the environment nor in ~/\.env"):
        wandb_sink.mode_of(WandbConfig(enabled="online"))


@pytest.mark.parametrize("name", ["wandb.project", "wandb.entity", "wandb.name", *wandb_sink.WORDS])
def test_a_word_with_an_id_is_refused_before_it_is_sent(monkeypatch, name):
    settings = WandbConfig(enabled="offline")
    if name.startswith("wandb."):
        setattr(settings, name.removeprefix("wandb."), "p10987654-try")
    else:
        monkeypatch.setenv(name, "p10987654-try")
    with pytest.raises(ConfigError, match=f"{name} has a number like that of a patient") as caught:
        wandb_sink.mode_of(settings)
    assert "10987654" not in str(caught.value)
    settings.enabled = "false"
    assert wandb_sink.mode_of(settings) == "disabled"


# A service that misbehaves


class SlowRun:
    """A service that takes its time, or fails at a row."""

    def __init__(self, seconds: float = 0.0, fails_at: int = -1, step: int = 0):
        self.seconds, self.fails_at, self.starting_step, self.taken = seconds, fails_at, step, []

    def log(self, values, step):
        time.sleep(self.seconds)
        if step == self.fails_at:
            raise OSError("the service is gone")
        self.taken.append((step, values["train/step"]))

    def finish(self):
        self.taken.append("finished")


@pytest.fixture
def sink_of(monkeypatch, tmp_path):
    """A started sink around a run."""

    def make(run, mode="offline", step=0):
        monkeypatch.setattr(wandb_sink, "open_run", lambda *_: run)
        sink = wandb_sink.WandbSink(make_config(tmp_path), mode)
        sink.start(step)
        return sink

    return make


def test_a_slow_service_delays_no_step_and_gets_everything_in_order(sink_of):
    run = SlowRun(0.1)
    sink, started = sink_of(run), time.perf_counter()
    for step in range(5):
        sink.log(step, {"train/loss": 1.0})
    assert time.perf_counter() - started < 0.1
    sink.close()
    assert run.taken == [(0, 0), (2, 1), (4, 2), (6, 3), (8, 4), "finished"]


def test_a_service_that_fails_is_left_alone_with_one_warning(sink_of, caplog, tmp_path):
    run = SlowRun(fails_at=2)
    sink = sink_of(run)
    with caplog.at_level(logging.WARNING):
        for step in range(4):
            sink.log(step, {"train/loss": 1.0})
        sink.close()
    assert run.taken == [(0, 0)]
    (record,) = [one for one in caplog.records if "the service is gone" in one.message]
    assert "training goes on" in record.message
    assert f"scripts/track.py replay {tmp_path}" in record.message


def test_a_service_that_hangs_does_not_hold_the_program(monkeypatch, sink_of, caplog):
    monkeypatch.setattr(wandb_sink, "FINISH_TIMEOUT", -4.9)  # five seconds more are waited for the thread
    sink = sink_of(SlowRun(1.0))
    sink.log(1, {"train/loss": 1.0})
    with caplog.at_level(logging.WARNING):
        sink.close()
    assert "not taken all numbers" in caplog.text


def test_text_is_refused_where_it_is_logged(sink_of):
    sink = sink_of(SlowRun())
    with pytest.raises(ValueError, match="numbers only"):
        sink.log(1, {"train/question": "Is there an effusion?"})
    sink.close()


def test_a_client_that_does_not_start_stops_nothing_and_shows_no_key(monkeypatch, tmp_path, caplog):
    def refuse(**_):
        raise RuntimeError(f"POST https://someone:word@proxy/graphql with {KEY}\nfailed")

    monkeypatch.setattr(wandb, "init", refuse)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    (sink,) = wandb_sink.maybe_wandb(make_config(tmp_path))
    with caplog.at_level(logging.WARNING):
        sink.start(0)
        sink.log(1, {"train/loss": 1.0})
        sink.close()
    assert "did not start online (RuntimeError: POST https://proxy/graphql with <WANDB_API_KEY> failed)" in caplog.text
    assert "did not start offline" in caplog.text and "training goes on without it" in caplog.text
    assert KEY not in caplog.text and "word" not in caplog.text


# Ids and rows


def test_a_line_has_a_row_of_its_own_that_only_it_has():
    lines = [(0, "train"), (0, "val"), (1, "train"), (7, "train"), (7, "val"), (8, "train")]
    found = [wandb_sink.row_of(step, {f"{kind}/x": 1.0, f"{kind}/y": 1.0}) for step, kind in lines]
    assert found == sorted(set(found)) == [0, 1, 2, 14, 15, 16]


def test_the_id_is_that_of_the_folder_or_of_the_checkpoint_and_a_new_run_has_a_new_one(monkeypatch, tmp_path):
    new = wandb_sink.choose_id(tmp_path, 5)
    assert len(new) == 8 and new.isalnum() and new != wandb_sink.choose_id(tmp_path, 5)
    assert wandb_sink.choose_id(tmp_path, 5, "checkpnt") == "checkpnt"
    (tmp_path / wandb_sink.RUN_FILE).write_text('{"id": "folder00"}')
    assert wandb_sink.choose_id(tmp_path, 5, "checkpnt") == "folder00"
    assert wandb_sink.choose_id(tmp_path, 0, "checkpnt") not in ("checkpnt", "folder00")
    (tmp_path / wandb_sink.RUN_FILE).write_text("[damaged")
    assert wandb_sink.choose_id(tmp_path, 5, "checkpnt") == "checkpnt"
    monkeypatch.setenv("WANDB_RUN_ID", "ofasweep")
    assert wandb_sink.choose_id(tmp_path, 0) == "ofasweep"


def write_metrics(folder, *lines):
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps({"step": step, name: 1.0}) + "\n" for step, name in lines))


def test_going_on_sends_what_the_service_lacks_and_nothing_twice(sink_of, tmp_path):
    """The service has the rows up to the training line of step 4; its validation line and step 5 never arrived."""
    write_metrics(tmp_path, (3, "train/loss"), (4, "train/loss"), (4, "val/headline"), (5, "train/loss"))
    run = SlowRun(step=wandb_sink.row_of(4, {"train/loss": 1.0}) + 1)
    sink = sink_of(run, "online", step=5)
    for step in (4, 5, 6):  # of these only the last is new
        sink.log(step, {"train/loss": 1.0})
    sink.close()
    assert run.taken == [(9, 4), (10, 5), (12, 6), "finished"]


def test_a_damaged_file_of_numbers_costs_no_training(sink_of, tmp_path, caplog):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "train/question": "Is there a canary?"}\n')
    run = SlowRun()
    with caplog.at_level(logging.WARNING):
        sink = sink_of(run, "online", step=1)
        sink.log(2, {"train/loss": 1.0})
        sink.close()
    assert run.taken == [(4, 2), "finished"]
    assert "line 1" in caplog.text and "canary" not in caplog.text


# The real client, without a network


def stored_bytes(folder) -> list[bytes]:
    wandb.teardown()  # its own process writes on for a moment when a run has ended
    return [path.read_bytes() for path in sorted(folder.rglob("*.wandb"))]


def test_an_offline_run_of_the_real_client_goes_on_under_its_id(monkeypatch, tmp_path, caplog):
    config = make_config(tmp_path / "run")
    config.wandb.enabled = "offline"
    ids = []
    with caplog.at_level(logging.WARNING):
        for first in (0, 3):
            sinks = Sinks([JsonlSink(tmp_path / "run" / "metrics.jsonl"), *wandb_sink.maybe_wandb(config)])
            ids.append(sinks.start(first))
            for step in range(first + 1, first + 4):
                sinks.log(step, {"train/loss": 1.0 / step})
            sinks.close()
    assert caplog.text == ""
    assert ids[0] == ids[1] == wandb_sink.stored_id(tmp_path / "run")
    first, second = stored_bytes(tmp_path)
    assert b"training.max_steps" in first and ids[0].encode() in second
    assert all(str(tmp_path).encode() not in content for content in (first, second))
    assert (tmp_path / "run" / "wandb").stat().st_mode & 0o077 == 0


def test_a_key_without_a_network_costs_seconds_and_the_numbers_are_kept(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(wandb_sink, "INIT_TIMEOUT", 1.0)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    config = make_config(tmp_path / "run")
    (sink,) = wandb_sink.maybe_wandb(config)
    started = time.monotonic()
    with caplog.at_level(logging.INFO, logger="ssgvqa"):
        run_id = sink.start(0)
        assert time.monotonic() - started < 60
        sink.log(1, {"train/loss": 1.0})
        sink.close()
    assert "did not start online" in caplog.text and f"track.py replay {tmp_path / 'run'}" in caplog.text
    while not any(b"train/loss" in content and run_id.encode() in content for content in stored_bytes(tmp_path)):
        assert time.monotonic() - started < 120, "the client's second process may write a moment later"
        time.sleep(0.1)
