"""The loss: hand-computed values, and independence of how a window is cut."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import generalized_box_iou_loss

from configs.mimic_cxr_config import TrainingConfig
from data.batch import Batch, Ids, SceneGraphTargets, TokenBatch
from data.label_space import CHEXPERT, HEAD_INDEX, NO_FINDING, REGIONS, TYPE_INDEX, Head
from data.mimic_cxr_dataset import unpack_targets
from training.loss import (
    MultiTaskLoss,
    chexpert_loss,
    chexpert_targets,
    generalised_iou_loss,
    graph_finding_loss,
    log_at_least_one,
)

E = 5
LN2 = float(np.log(2))


def make_batch(heads: list[Head], targets: list[int], images: int = 2, types: list[str] | None = None) -> Batch:
    """A batch whose question i is about image i % images, has a text of its own and answers with heads[i]."""
    count = len(heads)
    numbers = np.array([HEAD_INDEX[head] for head in heads], dtype=np.int64)
    names = types or ["D02_has_finding"] * count
    return Batch(
        images=torch.zeros(images, 1, 8, 8, dtype=torch.uint8),
        questions=TokenBatch(torch.ones(count, 3, dtype=torch.int64), torch.ones(count, 3, dtype=torch.int64)),
        question_of=torch.arange(count),
        image_of=torch.arange(count) % images,
        head=torch.from_numpy(numbers),
        type=torch.tensor([TYPE_INDEX[name] for name in names], dtype=torch.int64),
        targets=unpack_targets(numbers, np.array(targets, dtype=np.uint32)),
        graph=make_graph(images),
        chexpert=torch.full((images, len(CHEXPERT)), torch.nan),
        ids=Ids(torch.arange(count), torch.arange(images)),
    )


def make_graph(images: int) -> SceneGraphTargets:
    """Nothing known."""
    regions = len(REGIONS)
    return SceneGraphTargets(
        boxes=torch.zeros(images, regions, 4),
        box_mask=torch.zeros(images, regions, dtype=torch.bool),
        present=torch.zeros(images, regions, E),
        weight=torch.zeros(images, regions, E),
        union_image=torch.zeros(0, dtype=torch.int64),
        union_entity=torch.zeros(0, dtype=torch.int64),
        union_regions=torch.zeros(0, regions, dtype=torch.bool),
        union_weight=torch.zeros(0),
    )


def make_outputs(batch: Batch, generator: torch.Generator | None = None):
    """Logits with gradients; zeros without a generator."""

    def tensor(*shape: int) -> torch.Tensor:
        values = torch.zeros(shape) if generator is None else torch.randn(shape, generator=generator)
        return values.requires_grad_()

    count, images = len(batch.head), len(batch.images)
    boxes = torch.tensor([0.25, 0.25, 0.75, 0.75]).expand(images, len(REGIONS), 4).clone().requires_grad_()
    return SimpleNamespace(
        logits={
            "binary": tensor(count, 2),
            "category": tensor(count, 14),
            "region": tensor(count, 26),
            "severity": tensor(count, 4),
        },
        chexpert=tensor(images, 14),
        graph=SimpleNamespace(logits=tensor(images, len(REGIONS), E), boxes=boxes),
        question_type=tensor(count, 28),
    )


def compute(batch: Batch, outputs, **settings):
    loss = MultiTaskLoss(TrainingConfig(**settings))
    return loss(outputs, batch, loss.window_counts([batch]))


def test_undecided_logits_cost_the_entropy_of_a_uniform_guess_in_every_head():
    batch = make_batch([Head.BINARY, Head.SEVERITY, Head.CATEGORY, Head.REGION], [1, 3, 0b101, 0])
    parts = compute(batch, make_outputs(batch)).parts
    assert parts["binary_loss"].item() == pytest.approx(LN2)
    assert parts["severity_loss"].item() == pytest.approx(2 * LN2)
    assert parts["category_loss"].item() == pytest.approx(LN2)
    assert parts["region_loss"].item() == pytest.approx(LN2)
    assert parts["question_type_loss"].item() == pytest.approx(float(np.log(28)))


def test_total_is_the_sum_of_the_parts_with_the_weights_of_the_configuration():
    batch = make_batch(list(Head), [1, 0b11, 0b1, 2])
    batch.chexpert[:] = 1.0
    batch.graph.box_mask[0, 0] = True
    batch.graph.present[0, 0, 2] = batch.graph.weight[0, 0, 2] = 1.0
    losses = compute(batch, make_outputs(batch, torch.Generator().manual_seed(0)))
    p, c = losses.parts, TrainingConfig()
    vqa = p["binary_loss"] + 0.5 * p["category_loss"] + 0.5 * p["region_loss"] + 0.3 * p["severity_loss"]
    expected = (
        vqa
        + 0.3 * p["chexpert_loss"]
        + c.graph_finding_loss_weight * p["graph_finding_loss"]
        + c.graph_box_loss_weight * p["graph_box_loss"]
        + c.question_type_loss_weight * p["question_type_loss"]
    )
    assert losses.total.item() == pytest.approx(expected.item(), rel=1e-6)
    assert p["vqa_loss"].item() == pytest.approx(vqa.item(), rel=1e-6)


def test_a_batch_without_any_severity_question_still_reaches_the_severity_head():
    batch = make_batch([Head.BINARY], [1])
    outputs = make_outputs(batch, torch.Generator().manual_seed(0))
    losses = compute(batch, outputs)
    losses.total.backward()
    for tensor in (*outputs.logits.values(), outputs.chexpert, outputs.graph.logits, outputs.graph.boxes):
        assert tensor.grad is not None and torch.isfinite(tensor.grad).all()
    assert outputs.logits["severity"].grad.abs().sum() == 0
    assert "severity_loss" not in losses.parts, "a head without a question has no loss to show, not a loss of 0"


def test_other_heads_logits_of_a_question_do_not_matter():
    batch = make_batch([Head.BINARY, Head.CATEGORY], [1, 0b1])
    outputs = make_outputs(batch, torch.Generator().manual_seed(0))
    compute(batch, outputs).total.backward()
    assert outputs.logits["binary"].grad[1].abs().sum() == 0
    assert outputs.logits["category"].grad[0].abs().sum() == 0


@settings(max_examples=30)
@given(st.data())
def test_loss_and_gradient_of_a_window_do_not_depend_on_how_it_is_cut(data):
    heads = data.draw(st.lists(st.sampled_from(list(Head)), min_size=2, max_size=8))
    cut = data.draw(st.integers(1, len(heads) - 1))
    seed = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    whole = make_batch(heads, [1] * len(heads), images=len(heads))
    whole.chexpert = torch.randint(-1, 2, whole.chexpert.shape, generator=seed).float()
    parts = [make_batch(h, [1] * len(h), images=len(h)) for h in (heads[:cut], heads[cut:])]
    parts[0].chexpert, parts[1].chexpert = whole.chexpert[:cut], whole.chexpert[cut:]
    outputs = make_outputs(whole, seed)
    loss = MultiTaskLoss(TrainingConfig())
    total = loss(outputs, whole, loss.window_counts([whole])).total
    counts = loss.window_counts(parts)
    pieces = []
    for part, rows in zip(parts, (slice(0, cut), slice(cut, None)), strict=True):
        graph = SimpleNamespace(logits=outputs.graph.logits[rows], boxes=outputs.graph.boxes[rows])
        logits = {name: value[rows] for name, value in outputs.logits.items()}
        own = SimpleNamespace(
            logits=logits, chexpert=outputs.chexpert[rows], graph=graph, question_type=outputs.question_type[rows]
        )
        pieces.append(loss(own, part, counts).total)
    assert sum(pieces).item() == pytest.approx(total.item(), rel=1e-5)
    (whole_gradient,) = torch.autograd.grad(total, outputs.logits["binary"], retain_graph=True)
    (cut_gradient,) = torch.autograd.grad(sum(pieces), outputs.logits["binary"])
    assert torch.allclose(whole_gradient, cut_gradient, atol=1e-6)


@pytest.mark.parametrize(
    ("uncertain", "blank", "target", "counted"),
    [
        ("ignore", "ignore", 0.0, [True, True, False, False]),
        ("zeros", "ignore", 0.0, [True, True, True, False]),
        ("ones", "ignore", 1.0, [True, True, True, False]),
        ("soft", "ignore", 0.5, [True, True, True, False]),
        ("ignore", "zeros", 0.0, [True, True, False, True]),
    ],
)
def test_chexpert_labels_follow_the_policies(uncertain, blank, target, counted):
    labels = torch.full((1, 14), torch.nan)
    labels[0, :4] = torch.tensor([1.0, 0.0, -1.0, torch.nan])
    config = TrainingConfig(chexpert_uncertain=uncertain, chexpert_blank=blank)
    targets, counts = chexpert_targets(labels, config)
    assert counts[0, :4].tolist() == counted
    assert targets[0, 0] == 1 and targets[0, 1] == 0
    if counted[2]:
        assert targets[0, 2] == target
    assert counts[0, NO_FINDING] and targets[0, NO_FINDING] == 0, "a blank No Finding is always a negative"
    assert torch.isnan(labels[0, 3]), "the batch's own labels must not be changed"


def test_chexpert_loss_is_a_sum_over_the_labels_that_count():
    labels = torch.full((1, 14), torch.nan)
    labels[0, 0] = 1.0
    logits = torch.full((1, 14), 2.0)
    config = TrainingConfig()
    present, absent = np.log1p(np.exp(-2)), np.log1p(np.exp(2))
    assert chexpert_loss(logits, labels, config).item() == pytest.approx(present + absent, rel=1e-5)


@given(st.lists(st.floats(-6, 6), min_size=1, max_size=5))
def test_at_least_one_is_one_minus_the_product_of_absences(values):
    logits = torch.tensor([values], dtype=torch.float64)
    mask = torch.ones_like(logits, dtype=torch.bool)
    expected = torch.log(1 - torch.prod(1 - logits.sigmoid()))
    assert log_at_least_one(logits, mask).item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("size", [-90.0, -30.0, 30.0, 90.0])
def test_at_least_one_is_stable_at_both_ends(size):
    logits = torch.full((1, 26), size, requires_grad=True)
    mask = torch.zeros(1, 26, dtype=torch.bool)
    mask[0, [0, 1, 5]] = True
    value = log_at_least_one(logits, mask)
    value.backward()
    assert value.item() == pytest.approx(min(0.0, size + np.log(3)), abs=1e-3)
    assert torch.isfinite(logits.grad).all() and (logits.grad[~mask] == 0).all()
    if size < 0:
        assert logits.grad[mask].sum().item() == pytest.approx(1.0, abs=1e-3), "the gradient must not vanish"


def test_a_region_outside_the_union_does_not_satisfy_it():
    graph = make_graph(1)
    graph.union_image, graph.union_entity = torch.tensor([0]), torch.tensor([3])
    graph.union_regions = torch.zeros(1, len(REGIONS), dtype=torch.bool)
    graph.union_regions[0, :2] = True
    graph.union_weight = torch.tensor([1.0])
    logits = torch.full((1, len(REGIONS), E), -5.0)
    before = graph_finding_loss(logits, graph)
    logits[0, 7, 3] = 9.0
    assert graph_finding_loss(logits, graph) == before
    logits[0, 1, 3] = 9.0
    assert graph_finding_loss(logits, graph) < 0.01 < before


def test_unstated_cells_regularise_but_do_not_dilute_the_statements():
    config = TrainingConfig(unstated_weight=0.1)
    batch = make_batch([Head.BINARY], [1], images=1)
    batch.graph.weight[0, :, 2:] = 0.1
    batch.graph.present[0, 0, 2], batch.graph.weight[0, 0, 2] = 1.0, 1.0  # stated present
    batch.graph.weight[0, 1, 2] = 1.0  # stated absent
    assert MultiTaskLoss(config).window_counts([batch])["graph_finding"] == pytest.approx(2.0)


def test_perfect_boxes_cost_nothing_and_unknown_boxes_are_ignored():
    batch = make_batch([Head.BINARY], [1], images=1)
    outputs = make_outputs(batch)
    batch.graph.box_mask[0, 3] = True
    batch.graph.boxes[0, 3] = torch.tensor([0.25, 0.25, 0.75, 0.75])
    assert compute(batch, outputs).parts["graph_box_loss"].item() == pytest.approx(0.0, abs=1e-6)
    batch.graph.boxes[0, 3] = torch.tensor([0.25, 0.25, 0.75, 0.5])
    # L1 0.25; the half of the box: IoU 0.5, no area outside the two
    assert compute(batch, outputs).parts["graph_box_loss"].item() == pytest.approx(0.25 + 0.5, abs=1e-5)


def test_a_text_of_two_types_is_drawn_to_both():
    batch = make_batch([Head.BINARY] * 3, [1, 1, 0], types=["D02_has_finding", "D02_has_finding", "D06_has_device"])
    batch.question_of = torch.zeros(3, dtype=torch.int64)
    batch.questions = TokenBatch(batch.questions.input_ids[:1], batch.questions.attention_mask[:1])
    outputs = make_outputs(batch)
    outputs.question_type = torch.full((1, 28), -50.0)
    outputs.question_type[0, TYPE_INDEX["D02_has_finding"]] = np.log(2)
    outputs.question_type[0, TYPE_INDEX["D06_has_device"]] = 0.0
    expected = -(2 * np.log(2 / 3) + np.log(1 / 3)) / 3
    assert compute(batch, outputs).parts["question_type_loss"].item() == pytest.approx(expected, rel=1e-5)


def some_boxes(seed: int) -> torch.Tensor:
    corners = torch.rand(50, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.cat([corners.amin(1), corners.amax(1)], dim=-1)


def test_generalised_iou_is_torchvisions_with_its_gradient():
    ours, theirs = (some_boxes(0).requires_grad_() for _ in range(2))
    others = some_boxes(1)
    others[:5] = others[:5] * 0  # no box
    expected = generalized_box_iou_loss(theirs, others)
    found = generalised_iou_loss(ours, others)
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
