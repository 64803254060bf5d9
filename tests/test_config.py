"""Settings: who wins, what is refused and how, and that nothing is lost on the way through YAML."""

import argparse
import dataclasses

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import loading
from configs.mimic_cxr_config import (
    DEFAULT_CONFIG,
    TYPES,
    Config,
    config_from_args,
    format_config,
    from_dict,
    load_config,
    to_dict,
    to_yaml,
)
from configs.validation import CHOICES, NOT_EMPTY, NOT_NEGATIVE, POSITIVE, RANGES, head_weights, validate
from utils import cli
from utils.errors import ConfigError

PRESETS = sorted(path.name for path in DEFAULT_CONFIG.parent.glob("*_config.yaml"))


@pytest.fixture
def write(tmp_path):
    def write(text, name="mine.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def message(*args, **kwargs) -> str:
    with pytest.raises(ConfigError) as error:
        load_config(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


# The shipped files


def test_the_default_file_is_the_defaults_and_says_so():
    loaded = load_config(DEFAULT_CONFIG)
    assert loaded.config == Config()
    assert set(loaded.origin.values()) == {"default"}
    assert yaml.safe_load(DEFAULT_CONFIG.read_text()) == to_dict(Config())


def test_promised_keys_and_defaults():
    promised = {
        "model.visual_backbone": "convnext_base",
        "model.text_encoder": "emilyalsentzer/Bio_ClinicalBERT",
        "model.hidden_dim": 512,
        "training.batch_size_per_gpu": 16,
        "training.gradient_accumulation_steps": 4,
        "training.learning_rate": 2e-5,
        "training.num_epochs": 20,
        "training.fp16": True,
        "training.gradient_checkpointing": True,
        "training.hub_model_id": "",
        "deepspeed.enabled": True,
        "deepspeed.stage": 2,
    }
    assert {key: loading.get(load_config(DEFAULT_CONFIG).config, key) for key in promised} == promised


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_loads_and_comments_every_value(name):
    path = DEFAULT_CONFIG.parent / name
    load_config(path)
    for line in path.read_text().splitlines():
        if line.startswith("  "):
            assert "  # " in line, line


def test_the_tiny_preset_needs_no_network_and_ends_by_steps():
    config = load_config(DEFAULT_CONFIG.parent / "tiny_config.yaml").config
    assert not config.model.pretrained
    assert 0 < config.training.max_steps < 10_000
    assert config.training.precision == "fp32"


def test_no_setting_can_hold_a_secret():
    assert not [key for key in TYPES if any(word in key for word in ("token", "password", "secret", "api_key"))]


def test_every_number_has_a_rule():
    weights = {f"training.{name}" for name in head_weights(Config())}
    ruled = {*CHOICES, *RANGES, *POSITIVE, *NOT_NEGATIVE, *NOT_EMPTY, *weights}
    assert ruled <= set(TYPES)
    assert [key for key, kind in TYPES.items() if kind in (int, float) and key not in ruled] == []


# Precedence and origins


def test_command_line_beats_file_beats_hardware_beats_default(write):
    path = write("training: {batch_size_per_gpu: 8, num_epochs: 5, learning_rate: 1.0e-3}")
    hardware = {"training.batch_size_per_gpu": 32, "data.num_workers": 3, "training.learning_rate": 1.0}
    loaded = load_config(
        path, ["training.num_epochs=6"], {"training.learning_rate": 2e-4, "data.max_samples": None}, hardware
    )
    keys = ["batch_size_per_gpu", "num_epochs", "learning_rate", "seed"]
    assert [getattr(loaded.config.training, key) for key in keys] == [8, 6, 2e-4, 42]
    assert [loaded.origin[f"training.{key}"] for key in keys] == ["mine.yaml", "--set", "flag", "default"]
    assert loaded.config.data.num_workers == 3
    assert loaded.origin["data.num_workers"] == "hardware"
    assert loaded.origin["data.max_samples"] == "default"


def test_hardware_may_replace_what_the_shipped_file_says():
    loaded = load_config(DEFAULT_CONFIG, hardware={"training.batch_size_per_gpu": 64})
    assert loaded.config.training.batch_size_per_gpu == 64


def test_a_value_equal_to_the_default_is_still_the_users(write):
    path = write("training: {batch_size_per_gpu: 16}")
    loaded = load_config(path, hardware={"training.batch_size_per_gpu": 64})
    assert loaded.config.training.batch_size_per_gpu == 16


def test_bases_are_read_first_and_keep_their_names(write, tmp_path):
    (tmp_path / "sub").mkdir()
    write("training: {num_epochs: 3, seed: 1}", "base.yaml")
    write("base: ../base.yaml\ntraining: {seed: 2}", "sub/middle.yaml")
    loaded = load_config(write("base: sub/middle.yaml\ndata: {max_samples: 9}", "top.yaml"))
    assert (loaded.config.training.num_epochs, loaded.config.training.seed, loaded.config.data.max_samples) == (3, 2, 9)
    origins = [loaded.origin[key] for key in ("training.num_epochs", "training.seed", "data.max_samples")]
    assert origins == ["base.yaml", "middle.yaml", "top.yaml"]


def test_paths_come_from_the_environment_last(monkeypatch):
    monkeypatch.setenv("MIMIC_CXR_PATH", "/from/env")
    loaded = load_config()
    assert loaded.config.data.mimic_cxr_path == "/from/env"
    assert loaded.origin["data.mimic_cxr_path"] == "environment"
    loaded = load_config(flags={"data.mimic_cxr_path": "/given"})
    assert loaded.config.data.mimic_cxr_path == "/given"


def test_fp16_false_means_single_precision_whatever_the_hardware_says():
    loaded = load_config(None, ["training.fp16=false"], hardware={"training.precision": "bf16"})
    assert loaded.config.training.precision == "fp32"
    assert loaded.origin["training.precision"] == "--set"


def test_options_of_a_script():
    parser = argparse.ArgumentParser()
    cli.add_common_arguments(parser)
    parser.add_argument("--epochs", type=int)
    args = parser.parse_args(
        ["--mimic_qa_path", "/qa", "--epochs", "3", "--set", "training.seed=1", "--set", "wandb.name=x=y"]
    )
    loaded = config_from_args(args, {"epochs": "training.num_epochs"})
    assert loaded.config.data.mimic_qa_path == "/qa"
    assert loaded.config.training.num_epochs == 3
    assert loaded.config.training.seed == 1
    assert loaded.config.wandb.name == "x=y"


# What is refused


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (
            "training: {learning_rat: 1}",
            ["mine.yaml", "'training.learning_rat'", "did you mean 'training.learning_rate'?"],
        ),
        ("training: {hidden_dim: 1}", ["did you mean 'model.hidden_dim'?"]),
        ("training: {lr: 1}", ["did you mean 'training.learning_rate'?"]),
        ("learning_rate: 1", ["did you mean 'training.learning_rate'?"]),
        ("trainng: {seed: 1}", ["'trainng'", "did you mean 'training'?"]),
        ("zzzz: 1", ["'zzzz'", "default_config.yaml"]),
        ("training: {num_epochs: many}", ["mine.yaml", "training.num_epochs = 'many'", "whole number"]),
        ("training: {num_epochs: 1.5}", ["whole number"]),
        ("training: {num_epochs: true}", ["whole number"]),
        ("training: {learning_rate: .nan}", ["a number"]),
        ("training: {learning_rate: true}", ["a number"]),
        ("training: {fp16: 1}", ["true or false"]),
        ("model: {text_encoder: true}", ["text"]),
        ("model: {fusion: null, dropout: null}", ["a number"]),
        ("data: {question_types: B03_is_abnormal}", ["a list"]),
        ("model: {visual_kwargs: [1]}", ["a mapping"]),
        ("training: 3", ["training", "section"]),
        ("- 1", ["mine.yaml", "sections"]),
        ("training: {seed: 1, seed: 2}", ["mine.yaml", "line 1", "'seed'", "twice"]),
        ("training: {seed: 1}\ntraining: {}", ["line 2", "twice"]),
        ("a: [", ["mine.yaml", "not valid YAML"]),
        ("!!python/object/apply:os.getcwd []", ["not valid YAML"]),
        ("base: missing.yaml", ["missing.yaml", "no such", "mine.yaml"]),
        ("base: mine.yaml", ["its own base"]),
        ("base: [a]", ["base", "one YAML file"]),
    ],
)
def test_files_that_cannot_be_meant(text, parts, write):
    said = message(write(text))
    for part in parts:
        assert part in said


