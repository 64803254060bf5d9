"""The scene graph in the model: predicted from pixels alone, what a node is, and what happens without one."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torchvision.ops import roi_align

from configs.mimic_cxr_config import ModelConfig
from data.label_space import REGIONS
from models.mimic_vqa_model import SSGVQA
from models.scene_graph import PRIOR_BOXES, GraphPrediction, NodeEmbedding, box_numbers, oracle_graph, roi_features
from tests.small_model import (
    IMAGE_OF,
    IMAGES,
    QUESTION_OF,
    SIZE,
    VOCABULARY,
    assert_close,
    built,
    images,
    model_config,
    small_tokenizer,
    some_graph,
    some_targets,
    tokens,
)


@pytest.fixture
def tokenizer():
    return small_tokenizer()


@pytest.fixture
def sim() -> SSGVQA:
    return built("sim")


def test_predicted_mode_owes_nothing_to_the_report(sim, tokenizer):
    def run(targets, mode):
        graph = (lambda predicted: oracle_graph(targets, predicted)) if mode == "oracle" else mode
        return sim(images(), tokens(tokenizer), QUESTION_OF, IMAGE_OF, graph)

    for mode, same in (("predicted", True), ("oracle", False)):
        a, b = run(some_targets(4), mode), run(some_targets(5), mode)
        assert torch.equal(a.logits["binary"], b.logits["binary"]) == same
        assert torch.equal(a.chexpert, b.chexpert) and torch.equal(a.graph.logits, b.graph.logits)
        assert torch.equal(a.graph.boxes, b.graph.boxes)


@pytest.mark.parametrize("fusion", ["sim", "concat"])
def test_without_a_graph_boxes_and_findings_do_not_matter(tokenizer, fusion):
    model = built(fusion)
    answers = []
    for seed in (2, 3):
        graph = replace(some_graph(seed), exists=torch.tensor([False, False, True]))
        answers.append(model(images(), tokens(tokenizer), QUESTION_OF, IMAGE_OF, graph).logits["region"])
    none = model(images(), tokens(tokenizer), QUESTION_OF, IMAGE_OF, "none").logits["region"]
    without = IMAGE_OF != 2
    assert torch.equal(answers[0][without], answers[1][without])
    assert (answers[0] - answers[1])[~without].abs().amax() > 1e-3
    assert_close(none[without], answers[0][without])


def test_every_graph_number_matters(sim, tokenizer):
    graph = replace(some_graph(), exists=torch.ones(IMAGES, dtype=torch.bool))
    base = sim(images(), tokens(tokenizer), QUESTION_OF, IMAGE_OF, graph).logits["region"]
    for name in ("boxes", "entity_probs"):
        value = getattr(graph, name).clone()
        value[:, 8] = value[:, 9]
        changed = sim(images(), tokens(tokenizer), QUESTION_OF, IMAGE_OF, replace(graph, **{name: value}))
        assert (changed.logits["region"] - base).abs().amax() > 1e-5


def test_a_node_is_134_numbers_as_designed():
    torch.manual_seed(0)
    embed = NodeEmbedding(ModelConfig(), VOCABULARY.num_entities, VOCABULARY.num_regions)
    graph = some_graph()
    nodes = embed(graph)
    assert nodes.shape == (IMAGES, 26, 134)
    assert torch.equal(nodes[..., :6], box_numbers(graph.boxes))
    assert torch.equal(nodes[0, :, 6:70], embed.region.weight[-26:])
    probs = graph.entity_probs[1, 8, 1:]
    by_hand = sum(p * e for p, e in zip(probs, embed.entity.weight[1:], strict=True)) / max(1.0, float(probs.sum()))
    assert_close(nodes[1, 8, 70:], by_hand, 1e-5)
    # little evidence is not scaled up: the sum is divided by at least 1
    faint = replace(graph, entity_probs=torch.zeros_like(graph.entity_probs))
    faint.entity_probs[..., 3] = 0.25
    assert_close(embed(faint)[0, 0, 70:], 0.25 * embed.entity.weight[3], 1e-6)
    # padding takes no part
    padded = replace(graph, entity_probs=graph.entity_probs.clone())
    padded.entity_probs[..., 0] = 1.0
    assert torch.equal(embed(padded), nodes)


def test_box_numbers_by_hand_and_clipped():
    boxes = torch.tensor([[0.1, 0.2, 0.5, 0.4], [0.0, 0.3, 1.0, 0.3], [0.2, 0.0, 0.2, 1.0]])
    numbers = box_numbers(boxes)
    assert_close(numbers[0], torch.tensor([0.1, 0.2, 0.5, 0.4, 0.08, math.log(2)]), 1e-4)
    assert numbers[1, 5] == 3 and numbers[2, 5] == -3 and numbers[1, 4] == 0


def test_roi_features_are_those_of_roi_align():
    torch.manual_seed(0)
    extreme = torch.tensor([[0.0, 0, 1, 1], [0.3, 0.3, 0.3, 0.9]])
    boxes = torch.cat([some_graph().boxes, extreme.expand(3, -1, -1)], 1)
    feature_map = torch.randn(3, 8, 5, 7)
    rois = torch.cat(
        [torch.arange(3.0).repeat_interleave(28)[:, None], (boxes * torch.tensor([7.0, 5, 7, 5])).flatten(0, 1)], dim=1
    )
    expected = roi_align(feature_map, rois, 3, sampling_ratio=2, aligned=True).mean((2, 3)).view(3, 28, 8)
    assert_close(roi_features(feature_map, boxes), expected, 1e-5)


def test_prior_boxes_are_anatomy_and_where_training_starts(tokenizer):
    assert set(PRIOR_BOXES) == set(REGIONS)
    for name, (x1, y1, x2, y2) in PRIOR_BOXES.items():
        assert 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1
        centre = (x1 + x2) / 2  # the patient's right is on the image's left
        assert not name.startswith("right ") or centre < 0.5
        assert not name.startswith("left ") or centre > 0.5
    model = SSGVQA.build(model_config(), VOCABULARY, tokenizer, SIZE).eval()
    prediction = model.predict_graph(model.encode_images(images()))
    assert_close(prediction.boxes[0], torch.tensor([PRIOR_BOXES[name] for name in REGIONS]), 1e-5)
    assert prediction.logits[..., 2:].sigmoid().mean().item() == pytest.approx(0.02, abs=0.01)


def test_predicted_boxes_lie_in_the_image_and_learn_beyond_its_edge(sim):
    delta = torch.zeros(1, 26, 4)
    delta[..., 0], delta[..., 2] = 6.0, 4.0
    delta.requires_grad_()
    boxes = sim.region_predictor._boxes(delta)
    assert boxes.min() >= 0 and boxes.max() <= 1
    boxes[..., 2].sum().backward()
    assert (delta.grad[..., 0] > 0).all()


def test_padding_and_unknown_entities_are_never_predicted(sim):
    graph = sim.predict_graph(sim.encode_images(images())).graph()
    assert (graph.entity_probs[..., :2] == 0).all() and (graph.entity_probs[..., 2:] > 0).all()
    assert not graph.boxes.requires_grad and graph.entity_probs.requires_grad and graph.exists.all()


def test_oracle_graph_by_hand():
    targets = some_targets(6)
    targets.present[0, targets.union_regions[0], 3] = 1  # said twice is not twice as present
    targets.present[2, :, 4] = 0
    before = copy.deepcopy(targets)
    predicted = GraphPrediction(some_graph(7).boxes.requires_grad_(), torch.zeros(IMAGES, 26, 7))
    graph = oracle_graph(targets, predicted)
    for i in range(IMAGES):
        for r in range(26):
            source = targets if targets.box_mask[i, r] else predicted
            assert torch.equal(graph.boxes[i, r], source.boxes[i, r].detach())
    expected = targets.present.clone()
    expected[0, targets.union_regions[0], 3] = 1
    expected[2, targets.union_regions[1], 4] = 1
    assert torch.equal(graph.entity_probs, expected) and graph.exists.all() and not graph.boxes.requires_grad
    assert torch.equal(targets.present, before.present)


def test_unknown_graph_choice_is_refused(sim, tokenizer):
    with pytest.raises(ValueError, match="predicted"):
        sim(images(), tokens(tokenizer), QUESTION_OF, IMAGE_OF, "oracle")
