"""What is uploaded of a model folder, and its model card: listed things only, and numbers that are those of the report."""

from __future__ import annotations

import json

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from configs.mimic_cxr_config import Config, from_dict, to_dict
from configs.sharing import is_public_name, shared_settings
from data.index import open_index
from models.hub_folder import HUB_FILES
from models.mimic_vqa_model import SSGVQA
from models.question_only import QuestionOnly
from tests.fake_hub import hub_here  # noqa: F401 (a fixture)
from tests.hub_models import credentialed_model, metrics_of, pretrained_config, public_model, write_model
from tests.test_evaluate_cli import job, place, settings  # noqa: F401 (a fixture)
from tests.test_lineage import record
from training import evaluation_run
from training.evaluation_run import run_evaluation
from training.hub_files import shared_card, shared_metrics, shared_report, write_shared_folder
from training.model_card import model_card
from utils.errors import CheckpointError, HubError
from utils.privacy import shareable_values, without_ids
from utils.utils import sha256_of

PATIENT, CANARY = "p10987654", "zzcanary"


def texts(folder) -> str:
    """Everything in a folder, as text."""
    return "\n".join(f"{p.name} {p.read_bytes().decode('latin-1')}" for p in sorted(folder.rglob("*")) if p.is_file())


@pytest.fixture(scope="module")
def report(place, tmp_path_factory):  # noqa: F811
    """Of the untrained model of `place`, which passes for one of public data."""
    folders = [job(place).model_path, job(place).question_only]
    for folder in folders:
        record(folder, False)
    metrics = metrics_of()
    (folders[0] / "metrics.json").write_text(json.dumps(metrics))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation_run, "ensure_index", lambda config: open_index(place / "index"))
        return run_evaluation(job(place), settings(place, tmp_path_factory.mktemp("out")))[0]


# Files


def test_the_shared_folder_is_a_model_that_answers_the_same(tmp_path):
    source = public_model(tmp_path)
    write_shared_folder(source, tmp_path / "shared")
    model, tokenizer, config, vocabulary = SSGVQA.from_pretrained(tmp_path / "shared")
    before, own_tokenizer, own, own_vocabulary = SSGVQA.from_pretrained(source)
    assert all(value.equal(model.state_dict()[name]) for name, value in before.state_dict().items())
    assert model.credentialed is False and vocabulary == own_vocabulary and config.model == own.model
    asked = ["Is there effusion in the left lung?", "Where is the nodule?", "an unknown wörd"]
    assert tokenizer(asked)["input_ids"] == own_tokenizer(asked)["input_ids"]
    assert tokenizer.model_max_length == own_tokenizer.model_max_length
    QuestionOnly.from_pretrained(tmp_path / "shared" / "question_only")
    assert own.training.output_dir == str(tmp_path / "run") and str(tmp_path) not in texts(tmp_path / "shared")


def test_nothing_goes_because_it_is_there(tmp_path):
    """Canaries in every file and in every place of a file where a text can stand."""
    source = credentialed_model(tmp_path / CANARY)
    for name in (
        "optimizer.safetensors",
        "training_state.json",
        "train.log",
        "predictions.parquet",
        "events.log",
        "x.py",
    ):
        (source / name).write_text(CANARY)
    (source / "question_only" / "notes.json").write_text(CANARY)
    config = yaml.safe_load((source / "config.yaml").read_text())
    config["data"] |= dict.fromkeys(("mimic_cxr_path", "own_data", "index_dir"), f"/{CANARY}/{PATIENT}")
    config["training"] |= {"init_from": CANARY, "hub_acknowledgement": CANARY, "hub_model_id": f"{CANARY}/x"}
    config["wandb"] |= {"project": CANARY, "name": CANARY, "entity": CANARY}
    config["evaluation"] |= {"patients_table": CANARY, "output_dir": CANARY}
    (source / "config.yaml").write_text(yaml.safe_dump(config))
    changes = {
        "text_config.json": {"_name_or_path": CANARY, "made_by": CANARY, "architectures": [f"a b {CANARY}"]},
        "tokenizer_config.json": {"name_or_path": CANARY, "note": CANARY, "sep_token": "[SEP]"},
        "metrics.json": {
            "note": CANARY,
            "data": {"kind": CANARY, "name": CANARY, "fingerprint": CANARY, "notes": [CANARY]},
        },
        "label_space.json": {"note": CANARY},
        "temperature.json": {"model_sha256": CANARY, "binary": 1.0},
    }
    for name, more in changes.items():
        path = source / name
        stored = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(stored | more))
    write_shared_folder(source, tmp_path / "shared")
    written = {str(p.relative_to(tmp_path / "shared")) for p in (tmp_path / "shared").rglob("*") if p.is_file()}
    assert written <= set(HUB_FILES) and "temperature.json" not in written, "that is of other weights"
    found = texts(tmp_path / "shared")
    assert CANARY not in found and PATIENT not in found
    config = SSGVQA.from_pretrained(tmp_path / "shared")[2]
    assert config.model.text_encoder == "" and config.model.visual_backbone == "test_convnext"
    assert "from a local folder, pretrained weights" in (tmp_path / "shared" / "README.md").read_text()


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("model.safetensors", "header", "more than the lineage"),
        ("visual_config.json", {"kwargs": {"drop": f"/home/{CANARY}"}}, "texts that no image encoder needs"),
        ("vocabulary.json", {"entities": ["nodule", CANARY], "regions": ["heart", "left lung"]}, "1 names of findings"),
    ],
)
def test_what_cannot_be_made_anew_is_refused(tmp_path, name, change, said):
    source = credentialed_model(tmp_path)
    if change == "header":
        save_file(load_file(source / name), source / name, metadata={"credentialed": "true", "note": CANARY})
    else:
        (source / name).write_text(json.dumps(json.loads((source / name).read_text()) | change))
    with pytest.raises(HubError, match=said) as raised:
        write_shared_folder(source, tmp_path / "shared")
    assert CANARY not in str(raised.value).replace(str(source), "")