def test_a_missing_file_and_a_folder(tmp_path):
    assert "no such configuration file" in message(tmp_path / "none.yaml")
    assert "cannot be read" in message(tmp_path)


@pytest.mark.parametrize(
    ("sets", "parts"),
    [
        (["training.seed"], ["section.key=value"]),
        (["training.sed=1"], ["did you mean 'training.seed'?"]),
        (["training.seed=[1"], ["--set", "not valid YAML"]),
        (["training.seed=x"], ["--set", "training.seed = 'x'", "whole number"]),
        (["training.seed=1", "training.seed=2"], ["keep one"]),
        (["data.draw=balanced"], ["training.max_steps"]),
        (["model.fusion=simm"], ["model.fusion = 'simm'", "--set", "sim, concat, none"]),
        (["model.hidden_dim=500"], ["model.fusion_heads = 8", "divide", "500"]),
        (["data.image_size=225"], ["multiple of model.visual_stride"]),
        (["data.image_store_size=100"], ["at least data.image_size"]),
        (["training.fp16=false", "training.precision=bf16"], ["contradicts training.fp16"]),
        (["training.graph_none_fraction=0.95"], ["graph_oracle_fraction"]),
        (["model.text_kwargs={hidden_size: 64}"], ["model.pretrained"]),
        (["training.vqa_loss_weight=0"], ["no answer head"]),
        (["training.hub_model_id=justaname"], ["user/name"]),
        (["training.output_dir="], ["must not be empty"]),
        (["deepspeed.stage=4"], ["0, 1, 2, 3"]),
    ],
)
def test_values_that_cannot_work(sets, parts):
    said = message(None, sets)
    for part in parts:
        assert part in said


