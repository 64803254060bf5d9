"""What the real W&B client sends and writes: planted words about patients, machine, user and keys must not be in it.

Trainings by the command itself, in a process of their own: one against a local server that keeps every byte, one offline, and
one whose server is not there.
"""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from data.index import open_index
from data.synthetic import write_release
from tests.fake_wandb import FakeWandb
from tests.test_privacy import SMALL, mark_as_credentialed
from training.wandb_sink import stored_id

ROOT = Path(__file__).resolve().parent.parent
KEY = "keycanary" + "7" * 31
WORD = "canary"
"""Part of every planted word; paths have it too."""

ENVIRONMENT = {
    name: f"{name.lower()}{WORD}"
    for name in """
        WANDB_NOTES WANDB_TAGS WANDB_USERNAME WANDB_USER_EMAIL WANDB_HOST WANDB_RUN_GROUP WANDB_JOB_TYPE WANDB_PROGRAM
        WANDB_DOCKER WANDB_GIT_COMMIT WANDB_GIT_REMOTE_URL WANDB_DESCRIPTION WANDB_X_EXECUTABLE HF_TOKEN USER LOGNAME USERNAME
        EMAIL SSH_CONNECTION
    """.split()
}
"""What the client would read and send, and what it never should."""
SETTINGS_FILE = f"[default]\nrun_notes = file{WORD}\nemail = file{WORD}\nrun_group = file{WORD}\n"

PROGRAM = f"""
import os, socket, sys
socket.gethostname = lambda: "host{WORD}"
import train_mimic_cxr
from training import question_only, wandb_sink
from utils.secrets_file import load_env_file
question_only.MOST_STEPS, question_only.MOST_PASSES = 5, 1
load_env_file()
output, *arguments = sys.argv[1:]
for name, changes in {{runs}}:
    wandb_sink.INIT_TIMEOUT = 1.0 if name == "away" else 30.0
    if name == "away":
        import wandb
        wandb.teardown()
        os.environ["WANDB_BASE_URL"] = "http://user:pass{WORD}@127.0.0.1:9"
    print(name, train_mimic_cxr.main([*arguments, *changes, "--output_dir", os.path.join(output, name)]))
"""
RUNS = [
    ("online", ["--set", "training.max_steps=3"]),
    ("online", ["--set", "training.max_steps=5", "--resume", "auto"]),
    ("offline", ["--set", "training.max_steps=3", "--set", "wandb.enabled=offline"]),
    ("away", ["--set", "training.max_steps=3"]),
]


