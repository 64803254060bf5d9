"""Models by their name on the Hub: revisions, cache, offline, and repositories that are not what they should be."""

from __future__ import annotations

import os

import pytest
import torch
import yaml
from huggingface_hub import constants

import evaluate
from models import hub_folder
from models.hub_folder import beside, model_directory
from models.mimic_vqa_model import SSGVQA
from models.model_folder import read_lineage, read_vocabulary
from tests.fake_hub import Repository, hub_here  # noqa: F401 (a fixture)
from tests.hub_models import public_model
from training.hub_files import write_shared_folder
from training.run import prepare
from utils.errors import CheckpointError

NAME = "me/cxr"


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """name -> content of the files of an upload."""
    folder = tmp_path_factory.mktemp("shared")
    write_shared_folder(public_model(folder), folder / "shared")
    found = (folder / "shared").rglob("*")
    return {str(p.relative_to(folder / "shared")): p.read_bytes() for p in found if p.is_file()}


@pytest.fixture
def repository(hub_here, shared):  # noqa: F811
    hub_here.repositories[NAME] = Repository(private=True)
    hub_here.repositories[NAME].commit("main", shared | {"pytorch_model.bin": b"pickle", "setup.py": b"x"}, "first")
    return hub_here.repositories[NAME]


def forget():
    hub_folder._downloaded.cache_clear()


def test_a_model_loads_by_its_name_and_only_listed_files_come(repository, hub_here, tmp_path):  # noqa: F811
    model, _, _, vocabulary = SSGVQA.from_pretrained(NAME)
    assert model.credentialed is False and vocabulary.entities
    folder = model_directory(NAME)
    names = {str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir()}
    assert names == set(repository.files()) - {"pytorch_model.bin", "setup.py"}
    assert read_lineage(NAME) is False and read_vocabulary(NAME) == vocabulary
    cache = folder.parents[1]
    modes = {p.lstat().st_mode & 0o077 for p in [cache, *cache.rglob("*")] if not p.is_symlink()}
    assert modes == {0}, "private, whatever the umask"


def test_revisions_are_branches_and_commits(repository, shared):
    first = repository.branches["main"]
    other = shared | {"metrics.json": b'{"step": 77, "questions_trained": 1}'}
    repository.commit("better", other, "second")
    steps = [
        b"77" in (model_directory(NAME, revision) / "metrics.json").read_bytes() for revision in (None, "better", first)
    ]
    assert steps == [False, True, False]
    assert model_directory(f"{NAME}@better").name == repository.branches["better"]
    with pytest.raises(CheckpointError, match="me/cxr@nowhere: .* it has no such revision"):
        SSGVQA.from_pretrained(NAME, "nowhere")


def test_a_filled_cache_needs_no_network(repository, hub_here, monkeypatch):  # noqa: F811
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(CheckpointError, match="not in the local cache, and HF_HUB_OFFLINE is set"):
            SSGVQA.from_pretrained(NAME)
    online = model_directory(NAME)
    forget()
    hub_here.routes.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert model_directory(NAME) == online and hub_here.routes == []
    SSGVQA.from_pretrained(NAME)


def test_without_network_the_cache_answers(repository, hub_here, monkeypatch):  # noqa: F811
    online = model_directory(NAME)
    forget()
    hub_here.faults |= {"info": "drop", "tree": "drop", "resolve": "drop"}
    assert model_directory(NAME) == online


def test_a_local_folder_of_that_name_wins(repository, hub_here, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    source = public_model(tmp_path)
    os.makedirs("me")
    source.rename("me/cxr")
    SSGVQA.from_pretrained("me/cxr")
    assert hub_here.routes == []


@pytest.mark.parametrize("name", ["run/best_modle", "./me/cxr", "nowhere", "a/b/c", "p10987654/x"])
def test_the_hub_is_not_asked_for_names_that_are_paths(hub_here, tmp_path, monkeypatch, name):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    os.makedirs("run")
    with pytest.raises(CheckpointError, match="no such folder"):
        SSGVQA.from_pretrained(name)
    assert hub_here.routes == [] and hub_here.received == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda hub: hub.repositories.clear(), "no such repository, or no access to it"),
        (lambda hub: hub.faults.update(info=401), "the token is not accepted|no access to it"),
        (lambda hub: hub.faults.update(info=403), "the token may not do that"),
        (lambda hub: hub.faults.update(info=500), r"error of its own \(500\)|not in the local cache"),
        (lambda hub: hub.faults.update(info="drop"), "does not answer|connection broke|not in the local cache"),
        (lambda hub: hub.faults.update(info="silent"), "does not answer|not in the local cache"),
        (lambda hub: hub.faults.update(resolve=404), "no such repository|not in the local cache|refused|lacks"),
    ],
)
def test_what_cannot_be_had_is_one_line(repository, hub_here, monkeypatch, change, said):  # noqa: F811
    hub_here.impatient(monkeypatch)
    change(hub_here)
    with pytest.raises(CheckpointError, match=said) as raised:
        SSGVQA.from_pretrained(NAME)
    assert "\n" not in str(raised.value) and "http://" not in str(raised.value) and "hf_" not in str(raised.value)


