"""Replaying metrics.jsonl with the real client against a local server: everything arrives once, nothing else does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from configs.mimic_cxr_config import Config, to_yaml
from tests.fake_wandb import FakeWandb
from training.wandb_replay import replay
from training.wandb_sink import RUN_FILE, stored_id
from utils.errors import ConfigError, DataError

ROOT = Path(__file__).resolve().parent.parent
KEY = "k" * 40


def line(step: int, **values: float | None) -> str:
    return json.dumps({"step": step, "time": 1.5, **{name.replace("__", "/"): v for name, v in values.items()}}) + "\n"


LINES = [
    line(1, train__loss=3.0, system__cpu_percent=50.0),
    line(2, train__loss=2.0, train__grad_norm=None),
    line(2, val__headline=0.25),
    line(3, train__loss=1.0),
]


@pytest.fixture
def output(tmp_path) -> Path:
    """An output folder with three steps and a look at the validation split."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(LINES))
    config = Config()
    config.data.mimic_cxr_path = "/canary"
    (folder / "config.yaml").write_text(to_yaml(config))
    return folder


def call(output: Path, url: str, *options: str, key: str = KEY) -> subprocess.CompletedProcess:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment = kept | {"HOME": str(output.parent), "WANDB_BASE_URL": url} | ({"WANDB_API_KEY": key} if key else {})
    command = [sys.executable, "scripts/track.py", "replay", str(output), *options]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def rows(server: FakeWandb, run: str) -> list[dict]:
    kept = [{name: v for name, v in row.items() if not name.startswith("_")} for row in server.history(run)]
    return [row for row in kept if row]


def test_everything_arrives_once_however_often_and_later_lines_too(output):
    with FakeWandb() as server:
        first = call(output, server.url, "--project", "mine")
        assert first.returncode == 0, first.stderr
        (run,) = server.runs
        assert run == stored_id(output) and f"run {run}: 4 of 4 lines sent" in first.stdout
        assert rows(server, run) == [
            {"train/loss": 3, "system/cpu_percent": 50, "train/step": 1},
            {"train/loss": 2, "train/step": 2},
            {"val/headline": 0.25, "train/step": 2},
            {"train/loss": 1, "train/step": 3},
        ]
        assert server.runs[run]["project"] == "mine"
        second = call(output, server.url)
        assert second.returncode == 0 and "0 of 4 lines sent" in second.stdout and len(rows(server, run)) == 4
        (output / "metrics.jsonl").write_text("".join([*LINES, line(3, val__headline=0.5), line(4, train__loss=0.5)]))
        third = call(output, server.url)
        assert "2 of 6 lines sent" in third.stdout and list(server.runs) == [run]
        assert rows(server, run)[4:] == [
            {"val/headline": 0.5, "train/step": 3},
            {"train/loss": 0.5, "train/step": 4},
        ]
        assert b"canary" not in server.everything()


def test_a_service_that_is_away_is_one_line_and_the_next_try_sends_all(output):
    with FakeWandb() as server:
        server.status = 403
        refused = call(output, server.url)
        assert refused.returncode == 2 and refused.stderr.count("\n") == 1
        assert (
            refused.stderr.startswith("error: Weights & Biases: ") and "give the same command again" in refused.stderr
        )
        assert KEY not in refused.stderr
        server.status = 200
        done = call(output, server.url)
        assert "4 of 4 lines sent" in done.stdout and list(server.runs) == [stored_id(output)]


def test_without_a_key_nothing_is_sent(output, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="WANDB_API_KEY"):
        replay(output)
    assert not (output / RUN_FILE).exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.jsonl", None, "name the output folder of a training"),
        ("config.yaml", None, "name the output folder of a training"),
        (
            "metrics.jsonl",
            '{"step": 1, "train/question": "Is there a canary?"}\n',
            "line 1: a value that is not a number",
        ),
    ],
)
def test_what_is_no_training_is_refused_before_anything_is_sent(output, monkeypatch, name, content, message):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    (output / name).unlink()
    if content:
        (output / name).write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        replay(output)
    assert "canary" not in str(caught.value)


def test_a_training_that_runs_is_left_alone(output, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    holder = f"from utils.run_lock import run_lock\nwith run_lock({str(output)!r}): print('held', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", holder], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(DataError, match="in use by process .*replay it when the training has ended"):
            replay(output)
        process.communicate("\n")
    assert not (output / RUN_FILE).exists()


def test_the_id_of_a_checkpoint_is_known_where_the_folder_has_none(output, monkeypatch):
    from training import wandb_replay

    for step, trainer in ((1, {"tracker_run": "oldest00"}), (2, {"tracker_run": "newest00"}), (3, {})):
        folder = output / f"step-{step:08d}"
        folder.mkdir()
        (folder / "training_state.json").write_text(json.dumps({"trainer": trainer}))
    opened = []

    class Run:
        id, url, starting_step = "newest00", "", 0

        def log(self, values, step):
            pass

        def finish(self):
            pass

    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(wandb_replay, "open_run", lambda config, run_id, *_: opened.append(run_id) or Run())
    assert replay(output).sent == 4
    assert opened == ["newest00"]
