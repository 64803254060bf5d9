"""What CONTRIBUTING.md says of new heads, backbones, text encoders and data sets is done in a copy of the repository, and works."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel

from configs.mimic_cxr_config import load_config
from data import label_space
from data.answer_text import class_target
from data.label_space import HEADS, Head, HeadSpec
from models import encoders
from models.encoders import ImageEncoder, QuestionEncoder, no_pooler, resolve_visual
from models.mimic_vqa_model import SSGVQA
from tests import small_model
from tests.extending import ROOT, apply, blocks, changes, copy_with, run_there
from tests.own_files import draw
from tests.tiny_training import make_config

HEAD, BACKBONE, TEXT, DATA = "Add a head", "Add an image backbone", "Add a text encoder", "Add a data set"
SECTIONS = (HEAD, BACKBONE, TEXT, DATA)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """Section -> the copy that has its changes, made once."""
    made = {}

    def of(section):
        if section not in made:
            made[section] = copy_with(section, tmp_path_factory.mktemp("copy"))
        return made[section]

    return of


# The document


@pytest.mark.parametrize("section", SECTIONS)
def test_the_blocks_fit_the_code_and_pass_the_linter(section, copy):
    files = [change.file for change in changes(section)]
    assert files
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, *(file for file in files if file.endswith(".py"))],
            cwd=copy(section), capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout


def test_the_declaration_of_a_head_and_that_of_a_set_have_one_place():
    """The other blocks of these sections are a rule of its own, the weight as a setting, and the setting's two lines."""
    assert [change.file for change in changes(HEAD)] == [
        "data/label_space.py", "data/answers.py", "configs/mimic_cxr_config.py", "configs/default_config.yaml",
    ]  # fmt: skip
    assert [change.file for change in changes(DATA)] == [
        "data/slake.py", "configs/mimic_cxr_config.py", "configs/default_config.yaml",
    ]  # fmt: skip


def test_a_block_that_does_not_fit_would_be_found(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\ny = 2\nx = 3\ny = 2\n")
    document = "## Part\n```diff\n--- a.py\n@@\n {}\n+z = 3\n```\n"
    for line, times in (("x = 2", 0), ("y = 2", 2)):
        with pytest.raises(AssertionError, match=f"a.py has {times} times"):
            apply("Part", tmp_path, document.format(line))
    (tmp_path / "a.py").write_text("w = 0\nx = 1\n")
    apply("Part", tmp_path, document.format("x = 1"))
    assert (tmp_path / "a.py").read_text() == "w = 0\nx = 1\nz = 3\n"


# A head


def test_a_new_head_reads_answers_and_is_another_label_space(copy):
    found = run_there(copy(HEAD), "head_reads")
    assert found["targets"] == [0b110, "view_unrecorded", "no_class_named", "no_class_named"]
    assert found["own"] == [0b101, None, None] and found["type"] == "B14_describe_acquisition"
    assert found["classes"] == ["AP", "PA", "LATERAL", "LL"]
    assert found["checksum"] != label_space.checksum()


def test_the_label_space_of_what_is_stored_is_as_it_was():
    """Indexes and model folders that exist have this checksum: another one refuses them all."""
    assert label_space.checksum() == "43d7173b1aa207504602b156fde9d6b6140c8fbc45cbb5095c92b643e5267096"


@pytest.mark.slow
def test_a_new_head_is_trained_scored_and_reported(copy, tmp_path):
    done = run_there(copy(HEAD), "head_trains", tmp_path)
    assert done["codes"] == [0, 0, 0]
    assert np.mean(done["losses"][-3:]) < 0.6 * done["losses"][0], "it learns what can be learnt"
    best = tmp_path / "run" / "best_model"
    assert "view (4 classes)" in (best / "README.md").read_text()
    assert any(name.startswith("heads.view.") for name in load_file(best / "model.safetensors"))
    assert "view" in json.loads((best / "metrics.json").read_text())["validation"]["heads"]

    results = tmp_path / "results"
    report = json.loads((results / "report.json").read_text())
    asked = report["rows"]["model"]["view"]
    assert asked["n"] == 3 and report["counts"]["view_unrecorded"] == 1
    assert 0 <= asked["micro_f1"] <= 1 and "view" in report["headline"]["heads"]
    for row in ("majority_type", "question_only", "blank_image", "graph_none", "graph_oracle"):
        assert report["rows"][row]["view"]["n"] == asked["n"], row
    assert report["gain"]["view"]["metric"] == "micro_f1" and set(report["classes"]["view"]) == {
        "AP",
        "PA",
        "LATERAL",
        "LL",
    }
    assert report["by_type"]["B14_describe_acquisition"]["model"]["n"] == asked["n"]
    answers = pd.read_parquet(results / "predictions.parquet").query("head == 'view'")
    assert len(answers) == asked["n"] and {len(values) for values in answers["probabilities"]} == {4}
    assert "## Head view" in (results / "report.md").read_text() and "All metrics: view" in (
        results / "report.html"
    ).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("classes", "options"),
    [
        (("one",), {"multi_label": False}),
        (("same", "same"), {"multi_label": False}),
        (tuple(map(str, range(33))), {"multi_label": True}),
        (tuple(map(str, range(129))), {"multi_label": False}),
        (("low", "high"), {"multi_label": True, "ordered": True}),
    ],
)
def test_heads_that_no_file_format_could_hold_are_refused(classes, options):
    with pytest.raises(ValueError, match="different classes|exclude each other"):
        HeadSpec(classes, **options)
    HeadSpec(tuple(map(str, range(32))), multi_label=True)


