"""Epochs, visits and batches over a hand-made index."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.mimic_cxr_config import DataConfig
from data.label_space import HEAD_INDEX, REGIONS, Head
from data.loader import make_loader, num_batches
from data.mimic_cxr_dataset import GraphWeights, VQADataset, unpack_targets
from tests.mini_index import WordTokenizer, write_mini_index
from utils.errors import ConfigError, DataError

A, B = 4, 3  # grade indices
YES_NO = "D02_has_finding"
LEFT, RIGHT, HEART = (REGIONS.index(r) for r in ("left lung", "right lung", "heart"))
EFFUSION, CARDIOMEGALY, NODULE = 2, 3, 4


def questions(n, grade=A):
    return [(YES_NO, f"Is there thing {i % 5}?", i % 2, grade) for i in range(n)]


def dataset(index, split="train", train=True, seed=0, **data):
    config = DataConfig(image_size=16, questions_per_image=4, augmentation=False, **data)
    return VQADataset(index, split, config, WordTokenizer(), train=train, seed=seed, weights=GraphWeights(0.1, 0.3))


def batches(data, batch_size, epoch=0, **options):
    return [batch.on("cpu") for batch in make_loader(data, batch_size, epoch=epoch, **options)]


def all_rows(loader_batches):
    return np.concatenate([b.ids.question.numpy() for b in loader_batches])


@settings(max_examples=15, deadline=None)
@given(
    counts=st.lists(st.integers(1, 13), min_size=1, max_size=8), epoch=st.integers(0, 3), batch_size=st.integers(1, 5)
)
def test_every_question_comes_once_an_epoch(tmp_path_factory, counts, epoch, batch_size):
    studies = [{"split": "train", "questions": questions(n), "images": 1 + n % 3} for n in counts]
    index = write_mini_index(tmp_path_factory.mktemp("index") / "i", studies)
    data = dataset(index)
    found = batches(data, batch_size, epoch)
    assert sorted(all_rows(found)) == list(range(sum(counts)))
    assert len(found) == num_batches(data, batch_size)
    for batch in found:
        study_of_image = index.images["study"][batch.ids.image.numpy()]
        np.testing.assert_array_equal(
            index.questions["study"][batch.ids.question.numpy()], study_of_image[batch.image_of.numpy()]
        )
        assert torch.bincount(batch.image_of).max() <= 4
        assert np.allclose(batch.images.flatten(1)[:, 0].numpy(), 10 + batch.ids.image.numpy(), atol=1e-3)


@pytest.fixture
def index(tmp_path):
    studies = [{"split": "train", "subject": 10 + i // 2, "questions": questions(9), "images": 2} for i in range(6)]
    studies += [{"split": "validate", "questions": questions(10), "images": 2} for _ in range(3)]
    return write_mini_index(tmp_path / "index", studies)


def test_order_is_a_function_of_seed_and_epoch_alone(index):
    def order(seed, epoch, **options):
        return [b.ids.question.tolist() for b in batches(dataset(index, seed=seed), 2, epoch, **options)]

    assert order(1, 0) == order(1, 0) == order(1, 0, num_workers=2)
    assert order(1, 0) != order(1, 1) != order(2, 1)
    assert order(1, 0)[3:] == order(1, 0, start=3)


def test_visits_have_nearly_equal_sizes(index):
    epoch = dataset(index).epoch(0)
    visits = epoch.select(np.arange(len(epoch)))
    assert np.bincount(visits.visit_of).tolist() == [3] * 18  # 9 questions, at most 4: 3 + 3 + 3


def test_evaluation_uses_the_first_image_and_keeps_the_order(index):
    data = dataset(index, "validate", train=False)
    found = batches(data, 2)
    assert all_rows(found).tolist() == list(range(54, 84))
    assert {int(i) for b in found for i in b.ids.image} == {12, 14, 16}


def test_training_draws_any_image_of_the_study(index):
    data = dataset(index)
    seen = {int(i) for epoch in range(6) for b in batches(data, 4, epoch) for i in b.ids.image}
    assert seen == set(range(12))


def test_distinct_questions_are_encoded_once(index):
    batch = batches(dataset(index), 18)[0]
    assert len(batch.questions.input_ids) == 5
    texts = index.texts(index.questions["text"][batch.ids.question])
    for row, text in zip(batch.question_of, texts, strict=True):
        length = int(batch.questions.attention_mask[row].sum())
        assert length == len(text.split()) + 2


def test_grade_and_type_filters(tmp_path):
    studies = [
        {"split": "train", "questions": questions(3, A) + questions(2, B) + [("D03_where_is_finding", "Where?", 3, A)]},
        {"split": "train", "questions": questions(4, 0)},
    ]
    index = write_mini_index(tmp_path / "i", studies)
    assert dataset(index).num_questions == 4
    assert dataset(index, quality_grade="B").num_questions == 6
    assert dataset(index, quality_grade="all").num_questions == 10
    assert dataset(index, question_types=["D03_where_is_finding"]).num_questions == 1
    with pytest.raises(ConfigError, match="quality_grade"):
        dataset(index, quality_grade="E")
    with pytest.raises(ConfigError, match="has_findings"):
        dataset(index, question_types=["has_findings"])
    with pytest.raises(DataError, match="no validate questions"):
        dataset(index, "validate")


def test_max_samples_keeps_whole_studies_first(index):
    data = dataset(index, max_samples=20)
    assert data.num_questions == 20
    assert sorted(data.selection.count.tolist()) == [2, 9, 9]
    assert dataset(index, "validate", train=False, max_samples=20).num_questions == 30


def test_targets_are_unpacked_to_their_own_head_only():
    heads = np.array([HEAD_INDEX[h] for h in Head])
    targets = unpack_targets(heads, np.array([1, 0b101, 1 << 25, 2], np.uint32))
    assert targets.binary.tolist() == [1, -1, -1, -1]
    assert targets.severity.tolist() == [-1, -1, -1, 2]
    assert targets.category[1].nonzero().flatten().tolist() == [0, 2] and targets.category.sum() == 2
    assert targets.region[2].nonzero().flatten().tolist() == [25] and targets.region.sum() == 1


def graph_of(tmp_path, findings, boxes=()):
    study = {"split": "train", "questions": questions(1), "findings": findings, "boxes": list(boxes)}
    index = write_mini_index(tmp_path / "i", [study])
    return batches(dataset(index), 1)[0].graph


def test_graph_statements_and_their_weights(tmp_path):
    graph = graph_of(
        tmp_path,
        [
            ([LEFT], EFFUSION, 1, 1),
            ([RIGHT], EFFUSION, 0, 1),
            ([HEART], CARDIOMEGALY, 0, 0),
            ([HEART], NODULE, 1, 0),
            ([HEART], NODULE, 0, 1),
            ([HEART], 1, 1, 1),
        ],
        [(LEFT, 0.1, 0.2, 0.5, 0.9)],
    )
    cell = lambda r, e: (float(graph.present[0, r, e]), round(float(graph.weight[0, r, e]), 3))  # noqa: E731
    assert cell(LEFT, EFFUSION) == (1, 1)
    assert cell(RIGHT, EFFUSION) == (0, 1)
    assert cell(HEART, EFFUSION) == (0, 0.1)  # not stated
    assert cell(HEART, CARDIOMEGALY) == (0, 0.3)  # absent by rule
    assert cell(HEART, NODULE) == (1, 0.3)  # positive wins over negative
    assert cell(HEART, 1) == (1, 0)  # unknown entities teach nothing
    assert graph.box_mask[0].nonzero().flatten().tolist() == [LEFT]
    np.testing.assert_allclose(graph.boxes[0, LEFT], [0.1, 0.2, 0.5, 0.9], rtol=1e-6)


def test_at_least_one_statements(tmp_path):
    graph = graph_of(tmp_path, [([LEFT, RIGHT], EFFUSION, 2, 1), ([RIGHT], EFFUSION, 0, 1)])
    assert graph.union_image.tolist() == [0] and graph.union_entity.tolist() == [EFFUSION]
    assert graph.union_regions[0].nonzero().flatten().tolist() == sorted([LEFT, RIGHT])
    assert graph.weight[0, LEFT, EFFUSION] == 0  # which side is not known
    assert (graph.present[0, RIGHT, EFFUSION], graph.weight[0, RIGHT, EFFUSION]) == (0, 1)


def test_a_study_without_graph_says_nothing(tmp_path):
    assert graph_of(tmp_path, []).weight.sum() == 0


def test_balanced_draw_evens_out_types(tmp_path):
    rare = [("D04_how_severe_is_finding", "How severe?", 1, A)]
    studies = [{"split": "train", "questions": questions(12) + (rare if i < 4 else [])} for i in range(40)]
    index = write_mini_index(tmp_path / "i", studies)
    share = {}
    for draw in ("epoch", "balanced"):
        found = batches(dataset(index, draw=draw), 8)
        heads = torch.cat([b.head for b in found])
        share[draw] = float((heads == HEAD_INDEX[Head.SEVERITY]).float().mean())
    assert share["epoch"] < 0.01 < 0.1 < share["balanced"]


def test_augmentation_is_keyed_by_seed_epoch_and_visit(tmp_path):
    index = write_mini_index(tmp_path / "i", [{"split": "train", "questions": questions(4)} for _ in range(4)], side=32)
    data = dataset(index)
    data.data = dataclasses.replace(data.data, augmentation=True)
    first, again, later = (batches(data, 4, epoch)[0].images for epoch in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, later)


def test_mean_image(index):
    assert dataset(index).mean_image().mean() == pytest.approx(15)  # canonical images have grey 10, 12, ... 20


def test_patients_of_a_split_are_counted(index):
    assert dataset(index).num_patients == 3
