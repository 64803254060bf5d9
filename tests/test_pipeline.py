"""The whole path through the four commands, on a small look-alike release: what users type, what they get, what they get wrong."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.index import open_index
from data.label_space import HEADS
from data.synthetic import write_release
from tests.mini_index import rewrite_column

ROOT = Path(__file__).resolve().parent.parent
ROWS = (
    "model majority_type majority_text question_only blank_image shuffled_image graph_none graph_shuffled graph_oracle"
).split()


def run(*command: str, release: Path | None = None, code: int = 0) -> subprocess.CompletedProcess:
    """A command of the project, in a process of its own, as a user would type it."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MIMIC_")}
    if release:
        environment |= {
            "MIMIC_CXR_PATH": str(release / "mimic-cxr-jpg"),
            "MIMIC_QA_PATH": str(release / "mimic-ext-cxr-qba"),
        }
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("release") / "r"
    write_release(folder, 40, 5, workers=1, progress=False)
    return folder


def settings(index: Path, *more: str) -> list[str]:
    values = [f"data.index_dir={index}", "training.max_steps=3", "evaluation.bootstrap_samples=50", *more]
    last = {value.partition("=")[0]: value for value in values}
    return ["--config", "configs/tiny_config.yaml", *[part for value in last.values() for part in ("--set", value)]]


@pytest.fixture(scope="module")
def trained(release, tmp_path_factory) -> Path:
    """A folder with index, checkpoints and results of the four commands."""
    folder = tmp_path_factory.mktemp("run")
    options = settings(folder / "index")
    run("setup_data.py", *options, "--num_workers", "1", release=release)
    run("analyze_data.py", *options, "--output_dir", str(folder / "analysis"), release=release)
    run("train_mimic_cxr.py", *options, "--output_dir", str(folder / "checkpoints"), release=release)
    model = str(folder / "checkpoints" / "best_model")
    run("evaluate.py", "--model_path", model, *options, "--output_dir", str(folder / "results"), release=release)
    return folder


def test_the_four_commands_write_what_they_promise(trained):
    report = json.loads((trained / "results" / "report.json").read_text())
    assert set(report["rows"]) == set(ROWS)
    for row in ROWS:
        assert set(report["rows"][row]) == {"binary", "category", "category_copy", "region", "severity"}
    assert json.loads((trained / "analysis" / "analysis_report.json").read_text())["summary"]["is_ready"]
    best = trained / "checkpoints" / "best_model"
    for name in ("model.safetensors", "config.yaml", "label_space.json", "metrics.json", "README.md", "question_only"):
        assert (best / name).exists(), name
    assert "no clinical meaning" in (best / "README.md").read_text()
    assert "no clinical meaning" in (trained / "results" / "report.md").read_text()
    lines = [json.loads(line) for line in (trained / "checkpoints" / "metrics.jsonl").read_text().splitlines()]
    assert any("train/loss" in line for line in lines) and any("val/binary_n" in line for line in lines)


def test_predictions_have_the_promised_columns_and_key(trained):
    table = pq.read_table(trained / "results" / "predictions.parquet")
    assert table.column_names == [
        "subject_id", "study_id", "image_id", "question_id", "question_type", "head",
        "probabilities", "prediction", "target",
    ]  # fmt: skip
    assert table.schema.field("prediction").type == pa.list_(pa.int8())
    key = set(zip(*(table[c].to_pylist() for c in ("subject_id", "study_id", "question_id", "image_id")), strict=True))
    assert len(key) == len(table)
    sizes = {"binary": 2, "category": 14, "region": 26, "severity": 4}
    for head, probabilities in zip(table["head"].to_pylist(), table["probabilities"].to_pylist(), strict=True):
        assert len(probabilities) == sizes[head]


def test_counts_of_the_report_are_those_of_the_release(trained, release):
    import pandas as pd

    report = json.loads((trained / "results" / "report.json").read_text())
    tables = release / "mimic-ext-cxr-qba" / "metadata"
    questions = pd.read_parquet(tables / "question_metadata.parquet").reset_index()
    asked = questions[questions["split"].isin(["val", "validate", "valid"])]
    assert sum(report["counts"].values()) == len(asked) > 0


