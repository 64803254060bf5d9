"""train_mimic_cxr.py on a look-alike release, in this process."""

from __future__ import annotations

import json

import pytest

import train_mimic_cxr
from data.synthetic import write_release
from models.question_only import QuestionOnly
from tests.tiny_training import make_config
from training import question_only
from utils.errors import CheckpointError, ConfigError


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    write_release(folder, studies=24, seed=0)
    return folder


@pytest.fixture
def arguments(release, tmp_path):
    model = make_config(tmp_path).model
    settings = {
        "data.index_dir": release / "index",
        "data.image_size": 32,
        "model.visual_backbone": model.visual_backbone,
        "model.visual_kwargs": json.dumps(model.visual_kwargs),
        "model.text_kwargs": json.dumps(model.text_kwargs),
        "model.hidden_dim": 16,
        "model.fusion_heads": 2,
        "training.max_steps": 3,
        "training.logging_steps": 1,
        "training.eval_steps": 3,
    }
    paths = [
        *("--config", "configs/tiny_config.yaml"),
        *("--mimic_cxr_path", str(release / "mimic-cxr-jpg")),
        *("--mimic_qa_path", str(release / "mimic-ext-cxr-qba")),
        *("--output_dir", str(tmp_path / "run")),
        *("--batch_size", "4"),
    ]
    return [*paths, *(part for key, value in settings.items() for part in ("--set", f"{key}={value}"))]


def test_dry_run_prints_the_plan_and_writes_no_output(arguments, tmp_path, capsys):
    assert train_mimic_cxr.main([*arguments, "--dry_run"]) == 0
    printed = capsys.readouterr().out
    for fact in ("look-alike", "million parameters", "4 image visits", "fp32", "plain PyTorch"):
        assert fact in printed
    assert not (tmp_path / "run").exists()


def test_training_leaves_a_model_with_its_control_and_is_not_overwritten(arguments, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(question_only, "MOST_STEPS", 5)
    monkeypatch.setattr(question_only, "MOST_PASSES", 1)
    assert train_mimic_cxr.main(arguments) == 0
    best = tmp_path / "run" / "best_model"
    assert f"best model: {best}" in capsys.readouterr().out
    QuestionOnly.from_pretrained(best / "question_only")
    metrics = json.loads((best / "metrics.json").read_text())
    assert metrics["validation"]["heads"]["binary"]["n"] == metrics["question_only"]["heads"]["binary"]["n"] > 0
    assert "text-only control" in (best / "README.md").read_text()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "train/loss" in line] == [1, 2, 3]
    assert "step 3/3" in (tmp_path / "run" / "train.log").read_text()
    with pytest.raises(CheckpointError, match="--resume auto"):
        train_mimic_cxr.main(arguments)
    assert train_mimic_cxr.main([*arguments, "--resume", "auto"]) == 0, "nothing left to do"


def test_print_config_needs_no_release(capsys):
    assert train_mimic_cxr.main(["--config", "configs/tiny_config.yaml", "--epochs", "3", "--print_config"]) == 0
    printed = capsys.readouterr().out
    assert "num_epochs: 3" in printed and "# flag" in printed


def test_uploading_without_network_is_refused_before_anything_is_trained(arguments, tmp_path):
    with pytest.raises(ConfigError, match="training.hub_model_id = someone/model: HF_HUB_OFFLINE is set"):
        train_mimic_cxr.main([*arguments, "--set", "training.hub_model_id=someone/model"])
    assert not (tmp_path / "run").exists()


def test_online_without_a_key_is_said_before_anything_is_built(arguments, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"wandb\.enabled = online, but WANDB_API_KEY"):
        train_mimic_cxr.main([*arguments, "--set", "wandb.enabled=online"])
    assert not (tmp_path / "run").exists()