def test_fitted_temperatures_of_these_weights_are_shared(tmp_path, report, place):  # noqa: F811
    write_shared_folder(job(place).model_path, tmp_path / "shared", report)
    assert (tmp_path / "shared" / "temperature.json").read_text() == (
        job(place).model_path / "temperature.json"
    ).read_text()


def test_of_routing_the_threshold_is_shared(tmp_path):
    source = public_model(tmp_path)
    measured = {"threshold": 0.25, "wordings": {CANARY: {}}, "model_sha256": sha256_of(source / "model.safetensors")}
    (source / "routing.json").write_text(json.dumps(measured))
    write_shared_folder(source, tmp_path / "shared")
    kept = {name: measured[name] for name in ("threshold", "model_sha256")}
    assert json.loads((tmp_path / "shared" / "routing.json").read_text()) == kept


def test_an_incomplete_folder_and_one_without_scores(tmp_path):
    source = public_model(tmp_path)
    (source / "metrics.json").unlink()
    with pytest.raises(CheckpointError, match="metrics.json: cannot be read"):
        write_shared_folder(source, tmp_path / "a")
    write_shared_folder(source, tmp_path / "b", metrics={"step": 3, "questions_trained": 7})
    assert "a checkpoint, which nobody has scored" in (tmp_path / "b" / "README.md").read_text()
    (source / "vocabulary.json").unlink()
    with pytest.raises(CheckpointError, match="it lacks vocabulary.json"):
        write_shared_folder(source, tmp_path / "c")


# Settings


@given(
    st.dictionaries(st.text(max_size=8), st.one_of(st.text(max_size=30), st.lists(st.text(max_size=30)), st.integers()))
)
def test_no_text_but_a_listed_word_or_a_plain_one_is_kept(values):
    kept = shareable_values("model", values, {"model.a": ("word",)})
    for name, value in kept.items():
        assert values[name] == value
        if isinstance(value, str):
            assert (name, value) == ("a", "word")
        for inner in value if isinstance(value, list) else ():
            assert "/" not in inner and " " not in inner and without_ids(inner) == inner


def test_shared_settings_read_back_are_those_of_the_model(tmp_path):
    config = pretrained_config(tmp_path / "run", tmp_path)
    shared = from_dict(shared_settings(config, architecture="test_convnext"))
    for section in ("model", "training", "data"):
        differing = {k for k, v in to_dict(config)[section].items() if to_dict(shared)[section][k] != v}
        assert differing <= {"visual_backbone", "text_encoder", "output_dir"}
    assert shared.training.output_dir == Config().training.output_dir


def test_names_of_public_encoders(tmp_path):
    assert is_public_name("emilyalsentzer/Bio_ClinicalBERT") and is_public_name("hf-hub:timm/resnet@main")
    assert not is_public_name(str(tmp_path)) and not is_public_name("../bert") and not is_public_name("me/p10987654")
    assert not is_public_name("data"), "a folder here"


# The card


def test_the_card_has_the_numbers_of_the_report_with_intervals_and_controls(report, place):  # noqa: F811
    card = shared_card(job(place).model_path, report)
    row = next(line for line in card.splitlines() if line.startswith("| binary |"))
    found, gain = report["interval"]["binary"], report["gain"]["binary"]
    assert f"{report['rows']['model']['binary']['n']:,}" in row
    assert f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]" in row
    assert f"{gain['value']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]" in row
    for control in ("question_only", "blank_image", "shuffled_image", "graph_oracle (not deployable)"):
        assert f"| {control} |" in card
    assert "95 % interval" in card and "optimistic" in card
    assert card.count("Not for clinical use") == 1 and "## Intended use" in card and "## Limits" in card


