"""From a file of questions to an index, a fine-tuned model and a report; and what the commands say of such a set."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import analyze_data
import setup_data
import train_mimic_cxr
from configs.mimic_cxr_config import Config, load_config
from data.synthetic import write_release
from evaluate import parse
from models.encoders import build_tokenizer
from models.mimic_vqa_model import SSGVQA
from tests.own_files import QUESTIONS, VOCABULARY, draw, own_file
from tests.tiny_training import make_config
from training import question_only
from training.evaluation_run import run_evaluation
from training.evaluation_settings import EvaluationJob, load_settings
from training.external import external_index, same_set
from training.probe.batches import find_index
from utils.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """An untrained model folder with the tiny model."""
    folder = tmp_path_factory.mktemp("start")
    config = make_config(folder)
    texts = list(QUESTIONS)
    tokenizer = build_tokenizer(config.model, texts)
    SSGVQA.build(config.model, VOCABULARY, tokenizer, config.data.image_size).save_pretrained(
        folder / "best_model", tokenizer, config
    )
    return folder / "best_model"


def test_fine_tuned_and_evaluated_from_the_command_line(start, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(question_only, "MOST_STEPS", 5)
    monkeypatch.setattr(question_only, "MOST_PASSES", 1)
    file = own_file(tmp_path)
    settings = {
        "data.own_data": file,
        "data.index_dir": tmp_path / "index",
        "training.init_from": start,
        "training.max_steps": 3,
        "training.eval_steps": 3,
    }
    arguments = ["--config", str(start / "config.yaml"), "--output_dir", str(tmp_path / "run"), "--no_auto"]
    arguments += [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    assert train_mimic_cxr.main(arguments) == 0
    best = tmp_path / "run" / "best_model"
    printed = capsys.readouterr().err
    assert "80 questions about 20 images of 20 patients, 80 of them with a target" in printed
    assert "boxes: 20 used, 0 not" in printed and "training.chexpert_loss_weight = 0" in printed
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    parts = next(line for line in lines if "train/loss" in line)
    assert "train/graph_box_loss" in parts
    card = (best / "README.md").read_text()
    assert "own data (films.csv)" in card and "MIMIC" not in card and str(tmp_path) not in card

    args = parse(["--model_path", str(best), "--own_data", str(file), "--output_dir", str(tmp_path / "results")])
    for split in ("validate", "test"):
        job = EvaluationJob(best, split=split, attention=True)
        loaded, conflicts = load_settings(args, job)
        loaded.config.evaluation.bootstrap_samples = 20
        report, _ = run_evaluation(job, loaded.config)
        assert report["provenance"]["dataset"] == "own data (films.csv)" and not conflicts
        assert report["provenance"]["questions"] == 20
        assert report["grounding"]["questions"]["all"]["n"] == 5, "questions whose answer's region has a box"
    assert (best / "temperature.json").exists(), "it is the model's own data set"
    assert report["missing_rows"]["graph_oracle"] == "the data set has no scene graphs"
    loaded.config.data.own_data = str(own_file(tmp_path / "other", 4, "test"))
    loaded.config.data.index_dir = str(tmp_path / "other index")
    with pytest.raises(DataError, match="has no training questions, .* give it a train split, or .* --controls none"):
        run_evaluation(EvaluationJob(best, split="test"), loaded.config)


def settings(file: Path, **changes) -> Config:
    config = make_config("unused")
    config.data.own_data = str(file)
    for name, value in changes.items():
        setattr(config.data, name, value)
    return config


def test_the_index_is_kept_until_something_changes(start, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    file = own_file(tmp_path / "set", 4)
    first = external_index(settings(file), start).path
    assert external_index(settings(file), start).path == first
    draw(tmp_path / "set" / "films" / "again.png")
    shutil.move(tmp_path / "set" / "films" / "again.png", tmp_path / "set" / "films" / "0.png")
    second = external_index(settings(file), start).path
    file.write_text(file.read_text().replace("mild", "moderate"))
    third = external_index(settings(file), start).path
    assert len({first, second, third, external_index(settings(file, image_store="jpeg"), start).path}) == 4
    with pytest.raises(DataError, match=r"is not one of .*films\.csv for this model, or films\.csv has changed"):
        external_index(settings(file, index_dir=str(first)), start)


def test_without_a_model_there_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.own_data: .*training\.init_from .*--model_path"):
        external_index(settings(own_file(tmp_path, 4)), None)


def test_a_file_without_training_rows_is_evaluated_without_controls(start, tmp_path):
    config = settings(own_file(tmp_path, 4, "test"), index_dir=str(tmp_path / "index"))
    config.evaluation.output_dir, config.evaluation.bootstrap_samples = str(tmp_path / "results"), 20
    with pytest.raises(DataError, match=r"no validate questions: .* give own data \(films\.csv\) a validate split"):
        run_evaluation(EvaluationJob(start, controls=False), config)
    report, _ = run_evaluation(EvaluationJob(start, split="test", controls=False), config)
    assert report["provenance"]["questions"] == 16


@pytest.mark.parametrize("command", [setup_data.main, analyze_data.main])
def test_commands_for_releases_say_so(command, tmp_path):
    write_release(tmp_path, studies=12, seed=0)
    paths = ["--mimic_cxr_path", f"{tmp_path}/mimic-cxr-jpg", "--mimic_qa_path", f"{tmp_path}/mimic-ext-cxr-qba"]
    with pytest.raises(ConfigError, match=r"data\.own_data names a set that is no release, .* --dry_run"):
        command([*paths, "--set", "data.own_data=films.csv"])


def test_probing_says_that_it_reads_no_such_set():
    assert find_index(settings("films.csv")) == (
        None,
        "data.own_data is not read here: made-up questions stand in for it",
    )


def test_two_sets_at_a_time_are_refused():
    with pytest.raises(ConfigError, match=r"data\.own_data = 'a\.csv' .*only one set is read"):
        load_config(sets=["data.own_data=a.csv", "data.vqa_rad_path=b"])


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--own_data", "x"], "--own_data: give the model as --model_path"),
        (["--model_path", "x", "--own_data", "x", "--cross_dataset", "--vqa_rad_path", "y"], "one data set at a time"),
    ],
)
def test_options_that_do_not_go_together(arguments, match, capsys):
    with pytest.raises(SystemExit):
        parse(arguments)
    assert match in capsys.readouterr().err


def test_a_model_knows_its_own_set_wherever_it_is_named_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here, there = settings("a.csv").data, settings(tmp_path / "a.csv").data
    assert same_set(here, there) and not same_set(here, settings("b.csv").data)
    assert same_set(Config().data, Config().data) and not same_set(here, Config().data)
