"""evaluate.py and the steps around the answers, with the real model, untrained, on a hand-made index."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from configs.mimic_cxr_config import LoadedConfig, format_config, load_config
from data.index import open_index
from data.label_space import HEADS
from data.loader import make_loader
from data.mimic_cxr_dataset import VQADataset
from data.vocabulary import Vocabulary
from models.encoders import build_tokenizer
from models.mimic_vqa_model import SSGVQA
from models.question_only import QuestionOnly
from models.scene_graph import roi_features
from tests.evaluation_stub import studies
from tests.mini_index import write_mini_index
from training import evaluation_run
from training.evaluation import ROWS, evaluate
from training.evaluation_run import check_fits, run_evaluation
from training.evaluation_settings import EvaluationJob, check_folders, load_settings
from training.report import GROUPS
from utils.errors import CheckpointError, DataError

PATIENTS = [0, 0, 1, 2, 3, 3, 4]
TINY = {
    "model.pretrained": False,
    "model.visual_backbone": "convnext_atto",
    "model.visual_kwargs": {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]},
    "model.visual_stride": 16,
    "model.text_kwargs": {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    },
    "model.hidden_dim": 32,
    "model.fusion_depth": 1,
    "model.fusion_heads": 2,
    "model.sim_inner_dim": 16,
    "data.image_size": 64,
    "evaluation.bootstrap_samples": 50,
}


def make_index(path, findings=()):
    """Every image has a grey level of its own, and stripes, so that no two images look alike to a convolution."""
    tables = studies([0, 1, 2, 3], "train") + studies(PATIENTS, "validate") + studies([0, 1, 2], "test")
    index = write_mini_index(path, [s | {"findings": list(findings)} for s in tables], side=64)
    pixels = path / "images" / "pixels.u8"
    noise = np.random.default_rng(0).integers(0, 256, pixels.stat().st_size, dtype=np.uint8)
    pixels.write_bytes(noise.tobytes())
    return index


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A checkpoint folder with the untrained model and its control, and the index it was made for."""
    folder = tmp_path_factory.mktemp("run")
    index = make_index(folder / "index")
    config = load_config(flags=TINY).config
    torch.manual_seed(0)
    tokenizer = build_tokenizer(config.model, index.texts(np.arange(index.num_texts)))
    model = SSGVQA.build(config.model, index.vocabulary, tokenizer, config.data.image_size)
    for parameter in model.parameters():  # zero-initialised layers would hide what they read
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    best = folder / "checkpoints" / "best_model"
    model.save_pretrained(best, tokenizer, config)
    QuestionOnly.build(config.model, tokenizer).save_pretrained(best / "question_only", tokenizer, config)
    return folder


@pytest.fixture
def index_of_the_release(place, monkeypatch):
    """`ensure_index` opens the hand-made index: there is no release behind it."""
    monkeypatch.setattr(evaluation_run, "ensure_index", lambda config: open_index(place / "index"))


def job(place, **choices):
    return EvaluationJob(place / "checkpoints" / "best_model", **choices)


def settings(place, out):
    loaded = load_config(place / "checkpoints" / "best_model" / "config.yaml", [f"evaluation.output_dir={out}"])
    return loaded.config


# The real model


def answer(place, index, **options):
    model, tokenizer, config, _ = SSGVQA.from_pretrained(place / "checkpoints" / "best_model")
    control = QuestionOnly.from_pretrained(place / "checkpoints" / "best_model" / "question_only")[0]
    sets = [
        VQADataset(index, s, config.data, tokenizer, train=False, questions_per_image=5) for s in ("validate", "train")
    ]
    return evaluate(model, control, *sets, **options)


def test_other_reports_change_the_oracle_row_and_nothing_else(place, tmp_path):
    """Leak check with the real model: answers and CheXpert probabilities never depend on the report's graph."""
    findings = [(range(26), "nodule", 1, 1), (range(9), "cardiomegaly", 2, 0), ([3], "pleural effusion", 0, 1)]
    index = open_index(place / "index")
    first, second = answer(place, index), answer(place, make_index(tmp_path / "other", findings))
    np.testing.assert_array_equal(first.chexpert, second.chexpert)
    for row in ROWS:
        same = [np.array_equal(first.answers[row][head], second.answers[row][head]) for head in HEADS]
        assert all(same) if row != "graph_oracle" else not any(same), row


