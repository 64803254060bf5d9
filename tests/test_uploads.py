"""Uploads beside a training: when they happen, and that the training neither waits for them nor ends with them."""

from __future__ import annotations

import logging
import time

import pytest

import train_mimic_cxr
from configs.mimic_cxr_config import load_config
from tests.fake_hub import hub_here  # noqa: F401 (a fixture)
from tests.hub_models import pretrained_config
from tests.test_lineage import index_in
from tests.tiny_training import make_config
from training import question_only, uploads
from training.acknowledgement import FILE
from training.run import plan, prepare, train
from utils.errors import ConfigError

NAME = "me/run"
WORDS = "Only the members of our group can open it, and all have signed the agreement."
STEPS = {"max_steps": 4, "eval_steps": 2, "save_steps": 2}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(question_only, "MOST_STEPS", 1)
    monkeypatch.setattr(question_only, "MOST_PASSES", 1)


def settings(folder, **training):
    return make_config(folder / "run", hub_model_id=NAME, **(STEPS | training))


def trained(folder, **training):
    return train(prepare(settings(folder, **training), index=index_in(folder, False)), "never")


@pytest.mark.parametrize(
    ("strategy", "said"), [("best", {"Best model"}), ("checkpoint", {"Best model", "Checkpoint"}), ("end", set())]
)
def test_what_is_uploaded_when(hub_here, tmp_path, strategy, said):  # noqa: F811
    best = trained(tmp_path, push_to_hub_strategy=strategy)
    repository = hub_here.repositories[NAME]
    *earlier, last = repository.messages[1:]
    assert last == "Best model of the finished training"
    assert {message.split(",")[0] for message in earlier} <= said, "of those that wait only the newest is sent"
    assert (strategy == "end") == (not earlier)
    files = repository.files()
    assert files["model.safetensors"] == (best / "model.safetensors").read_bytes()
    assert "question_only/model.safetensors" in files and repository.private
    if strategy == "checkpoint":
        newest = repository.files("checkpoints")
        assert newest["model.safetensors"] == (best.parent / "step-00000004" / "model.safetensors").read_bytes()
        assert b'"step": 4' in newest["metrics.json"] and "optimizer.safetensors" not in newest
    else:
        assert set(repository.branches) == {"main"}
    assert not [p for p in best.parent.iterdir() if "upload" in p.name], "nothing is left behind"


FAULTS = [
    {"create": 401},
    {"create": 500},
    {"commit": 403},
    {"put": "drop"},
    {"commit": "silent"},
    {"create": "silent"},
]


@pytest.mark.parametrize("faults", FAULTS, ids=str)
def test_a_hub_that_fails_is_one_warning_and_the_training_is_the_same(hub_here, tmp_path, caplog, monkeypatch, faults):  # noqa: F811
    hub_here.impatient(monkeypatch)
    hub_here.faults |= faults
    with caplog.at_level(logging.WARNING, logger="ssgvqa.training.uploads"):
        best = trained(tmp_path)
    warnings = [record.getMessage() for record in caplog.records if record.name == "ssgvqa.training.uploads"]
    assert len(warnings) == 1 and "training goes on" in warnings[0]
    assert f"later: python scripts/hub.py push {best} {NAME}" in warnings[0] and "\n" not in warnings[0]
    hub_here.faults.clear()
    alone = train(prepare(make_config(tmp_path / "other", **STEPS), index=index_in(tmp_path / "i", False)), "never")
    assert (best / "model.safetensors").read_bytes() == (alone / "model.safetensors").read_bytes()


def test_a_slow_hub_does_not_delay_the_training(hub_here, tmp_path, monkeypatch):  # noqa: F811
    """Every request takes a second; the loop is over before the first upload is."""
    hub_here.seconds_a_request = 1.0
    run = prepare(settings(tmp_path), index=index_in(tmp_path, False))
    seconds, offer = [], run.uploads._offer

    def timed(*arguments):
        begin = time.perf_counter()
        offer(*arguments)
        seconds.append(time.perf_counter() - begin)

    monkeypatch.setattr(run.uploads, "_offer", timed)
    monkeypatch.setattr(run.uploads, "finish", lambda folder: run.uploads.close())
    train(run, "never")
    assert seconds and max(seconds) < 0.5 and "commit" not in hub_here.routes


def test_an_upload_that_does_not_end_is_not_waited_for_without_limit(hub_here, tmp_path, monkeypatch, caplog):  # noqa: F811
    monkeypatch.setattr(uploads, "LAST_WAIT", 0.3)
    hub_here.faults["commit"] = "silent"
    with caplog.at_level(logging.WARNING):
        assert trained(tmp_path).is_dir()
    assert "the upload has not ended" in caplog.text


def test_a_fault_of_ours_does_not_end_a_training_either(hub_here, tmp_path, monkeypatch, caplog):  # noqa: F811
    def broken(*_, **__):
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(uploads.hub, "push", broken)
    with caplog.at_level(logging.WARNING):
        assert trained(tmp_path).is_dir()
    assert "ZeroDivisionError" in caplog.text and "secret" not in caplog.text


def test_an_interrupted_wait_says_how_to_push_later(hub_here, tmp_path, monkeypatch, caplog):  # noqa: F811
    run = prepare(settings(tmp_path), index=index_in(tmp_path, False))

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run.uploads._change, "wait_for", interrupted)
    with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt):
        run.uploads.finish(_some_folder(tmp_path))
    assert "interrupted before the upload had ended; later: python scripts/hub.py push" in caplog.text


