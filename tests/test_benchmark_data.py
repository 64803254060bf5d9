"""Benchmarks of data path, index build, inference and growth, at sizes of seconds."""

import numpy as np
import pytest

from benchmarks.big_index import QUESTIONS_PER_STUDY, write_big_index
from configs.mimic_cxr_config import DataConfig
from data.index import SPLITS
from data.label_space import HEAD_INDEX, HEADS, QUESTION_TYPES
from data.loader import make_loader
from data.mimic_cxr_dataset import VQADataset
from tests.mini_index import WordTokenizer

QUESTIONS = 3000


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return write_big_index(tmp_path_factory.mktemp("big") / "index", QUESTIONS, side=32, pictures=5)


def dataset(index, split="train", grade="B", **options):
    data = DataConfig(image_size=32, questions_per_image=8, quality_grade=grade)
    return VQADataset(index, split, data, WordTokenizer(), train=split == "train", **options)


def test_a_big_index_has_the_number_of_questions_that_was_asked_for(index):
    grades = index.questions["grade"]
    assert (grades >= 3).sum() == QUESTIONS
    assert 0.2 < (grades < 3).mean() < 0.25
    studies = index.studies
    assert len(studies["study_id"]) == round(QUESTIONS / QUESTIONS_PER_STUDY)
    assert studies["question_count"].sum() == len(grades) == index.meta["rows"]["questions"]
    np.testing.assert_array_equal(
        np.repeat(np.arange(len(studies["study_id"])), studies["question_count"]), index.questions["study"]
    )


def test_a_big_index_keeps_patients_in_one_split_and_has_all_splits(index):
    split_of = {}
    for patient, split in zip(index.studies["subject_id"].tolist(), index.studies["split"].tolist(), strict=True):
        assert split_of.setdefault(patient, split) == split
    assert sorted(set(split_of.values())) == [0, 1, 2]
    counted = sum(index.counts(split)["target"] for split in SPLITS)
    assert counted == len(index.questions["study"])


def test_a_big_index_has_targets_that_its_heads_know(index):
    questions = index.questions
    for number, kind in enumerate(QUESTION_TYPES):
        rows = questions["type"] == number
        assert rows.any() == (kind.head is not None)
        if kind.head:
            assert set(questions["head"][rows].tolist()) == {HEAD_INDEX[kind.head]}
            spec = HEADS[kind.head]
            limit = 1 << len(spec.classes) if spec.multi_label else len(spec.classes)
            assert 0 <= questions["target"][rows].min() <= questions["target"][rows].max() < limit
    keys = set(zip(questions["study"].tolist(), questions["question_id"].tolist(), strict=True))
    assert len(keys) == len(questions["study"])
    texts = index.texts(np.arange(index.num_texts))
    assert len(set(texts)) == len(texts) > questions["text"].max()


def test_every_question_of_a_big_index_is_read_with_its_image(index):
    data = dataset(index)
    rows = np.concatenate([b.ids.question.numpy() for b in make_loader(data, 4)])
    split = index.studies["split"][index.questions["study"]]
    assert sorted(rows) == np.flatnonzero((split == 0) & (index.questions["grade"] >= 3)).tolist()
    for row in range(len(index.pixels)):
        assert index.pixels[row].shape == (index.images["stored_height"][row], index.images["stored_width"][row])
        assert index.pixels[row].std() > 5


def test_a_big_index_is_a_function_of_its_seed(tmp_path, index):
    same = write_big_index(tmp_path / "same", QUESTIONS, side=32, pictures=5)
    other = write_big_index(tmp_path / "other", QUESTIONS, side=32, pictures=5, seed=1)
    for name, values in index.questions.items():
        np.testing.assert_array_equal(values, same.questions[name])
    assert (index.questions["text"] != other.questions["text"]).any()
    assert index.fingerprint == same.fingerprint != other.fingerprint
    assert index.is_synthetic
