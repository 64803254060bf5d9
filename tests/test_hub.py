"""Pushing model folders to a Hub: what arrives, who may, and what a Hub that refuses, breaks or is silent leaves behind."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from huggingface_hub.errors import HfHubHTTPError
from hypothesis import given
from hypothesis import strategies as st

from models.hub_folder import HUB_FILES
from scripts import hub as command
from tests.fake_hub import READ_ONLY, Repository, hub_here  # noqa: F401 (a fixture)
from tests.hub_models import credentialed_model, public_model
from training import acknowledgement, hub
from utils import hub as names
from utils.errors import CheckpointError, HubError
from utils.privacy import without_ids

WORDS = "Only the members of our group can open it, and all have signed the agreement."
NAME = "me/mimic-cxr-vqa"


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    return public_model(tmp_path_factory.mktemp("public"))


@pytest.fixture
def credentialed(tmp_path):
    return credentialed_model(tmp_path / "secret")


# What arrives


def test_a_push_makes_a_private_repository_with_listed_files_in_one_commit(hub_here, public, capsys):  # noqa: F811
    (public / "optimizer.safetensors").write_bytes(b"moments")
    (public / "predictions.parquet").write_bytes(b"answers")
    assert command.main(["push", str(public), NAME, "--message", "First"]) == 0
    made = hub_here.repositories[NAME]
    assert made.private and made.messages == ["initial commit", "First"]
    assert set(made.files()) <= {*HUB_FILES, ".gitattributes"}
    assert made.files()["model.safetensors"] == (public / "model.safetensors").read_bytes()
    assert made.files()["question_only/model.safetensors"] == (public / "question_only/model.safetensors").read_bytes()
    assert f"uploaded: {hub_here.address}/{NAME}/commit/" in capsys.readouterr().out
    assert [path.name for path in public.parent.iterdir()] == ["best_model"], "nothing is left beside it"


def test_files_of_an_earlier_push_are_gone_and_those_of_others_stay(hub_here, public):  # noqa: F811
    hub_here.repositories[NAME] = Repository(private=True)
    hub_here.repositories[NAME].commit("main", {"report.json": b"{}", "notes.txt": b"mine"}, "earlier")
    hub.push(public, NAME)
    files = hub_here.repositories[NAME].files()
    assert "report.json" not in files and files["notes.txt"] == b"mine"


def test_a_public_repository_is_made_only_when_it_is_asked_for(hub_here, public):  # noqa: F811
    assert command.main(["push", str(public), NAME, "--public"]) == 0
    assert not hub_here.repositories[NAME].private


def test_a_repository_that_is_public_already_is_refused_where_it_should_be_private(hub_here, public):  # noqa: F811
    hub_here.repositories[NAME] = Repository(private=False)
    hub_here.repositories[NAME].commit("main", {}, "earlier")
    with pytest.raises(HubError, match="there already and public"):
        hub.push(public, NAME)
    assert hub_here.repositories[NAME].messages == ["earlier"] and "put" not in hub_here.routes


# Lineage


def test_a_credentialed_model_needs_an_acknowledgement_that_is_recorded(hub_here, credentialed):  # noqa: F811
    with pytest.raises(
        HubError, match="no acknowledgement for this repository is recorded.*--acknowledge_credentialed"
    ):
        command.main(["push", str(credentialed), NAME])
    with pytest.raises(HubError, match="at least 8 words"):
        command.main(["push", str(credentialed), NAME, "--acknowledge_credentialed", "yes"])
    assert hub_here.routes == [], "nothing was asked"
    assert (
        command.main(["push", str(credentialed), NAME, "--acknowledge_credentialed", WORDS, "--who", "A. Author"]) == 0
    )
    (line,) = (credentialed / acknowledgement.FILE).read_text().splitlines()
    found = json.loads(line)
    assert (found["who"], found["repository"], found["text"]) == ("A. Author", NAME, WORDS) and found["when"]
    assert (credentialed / acknowledgement.FILE).stat().st_mode & 0o077 == 0
    assert (
        acknowledgement.FILE not in str(hub_here.repositories[NAME].files())
        and b"A. Author" not in hub_here.everything()
    )
    assert command.main(["push", str(credentialed), NAME]) == 0, "recorded"
    with pytest.raises(HubError, match="no acknowledgement for this repository"):
        command.main(["push", str(credentialed), "me/another"])
    card = hub_here.repositories[NAME].files()["README.md"].decode()
    assert "Of credentialed lineage" in card


def test_no_acknowledgement_makes_a_credentialed_model_public(hub_here, credentialed):  # noqa: F811
    with pytest.raises(HubError, match="never uploaded to a public repository"):
        command.main(["push", str(credentialed), NAME, "--public", "--acknowledge_credentialed", WORDS])
    assert acknowledgement.recorded(credentialed, NAME) is None, "nothing is recorded for an upload that can never be"
    hub_here.repositories[NAME] = Repository(private=False)
    hub_here.repositories[NAME].commit("main", {}, "earlier")
    with pytest.raises(HubError, match="there already and public"):
        command.main(["push", str(credentialed), NAME, "--acknowledge_credentialed", WORDS])
    assert hub_here.repositories[NAME].messages == ["earlier"]


@pytest.mark.parametrize("options", [["--who", "A. Author"], ["--write_only", "look", "--public"]])
def test_options_that_would_do_nothing_are_refused(public, options, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(["push", str(public), NAME, *options])
    assert stop.value.code == 2 and "error: --" in capsys.readouterr().err


@pytest.mark.parametrize(
    "damage", ["{", '{"who": 1}', '{"who": "a", "when": "b", "repository": "me/mimic-cxr-vqa", "text": ""}']
)
def test_a_damaged_acknowledgement_counts_for_none(tmp_path, damage):
    (tmp_path / acknowledgement.FILE).write_text(damage + "\n")
    assert acknowledgement.recorded(tmp_path, NAME) is None


def test_an_acknowledgement_that_cannot_be_recorded_stops_the_push(hub_here, credentialed):  # noqa: F811
    (credentialed / acknowledgement.FILE).mkdir()
    with pytest.raises(HubError, match="must be recorded before"):
        command.main(["push", str(credentialed), NAME, "--acknowledge_credentialed", WORDS])
    assert hub_here.routes == []


def test_words_of_credentialed_data_are_not_uploaded(hub_here, tmp_path):  # noqa: F811
    from data.vocabulary import Vocabulary
    from tests.hub_models import write_model
    from tests.tiny_training import make_config

    own_pieces = write_model(tmp_path / "a" / "best_model", make_config(tmp_path), True)
    odd = credentialed_model(tmp_path / "b", vocabulary=Vocabulary(("nodule", "Mr Smith's shadow"), ("heart",)))
    for folder, why in ((own_pieces, "word pieces"), (odd, "1 names of findings or regions")):
        with pytest.raises(HubError, match=why):
            command.main(["push", str(folder), NAME, "--acknowledge_credentialed", WORDS])
    assert "put" not in hub_here.routes and "commit" not in hub_here.routes


# A Hub that does not do what it should


FAULTS = [
    ("create", 401, "the token is not accepted"),
    ("create", 403, "needs write access"),
    ("info", 404, "no such repository, or no access"),
    ("preupload", 500, r"error of its own \(500\)"),
    ("put", 500, r"error of its own \(500\)"),
    ("put", "drop", "the connection broke"),
    ("commit", 503, r"error of its own \(503\)"),
    ("commit", "drop", "the connection broke"),
    ("commit", "silent", "does not answer"),
    ("create", "silent", "does not answer"),
    ("commit", 429, "too many requests"),
]


@pytest.mark.parametrize(("route", "fault", "said"), FAULTS)
def test_a_push_that_fails_is_one_line_and_changes_nothing(hub_here, public, monkeypatch, route, fault, said):  # noqa: F811
    if route != "create":  # it may fail where the repository is there
        hub_here.repositories[NAME] = Repository(private=True)
        hub_here.repositories[NAME].commit("main", {"README.md": b"earlier"}, "earlier")
    hub_here.faults[route] = fault
    hub_here.impatient(monkeypatch)
    with pytest.raises(HubError, match=said) as raised:
        hub.push(public, NAME)
    text = str(raised.value)
    assert "\n" not in text and "http://" not in text and "a text of the server" not in text and "hf_" not in text
    if route != "create":
        repository = hub_here.repositories[NAME]
        assert repository.files() == {"README.md": b"earlier"} and repository.messages == ["earlier"]
    hub_here.faults.clear()
    assert hub.push(public, NAME), "and again"


def test_tokens(hub_here, public, monkeypatch):  # noqa: F811
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(HubError, match="the token is not accepted"):
        hub.push(public, NAME)
    monkeypatch.setenv("HF_TOKEN", READ_ONLY)
    with pytest.raises(HubError, match="needs write access"):
        hub.push(public, NAME)
    monkeypatch.delenv("HF_TOKEN")
    hub_here.routes.clear()
    with pytest.raises(HubError, match="no token to upload with.*HF_TOKEN"):
        hub.push(public, NAME)
    assert hub_here.routes == []


def test_offline_nothing_is_tried(public, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        hub.push(public, NAME)


def test_reasons_never_quote_the_server_or_the_token():
    class Odd(Exception):
        pass

    assert names.reason(Odd("https://user:hf_secret@host")) == "Odd"
    assert "hf_secret" not in names.reason(OSError(28, "No space", "hf_secret")) and "space" in names.reason(
        OSError(28, "x")
    )
    assert HfHubHTTPError.__name__ not in names.reason(OSError(5, "x"))


# Names


WRONG = ["justaname", "a/b/c", "../b", "a/..", "a--b/c", "a/b@main", "ä/b", "p10012345/x", "me/s50123456", "", "/b"]


@pytest.mark.parametrize("name", WRONG)
def test_wrong_names_are_refused_before_anything_is_asked(hub_here, public, name):  # noqa: F811
    with pytest.raises(HubError, match="must have the form"):
        command.main(["push", str(public), name])
    assert hub_here.routes == []


@given(st.text(alphabet="ab1/.-_@ 05p", max_size=24))
def test_a_name_that_is_taken_is_one_that_the_hub_takes(name):
    from huggingface_hub.utils import validate_repo_id

    if names.is_repository(name):
        validate_repo_id(name)
        assert name.count("/") == 1 and without_ids(name) == name


# The command


def test_errors_of_the_command(public, tmp_path, hub_here):  # noqa: F811
    with pytest.raises(CheckpointError, match="no model folder: give the best_model folder"):
        command.main(["push", str(tmp_path), NAME])
    (tmp_path / "report.json").write_text("[")
    from utils.errors import DataError

    with pytest.raises(DataError, match="cannot be read as report.json"):
        command.main(["push", str(public), NAME, "--report", str(tmp_path / "report.json")])
    (tmp_path / "report.json").write_text("[]")
    with pytest.raises(HubError, match="no report.json of evaluate.py"):
        command.main(["push", str(public), NAME, "--report", str(tmp_path / "report.json")])
    with pytest.raises(DataError, match="cannot write to .*look.*--write_only"):
        command.main(["push", str(public), NAME, "--write_only", str(tmp_path / "report.json" / "look")])
    with pytest.raises(HubError, match="--message has a number like that of a patient"):
        command.main(["push", str(public), NAME, "--message", "without patient 10987654"])
    assert hub_here.routes == []


def test_the_files_can_be_looked_at_without_a_hub(public, tmp_path, capsys):
    assert command.main(["push", str(public), NAME, "--write_only", str(tmp_path / "look")]) == 0
    listed = {line.split()[-1] for line in capsys.readouterr().out.splitlines()}
    assert listed == {str(p.relative_to(tmp_path / "look")) for p in (tmp_path / "look").rglob("*") if p.is_file()}
    assert listed <= set(HUB_FILES)
    weights = (tmp_path / "look" / "model.safetensors").stat()
    assert (weights.st_nlink, weights.st_mode & 0o077) == (1, 0), "a private file of its own"
    with pytest.raises(HubError, match="is there already"):
        command.main(["push", str(public), NAME, "--write_only", str(tmp_path / "look")])


def test_the_card_is_printed_or_written_without_a_hub(public, tmp_path, capsys):
    assert command.main(["card", str(public)]) == 0
    printed = capsys.readouterr().out
    assert command.main(["card", str(public), "--output", str(tmp_path / "card.md")]) == 0
    assert (tmp_path / "card.md").read_text().splitlines() == printed.splitlines()
    assert command.main(["push", str(public), NAME, "--write_only", str(tmp_path / "look")]) == 0
    assert (tmp_path / "look" / "README.md").read_text() == (tmp_path / "card.md").read_text()


def test_help_names_every_default_and_loads_no_torch(root):
    program = (
        "import runpy, sys; sys.argv = ['scripts/hub.py', 'push', '--help']\n"
        "try: runpy.run_path('scripts/hub.py', run_name='__main__')\n"
        "except SystemExit as stop: print(stop.code, [name for name in ('torch', 'transformers', 'huggingface_hub') if name in "
        "sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"
    options = done.stdout.count("\n  --")
    assert done.stdout.count("(default:") >= options - 1 > 4, "all but --help itself"
