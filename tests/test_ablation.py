"""The runner of ablations: what it plans, where it goes on, and what its table says."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from configs import loading
from configs.mimic_cxr_config import TYPES, Config, DataConfig, load_config
from tests.evaluation_stub import make_setup
from training import ablation
from training.evaluation import evaluate
from training.evaluation_run import question_set
from training.predictions import Predictions
from utils.errors import ConfigError, UserError

DEFAULT = "configs/default_config.yaml"
TINY = "configs/tiny_config.yaml"


def test_every_preset_is_a_valid_delta_and_changes_something(tmp_path):
    names = ablation.known_ablations()
    assert {"no_graph", "graph_not_read", "no_image", "random_text", "concat", "one_head"} <= set(names)
    base = load_config(DEFAULT).config
    for name in names:
        runs = ablation.plan_runs(DEFAULT, [], [name], [0], tmp_path / name)
        (run,) = [r for r in runs if r.ablation == name]
        values = yaml.safe_load((ablation.PRESETS / f"{name}.yaml").read_text())
        for key, value in loading.flatten(values, TYPES, name).items():
            assert loading.get(run.config, key) == value != loading.get(base, key), key


def test_runs_have_folders_and_seeds_of_their_own(tmp_path):
    runs = ablation.plan_runs(TINY, ["training.max_steps=5"], ["concat"], range(2), tmp_path)
    assert [(r.ablation, r.seed) for r in runs] == [("full", 0), ("full", 1), ("concat", 0), ("concat", 1)]
    assert {r.config.training.max_steps for r in runs} == {5}
    assert [r.config.training.seed for r in runs] == [0, 1, 0, 1]
    assert len({r.config.training.output_dir for r in runs}) == 4
    assert [r.config.model.fusion for r in runs] == ["sim", "sim", "concat", "concat"]


def test_the_same_plan_goes_on_and_another_is_refused(tmp_path):
    ablation.plan_runs(TINY, [], ["concat"], [0], tmp_path)
    ablation.plan_runs(TINY, [], ["concat"], [0], tmp_path)
    with pytest.raises(ConfigError, match="other settings"):
        ablation.plan_runs(TINY, ["training.max_steps=5"], ["concat"], [0], tmp_path)
    with pytest.raises(ConfigError, match="no ablation 'nothing': there are concat"):
        ablation.plan_runs(TINY, [], ["nothing"], [0], tmp_path / "other")


def test_a_set_that_is_no_release_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match="data.own_data: ablations are trained from nothing"):
        ablation.plan_runs(TINY, ["data.own_data=films.csv"], ["concat"], [0], tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_what_would_train_the_full_model_again_is_left_out(tmp_path):
    config = load_config(TINY).config
    assert set(ablation.known_ablations()) - set(ablation.changing_ablations(config)) == {"random_text"}
    with pytest.raises(ConfigError, match="--ablation random_text: with model.pretrained=false this is the full model"):
        ablation.plan_runs(TINY, [], ["random_text"], [0], tmp_path)
    config.model.pretrained = True
    assert ablation.changing_ablations(config) == ablation.known_ablations()


def test_a_finished_training_is_not_trained_again(tmp_path, monkeypatch):
    (run,) = ablation.plan_runs(TINY, [], [], [0], tmp_path)
    calls = []
    monkeypatch.setattr(ablation, "_call", lambda program, *arguments: calls.append((program, arguments)))
    ablation.carry_out(run, "validate")
    (run.folder / "checkpoints" / "best_model" / "question_only").mkdir(parents=True)
    ablation.carry_out(run, "validate")
    assert [program for program, _ in calls] == ["train_mimic_cxr.py", "evaluate.py", "evaluate.py"]
    assert "--resume" in calls[0][1] and "predicted" in calls[1][1]


def test_models_without_graph_are_evaluated_without_one(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(ablation, "_call", lambda program, *arguments: calls.append(arguments))
    for run in ablation.plan_runs(TINY, [], ["no_graph", "graph_not_read"], [0], tmp_path):
        ablation.carry_out(run, "validate")
    graphs = [arguments[arguments.index("--graph") + 1] for arguments in calls if "--graph" in arguments]
    assert graphs == ["predicted", "none", "none"]


def test_a_program_that_fails_ends_the_runner(tmp_path, monkeypatch):
    (run,) = ablation.plan_runs(
        TINY, ["data.mimic_cxr_path=/nowhere", "data.mimic_qa_path=/nowhere"], [], [0], tmp_path
    )
    with pytest.raises(UserError, match=r"train_mimic_cxr\.py ended with"):
        ablation.carry_out(run, "validate")


def test_the_table_has_means_deviations_and_paired_differences(tmp_path, monkeypatch):
    setup = make_setup(tmp_path / "data", list(range(40)))
    index = setup.dataset.index
    questions = question_set(index, "validate", DataConfig())
    answers = evaluate(setup.model, None, setup.dataset, None).answers["model"]
    truth = {
        head: np.eye(values.shape[1])[targets] if targets.ndim == 1 else targets.astype(float)
        for head, values in answers.items()
        for targets in [questions.targets(head)]
    }
    runs = []
    for name, told in (("full", truth), ("concat", answers)):
        for seed in range(2):
            run = ablation.AblationRun(name, seed, tmp_path / name / str(seed), Config())
            Predictions.of(questions, told).write(run.predictions("validate"), {})
            runs.append(run)
    monkeypatch.setattr(ablation, "ensure_index", lambda config: index)
    table = ablation.compare(runs, "validate", samples=200, confidence=0.95)
    full, other = table["full"]["binary"], table["concat"]["binary"]
    assert full["values"] == [1.0, 1.0] and full["sd"] == 0 and full["difference"]["value"] == 0
    assert other["difference"]["value"] == pytest.approx(other["mean"] - 1)
    assert other["difference"]["high"] < 0
    lines = ablation.table_lines(table, 2)
    assert lines[2].startswith("| full | 1.000 ± 0.000 |") and "[" in lines[3] and "[" not in lines[2]
    ablation.write_table(tmp_path, table, 2)
    assert (tmp_path / "ablations.md").read_text().splitlines() == lines and (tmp_path / "ablations.json").exists()