NAMES = [(head, name) for head, spec in HEADS.items() for name in spec.classes]


@given(st.sampled_from(NAMES), st.sampled_from((str.upper, str.lower, str.title)), st.sampled_from(("", "It is ", "(")))
def test_a_class_is_read_by_its_own_name_whatever_the_case(named, case, before):
    head, name = named
    target = class_target(head, before + case(name) + ".")
    number = HEADS[head].classes.index(name)
    if any(word in name.lower().split() for word in ("no", "none")):
        assert target is None, "it cannot be told from a negation"
    else:
        assert target == (1 << number if HEADS[head].multi_label else number)


@given(st.sampled_from(list(Head)), st.text(max_size=40))
def test_reading_any_text_gives_a_target_or_none(head, text):
    target = class_target(head, text)
    spec = HEADS[head]
    assert target is None or (0 < target < 1 << len(spec.classes) if spec.multi_label else target < len(spec.classes))


def test_two_classes_where_one_is_right_are_not_guessed():
    assert class_target(Head.SEVERITY, "mild to severe") is None
    assert class_target(Head.REGION, "heart, left lung") == 0b1_0000_0010
    assert class_target(Head.REGION, "left lungs") is None, "not a class by its own name"


# A backbone


def documented(section: str, tmp_path) -> dict:
    """The settings of a section's YAML."""
    (block,) = blocks(section, "yaml")
    (tmp_path / "own_config.yaml").write_text(
        block.replace("default_config.yaml", f"{ROOT}/configs/default_config.yaml")
    )
    given = yaml.safe_load(block)["model"]
    loaded = load_config(tmp_path / "own_config.yaml").config.model
    assert {name: getattr(loaded, name) for name in given} == given
    return given


@pytest.mark.parametrize("name", [None, "test_efficientnet", "test_vit"])
def test_a_backbone_of_timm_needs_its_name_alone(name, tmp_path):
    given = documented(BACKBONE, tmp_path)
    if name:
        given |= {"visual_backbone": name, "visual_stride": 16}
    config = small_model.model_config(**given)
    encoder = ImageEncoder(config, resolve_visual(config, small_model.SIZE)).eval()
    with torch.no_grad():
        features = encoder(small_model.images())
    side = small_model.SIZE // config.visual_stride
    assert features.feature_map.shape == (small_model.IMAGES, config.hidden_dim, side, side)
    assert not torch.equal(features.pooled[0], features.pooled[1])


@pytest.mark.slow
def test_a_network_of_ones_own_needs_a_file_and_a_line(copy):
    assert run_there(copy(BACKBONE), "own_backbone") == {
        "architecture": "plain_cnn",
        "shape": [3, 32, 2, 2],
        "same": True,
    }


# A text encoder


def text_model(kind: str):
    """A small encoder of this `model_type` with random weights."""
    size = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "hidden_size": 24}
    if kind == "distilbert":
        size = {"n_layers": 2, "n_heads": 2, "hidden_dim": 32, "dim": 24}
    tokenizer = small_model.small_tokenizer()
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **size)
    torch.manual_seed(4)
    return AutoModel.from_config(config, **no_pooler(config))


def states(kind: str, packable: bool, monkeypatch) -> torch.Tensor:
    """(P, D) of the real word pieces of all texts."""
    known = set(encoders.PACKABLE) | {kind} if packable else set(encoders.PACKABLE) - {kind}
    monkeypatch.setattr(encoders, "PACKABLE", tuple(known))
    model = text_model(kind)
    torch.manual_seed(5)  # of the projection
    encoder = QuestionEncoder(model, small_model.model_config()).eval()
    assert encoder.packs == packable
    questions = small_model.tokens(small_model.small_tokenizer())
    with torch.no_grad():
        return encoder(questions)[questions.attention_mask.bool()]


def packables() -> list[str]:
    """Those of the code and those that CONTRIBUTING.md adds."""
    (change,) = changes(TEXT)
    line = next(line for line in change.text.splitlines() if line.startswith("+PACKABLE"))
    return [*dict.fromkeys((*encoders.PACKABLE, *(word.strip('" ') for word in line.split("(")[1][:-1].split(","))))]


