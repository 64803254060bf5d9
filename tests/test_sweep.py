"""Sweep files made from the configuration, and the trials that an agent starts."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from configs import loading, sweep
from configs.mimic_cxr_config import TYPES, Config, load_config
from configs.validation import CHOICES, RANGES
from scripts import track
from utils.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent


def made(*parameters, base=None, **options) -> dict:
    return yaml.safe_load(sweep.sweep_file(parameters, base or Config(), **options))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("training.learning_rate=1e-5..1e-3", {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-3}),
        ("model.dropout=0..0.3", {"distribution": "uniform", "min": 0.0, "max": 0.3}),
        ("training.weight_decay= 0.02 .. 0.1", {"distribution": "uniform", "min": 0.02, "max": 0.1}),
        ("model.fusion_depth=2..6", {"distribution": "int_uniform", "min": 2, "max": 6}),
        ("data.questions_per_image=4..64", {"distribution": "q_log_uniform_values", "min": 4, "max": 64, "q": 1}),
        ("model.hidden_dim=256,512", {"values": [256, 512]}),
        ("training.seed=1", {"values": [1]}),
        ("model.fusion", {"values": ["sim", "concat", "none"]}),
        ("model.fusion=sim,none", {"values": ["sim", "none"]}),
        ("training.gradient_checkpointing", {"values": [True, False]}),
        ("model.drop_path", {"distribution": "uniform", "min": 0.0, "max": 0.95}),
    ],
)
def test_types_ranges_and_choices_are_those_of_the_configuration(text, words):
    key = text.split("=")[0]
    assert made(text)["parameters"] == {key: words}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["training.learning_rat=1..2"], "unknown key 'training.learning_rat': did you mean 'training.learning_rate'"),
        (["training.lr=1,2"], "did you mean 'training.learning_rate'"),
        (["learning_rate=1,2"], "did you mean 'training.learning_rate'"),
        (["training.output_dir=a,b"], "training.output_dir cannot be tried"),
        (["data.mimic_cxr_path"], "data.mimic_cxr_path cannot be tried"),
        (["evaluation.batch_size=1,2"], "evaluation.batch_size cannot be tried"),
        (["wandb.project=a"], "wandb.project cannot be tried"),
        (["model.visual_kwargs=1"], "model.visual_kwargs cannot be tried"),
        (["training.seed=1.5,2"], "'1.5' must be a whole number"),
        (["training.seed=1,,2"], "must be a whole number"),
        (["model.dropout=a..b"], "'a' must be a number"),
        (["model.dropout=0.3..0.1"], "the first end must be the lower one"),
        (["model.dropout=0.1..2"], "model.dropout = 2.0 must be from 0 to 0.95"),
        (["model.fusion=sim,other"], "model.fusion = 'other' must be one of sim, concat, none"),
        (["model.fusion=sim..none"], "model.fusion has no range"),
        (["training.fp16=false..true"], "training.fp16 has no range"),
        (["training.learning_rate"], "say what to try: training.learning_rate=low..high"),
        (["training.learning_rate=-1..1"], "training.learning_rate = -1.0 must be greater than 0"),
        (["model.hidden_dim=64..512"], "with model.hidden_dim=65: model.fusion_heads = 8 must divide model.hidden_dim"),
        (["model.hidden_dim=256,512", "model.fusion_heads=8,12"], "must divide model.hidden_dim (256)"),
        (["training.seed=1,2", "training.seed=3"], "training.seed is given twice"),
        (["training.seed=1,1"], "the same value twice"),
    ],
)
def test_what_cannot_be_tried_is_refused_with_the_reason(texts, message):
    with pytest.raises(ConfigError) as caught:
        sweep.sweep_file(texts, Config())
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_values_that_fit_only_together_are_allowed_together():
    """384 has no 8 heads of a whole width each times 5; with 12 heads 512 is what does not fit."""
    assert made("model.hidden_dim=384,768", "model.fusion_heads=12,24")["parameters"].keys() == {
        *("model.hidden_dim", "model.fusion_heads")
    }


def test_the_file_has_what_wandb_needs_and_no_path():
    base = load_config(
        ROOT / "configs" / "tiny_config.yaml", ["data.mimic_cxr_path=/patients", "wandb.name=words"]
    ).config
    text = sweep.sweep_file((), base, "bayes", "first")
    found = yaml.safe_load(text)
    assert found["metric"] == {"name": "val/headline", "goal": "maximize"}
    assert (found["name"], found["method"], found["program"]) == ("first", "bayes", "scripts/track.py")
    assert found["command"] == ["${env}", "${interpreter}", "${program}", "trial", "${args}"]
    assert "/patients" not in text and "words" not in text
    assert (ROOT / found["program"]).is_file()


def test_a_grid_needs_values():
    assert made("training.seed=1,2", method="grid")["method"] == "grid"
    with pytest.raises(ConfigError, match=r"--method grid: model\.dropout must have values"):
        sweep.sweep_file(["model.dropout=0..0.1"], Config(), "grid")


def test_every_setting_that_can_be_tried_has_choices_a_switch_or_numbers():
    keys = sweep.sweepable()
    assert {"training.learning_rate", "model.fusion", "training.compile", "data.image_size"} <= set(keys)
    assert all(TYPES[key] in (int, float, bool) or key in CHOICES for key in keys)
    assert not [key for key in keys if TYPES[key] is str and key not in CHOICES]


@given(st.sampled_from(sorted(set(sweep.sweepable()) & set(RANGES))), st.data())
def test_values_inside_the_ranges_make_trials_that_load(key, data):
    low, high = RANGES[key]
    numbers = st.integers(int(low), int(high)) if TYPES[key] is int else st.floats(low, high)
    values = data.draw(st.lists(numbers, min_size=1, max_size=4, unique=True))
    assert sweep.parse_parameter(f"{key}={','.join(map(repr, values))}") == (
        key,
        {"values": [TYPES[key](v) for v in values]},
    )
    (setting,) = sweep.trial_settings([f"--{key}={values[0]}"])
    assert loading.parse_set(setting, TYPES) == (key, values[0])


@given(st.text(max_size=40))
def test_any_text_is_a_parameter_or_one_clear_line(text):
    try:
        key, words = sweep.parse_parameter(text)
    except ConfigError as refused:
        said = str(refused)
    else:
        said = ""
        assert key in sweep.sweepable() and words
    assert len(said) < 400


# Trials


@pytest.mark.parametrize(
    ("arguments", "sets"),
    [
        (["--training.learning_rate=3e-05"], ["training.learning_rate=3e-05"]),
        (["--training.freeze_text_encoder=False"], ["training.freeze_text_encoder=False"]),
        (["--model.hidden_dim=512.0", "--model.fusion=sim"], ["model.hidden_dim=512", "model.fusion=sim"]),
    ],
)
def test_an_agents_arguments_become_settings(arguments, sets):
    assert sweep.trial_settings(arguments) == sets
    assert all(loading.parse_set(one, TYPES) for one in sets)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--training.lr=1", "did you mean 'training.learning_rate'"),
        ("--training.seed", "must have the form --section.key=value"),
        ("training.seed=1", "must have the form --section.key=value"),
        ("--training.output_dir=/x", "training.output_dir cannot be tried"),
        ("--model.hidden_dim=1.5", "must be a whole number"),
    ],
)
def test_other_arguments_are_refused(argument, message):
    with pytest.raises(ConfigError) as caught:
        sweep.trial_settings([argument])
    assert message in str(caught.value)


def test_a_trial_is_a_training_in_a_folder_of_its_own(monkeypatch, capsys):
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("WANDB_RUN_ID", "run2")
    monkeypatch.setenv(track.CONFIG, "configs/tiny_config.yaml")
    assert track.main(["trial", "--training.seed=5", "--model.dropout=0.2", "--dry_run"]) == 0
    words = shlex.split(capsys.readouterr().out)
    assert Path(words[1]).name == "train_mimic_cxr.py" and words[2:4] == ["--config", "configs/tiny_config.yaml"]
    assert (
        words[words.index("--output_dir") + 1].endswith("/sweep1-run2") and words[words.index("--resume") + 1] == "auto"
    )
    assert [words[n + 1] for n, word in enumerate(words) if word == "--set"] == ["training.seed=5", "model.dropout=0.2"]


def test_a_trial_without_an_agent_needs_a_folder(monkeypatch):
    for name in ("WANDB_SWEEP_ID", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="give --output_dir DIR"):
        track.main(["trial", "--training.seed=5", "--dry_run"])
    with pytest.raises(ConfigError, match=r"model\.dropout = 2\.0"):
        track.main(["trial", "--model.dropout=2", "--output_dir", "x", "--dry_run"])


# The command line


def call(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "scripts/track.py", *arguments], cwd=ROOT, capture_output=True, text=True)


def test_help_of_every_command_is_quick_and_shows_defaults():
    program = (
        "import sys, time; start = time.perf_counter(); sys.argv = ['scripts/track.py', *sys.argv[1:]]\n"
        "sys.path.insert(0, '.'); import runpy\n"
        "try: runpy.run_path('scripts/track.py', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print(time.perf_counter() - start, [name for name in ('torch', 'wandb', 'transformers') if name in sys.modules])"
    )
    for command in ((), ("replay",), ("sweep",), ("agent",), ("trial",)):
        fastest = 9.0
        for _ in range(5):  # another program may have the core at the moment
            done = subprocess.run(
                [sys.executable, "-c", program, *command, "--help"],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=True,
            )
            seconds, heavy = done.stdout.splitlines()[-1].split(" ", 1)
            fastest = min(fastest, float(seconds))
            if fastest < 1:
                break
        assert heavy == "[]" and fastest < 1
        options = done.stdout.split("\n  --")[1:]
        assert all("default" in " ".join(part.split()) for part in options), command


def test_a_sweep_is_printed_and_an_error_is_one_line():
    done = call("sweep", "--parameter", "model.fusion", "--config", "configs/tiny_config.yaml")
    assert yaml.safe_load(done.stdout)["parameters"] == {"model.fusion": {"values": ["sim", "concat", "none"]}}
    assert "scripts/track.py agent" in done.stderr and "tiny_config" not in done.stdout
    for arguments in (
        ["sweep", "--parameter", "model.fusio"],
        ["sweep", "--bogus"],
        ["replay", "/nowhere"],
        ["trial", "x"],
    ):
        done = call(*arguments)
        assert done.returncode in (2, 3) and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