def test_metadata_of_the_card_is_what_the_hub_reads(report, place, hub_here):  # noqa: F811
    card = ModelCard(shared_card(job(place).model_path, report))
    card.validate()  # asks the Hub
    results = card.data.eval_results
    values = {one.metric_name.split(":")[0]: one.metric_value for one in results}
    model = report["rows"]["model"]
    assert values["binary"] == round(model["binary"]["balanced_accuracy"], 4)
    assert values["region"] == round(model["region"]["micro_f1"], 4)
    assert {one.task_type for one in results} == {"visual-question-answering"} and card.data.model_name
    assert card.data.license == "mit" and card.data.pipeline_tag == "visual-question-answering"
    assert all(len(tag) < 40 for tag in card.data.tags)


def test_a_card_without_scores_or_report_is_valid_too(hub_here):  # noqa: F811
    card = ModelCard(model_card(Config(), {"step": 1, "questions_trained": 2}, True))
    card.validate()
    assert card.data.license == "other" and card.data.eval_results is None
    assert card.data.base_model == ["emilyalsentzer/Bio_ClinicalBERT"]


@pytest.mark.parametrize(
    ("kind", "credentialed", "licence", "said"),
    [
        ("look-alike", False, "mit", "no clinical meaning"),
        (
            "release",
            True,
            "physionet-credentialed-health-data-license-1.5.0",
            "PhysioNet Credentialed Health Data License 1.5.0",
        ),
        ("look-alike", True, "as-its-data-allow", "Of credentialed lineage"),
        ("set", False, "as-its-data-allow", "share it only as the licences of all its data allow"),
    ],
)
def test_licence_and_notice_follow_the_data(kind, credentialed, licence, said):
    text = model_card(Config(), metrics_of(kind=kind, name="some data"), credentialed)
    card = ModelCard(text)
    assert licence in (card.data.license, getattr(card.data, "license_name", None)) and said in text
    assert "patient 1" not in text and without_ids(text) == text


def test_the_card_says_what_is_true_of_this_model():
    """Not what is true of most: a text encoder that started from random weights, no graph read, no control beside it yet."""
    config = Config()
    usual = ModelCard(text := model_card(config, metrics_of() | {"question_only": {"headline": 0.4}}, False))
    assert "Bio_ClinicalBERT, pretrained weights |" in text and "and answers from it with a head" in text
    assert "compare with `question_only/` beside this file" in text and "licences of the pretrained encoders" in text
    assert usual.data.base_model == ["emilyalsentzer/Bio_ClinicalBERT"]
    config.model.text_pretrained, config.model.fusion = False, "none"
    other = ModelCard(text := model_card(config, metrics_of(), False))
    assert "Bio_ClinicalBERT, from random weights |" in text and "convnext_base, pretrained weights |" in text
    assert "and answers, without reading it, with a head" in text and "question_only/" not in text
    assert other.data.base_model is None
    config.model.pretrained = False
    text = model_card(config, metrics_of(), False)
    assert "convnext_base, from random weights |" in text and "licences of the pretrained encoders" not in text


def test_a_report_of_other_weights_or_another_graph_is_refused(report):
    own = report["provenance"]["model_sha256"]
    with pytest.raises(HubError, match="other weights"):
        shared_report(report, "0" * 64)
    oracle = report | {"provenance": report["provenance"] | {"graph": "oracle"}}
    with pytest.raises(HubError, match="the graph `oracle`"):
        shared_report(oracle, own)
    with pytest.raises(HubError, match="no report.json of evaluate.py"):
        shared_report({"provenance": {"model_sha256": own, "graph": "predicted"}}, own)


def test_a_report_is_shared_as_numbers(report):
    source = report["provenance"] | {"dataset": f"own data ({CANARY}.csv)", "model": f"/{CANARY}", "notice": CANARY}
    source |= dict.fromkeys(("index_fingerprint", "split", "seed"), CANARY)
    rows = report["rows"] | {f"{CANARY} row": {"binary": {"n": 1}}}
    rows["model"] = rows["model"] | {"binary": rows["model"]["binary"] | {"who": CANARY}}
    shared = shared_report(
        report | {"provenance": source, "rows": rows, "worst_errors": [CANARY]}, source["model_sha256"]
    )
    assert CANARY not in json.dumps(shared) and shared["provenance"]["dataset"] == "own data"
    assert shared["rows"]["model"]["region"] == report["rows"]["model"]["region"]
    assert "worst_errors" not in shared and "settings" not in shared and "strata" not in shared


def test_metrics_are_shared_as_numbers():
    shared = shared_metrics(metrics_of(kind="set", name=f"own data ({CANARY}.csv)") | {"note": CANARY})
    assert CANARY not in json.dumps(shared) and shared["data"]["name"] == "own data"
    assert shared["validation"] == metrics_of()["validation"] and shared["questions_trained"] == 15_000_000


def test_the_old_card_is_not_what_is_uploaded(tmp_path):
    source = write_model(tmp_path / "best_model", pretrained_config(tmp_path, tmp_path), False, **{"README.md": CANARY})
    write_shared_folder(source, tmp_path / "shared")
    assert CANARY not in (tmp_path / "shared" / "README.md").read_text()
