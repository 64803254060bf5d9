"""The local file of numbers, which stays the truth; and what may leave the machine at all."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training import tracking
from utils import privacy
from utils.errors import DataError

NAMES = ["train/loss", "val/headline", "system/cpu_percent"]


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


@pytest.mark.parametrize(
    "name", ["val/patient_10000032", "train/Is there an effusion?", "val/", "train/p/x", "data/loss"]
)
def test_names_that_are_no_names_of_numbers_stay_here(name):
    assert privacy.remote_values({name: 1.0}) == {}


def test_metrics_are_read_back_without_what_was_not_finite_and_without_a_cut_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "time": 2.5, "train/loss": 0.5, "train/grad_norm": null}\n{"step": 2, "train/lo')
    assert list(tracking.read_metrics(path)) == [(1, {"train/loss": 0.5})]


@pytest.mark.parametrize(
    "line",
    ['{"train/loss": 1}', "[1]", "no json", '{"step": 1.5}', '{"step": 1, "train/x": "10000032"}', '{"step": -1}'],
)
def test_a_line_that_no_training_writes_is_named_and_not_shown(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "train/loss": 1}\n' + line + "\n")
    with pytest.raises(DataError, match=r"metrics\.jsonl, line 2") as caught:
        list(tracking.read_metrics(path))
    assert "10000032" not in str(caught.value)


@given(st.lists(st.tuples(st.integers(0, 10**9), st.dictionaries(st.sampled_from(NAMES), st.floats())), max_size=8))
def test_what_is_logged_is_read_back(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("metrics") / "metrics.jsonl"
    sink = tracking.JsonlSink(path)
    sink.start(0)
    for step, values in lines:
        sink.log(step, values)
    sink.close()
    finite = [(step, {name: v for name, v in values.items() if math.isfinite(v)}) for step, values in lines]
    assert list(tracking.read_metrics(path)) == finite
