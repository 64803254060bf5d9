"""What was made from credentialed data stays credentialed: through checkpoints, fine-tuning, answers in files and reports."""

from __future__ import annotations

import dataclasses
import json
import logging

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from configs.mimic_cxr_config import to_dict
from data.index import Index, open_index
from data.records import write_record_index
from data.vqa_rad import read_vqa_rad
from models.mimic_vqa_model import SSGVQA
from models.model_folder import LINEAGE, WEIGHTS, read_lineage
from tests.test_evaluate_cli import index_of_the_release, job, place, settings  # noqa: F401 (fixtures)
from tests.tiny_training import make_config, make_index, make_trainer
from training import external, question_only
from training.evaluation_run import run_evaluation
from training.run import prepare, train
from utils.errors import CheckpointError

STEPS = {"max_steps": 2, "save_steps": 1, "eval_steps": 2}


def index_in(folder, credentialed: bool | None) -> Index:
    """The same questions and fingerprint, whatever is recorded; None: nothing is."""
    index = make_index(folder)
    index.meta.pop("credentialed")
    if credentialed is not None:
        index.meta["credentialed"] = credentialed
    (index.path / "index.json").write_text(json.dumps(index.meta))
    return open_index(index.path)


def recorded(folder) -> object:
    """What the weights say: None where they say nothing."""
    with safe_open(folder / WEIGHTS, "pt") as weights:
        return {"true": True, "false": False, None: None}[weights.metadata().get(LINEAGE)]


def record(folder, credentialed: bool | None) -> None:
    """None: as an earlier version wrote them."""
    told = {} if credentialed is None else {LINEAGE: str(credentialed).lower()}
    save_file(load_file(folder / WEIGHTS), folder / WEIGHTS, metadata={"format": "pt"} | told)


def trained(index, folder, resume="never", **choices):
    trainer = make_trainer(index, make_config(folder, **(STEPS | choices)), resume)
    trainer.fit()
    return folder / "best_model"


# Indexes, checkpoints, model folders


@pytest.mark.parametrize(("stored", "counts"), [(True, True), (None, True), (False, False)])
def test_checkpoints_and_the_best_model_have_the_lineage_of_the_index(tmp_path, stored, counts):
    best = trained(index_in(tmp_path, stored), tmp_path / "run")
    folders = [best, *(tmp_path / "run").glob("step-*")]
    assert len(folders) == 3 and all(recorded(folder) is counts for folder in folders)
    card = (best / "README.md").read_text()
    assert ("Of credentialed lineage" in card) is counts
    assert f"| lineage | {'credentialed' if counts else 'no credentialed data'} |" in card


def test_a_model_that_began_with_credentialed_data_stays_so_on_public_data(tmp_path, monkeypatch):
    monkeypatch.setattr(question_only, "MOST_STEPS", 1)
    monkeypatch.setattr(question_only, "MOST_PASSES", 1)
    first = trained(index_in(tmp_path / "first", True), tmp_path / "one")
    config = make_config(tmp_path / "two", init_from=str(first), **STEPS)
    best = train(prepare(config, index=index_in(tmp_path / "second", False)), "never")
    assert recorded(best) is recorded(best / "question_only") is True
    assert "Of credentialed lineage" in (best / "README.md").read_text()


def test_a_resumed_run_keeps_the_lineage_of_its_checkpoint(tmp_path):
    trained(index_in(tmp_path / "first", True), tmp_path / "run")
    public = index_in(tmp_path / "second", False)
    trained(public, tmp_path / "run", resume="auto", max_steps=4, eval_steps=1)
    assert recorded(tmp_path / "run" / "step-00000004") is True


def test_folders_of_earlier_versions_open_and_count_as_credentialed(tmp_path):
    best = trained(index_in(tmp_path, False), tmp_path / "run")
    assert SSGVQA.from_pretrained(best)[0].credentialed is False
    record(best, None)
    assert SSGVQA.from_pretrained(best)[0].credentialed is True
    for damaged in (b"", b"{}"):
        (best / WEIGHTS).write_bytes(damaged)
        with pytest.raises(CheckpointError, match=str(best)):
            read_lineage(best)


def test_a_model_of_which_nobody_has_said_is_stored_as_such(place):  # noqa: F811
    assert recorded(job(place).model_path) is None and read_lineage(job(place).model_path)


# An index of a public set


@pytest.fixture
def rad(tmp_path):
    folder = tmp_path / "rad"
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    entries = {"trainset": [], "testset": []}
    for number in range(20):
        Image.fromarray(rng.integers(0, 255, (80, 90), dtype=np.uint8)).save(folder / "images" / f"i{number}.jpg")
        entry = {"qid": number, "image_name": f"i{number}.jpg", "image_organ": "CHEST", "answer_type": "CLOSED"}
        entry |= {"question": "Is there effusion?", "answer": ("yes", "no")[number % 2]}
        entries["trainset" if number < 14 else "testset"].append(entry)
    for name, part in entries.items():
        (folder / f"{name}.json").write_text(json.dumps(part))
    return folder


