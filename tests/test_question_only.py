"""The text-only control: as good as a table of the answers by text."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from configs.mimic_cxr_config import Config
from data.label_space import HEAD_INDEX, Head
from data.loader import make_loader
from data.mimic_cxr_dataset import VQADataset
from models.encoders import build_tokenizer
from models.question_only import QuestionOnly
from tests.mini_index import write_mini_index
from tests.tiny_training import GRADE, make_config
from training import question_only


@pytest.fixture(scope="module")
def noisy_index(tmp_path_factory):
    """Yes/no questions whose best textual answer differs by text, category and severity questions beside them."""
    rng = np.random.default_rng(0)
    words = ["effusion", "nodule", "pacemaker", "edema", "fracture", "mass", "collapse", "scar"]
    texts = [f"Is there {'a new ' if n < 12 else 'an old '}{words[n % 8]} in part {n // 8} ?" for n in range(24)]
    rates = rng.choice([0.2, 0.8, 0.45, 0.6], len(texts))
    studies = []
    for split, count in (("train", 60), ("validate", 60)):
        for _ in range(count):
            questions = [
                ("D02_has_finding", texts[t], int(rng.random() < rates[t]), GRADE) for t in rng.choice(24, 12, False)
            ]
            questions.append(("B02_describe_abnormal", "What is abnormal ?", int(rng.choice([1, 3])), GRADE))
            questions.append(("D04_how_severe_is_finding", "How severe is it ?", int(rng.choice([1, 1, 2])), GRADE))
            studies.append({"split": split, "questions": questions})
    return write_mini_index(tmp_path_factory.mktemp("noisy") / "index", studies)


def control_data(index, config: Config):
    tokenizer = build_tokenizer(config.model, index.texts(np.arange(index.num_texts)))
    train = VQADataset(index, "train", config.data, tokenizer, train=True)
    return tokenizer, train, VQADataset(index, "validate", config.data, tokenizer, train=False)


def test_collapsed_texts_have_the_loss_of_all_questions(noisy_index, tmp_path):
    config = make_config(tmp_path)
    tokenizer, train, _ = control_data(noisy_index, config)
    model = QuestionOnly.build(config.model, tokenizer).eval()
    counts = question_only.count_answers(train)
    texts = len(train.text_codes)
    logits = question_only._forward(model, train, train.text_codes, torch.device("cpu"))
    batch = next(make_loader(train, 10_000))
    answers = model(batch.questions, batch.question_of)
    binary = batch.head == HEAD_INDEX[Head.BINARY]
    expected = torch.nn.functional.cross_entropy(
        answers["binary"][binary], batch.targets.binary[binary], reduction="sum"
    )
    collapsed = counts[Head.BINARY].loss(Head.BINARY, logits["binary"], torch.arange(texts))
    assert collapsed.item() == pytest.approx(expected.item(), rel=1e-4)
    category = batch.head == HEAD_INDEX[Head.CATEGORY]
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        answers["category"][category], batch.targets.category[category], reduction="sum"
    )
    collapsed = counts[Head.CATEGORY].loss(Head.CATEGORY, logits["category"], torch.arange(texts))
    assert collapsed.item() == pytest.approx(expected.item(), rel=1e-4)
    assert Head.REGION not in counts


def test_no_function_of_the_text_is_better_than_the_best_loss():
    positive = torch.tensor([[3.0, 1.0], [0.0, 2.0]])
    counts = question_only.AnswerCounts(positive, positive.sum(1))
    best = counts.best_loss(Head.BINARY)
    assert best == pytest.approx(-(3 * math.log(0.75) + math.log(0.25)))
    table = (positive / positive.sum(1, keepdim=True)).clamp(min=1e-9).log()
    assert counts.loss(Head.BINARY, table, torch.arange(2)).item() == pytest.approx(best, abs=1e-5)


def test_the_control_is_as_good_as_a_table_of_answers(noisy_index, tmp_path):
    config = make_config(tmp_path)
    config.model.hidden_dim = 32
    config.model.text_kwargs |= {"hidden_size": 32, "intermediate_size": 64}
    tokenizer, train, validate = control_data(noisy_index, config)
    control, convergence = question_only.train_question_only(config, tokenizer, train, seed=0)
    assert convergence.converged and 0 <= convergence.loss - convergence.best_loss < 0.05
    table = question_only.count_answers(train)[Head.BINARY].positive.argmax(1).numpy()
    questions = noisy_index.questions
    rows = validate.rows[questions["head"][validate.rows] == HEAD_INDEX[Head.BINARY]]
    majority = table[np.searchsorted(train.text_codes, questions["text"][rows])]
    accuracy = (majority == questions["target"][rows]).mean()
    scores = question_only.score_question_only(control, validate)
    assert scores["heads"]["binary"]["accuracy"] >= accuracy - 0.02
    assert scores["heads"]["region"]["n"] == 0 and scores["headline"] is not None


def test_a_class_of_exactly_half_the_answers_is_predicted(tmp_path):
    """As the majority row does; or a balanced release would halve the recall of the control."""
    config = make_config(tmp_path)
    questions = [
        ("B02_describe_abnormal", f"What is abnormal in part {n % 4} ?", 1 + n // 4 % 2, GRADE) for n in range(16)
    ]
    index = write_mini_index(tmp_path / "index", [{"split": "train", "questions": questions}])
    tokenizer = build_tokenizer(config.model, index.texts(np.arange(index.num_texts)))
    train = VQADataset(index, "train", config.data, tokenizer, train=True)
    control, _ = question_only.train_question_only(config, tokenizer, train, seed=0)
    scores = question_only.score_question_only(control, train)["heads"]["category"]
    assert scores["micro_f1"] == pytest.approx(2 / 3), "both classes for every text"
