"""A sweep from its file to a trained model, with the client's own `wandb sweep` and agent against a local server."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from data.synthetic import write_release
from tests.fake_wandb import FakeWandb
from tests.test_privacy import SMALL
from tests.test_wandb_canaries import found_in

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_a_sweep_trains_what_its_agent_is_told_and_tells_numbers_only(tmp_path):
    write_release(tmp_path / "release", 12, 0, workers=1, progress=False)
    settings: dict[str, dict] = {"base": str(ROOT / "configs" / "tiny_config.yaml")}
    for one in SMALL[1::2]:
        key, _, value = one.partition("=")
        section, name = key.split(".")
        settings.setdefault(section, {})[name] = yaml.safe_load(value)
    settings["data"] |= {
        "mimic_cxr_path": str(tmp_path / "release" / "mimic-cxr-jpg"),
        "mimic_qa_path": str(tmp_path / "release" / "mimic-ext-cxr-qba"),
        "index_dir": str(tmp_path / "index"),
        "view_filter": "all",
    }
    settings["training"]["output_dir"] = str(tmp_path / "trials")
    (tmp_path / "canary.yaml").write_text(yaml.safe_dump(settings))
    with FakeWandb() as server:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
        environment = kept | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "WANDB_API_KEY": "k" * 40,
            "WANDB_BASE_URL": server.url,
            "WANDB_DIR": str(tmp_path),
        }

        def call(*command: str) -> subprocess.CompletedProcess:
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stdout + done.stderr
            return done

        parameters = ("--parameter", "training.learning_rate=1e-5..1e-3", "--parameter", "model.fusion")
        made = call(sys.executable, "scripts/track.py", "sweep", *parameters)
        (tmp_path / "sweep.yaml").write_text(made.stdout)
        call(sys.executable, "-m", "wandb", "sweep", str(tmp_path / "sweep.yaml"), "--project", "p")
        (stored,) = server.sweeps.values()
        assert set(yaml.safe_load(stored)["parameters"]) == {"training.learning_rate", "model.fusion"}
        server.trials = [{"training.learning_rate": 0.0005, "model.fusion": "concat"}]
        call(sys.executable, "scripts/track.py", "agent", "team/p/sweep001", "--config", str(tmp_path / "canary.yaml"))
        bucket = server.runs["trial001"]
        history = server.history("trial001")
        sent = server.everything()
    trained = yaml.safe_load((tmp_path / "trials" / "sweep001-trial001" / "best_model" / "config.yaml").read_text())
    assert (trained["training"]["learning_rate"], trained["model"]["fusion"]) == (0.0005, "concat")
    assert [row["train/step"] for row in history if "val/headline" in row] == [3]
    config = {name: one["value"] for name, one in json.loads(bucket["config"]).items() if name != "_wandb"}
    texts = {name: value for name, value in config.items() if isinstance(value, str)}
    assert bucket["sweep"] == "sweep001" and texts == {"model.fusion": "concat"}, "what the sweep itself says"
    assert config["training.learning_rate"] == 0.0005
    assert b"canary" not in sent and str(tmp_path).encode() not in sent
    assert found_in(sent, {socket.gethostname()}) == set()