def test_other_reports_change_neither_predicted_boxes_nor_what_is_read_there(place, tmp_path):
    model, tokenizer, config, _ = SSGVQA.from_pretrained(place / "checkpoints" / "best_model")
    findings = [(range(26), "nodule", 1, 1)]
    seen = []
    for index in (open_index(place / "index"), make_index(tmp_path / "other", findings)):
        batch = next(make_loader(VQADataset(index, "validate", config.data, tokenizer, train=False), 4)).on("cpu")
        with torch.inference_mode():
            features = model.encode_images(batch.images)
            boxes = model.predict_graph(features).boxes
        seen.append((boxes, roi_features(features.feature_map, boxes), batch.graph.present))
    assert torch.equal(seen[0][0], seen[1][0]) and torch.equal(seen[0][1], seen[1][1])
    assert not torch.equal(seen[0][2], seen[1][2])


def test_batch_size_does_not_change_the_real_models_answers(place):
    index = open_index(place / "index")
    first, second = answer(place, index, batch_size=2), answer(place, index, batch_size=32)
    for row in ROWS:
        for head in HEADS:
            np.testing.assert_allclose(first.answers[row][head], second.answers[row][head], atol=1e-4, err_msg=row)


def test_every_control_changes_what_the_real_model_sees(place):
    result = answer(place, open_index(place / "index"))
    for row in ROWS[1:]:
        for head in HEADS:
            assert not np.array_equal(result.answers[row][head], result.answers["model"][head]), (row, head)


# Files


def test_run_writes_predictions_and_both_reports(place, tmp_path, index_of_the_release):
    report, path = run_evaluation(job(place), settings(place, tmp_path / "results"))
    assert path == tmp_path / "results" / "report.json"
    reports = {"report.json", "report.md", "report.html"}
    assert {p.name for p in path.parent.iterdir()} == {"predictions.parquet", "controls"} | reports
    assert {p.stem for p in (path.parent / "controls").iterdir()} == set(ROWS[1:])
    stored = json.loads(path.read_text())
    assert stored["provenance"]["split"] == "validate"
    assert stored["provenance"]["synthetic"] is True and "no clinical meaning" in stored["provenance"]["notice"]
    assert stored["rows"] == json.loads(json.dumps(report["rows"]))
    assert sum(stored["counts"].values()) == 10 * len(PATIENTS)
    assert not (place / "checkpoints" / "test_ledger.jsonl").exists()


def test_controls_of_an_earlier_evaluation_do_not_stay(place, tmp_path, index_of_the_release):
    stale = tmp_path / "results" / "controls" / "blank_image.parquet"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"")
    run_evaluation(job(place, controls=False), settings(place, tmp_path / "results"))
    assert not stale.exists()


def test_every_look_at_the_test_split_is_recorded(place, tmp_path, index_of_the_release, caplog):
    ledger = place / "checkpoints" / "test_ledger.jsonl"
    ledger.write_text('{"cut off\n')
    for _ in range(2):
        run_evaluation(job(place, split="test", controls=False), settings(place, tmp_path))
    assert "has now been evaluated 2 time(s)" in caplog.text, "a damaged line ends nothing"
    lines = [json.loads(line) for line in ledger.read_text().splitlines()[1:]]
    assert len(lines) == 2
    assert lines[0]["model"] == "best_model" and len(lines[0]["model_sha256"]) == 64
    assert lines[0]["score"] == json.loads((tmp_path / "report.json").read_text())["headline"]["score"]
    ledger.unlink()


def test_ledger_that_cannot_be_written_shows_no_result(place, tmp_path, index_of_the_release):
    ledger = place / "checkpoints" / "test_ledger.jsonl"
    ledger.mkdir()
    try:
        with pytest.raises(CheckpointError, match="every look at the test split"):
            run_evaluation(job(place, split="test", controls=False), settings(place, tmp_path / "results"))
    finally:
        ledger.rmdir()
    assert not list((tmp_path / "results").iterdir())


# Answers of another model


def test_a_predictions_file_scores_as_the_model_that_wrote_it(place, tmp_path, index_of_the_release):
    own, path = run_evaluation(job(place), settings(place, tmp_path / "own"))
    file = path.parent / "predictions.parquet"
    again, _ = run_evaluation(job(place, predictions=file), settings(place, tmp_path / "again"))
    assert again["rows"]["model"] == own["rows"]["model"] and again["gain"] == own["gain"]
    assert again["rows"]["majority_text"] == own["rows"]["majority_text"]
    assert "came from a file" in again["missing_rows"]["graph_oracle"] and again["chexpert"] == {}
    alone = EvaluationJob(None, predictions=file)
    without, _ = run_evaluation(alone, settings(place, tmp_path / "alone"))
    assert without["rows"]["model"] == own["rows"]["model"] and without["gain"]["binary"]["value"] is None
    assert without["rows"]["majority_type"] == own["rows"]["majority_type"]


