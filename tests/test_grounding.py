"""Questions find entities and regions by name, and answers are read from the graph."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.mimic_cxr_config import Config, DataConfig
from data.batch import SceneGraph
from data.label_space import CHEXPERT, NO_FINDING, REGIONS, SUPPORT_DEVICES
from data.vocabulary import RESERVED, Vocabulary
from models import grounding
from models.encoders import build_tokenizer
from models.graph_reader import GraphReader
from models.grounding import encode_names
from models.mimic_vqa_model import SSGVQA
from models.sim import Fused
from tests.small_model import SIZE, images, model_config, tokens

ENTITIES = (
    "pleural effusion",
    "pleural thickening",
    "nodule",
    "pulmonary edema",
    "rib fracture",
    "pacemaker",
    "scoliosis",
)
QUESTIONS = [f"Is there {name} in the {region}?" for name in ENTITIES for region in ("left lung", "heart", "spine")]
OPEN, SHUT = 20.0, -20.0


@pytest.fixture(scope="module")
def model() -> SSGVQA:
    """As training starts: random weights, only the names are in place."""
    torch.manual_seed(3)
    # the small encoder of the other tests has too few numbers for so many words
    wide = {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    config = model_config(hidden_dim=96, text_kwargs=wide)
    return SSGVQA.build(config, Vocabulary(ENTITIES, ("lungs",)), build_tokenizer(config, QUESTIONS), SIZE).eval()


def attention(model: SSGVQA, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """(U, E) and (U, R), mean over heads."""
    questions = tokens(build_tokenizer(model.config, QUESTIONS), texts)
    states = model.question_encoder(questions)
    fusion = model.fusion
    with torch.inference_mode():
        entities, regions = fusion.grounding(fusion.nodes, states, questions.attention_mask.bool())
    return entities.mean(1), regions.mean(1)


def test_questions_lean_to_the_entity_and_the_region_they_name_before_any_training(model):
    entities, regions = attention(model, QUESTIONS)
    torch.testing.assert_close(entities.sum(1), torch.ones(len(QUESTIONS)))
    assert entities[:, :RESERVED].abs().max() == 0
    named = torch.arange(len(ENTITIES)).repeat_interleave(3) + RESERVED
    assert entities.gather(1, named[:, None]).mean() > 3 / len(ENTITIES)
    places = torch.tensor([REGIONS.index(r) for r in ("left lung", "heart", "spine")]).repeat(len(ENTITIES))
    assert regions.gather(1, places[:, None]).mean() > 3 / len(REGIONS)


def small_model(*entities: str) -> SSGVQA:
    config = model_config()
    return SSGVQA.build(config, Vocabulary(entities, ("lungs",)), build_tokenizer(config, QUESTIONS), SIZE)


@pytest.mark.parametrize("entities", [(), ("nodule",), ("nodule", "edema " * 2000), ("nodule", "")])
def test_any_number_and_length_of_names_will_do(entities):
    model = small_model(*entities).train()
    zero = torch.zeros(1, dtype=torch.long)
    questions = tokens(build_tokenizer(model.config, QUESTIONS), QUESTIONS[:1])
    out = model(images(1), questions, zero, zero)
    sum(logits.square().mean() for logits in out.logits.values()).backward()
    assert all(logits.isfinite().all() for logits in out.logits.values())
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_a_long_name_is_cut_to_the_positions_of_the_encoder():
    model = small_model(*ENTITIES)
    tokenizer = build_tokenizer(model.config, QUESTIONS)
    tokenizer.model_max_length = 10**30  # as tokenizers say that do not know
    model.question_encoder.model.config.max_position_embeddings = 10
    with torch.inference_mode():
        long, cut = encode_names(model.question_encoder, tokenizer, ["nodule " * 400, "nodule " * 8])
    torch.testing.assert_close(long, cut)


def test_names_in_slices_are_the_same_names(monkeypatch):
    model = small_model(*ENTITIES).train()
    tokenizer = build_tokenizer(model.config, QUESTIONS)
    with torch.inference_mode():
        together = encode_names(model.question_encoder, tokenizer, ENTITIES)
        monkeypatch.setattr(grounding, "NAMES_AT_ONCE", 3)
        torch.testing.assert_close(encode_names(model.question_encoder, tokenizer, ENTITIES), together)
    assert model.question_encoder.training


def test_what_a_question_names_is_looked_up_in_every_node_of_its_image(model):
    asked, nodes = model.fusion.grounding, 26
    entities = torch.zeros(2, 4, len(ENTITIES) + RESERVED)
    entities[0, :, 2], entities[1, :, 3] = 1, 1  # question 0 names the first entity, question 1 the second
    regions = torch.zeros(2, 4, nodes)
    regions[0, :, 5] = 1
    probs = torch.zeros(2, nodes, len(ENTITIES) + RESERVED)
    probs[0, 7, 2], probs[1, 9, 3] = 0.8, 1.0
    graph = SceneGraph(torch.zeros(2, nodes, 4), probs, torch.ones(2, dtype=torch.bool))
    said = asked.of_nodes(entities, regions, graph, torch.tensor([0, 1, 0]), torch.tensor([0, 1, 1]))
    found, odds, place = said.split(4, dim=-1)
    expected = torch.zeros(3, nodes)
    expected[0, 7], expected[1, 9] = 0.8, 1.0
    torch.testing.assert_close(found, expected[..., None].expand(-1, -1, 4))
    assert odds[1, 9, 0] == pytest.approx(1) and odds[2, 0, 0] == pytest.approx(-1)
    assert place[0, 5].eq(1).all() and place[1].eq(0).all()


def reader_for(gate: float, asked: dict[str, float]) -> GraphReader:
    """A reader whose gate and entities do not depend on the question."""
    torch.manual_seed(0)
    reader = GraphReader(8, len(ENTITIES) + RESERVED)
    reader.name_classes(Vocabulary(ENTITIES, ()))
    with torch.no_grad():
        for parameter in (reader.gate.weight, reader.asked.weight, reader.gate.bias, reader.key.weight):
            parameter.zero_()
        reader.asked.bias.fill_(SHUT)
        for name, logit in asked.items():
            reader.asked.bias[RESERVED + ENTITIES.index(name)] = logit
        reader.key.weight[0, 0], reader.gate.bias[0] = 1.0, gate * 8**0.5
    return reader


def evidence(reader: GraphReader, present: dict[str, float], exists: bool = True) -> torch.Tensor:
    """(14,) probabilities that reach the category head for one question about one image."""
    probs = torch.zeros(1, 26, len(ENTITIES) + RESERVED)
    for region, (name, p) in enumerate(present.items()):
        probs[0, region, RESERVED + ENTITIES.index(name)] = p
    graph = SceneGraph(torch.zeros(1, 26, 4), probs, torch.tensor([exists]))
    fused = Fused(torch.zeros(1, 8), torch.ones(1, 26, 8))
    return reader(fused, graph, torch.tensor([0]))[1]["category"][0].sigmoid()


ALL = dict.fromkeys(ENTITIES, OPEN)


def test_classes_of_what_is_found_by_hand():
    found = evidence(reader_for(OPEN, ALL), {"pleural effusion": 0.9, "nodule": 0.3, "pulmonary edema": 0.6})
    expected = {"Pleural Effusion": 0.9, "Lung Lesion": 0.3, "Edema": 0.6, "No Finding": 0.1}
    for number, label in enumerate(CHEXPERT):
        assert found[number].item() == pytest.approx(expected.get(label, 0.01), abs=1e-4), label


def test_only_what_is_asked_about_counts():
    found = evidence(reader_for(OPEN, {"nodule": OPEN}), {"pleural effusion": 0.9, "nodule": 0.3})
    assert found[CHEXPERT.index("Pleural Effusion")].item() == pytest.approx(0.01, abs=1e-4)
    assert found[NO_FINDING].item() == pytest.approx(0.7, abs=1e-4)


def test_a_device_is_no_finding_and_a_shut_gate_shows_nothing():
    found = evidence(reader_for(OPEN, ALL), {"pacemaker": 0.9})
    assert found[SUPPORT_DEVICES].item() == pytest.approx(0.9, abs=1e-4)
    assert found[NO_FINDING].item() == pytest.approx(0.99, abs=1e-4)
    found = evidence(reader_for(SHUT, ALL), {"pacemaker": 0.9, "nodule": 1.0})
    assert found[SUPPORT_DEVICES].item() == pytest.approx(0.01, abs=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.sampled_from(ENTITIES), st.floats(0, 1)))
def test_without_a_graph_there_is_no_evidence(present):
    found = evidence(reader_for(OPEN, ALL), present, exists=False)
    assert found.eq(0.5).all()


def test_the_class_table_is_the_one_of_the_targets_and_is_saved(model, tmp_path):
    table = model.reader.classes
    assert table[RESERVED + ENTITIES.index("pleural effusion")].nonzero().flatten().tolist() == [
        CHEXPERT.index("Pleural Effusion")
    ]
    assert not table[:RESERVED].any() and not table[RESERVED + ENTITIES.index("scoliosis")].any()
    config = Config(model=model.config, data=DataConfig(image_size=SIZE))
    model.save_pretrained(tmp_path / "model", build_tokenizer(model.config, QUESTIONS), config)
    loaded, *_ = SSGVQA.from_pretrained(tmp_path / "model")
    assert torch.equal(loaded.reader.classes, table)