def test_a_flag_and_a_set_that_differ_are_refused():
    assert "keep one" in message(None, ["training.num_epochs=4"], {"training.num_epochs": 3})
    load_config(None, ["training.num_epochs=3"], {"training.num_epochs": 3})


def test_all_problems_are_listed_at_once():
    said = message(None, ["training.num_epochs=0", "model.dropout=2", "data.view_filter=front"])
    assert all(key in said for key in ("training.num_epochs = 0", "model.dropout = 2.0", "data.view_filter = 'front'"))


def test_wrong_hardware_advice_is_a_bug_that_shows():
    assert "hardware advice" in message(None, hardware={"training.batchsize": 3})


# Forms of values


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("training.learning_rate=2e-5", "training.learning_rate", 2e-5),
        ("training.learning_rate=1", "training.learning_rate", 1.0),
        ("wandb.enabled=false", "wandb.enabled", "false"),
        ("wandb.name=007", "wandb.name", "007"),
        ("wandb.name='quoted'", "wandb.name", "quoted"),
        ("wandb.name=", "wandb.name", ""),
        ("data.question_types=[a, b]", "data.question_types", ["a", "b"]),
        ("model.visual_kwargs={depths: [1, 1]}", "model.visual_kwargs", {"depths": [1, 1]}),
        ("data.quality_grade=A++", "data.quality_grade", "A++"),
        (" training.seed = 3 ", "training.seed", 3),
    ],
)
def test_set_reads_values_as_people_write_them(text, key, value):
    found = loading.get(load_config(None, [text]).config, key)
    assert found == value
    assert type(found) is type(value)


def test_yaml_false_and_null_are_understood_where_they_have_a_meaning(write):
    config = load_config(
        write("wandb: {enabled: false, name: null}\ndata: {question_types: null}\nevaluation:\n")
    ).config
    assert (config.wandb.enabled, config.wandb.name, config.data.question_types) == ("false", "", [])


VALUES = {
    int: st.integers(1, 10**6),
    float: st.floats(0, 1e6),
    bool: st.booleans(),
    str: st.text(),
    list[str]: st.lists(st.text(), max_size=3),
    dict: st.dictionaries(st.text(), st.integers() | st.lists(st.text(), max_size=2) | st.floats(0, 1), max_size=3),
}


@st.composite
def configs(draw):
    config = Config()
    for key in draw(st.lists(st.sampled_from(sorted(TYPES)), max_size=8)):
        loading.put(config, key, draw(VALUES[TYPES[key]]))
    return config


@settings(max_examples=30)
@given(configs())
def test_yaml_and_back_is_the_identity(config):
    assert from_dict(yaml.safe_load(to_yaml(config))) == config


@settings(max_examples=30)
@given(configs())
def test_the_printed_configuration_is_yaml_with_an_origin_on_every_line(config):
    from configs.mimic_cxr_config import LoadedConfig

    text = format_config(LoadedConfig(config, dict.fromkeys(TYPES, "somewhere")))
    assert from_dict(yaml.safe_load(text)) == config
    settings = [line for line in text.split("\n") if line.startswith("  ")]
    assert len(settings) == len(TYPES)
    assert all(line.endswith("  # somewhere") for line in settings)


@given(st.sampled_from(sorted(TYPES)), st.data())
def test_one_wrong_letter_is_named_and_mended(key, data):
    section, name = key.split(".")
    place = data.draw(st.integers(0, len(name) - 1))
    typo = name[:place] + "q" + name[place + 1 :]
    if len(name) < 5 or f"{section}.{typo}" in TYPES:
        return
    with pytest.raises(ConfigError) as error:
        from_dict({section: {typo: 1}})
    assert repr(f"{section}.{typo}") in str(error.value)
    assert repr(key) in str(error.value)


def test_from_dict_keeps_defaults_and_is_strict():
    assert from_dict({"training": {"seed": 3}}) == dataclasses.replace(
        Config(), training=dataclasses.replace(Config().training, seed=3)
    )
    with pytest.raises(ConfigError, match="checkpoint"):
        from_dict({"training": {"sed": 3}}, "checkpoint")


def test_two_configurations_share_nothing():
    one, two = Config(), Config()
    one.data.question_types.append("x")
    one.model.visual_kwargs["a"] = 1
    assert two == Config()
    validate(two)