def test_a_model_compared_with_itself_differs_in_nothing(place, tmp_path, index_of_the_release):
    _, path = run_evaluation(job(place, controls=False), settings(place, tmp_path / "own"))
    other = path.parent / "predictions.parquet"
    report, _ = run_evaluation(job(place, controls=False, compare=other), settings(place, tmp_path / "both"))
    for one in (*report["compare"]["groups"].values(), *report["compare"]["types"].values()):
        assert one["value"] in (0.0, None) and one["low"] in (0.0, None)
    control = tmp_path / "own" / "nowhere.parquet"
    with pytest.raises(DataError, match="no predictions file"):
        run_evaluation(job(place, controls=False, compare=control), settings(place, tmp_path / "none"))


def test_where_the_model_looks_is_scored_when_asked(place, tmp_path, index_of_the_release):
    report, path = run_evaluation(
        job(place, controls=False, attention=True, pictures=True), settings(place, tmp_path / "looks")
    )
    assert report["grounding"]["questions"]["all"]["n"] == 0, "the hand-made index has no boxes"
    assert report["grounding"]["regions"]["all"]["mean_iou"] is None
    assert "data:image/jpeg;base64," in (path.parent / "report.html").read_text()


def test_temperatures_are_fitted_on_validation_and_used_on_test(place, tmp_path, index_of_the_release):
    file = job(place).model_path / "temperature.json"
    report, _ = run_evaluation(job(place, controls=False), settings(place, tmp_path / "validate"))
    fitted = json.loads(file.read_text())
    assert set(fitted) == {head.value for head in HEADS} | {"model_sha256"}
    assert not any("tempered" in of for of in report["confidence"].values())
    report, _ = run_evaluation(job(place, split="test", controls=False), settings(place, tmp_path / "test"))
    for group, of in report["confidence"].items():
        assert of["tempered"]["temperature"] == pytest.approx(fitted[GROUPS[group].value])
    for broken in ("{", "[1]", '{"binary": "x"}'):
        file.write_text(broken)
        with pytest.raises(CheckpointError, match="delete it and evaluate the validation split"):
            run_evaluation(job(place, split="test", controls=False), settings(place, tmp_path / "broken"))
    file.write_text(json.dumps(fitted | {"model_sha256": "another"}))
    ledger = place / "checkpoints" / "test_ledger.jsonl"
    with ledger.open("a") as lines:
        lines.write('{"cut off\n')
    report, _ = run_evaluation(job(place, split="test", controls=False), settings(place, tmp_path / "other"))
    assert not any("tempered" in of for of in report["confidence"].values())
    file.unlink()
    ledger.unlink()


def test_vqa_rad_goes_the_same_way(place, tmp_path):
    folder = tmp_path / "rad"
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    entries = {"trainset": [], "testset": []}
    for number in range(30):
        Image.fromarray(rng.integers(0, 255, (80, 90), dtype=np.uint8)).save(folder / "images" / f"i{number}.jpg")
        entry = {"qid": number, "image_name": f"i{number}.jpg", "image_organ": "CHEST", "answer_type": "CLOSED"}
        entry |= {"question": "Is there effusion?", "answer": ("yes", "no")[number % 2]}
        entries["trainset" if number < 24 else "testset"].append(entry)
    for name, part in entries.items():
        (folder / f"{name}.json").write_text(json.dumps(part))
    config = settings(place, tmp_path / "out")
    config.data.vqa_rad_path, config.data.index_dir = str(folder), str(tmp_path / "index")
    report, _ = run_evaluation(job(place, split="test"), config)
    assert report["provenance"]["questions"] == 6 and report["rows"]["model"]["binary"]["n"] == 6
    assert report["provenance"]["synthetic"] is False and report["rows"]["question_only"]["binary"]["n"] == 6
    run_evaluation(job(place, split="validate", controls=False), config)
    assert not (job(place).model_path / "temperature.json").exists(), "it would be another data set's"
    assert report["missing_rows"]["graph_oracle"] == "the data set has no scene graphs" and report["chexpert"] == {}
    assert report["provenance"]["dataset"] == "VQA-RAD"
    config.data.index_dir = str(place / "index")
    with pytest.raises(DataError, match="is not one of .*rad for this model"):
        run_evaluation(job(place, split="test"), config)
    (place / "checkpoints" / "test_ledger.jsonl").unlink()


# What does not fit


def test_no_look_is_spent_where_results_cannot_be_written(place, tmp_path, index_of_the_release):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", Path("/proc/results")):
        with pytest.raises(DataError, match="cannot write to .*--output_dir"):
            run_evaluation(job(place, split="test", controls=False), settings(place, folder))
    assert not (place / "checkpoints" / "test_ledger.jsonl").exists()


def test_the_folder_above_the_model_is_named(place, tmp_path):
    with pytest.raises(
        CheckpointError, match=r"holds the checkpoints of a training: give .*best_model as --model_path"
    ):
        check_folders(EvaluationJob(job(place).model_path.parent))