def test_packed_and_padded_questions_are_encoded_alike(monkeypatch):
    kinds = packables()
    assert set(kinds) >= {"bert", "electra"}
    for kind in kinds:
        padded, packed = states(kind, False, monkeypatch), states(kind, True, monkeypatch)
        small_model.assert_close(packed, padded, 1e-5)
        assert padded.std() > 0.1, "no mere zeros"


def test_a_type_that_cannot_be_packed_would_be_found(monkeypatch):
    """RoBERTa counts positions from behind the padding's."""
    padded, packed = states("roberta", False, monkeypatch), states("roberta", True, monkeypatch)
    assert (packed - padded).abs().max() > 0.1


@pytest.mark.parametrize("kind", ["roberta", "distilbert", "electra"])
def test_a_text_encoder_needs_its_folder_alone(kind, tmp_path, monkeypatch):
    assert set(documented(TEXT, tmp_path)) == {"text_encoder"}
    tokenizer = small_model.small_tokenizer()
    text_model(kind).save_pretrained(tmp_path / "text")
    tokenizer.save_pretrained(tmp_path / "text")
    config = small_model.model_config(pretrained=True, text_encoder=str(tmp_path / "text"), text_kwargs={})
    monkeypatch.setattr(
        "models.mimic_vqa_model.ImageEncoder", lambda config, spec, pretrained: ImageEncoder(config, spec)
    )
    loaded = encoders.build_tokenizer(config, [])
    model = SSGVQA.build(config, small_model.VOCABULARY, loaded, small_model.SIZE).eval()
    questions = small_model.tokens(loaded)
    with torch.no_grad():
        out = model(small_model.images(), questions, small_model.QUESTION_OF, small_model.IMAGE_OF)
    assert model.question_encoder.model.config.model_type == kind
    assert out.logits["binary"].shape == (9, 2) and all(value.isfinite().all() for value in out.logits.values())


# A data set


@pytest.fixture
def slake(tmp_path):
    """A folder as SLAKE is laid out, with questions that every reason leaves out."""
    folder, number = tmp_path / "slake", 0
    asked = [
        ("Is the lung healthy?", "No", "en", "X-Ray"),
        ("Where is the nodule?", "Right Lung", "en", "X-Ray"),
        ("What colour is it?", "Grey", "en", "X-Ray"),
        ("Is the liver normal?", "Yes", "en", "CT"),
        ("肺健康吗？", "不", "zh", "X-Ray"),
    ]
    for split, images in (("train", 6), ("validate", 3), ("test", 3)):
        entries = []
        for image in range(images):
            name = f"xmlab{len(split)}{image}/source.jpg"
            draw(folder / "imgs" / name)
            for question, answer, language, modality in asked:
                number += 1
                entries.append(
                    {"img_name": name, "question": question, "answer": answer, "q_lang": language, "modality": modality}
                    | {"qid": number, "location": "Lung", "answer_type": "CLOSED", "content_type": "Abnormality"}
                )
        (folder / f"{split}.json").write_text(json.dumps(entries), encoding="utf-8")
    return folder


def test_a_new_set_is_read_and_refused_with_one_line(copy, slake):
    found = run_there(copy(DATA), "set_reads", slake)
    assert len(found["records"]) == 24 and found["is_place"]
    assert found["records"][0] == ["train", "D02_has_finding", 0, "xmlab50", "xmlab50/source.jpg"]
    assert found["records"][1][1:3] == ["D03_where_is_finding", 1]
    assert sorted({fate for *_, fate in found["fates"]}) == ["no_rule", "other_language_or_modality"]
    nowhere, two = found["wrong"]
    assert "train.json is not SLAKE" in nowhere and "--set data.slake_path=" in nowhere and "\n" not in nowhere
    assert "data.slake_path" in two and "only one set is read" in two


@pytest.mark.slow
def test_a_new_set_is_trained_on_and_evaluated(copy, slake, tmp_path):
    config = make_config(tmp_path)
    tokenizer = encoders.build_tokenizer(config.model, ["Is the lung healthy?", "Where is the nodule?"])
    start = tmp_path / "start"
    model = SSGVQA.build(config.model, small_model.VOCABULARY, tokenizer, config.data.image_size)
    model.save_pretrained(start, tokenizer, config)
    done = run_there(copy(DATA), "set_trains", slake, start, tmp_path)
    assert done["codes"] == [0, 0]
    assert done["without a model"].startswith("data.slake_path: this set has no scene graphs to start from")
    report = json.loads((tmp_path / "results" / "report.json").read_text())
    assert report["provenance"]["dataset"] == "SLAKE" and report["provenance"]["questions"] == 6
    assert report["rows"]["model"]["region"]["n"] == 3 and report["counts"]["no_rule"] == 3
    assert not math.isnan(report["headline"]["score"])