def test_a_second_training_into_the_same_folder_is_refused(trained, release):
    options = [*settings(trained / "index"), "--output_dir", str(trained / "checkpoints")]
    done = run("train_mimic_cxr.py", *options, release=release, code=4)
    assert one_line(done) and "--resume auto" in done.stderr


def one_line(done: subprocess.CompletedProcess) -> bool:
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    return len(lines) == 1 and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["setup_data.py", "--mimic_cxr_path", "nowhere", "--mimic_qa_path", "nowhere"], "nowhere"),
        (["setup_data.py"], "mimic_cxr_path"),
        (["train_mimic_cxr.py", "--set", "training.lerning_rate=1"], "training.learning_rate"),
        (["train_mimic_cxr.py", "--config", "no.yaml"], "no.yaml"),
        (["evaluate.py", "--model_path", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_get_one_clear_line(command, words):
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith("MIMIC_")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode not in (0, 1), done.stderr
    assert one_line(done) and words in done.stderr, done.stderr


def test_a_release_without_validation_split_is_not_ready_and_cannot_train(release, tmp_path):
    import pandas as pd

    copy = tmp_path / "copy"
    shutil.copytree(release, copy)
    path = next((copy / "mimic-cxr-jpg").glob("*split.csv.gz"))
    pd.read_csv(path).replace({"split": {"validate": "train"}}).to_csv(path, index=False)
    options = settings(tmp_path / "index")
    done = run("analyze_data.py", *options, "--output_dir", str(tmp_path / "a"), release=copy, code=1)
    assert "not ready" in done.stdout and "validate" in done.stdout
    done = run("train_mimic_cxr.py", *options, "--output_dir", str(tmp_path / "c"), release=copy, code=3)
    assert one_line(done) and "validate" in done.stderr
    assert not (tmp_path / "c" / "best_model").exists()


def test_an_empty_archive_is_named(release, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(release, copy)
    (copy / "mimic-ext-cxr-qba" / "qa.zip").write_bytes(b"")
    done = run("setup_data.py", *settings(tmp_path / "index"), release=copy, code=3)
    assert one_line(done) and "qa.zip" in done.stderr


@pytest.mark.slow
def test_ablations_are_trained_compared_and_not_trained_again(trained, release, tmp_path):
    command = ["scripts/ablate.py", *settings(trained / "index"), "--ablation", "no_graph", "--seeds", "1"]
    command += ["--workdir", str(tmp_path / "ablations")]
    plan = run(*command, "--dry_run", release=release).stdout
    assert "2 runs of 2 models with 1 seed(s), 0 of them done" in plan and "hours of training" in plan
    first = run(*command, release=release).stdout
    rows = [line for line in first.splitlines() if line.startswith("| no_graph | ")]
    assert len(rows) == 1 and "; " in rows[0] and "[" in rows[0]
    again = run(*command, release=release).stdout
    assert "2 of them done" in again and "run 1 of" not in again and rows[0] in again


@pytest.mark.slow
def test_on_shuffled_answers_nothing_is_learnt(trained, release, tmp_path):
    """With answers permuted between the studies of a split, the model falls to the majority rows: no way from target to answer."""
    index = tmp_path / "index"
    shutil.copytree(trained / "index", index)
    opened = open_index(index)
    questions, rng = opened.questions, np.random.default_rng(0)
    targets = questions["target"].copy()
    split = opened.studies["split"][questions["study"]]
    # inside a split: over both, more "yes" in one would mean fewer in the other
    for text in np.unique(questions["text"]):
        for number in range(3):
            rows = np.flatnonzero((questions["text"] == text) & (split == number))
            targets[rows] = rng.permutation(targets[rows])
    rewrite_column(index, "questions", "target", targets)
    options = settings(index, "training.max_steps=40", "data.questions_per_image=16", "data.quality_grade=all")
    run("train_mimic_cxr.py", *options, "--output_dir", str(tmp_path / "c"), release=release)
    model = str(tmp_path / "c" / "best_model")
    run("evaluate.py", "--model_path", model, *options, "--output_dir", str(tmp_path / "r"), release=release)
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    assert abs(report["rows"]["model"]["binary"]["balanced_accuracy"] - 0.5) < 0.1
    for head in HEADS:
        low = report["gain"][head.value]["low"]
        assert low is None or low < 0.05, head