@dataclass
class Story:
    """Four trainings of a release that passes for a credentialed one."""

    folder: Path
    server: FakeWandb
    console: str

    def output(self, name: str) -> Path:
        return self.folder / "outputs" / name

    def secrets(self) -> set[str]:
        """Ids and questions of the release, planted words, names of this machine."""
        index = open_index(self.folder / "index")
        numbers = {str(n) for column in ("subject_id", "study_id") for n in index.studies[column].tolist()}
        images = set(index.image_ids(np.arange(len(index.images["study"]))))
        texts = set(index.texts(np.arange(index.num_texts)))
        assert len(numbers) > 40 and len(texts) > 20 and WORD in str(self.folder)
        return numbers | images | texts | {WORD, KEY, str(ROOT), socket.gethostname()}


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    folder = tmp_path_factory.mktemp(f"data{WORD}")
    write_release(folder / "release", 24, 0, workers=1, progress=False)
    mark_as_credentialed(folder / "release")
    home = folder / f"home{WORD}"
    (home / ".config" / "wandb").mkdir(parents=True)
    (home / ".config" / "wandb" / "settings").write_text(SETTINGS_FILE)
    (home / ".env").write_text(f"export WANDB_API_KEY={KEY}\n")
    (home / ".env").chmod(0o600)
    arguments = [
        *("--config", "configs/tiny_config.yaml", "--no_auto"),
        *(part for one in SMALL[1::2] if "max_steps" not in one for part in ("--set", one)),
        *("--mimic_cxr_path", folder / "release" / "mimic-cxr-jpg"),
        *("--mimic_qa_path", folder / "release" / "mimic-ext-cxr-qba"),
        *("--set", f"data.index_dir={folder / 'index'}", "--set", "data.view_filter=all"),
    ]
    with FakeWandb() as server:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
        environment = kept | ENVIRONMENT | {"HOME": str(home), "WANDB_BASE_URL": server.url, "PYTHONPATH": str(ROOT)}
        program = PROGRAM.format(runs=RUNS)
        command = [sys.executable, "-c", program, folder / "outputs", *arguments]
        done = subprocess.run(
            [str(word) for word in command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        yield Story(folder, server, done.stdout + done.stderr)


def found_in(content: bytes, words: set[str]) -> set[str]:
    """The words that are there, whole numbers as whole numbers only, in whatever letters; also as JSON has them.

    A short name, as that of a machine may be, counts as a whole word only: it stands in many a random id.
    """
    text = content.decode("utf-8", "replace").lower()
    forms = {word: {word.lower(), json.dumps(word)[1:-1].lower()} for word in words}
    return {word for word, known in forms.items() if any(_stands_in(text, one) for one in known)}


def _stands_in(text: str, word: str) -> bool:
    if word.isdigit():
        return re.search(rf"(?<![0-9a-f.]){word}(?![0-9a-f])", text) is not None
    if len(word) < 5:
        return re.search(rf"(?<![0-9a-z]){re.escape(word)}(?![0-9a-z])", text) is not None
    return word in text


def test_planted_words_would_be_found():
    content = b'{"a": "Is there\\n an Effusion?", "id": 10000032, "x": 0.10000033, "key": "xCANARYx"}'
    words = {"Is there\n an Effusion?", "10000032", "10000033", "canary", "other"}
    assert found_in(content, words) == words - {"10000033", "other"}


def test_the_key_is_in_the_header_of_the_login_and_nothing_else_is_anywhere(story):
    assert len(story.server.requests) > 5
    login = "Basic " + base64.b64encode(f"api:{KEY}".encode()).decode()
    logins = [
        re.findall(r"^Authorization: (.*?)\r?$", request.headers, re.MULTILINE) for request in story.server.requests
    ]
    assert {one for found in logins for one in found} == {login}
    assert found_in(story.server.everything(), story.secrets()) == set()


def test_what_arrives_are_listed_numbers_under_one_id(story):
    (run,) = story.server.runs
    assert run == stored_id(story.output("online"))
    history = story.server.history(run)
    steps = [row["train/step"] for row in history if "train/loss" in row]
    assert steps == [1, 2, 3, 4, 5], "the second training went on, and sent nothing twice"
    assert [row["train/step"] for row in history if "val/headline" in row] == [3, 5]
    names = {name for row in history for name in row if not name.startswith("_")}
    assert {name.split("/")[0] for name in names} == {"train", "val", "system"}
    assert {"system/cpu_percent", "system/process_memory_gb", "system/loader_wait_percent"} <= names
    assert all(type(row[name]) in (int, float) for row in history for name in row if name in names)
    config = json.loads(story.server.runs[run]["config"])
    assert {name.split(".")[0] for name in config} == {"_wandb", "model", "training"}
    assert all(type(one["value"]) in (int, float, bool) for name, one in config.items() if name != "_wandb")


def test_the_client_sends_no_figures_files_or_names_of_its_own(story):
    uploaded = {request.path for request in story.server.requests if request.path.startswith("/upload/")}
    assert uploaded <= {"/upload/wandb-summary.json", "/upload/config.yaml"}
    (bucket,) = story.server.runs.values()
    assert not bucket["files"], "no console output, no system monitor"
    told = {
        name
        for name in ("host", "program", "commit", "repo", "notes", "tags", "groupName", "jobType")
        if bucket.get(name)
    }
    assert told <= {"program"} and bucket.get("program") in (None, "train_mimic_cxr.py")
    assert not [
        request.path for request in story.server.requests if "telemetry" in request.path or "sentry" in request.path
    ]


def test_the_folder_of_a_run_that_is_kept_offline_has_no_secret(story):
    secrets = story.secrets()
    for name in ("offline", "away"):
        (stored,) = story.output(name).rglob("offline-run-*/*.wandb")
        content = stored.read_bytes()
        assert b"train/loss" in content and stored_id(story.output(name)).encode() in content
        assert found_in(content, secrets) == set()


def test_logs_of_the_client_have_no_patient_and_no_key(story):
    """They stay in the private output folder, and name that folder."""
    logs = [path for path in (story.folder / "outputs").rglob("*.log") if "wandb" in path.parts]
    assert len(logs) > 4
    planted = {*ENVIRONMENT.values(), f"file{WORD}", f"pass{WORD}", KEY, "release"}
    patients = {one for one in story.secrets() if one not in (WORD, str(ROOT), socket.gethostname())}
    for path in logs:
        assert found_in(path.read_bytes(), patients | planted) == set(), path
    assert (story.output("online") / "wandb").stat().st_mode & 0o077 == 0


def test_the_console_says_how_to_go_on_and_shows_no_secret(story):
    assert [line for line in story.console.splitlines() if line.startswith(("online", "offline", "away"))] == [
        *("online 0", "online 0", "offline 0", "away 0")
    ]
    assert "did not start online" in story.console and "scripts/track.py replay" in story.console
    planted = {*ENVIRONMENT.values(), f"file{WORD}", f"pass{WORD}", KEY, f"host{WORD}"}
    assert found_in(story.console.encode(), planted) == set()


def test_the_id_is_in_the_checkpoints(story):
    found = [json.loads(path.read_text()) for path in story.output("online").glob("step-*/training_state.json")]
    assert {state["trainer"]["tracker_run"] for state in found} == {stored_id(story.output("online"))}