@pytest.fixture
def model_folder(place):  # noqa: F811
    """A model folder with its control, whose lineage a test may set; put back afterwards."""
    folders = [job(place).model_path, job(place).question_only]
    yield lambda credentialed: [record(folder, credentialed) for folder in folders]
    for folder in folders:
        record(folder, None)


def test_an_index_of_a_public_set_has_the_lineage_of_the_model_that_it_is_for(rad, place, tmp_path, model_folder):  # noqa: F811
    config = settings(place, tmp_path / "out")
    config.data.vqa_rad_path, config.data.index_dir = str(rad), str(tmp_path / "index")
    model_folder(False)
    assert external.external_index(config, job(place).model_path).is_credentialed is False
    model_folder(True)
    assert external.external_index(config, job(place).model_path).is_credentialed is True
    assert open_index(tmp_path / "index").meta["credentialed"] is True, "what is kept in it is that model's"
    vocabulary, read = open_index(tmp_path / "index").vocabulary, read_vqa_rad(rad)
    assert write_record_index(tmp_path / "fresh", read, vocabulary, side=32, credentialed=True).is_credentialed
    private = dataclasses.replace(read, public=False)
    assert write_record_index(tmp_path / "own", private, vocabulary, side=32).is_credentialed, "a hospital's own data"


def test_a_credentialed_model_on_a_public_set_is_named(rad, place, tmp_path, model_folder, caplog):  # noqa: F811
    config = settings(place, tmp_path / "out")
    config.data.vqa_rad_path, config.data.index_dir = str(rad), str(tmp_path / "index")
    model_folder(True)
    with caplog.at_level(logging.WARNING):
        report, path = run_evaluation(job(place, split="test", controls=False), config)
    (place / "checkpoints" / "test_ledger.jsonl").unlink()
    assert report["provenance"]["credentialed"] is True and report["provenance"]["credentialed_data"] is False
    for text in (caplog.text, (path.parent / "report.md").read_text(), (path.parent / "report.html").read_text()):
        assert "The data are public, but the model" in text


# Answers in files


def credentialed_of(report: dict) -> bool:
    return report["provenance"]["credentialed"]


def evaluated(place, out, **choices):  # noqa: F811
    report, path = run_evaluation(job(place, **choices), settings(place, out))
    return report, path.parent / "predictions.parquet"


def without_metadata(file, target):
    pq.write_table(pq.read_table(file).replace_schema_metadata(None), target)
    return target


def test_public_data_and_a_public_model_make_public_results(place, tmp_path, index_of_the_release, model_folder):  # noqa: F811
    model_folder(False)
    report, file = evaluated(place, tmp_path)
    assert not credentialed_of(report) and pq.read_schema(file).metadata[b"credentialed"] == b"false"
    assert all(pq.read_schema(path).metadata[b"credentialed"] == b"false" for path in (tmp_path / "controls").iterdir())
    assert "credentialed" not in (tmp_path / "report.md").read_text().split("## Headline")[0]
    assert "credentialed or unrecorded" not in (tmp_path / "report.html").read_text()


def test_a_report_of_a_predictions_file_has_its_lineage(place, tmp_path, index_of_the_release, model_folder):  # noqa: F811
    model_folder(True)
    _, file = evaluated(place, tmp_path / "own", controls=False)
    assert pq.read_schema(file).metadata[b"credentialed"] == b"true"
    model_folder(False)
    report, again = evaluated(place, tmp_path / "again", predictions=file, controls=False)
    assert credentialed_of(report) and pq.read_schema(again).metadata[b"credentialed"] == b"true"
    report, _ = evaluated(place, tmp_path / "both", compare=file, controls=False)
    assert credentialed_of(report), "differences to credentialed answers"
    _, public = evaluated(place, tmp_path / "public", controls=False)
    report, _ = evaluated(place, tmp_path / "fourth", predictions=public, controls=False)
    assert not credentialed_of(report)
    foreign = without_metadata(public, tmp_path / "foreign.parquet")
    report, _ = evaluated(place, tmp_path / "fifth", predictions=foreign, controls=False)
    assert credentialed_of(report), "nothing is known of it"


def test_the_control_counts_too(place, tmp_path, index_of_the_release, model_folder):  # noqa: F811
    model_folder(False)
    record(job(place).question_only, True)
    report, _ = evaluated(place, tmp_path / "with")
    assert credentialed_of(report)
    report, _ = evaluated(place, tmp_path / "without", controls=False)
    assert not credentialed_of(report)


def test_the_settings_do_not_hold_the_lineage(place):  # noqa: F811
    """It is a fact of the files, which nobody can switch off."""
    assert "credentialed" not in str(to_dict(settings(place, "out")))