def test_a_training_that_ends_with_an_error_uploads_no_more(hub_here, tmp_path, monkeypatch):  # noqa: F811
    """Also behind the loop, while the control is trained; whoever called it may live on."""
    run = prepare(settings(tmp_path), index=index_in(tmp_path, False))
    monkeypatch.setattr("training.run.add_control", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(run, "never")
    with run.uploads._change:
        assert run.uploads._change.wait_for(lambda: not run.uploads._busy or run.uploads._closed, 30)
        assert run.uploads._closed and not run.uploads._waiting


def test_nothing_is_made_on_the_hub_where_tracking_stops_the_run(hub_here, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    run = prepare(settings(tmp_path), index=index_in(tmp_path, False))
    run.config.wandb.enabled = "online"
    with pytest.raises(ConfigError, match="WANDB_API_KEY"):
        train(run, "never")
    time.sleep(0.2)  # what a thread that was started would need
    assert hub_here.routes == []


def test_a_folder_that_cannot_be_kept_is_one_warning_and_leaves_nothing(hub_here, tmp_path, monkeypatch, caplog):  # noqa: F811
    def full(source, target, **_):
        raise OSError(28, "No space left on device")

    made = uploads.Uploads(settings(tmp_path))
    folder = _some_folder(tmp_path)
    (folder / "config.yaml").write_text("x")
    monkeypatch.setattr(uploads, "link_or_copy", full)
    with caplog.at_level(logging.WARNING):
        made.best(folder, 1)
    assert "cannot be kept for the upload (not all files could be copied)" in caplog.text
    assert [path.name for path in folder.parent.iterdir()] == ["best_model"]


def _some_folder(place):
    (place / "run" / "best_model").mkdir(parents=True)
    return place / "run" / "best_model"


# Before anything is trained


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hub_model_id": "me/p10987654"}, "must have the form"),
        ({"hub_acknowledgement": ""}, "no acknowledgement for this repository.*training.hub_acknowledgement"),
        ({"hub_acknowledgement": "yes"}, "at least 8 words"),
        ({"hub_private_repo": False}, "never uploaded to a public repository"),
    ],
)
def test_what_can_never_be_uploaded_stops_before_the_training(hub_here, tmp_path, change, said):  # noqa: F811
    config = pretrained_config(
        tmp_path / "run", tmp_path, **STEPS, **({"hub_model_id": NAME, "hub_acknowledgement": WORDS} | change)
    )
    with pytest.raises(ConfigError, match=said):
        prepare(config, index=index_in(tmp_path, True))
    assert hub_here.routes == [] and not (tmp_path / "run").exists()


def test_words_of_the_questions_stop_it_too(hub_here, tmp_path):  # noqa: F811
    with pytest.raises(ConfigError, match="word pieces of this tokenizer are words of credentialed questions"):
        prepare(settings(tmp_path, hub_acknowledgement=WORDS), index=index_in(tmp_path, True))


def test_without_token_or_network_it_stops(tmp_path, monkeypatch, hub_here):  # noqa: F811
    from huggingface_hub import constants

    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ConfigError, match="no token to upload with.*HF_TOKEN"):
        prepare(settings(tmp_path), index=index_in(tmp_path / "a", False))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE is set"):
        prepare(settings(tmp_path), index=index_in(tmp_path / "b", False))


def test_an_acknowledged_training_records_it_and_uploads(hub_here, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("LOGNAME", "login-canary")
    config = pretrained_config(tmp_path / "run", tmp_path, **STEPS, hub_model_id=NAME, hub_acknowledgement=WORDS)
    run = prepare(config, index=index_in(tmp_path, True))
    assert f"to {NAME} (private)" in "\n".join(plan(run))
    best = train(run, "never")
    assert WORDS in (best / FILE).read_text() and "login-canary" in (best / FILE).read_text()
    assert hub_here.repositories[NAME].files()["model.safetensors"] == (best / "model.safetensors").read_bytes()
    sent = hub_here.everything()
    assert WORDS.encode() not in sent and b"login-canary" not in sent


def test_a_resumed_training_that_uploads_for_the_first_time_records_why_it_may(hub_here, tmp_path):  # noqa: F811
    """The best model was written by the part of the run that uploaded nothing."""
    index = index_in(tmp_path, True)
    best = train(prepare(pretrained_config(tmp_path / "run", tmp_path, **STEPS), index=index), "never")
    assert not (best / FILE).exists()
    options = {"hub_model_id": NAME, "hub_acknowledgement": WORDS}
    config = pretrained_config(tmp_path / "run", tmp_path, **STEPS, **options)
    for _ in range(2):
        train(prepare(config, index=index), "auto")
        assert (best / FILE).read_text().count(WORDS) == 1, "once, however often"
    assert "model.safetensors" in hub_here.repositories[NAME].files()


def test_an_acknowledgement_that_cannot_be_recorded_is_no_upload(hub_here, tmp_path, caplog):  # noqa: F811
    given = uploads.acknowledge(NAME, WORDS)
    folder = _some_folder(tmp_path)
    (folder / FILE).mkdir()
    with caplog.at_level(logging.WARNING), uploads.Uploads(settings(tmp_path), given) as made:
        made.finish(folder)
    assert "must be recorded before the upload" in caplog.text and "commit" not in hub_here.routes


def test_settings(tmp_path):
    loaded = load_config(None, ["training.push_to_hub_strategy=end", "training.hub_private_repo=false"]).config.training
    assert (loaded.push_to_hub_strategy, loaded.hub_private_repo) == ("end", False)
    with pytest.raises(ConfigError, match="best, checkpoint, end"):
        load_config(None, ["training.push_to_hub_strategy=always"])
    with pytest.raises(ConfigError, match="hub_model_id"):
        train_mimic_cxr.main(
            ["--config", "configs/tiny_config.yaml", "--set", "training.hub_model_id=a--b/c", "--print_config"]
        )
