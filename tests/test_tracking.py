"""Trackers: the local file always, Weights & Biases with numbers only."""

from __future__ import annotations

import json
import logging
import math
import time

import pytest

from tests.tiny_training import make_config
from training import tracking
from utils import privacy


def test_metrics_file_continues_without_repeating_steps(tmp_path):
    path = tmp_path / "metrics.jsonl"
    sink = tracking.JsonlSink(path)
    sink.start(0)
    for step in (1, 2, 3):
        sink.log(step, {"train/loss": 1.0 / step, "train/grad_norm": math.inf})
    sink.close()
    path.write_text(path.read_text() + '{"step": 4, "tr')  # a kill in the middle of a line
    sink = tracking.JsonlSink(path)
    sink.start(2)
    sink.log(3, {"train/loss": 9.0})
    sink.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3] and lines[-1]["train/loss"] == 9.0
    assert lines[0]["train/grad_norm"] is None


def test_remote_sink_refuses_a_question_string_and_drops_unknown_names():
    assert privacy.remote_values({"train/loss": 1.0, "secret/rows": 3.0, "val/headline": 0.5}) == {
        "train/loss": 1.0,
        "val/headline": 0.5,
    }
    with pytest.raises(ValueError, match="numbers only"):
        privacy.remote_values({"train/question": "Is there an effusion?"})


def test_wandb_is_off_without_a_key_and_its_failure_stops_nothing(monkeypatch, tmp_path, caplog):
    config = make_config(tmp_path)
    assert tracking.maybe_wandb(config) == []
    import wandb

    def refuse(**kwargs):
        raise RuntimeError("no network")

    monkeypatch.setattr(wandb, "init", refuse)
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    with caplog.at_level(logging.WARNING):
        assert tracking.maybe_wandb(config) == []
    assert "training goes on" in caplog.text and "xxxx" not in caplog.text


def test_wandb_gets_numbers_and_no_path(monkeypatch, tmp_path):
    import wandb

    sent = {}

    class FakeRun:
        def log(self, values, step):
            sent["values"] = values

        def finish(self):
            raise RuntimeError("gone")

    def init(**kwargs):
        sent.update(kwargs)
        return FakeRun()

    monkeypatch.setattr(wandb, "init", init)
    config = make_config(tmp_path)
    config.data.mimic_cxr_path = "/patients"
    config.wandb.enabled = "offline"
    (sink,) = tracking.maybe_wandb(config)
    sink.log(1, {"train/loss": 1.0})
    sink.close()
    assert sent["mode"] == "offline" and sent["values"] == {"train/loss": 1.0}
    assert all(isinstance(value, (int, float)) for value in sent["config"].values())
    assert "patients" not in str(sent["config"])


class SlowRun:
    """A service that takes its time, or fails at a step."""

    def __init__(self, seconds: float = 0.0, fails_at: int = -1):
        self.seconds, self.fails_at, self.taken = seconds, fails_at, []

    def log(self, values, step):
        time.sleep(self.seconds)
        if step == self.fails_at:
            raise OSError("the service is gone")
        self.taken.append(step)

    def finish(self):
        self.taken.append("finished")


def test_a_slow_service_delays_no_step_and_gets_everything_in_order():
    run = SlowRun(0.1)
    sink, started = tracking.WandbSink(run), time.perf_counter()
    for step in range(5):
        sink.log(step, {"train/loss": 1.0})
    assert time.perf_counter() - started < 0.1
    sink.close()
    assert run.taken == [0, 1, 2, 3, 4, "finished"]


def test_a_service_that_fails_is_left_alone_with_one_warning(caplog):
    run = SlowRun(fails_at=1)
    sink = tracking.WandbSink(run)
    with caplog.at_level(logging.WARNING):
        for step in range(4):
            sink.log(step, {"train/loss": 1.0})
        sink.close()
    assert run.taken == [0]
    (record,) = caplog.records
    assert "the service is gone" in record.message and "training goes on" in record.message


def test_a_service_that_hangs_does_not_hold_the_program(monkeypatch, caplog):
    monkeypatch.setattr(tracking, "WANDB_TIMEOUT", 0.05)
    sink = tracking.WandbSink(SlowRun(1.0))
    sink.log(1, {"train/loss": 1.0})
    with caplog.at_level(logging.WARNING):
        sink.close()
    assert "not taken all numbers" in caplog.text


def test_text_is_refused_where_it_is_logged():
    sink = tracking.WandbSink(SlowRun())
    with pytest.raises(ValueError, match="numbers only"):
        sink.log(1, {"train/question": "Is there an effusion?"})
    sink.close()


def test_an_offline_run_of_the_real_client(tmp_path, caplog):
    config = make_config(tmp_path)
    config.wandb.enabled = "offline"
    with caplog.at_level(logging.WARNING):
        (sink,) = tracking.maybe_wandb(config)
        for step in range(3):
            sink.log(step, {"train/loss": 1.0 / (step + 1)})
        sink.close()
    assert caplog.text == ""
    (stored,) = tmp_path.rglob("*.wandb")
    content = stored.read_bytes()
    assert b"training.max_steps" in content
    assert str(tmp_path).encode() not in content