def test_without_a_token_a_private_repository_is_not_there(repository, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(CheckpointError, match="no such repository, or no access to it.*HF_TOKEN"):
        SSGVQA.from_pretrained(NAME)


def test_another_kind_of_repository_is_named_before_its_weights_come(hub_here):  # noqa: F811
    hub_here.repositories[NAME] = Repository(private=False)
    hub_here.repositories[NAME].commit("main", {"README.md": b"x", "model.safetensors": b"huge"}, "a language model")
    with pytest.raises(CheckpointError, match="holds no model of this program"):
        SSGVQA.from_pretrained(NAME)
    assert hub_here.routes.count("resolve") <= 2


@pytest.mark.parametrize(
    "hostile",
    [
        {"evaluation": {"output_dir": "/etc"}},
        {"training": {"output_dir": "/tmp/x"}},
        {"data": {"index_dir": "/home/me"}},
    ],
)
def test_settings_of_a_stranger_that_say_where_to_write_are_refused(repository, shared, hostile):
    config = yaml.safe_load(shared["config.yaml"])
    for section, values in hostile.items():
        config[section] = config.get(section, {}) | values
    repository.commit("main", shared | {"config.yaml": yaml.safe_dump(config).encode()}, "hostile")
    with pytest.raises(CheckpointError, match="settings that no upload of this program has"):
        SSGVQA.from_pretrained(NAME)


def test_a_damaged_file_is_named(repository, shared):
    repository.commit("main", shared | {"config.yaml": b"model: [1"}, "damaged")
    with pytest.raises(CheckpointError, match="config.yaml cannot be read"):
        SSGVQA.from_pretrained(NAME)
    repository.commit("main", shared | {"model.safetensors": b"x" * 40}, "damaged")
    forget()
    with pytest.raises(CheckpointError, match="model.safetensors: cannot be read"):
        SSGVQA.from_pretrained(NAME)


def test_weights_without_a_record_count_as_credentialed(repository, shared, tmp_path):
    from safetensors.torch import load_file, save_file

    (tmp_path / "w").write_bytes(shared["model.safetensors"])
    save_file(load_file(tmp_path / "w"), tmp_path / "w")
    repository.commit("main", shared | {"model.safetensors": (tmp_path / "w").read_bytes()}, "no header")
    assert SSGVQA.from_pretrained(NAME)[0].credentialed is True


# Where names are given


def test_evaluate_takes_the_name_of_a_repository(repository, capsys):
    assert evaluate.main(["--model_path", NAME, "--print_config"]) == 0
    printed = capsys.readouterr().out
    assert "visual_backbone: convnext_atto" in printed and "# checkpoint" in printed
    with pytest.raises(CheckpointError, match="me/other: neither a folder here nor a model of the Hugging Face Hub"):
        evaluate.main(["--model_path", "me/other"])


def test_the_ledger_of_a_downloaded_model_lies_outside_its_commit(repository, tmp_path):
    folder = model_directory(NAME)
    assert beside(folder) == folder.parents[1] and beside(tmp_path / "best_model") == tmp_path.resolve()


def test_a_training_starts_from_a_model_of_the_hub(repository, shared, tmp_path):
    from tests.tiny_training import make_config, make_index

    index = make_index(tmp_path)
    index.meta["vocabulary"] = yaml.safe_load(shared["vocabulary.json"])
    run = prepare(make_config(tmp_path / "run", init_from=NAME), index=index)
    stored = SSGVQA.from_pretrained(NAME)[0].state_dict()
    assert all(torch.equal(value, stored[name]) for name, value in run.model.state_dict().items())