def test_a_table_of_other_patients_is_refused(place, tmp_path, index_of_the_release):
    config = settings(place, tmp_path / "out")
    config.evaluation.patients_table = str(tmp_path / "patients.csv")
    (tmp_path / "patients.csv").write_text("subject_id,gender\np10000032,F\n")
    with pytest.raises(DataError, match="none of the .* patients is in it"):
        run_evaluation(job(place, controls=False), config)


def test_without_controls_the_splits_are_still_compared(place, tmp_path, index_of_the_release):
    report, path = run_evaluation(job(place, controls=False), settings(place, tmp_path / "alone"))
    assert report["audit"]["patients"]["n"] == 0
    text = (path.parent / "report.md").read_text()
    assert "| blank_image |" not in text.split("## Head binary")[1]


@pytest.mark.parametrize(
    "names", [("pleural effusion", "cardiomegaly"), ("nodule", "cardiomegaly", "pleural effusion")]
)
def test_other_entities_than_the_models_are_refused(place, names):
    index = open_index(place / "index")
    with pytest.raises(DataError, match="other entities than the model"):
        check_fits(index, Vocabulary(names, ("lungs",)), place)


def test_other_classes_than_the_models_are_refused(place):
    index = open_index(place / "index")
    index.meta["label_space"] = "0"
    with pytest.raises(DataError, match="other classes"):
        check_fits(index, index.vocabulary, place)


def parsed(**options):
    from evaluate import parse

    return parse(["--model_path", "x", *(text for key, value in options.items() for text in (f"--{key}", value))])


def test_conflicts_with_the_checkpoint_are_named_and_the_checkpoint_wins(place, tmp_path):
    other = tmp_path / "mine.yaml"
    other.write_text("model: {hidden_dim: 64, fusion_heads: 2}\ndata: {image_size: 96, quality_grade: B}\n")
    loaded, conflicts = load_settings(parsed(config=str(other)), job(place))
    assert loaded.config.model.hidden_dim == 32 and loaded.config.data.image_size == 64
    assert loaded.config.data.quality_grade == "B"
    assert sorted(line.split(" = ")[0] for line in conflicts) == ["data.image_size", "model.hidden_dim"]
    assert all("mine.yaml" in line and "the checkpoint has" in line for line in conflicts)
    assert "hidden_dim: 32" in format_config(loaded) and "# checkpoint" in format_config(loaded)


def test_without_a_config_the_models_own_data_settings_are_used(place):
    loaded, conflicts = load_settings(parsed(output_dir="elsewhere"), job(place))
    assert isinstance(loaded, LoadedConfig) and not conflicts
    assert loaded.config.evaluation.bootstrap_samples == 50
    assert loaded.config.evaluation.output_dir == "elsewhere"


# The command line


def command(root, *arguments):
    return subprocess.run(
        [sys.executable, str(root / "evaluate.py"), *map(str, arguments)], capture_output=True, text=True, cwd=root
    )


def test_missing_model_folder_is_one_line_and_exit_4(root, tmp_path):
    result = command(root, "--model_path", tmp_path / "nowhere")
    assert result.returncode == 4 and len(result.stderr.splitlines()) == 1
    assert "no model folder" in result.stderr and "train_mimic_cxr.py" in result.stderr


def test_missing_text_only_control_is_one_line_that_says_how_to_mend_it(root, tmp_path):
    (tmp_path / "config.yaml").write_text("")
    result = command(root, "--model_path", tmp_path)
    assert result.returncode == 4 and len(result.stderr.splitlines()) == 1
    assert "question_only" in result.stderr and "--controls none" in result.stderr


def test_print_config_and_help_do_not_load_torch(root, place):
    code = (
        "import sys, evaluate\n"
        "try: evaluate.main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'pandas' not in sys.modules\n"
    )
    for arguments in (["--help"], ["--model_path", str(job(place).model_path), "--print_config"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=root)
        assert done.returncode == 0, done.stderr
        assert "image_size" in done.stdout or "--split" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ([], "one of --model_path and --predictions"),
        (["--predictions", "x", "--compute_attention"], "is not in its file"),
        (["--model_path", "x", "--graph", "none", "--compute_attention"], "regions of the predicted graph only"),
        (["--model_path", "x", "--cross_dataset"], "--vqa_rad_path"),
        (["--model_path", "x", "--vqa_rad_path", "y"], "--cross_dataset"),
    ],
)
def test_options_that_do_not_go_together(arguments, match, capsys):
    from evaluate import parse

    with pytest.raises(SystemExit):
        parse(arguments)
    assert match in capsys.readouterr().err
