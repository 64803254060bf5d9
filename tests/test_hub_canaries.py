"""Nothing of a patient and no secret reaches the Hub: canaries everywhere in a training with uploads, and every byte looked at."""

from __future__ import annotations

import getpass
import json
import re
import socket

import pytest

from data.index import open_index
from scripts import hub as command
from tests.fake_hub import TOKEN, hub_here  # noqa: F401 (a fixture)
from tests.hub_models import pretrained_config
from tests.mini_index import write_mini_index
from tests.tiny_training import study
from training import question_only
from training.run import prepare, train

WORDS = "Only the members of the group Ackcanary can open it, and all have signed the agreement."
CANARIES = {
    "question": "Questcanary",
    "folder": "foldcanary",
    "patient": "p10987654",
    "login": "logincanary",
    "host": "hostcanary",
    "run": "runcanary",
    "key": "wandbcanary" + "7" * 29,
    "acknowledgement": "Ackcanary",
}


def canary_index(folder):
    """Of credentialed lineage; every question has the canary."""

    def one(split: str, number: int) -> dict:
        made = study(split, number)
        made["questions"] = [(kind, f"{CANARIES['question']} {text}", *rest) for kind, text, *rest in made["questions"]]
        return made

    write_mini_index(folder, [one("train", n) for n in range(14)] + [one("validate", n) for n in range(6)])
    meta = json.loads((folder / "index.json").read_text())
    meta["credentialed"] = True
    (folder / "index.json").write_text(json.dumps(meta))
    return open_index(folder)


def test_no_canary_reaches_the_hub(hub_here, tmp_path, monkeypatch, caplog, capsys):  # noqa: F811
    monkeypatch.setattr(question_only, "MOST_STEPS", 1)
    monkeypatch.setattr(question_only, "MOST_PASSES", 1)
    monkeypatch.setattr(socket, "gethostname", lambda: CANARIES["host"])
    monkeypatch.setenv("LOGNAME", CANARIES["login"])
    monkeypatch.setenv("WANDB_API_KEY", CANARIES["key"])
    assert getpass.getuser() == CANARIES["login"]
    place = tmp_path / CANARIES["folder"] / CANARIES["patient"]
    index = canary_index(place / "index")
    options = {"hub_model_id": "me/private-run", "hub_acknowledgement": WORDS, "push_to_hub_strategy": "checkpoint"}
    config = pretrained_config(place / "run", place, max_steps=4, eval_steps=2, save_steps=2, **options)
    config.wandb.enabled, config.wandb.name = "false", CANARIES["run"]
    config.data.mimic_cxr_path = config.data.own_data = ""
    config.data.index_dir = str(place / "index")
    best = train(prepare(config, index=index), "never")
    assert command.main(["push", str(best), "me/private-run"]) == 0
    with pytest.raises(Exception, match="never uploaded"):
        command.main(["push", str(best), "me/private-run", "--public"])
    repository = hub_here.repositories["me/private-run"]
    assert len(repository.messages) >= 3 and repository.private
    sent = hub_here.everything()
    # first, that the search would find them: what has to be there is, and the local files have the canaries
    assert b"me/private-run" in sent and b"Bearer " + TOKEN.encode() in sent and b"Best model" in sent
    local = b"".join(p.read_bytes() for p in place.rglob("*") if p.is_file())
    assert all(
        CANARIES[name].encode() in local for name in ("question", "folder", "patient", "login", "acknowledgement")
    )
    everything = sent.lower() + b"".join(b"".join(files.values()).lower() for files in repository.commits.values())
    for name, canary in CANARIES.items():
        assert canary.lower().encode() not in everything, name
    ids = {str(n) for column in ("subject_id", "study_id") for n in index.studies[column].tolist()}
    files = [
        content for commit in repository.commits.values() for name, content in commit.items() if name.endswith(".json")
    ]
    for one in {one for one in ids if len(one) == 8}:
        found = re.compile(rf"(?<![0-9a-f.]){one}(?![0-9a-f])".encode())  # not the digits of a fraction
        assert not [content for content in files if found.search(content)]
    bodies = [part.split(b"\n\n", 1)[-1] for part in hub_here.received]
    assert not [body for body in bodies if TOKEN.encode() in body], "the token stands in the header alone"
    said = caplog.text + "".join(capsys.readouterr())
    assert TOKEN not in said and CANARIES["key"] not in said
    assert TOKEN.encode() not in b"".join(p.read_bytes() for p in place.rglob("*") if p.is_file())


def test_the_user_agent_names_no_machine(hub_here, tmp_path):  # noqa: F811
    from tests.hub_models import public_model

    assert command.main(["push", str(public_model(tmp_path)), "me/x"]) == 0
    headers = b"\n".join(part.split(b"\n\n")[0] for part in hub_here.received).lower()
    assert b"user-agent" in headers and socket.gethostname().lower().encode() not in headers
    assert str(tmp_path).lower().encode() not in hub_here.everything().lower()
