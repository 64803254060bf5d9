"""The training benchmark: controlled questions, and designs to compare with that learn from the same answers."""

import argparse
import json
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import as_written, compose, machine, peers, session, train
from benchmarks.as_written import FolderFiles, QuestionDataset, ZipFiles, collate
from benchmarks.baseline import PerQuestionModel, per_question_loss
from benchmarks.commands import build_parser
from benchmarks.first_step import PHASES
from benchmarks.machine import Ceilings, Machine
from benchmarks.others import Other
from benchmarks.ours import (
    Ours,
    endless_windows,
    first_window,
    random_model,
    text_config_of,
    text_facts,
    tokenizer_of,
    twin,
)
from configs.mimic_cxr_config import to_yaml
from data.label_space import HEADS
from tests.tiny_training import make_config
from training.run import training_questions

FILMS, QUESTIONS, TOGETHER, PAD = 4, 6, 2, 32
CPU = torch.device("cpu")
MACHINE = Machine("cpu", "a processor", 2, 1, 8.0, False, [], {}, None, Ceilings({"fp32": 1e9}, 1e9))


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """A session with the small model, and look-alike data for it."""
    folder = tmp_path_factory.mktemp("benchmark")
    args = argparse.Namespace(seed=0, rounds=1)
    return session.Session(args, make_config(folder / "output"), CPU, folder, MACHINE)


@pytest.fixture(scope="module")
def composed(bench):
    return compose.compose(bench, FILMS, QUESTIONS, 0.5, TOGETHER)


@pytest.fixture(scope="module")
def index(bench, composed):
    return bench.index(composed.config)


@pytest.fixture(scope="module")
def tokenizer(composed, index):
    return tokenizer_of(composed.config, [index])


@pytest.fixture(scope="module")
def window(composed, index, tokenizer):
    return first_window(training_questions(composed.config, index, tokenizer), FILMS, TOGETHER)


def items_of(composed, tokenizer, files=None, films=None) -> QuestionDataset:
    files = files or FolderFiles(composed.member_folder)
    return QuestionDataset(composed, FILMS * QUESTIONS, tokenizer, PAD, files, films)


# Composition


@given(
    st.integers(1, 40),
    st.integers(1, 85),
    st.floats(0.05, 1),
    st.integers(1, 16),
)
def test_any_films_together_have_the_wanted_share_of_distinct_texts(films, questions, share, together):
    unique = compose.unique_questions(films, questions, share, together)
    assert len(unique) == films
    assert all(0 <= own <= questions for own in unique)
    together = min(together, films)
    for first in range(films - together + 1):
        own = unique[first : first + together]
        distinct = sum(own) + max(questions - few for few in own)
        lowest = 1 / together  # a film's own questions are all different
        assert distinct / (together * questions) == pytest.approx(max(share, lowest), abs=2 / questions)


def test_a_composed_release_has_what_was_asked_for(composed, window):
    assert (window.images, window.questions) == (FILMS, FILMS * QUESTIONS)
    for batch in window.batches:
        assert len(batch.questions.input_ids) == pytest.approx(TOGETHER * QUESTIONS / 2, abs=1)
        assert batch.image_of.bincount().tolist() == [QUESTIONS] * TOGETHER
    rows = torch.cat([batch.ids.question for batch in window.batches])
    assert len(rows.unique()) == FILMS * QUESTIONS


def test_without_repeats_every_text_is_distinct(bench, tokenizer):
    composed = compose.compose(bench, FILMS, 20, 1.0, FILMS)
    dataset = training_questions(composed.config, bench.index(composed.config), tokenizer)
    facts = text_facts(
        first_window(dataset, FILMS, FILMS), random_model(bench.config, bench.index(composed.config), tokenizer)
    )
    assert facts["text passes per question"] == 1
    assert facts["questions"] == facts["distinct"] == 4 * 20


def test_questions_have_the_wanted_number_of_word_pieces(composed, index):
    texts = index.texts(range(index.num_texts))
    few, many = (tokenizer_of(composed.config, [index], wanted) for wanted in (0, 16))
    lengths = [sum(map(len, tokenizer(texts)["input_ids"])) / len(texts) for tokenizer in (few, many)]
    assert lengths[0] < 13
    assert lengths[1] == pytest.approx(16, abs=1.5)
    assert lengths[1] <= 16


def test_a_composed_release_is_found_again(bench, composed):
    again = compose.compose(bench, FILMS, QUESTIONS, 0.5, TOGETHER)
    assert again.folder == composed.folder
    assert not list(composed.folder.parent.glob(".*"))


# The same questions for all


def answers(targets) -> list[tuple]:
    """Per question what all four heads should say."""
    columns = [getattr(targets, head.value) for head in HEADS]
    return [tuple(tuple(x.tolist()) if x.ndim else x.item() for x in row) for row in zip(*columns, strict=True)]


def test_baseline_and_ours_see_the_same_questions_and_answers(composed, index, tokenizer, window):
    ours = Counter()
    for batch in window.batches:
        texts = tokenizer.batch_decode(batch.questions.input_ids, skip_special_tokens=True)
        studies = index.studies["study_id"][index.questions["study"][batch.ids.question.numpy()]]
        labels = batch.chexpert[batch.image_of].nan_to_num(-9)
        rows = zip(batch.question_of, batch.head, answers(batch.targets), studies, labels, strict=True)
        ours.update((texts[q], int(h), a, int(s), tuple(c.tolist())) for q, h, a, s, c in rows)
    dataset = items_of(composed, tokenizer)
    batch = collate([dataset[n] for n in range(len(dataset))])
    texts = tokenizer.batch_decode(batch.input_ids, skip_special_tokens=True)
    studies = [study for (_, study), _ in dataset.places]
    labels = batch.chexpert.nan_to_num(-9)
    rows = zip(texts, batch.head, answers(batch.targets), studies, labels, strict=True)
    theirs = Counter((t, int(h), a, s, tuple(c.tolist())) for t, h, a, s, c in rows)
    assert theirs == ours
    assert sum(theirs.values()) == FILMS * QUESTIONS
    assert len({head for _, head, *_ in theirs}) > 1


def test_files_and_archives_give_the_same_items(composed, tokenizer):
    for n in (0, 5):
        one = items_of(composed, tokenizer)[n]
        other = items_of(composed, tokenizer, ZipFiles(composed.folder / compose.QBA))[n]
        assert one.keys() == other.keys()
        assert all(torch.equal(one[k], other[k]) for k in one if isinstance(one[k], torch.Tensor) and k != "chexpert")
        assert one["question"] == other["question"]


def test_large_films_are_as_large_as_originals(composed, tokenizer, tmp_path):
    mean = as_written.write_films(composed, 1, tmp_path)
    assert 1.1e6 < mean < 1.9e6
    small, large = (items_of(composed, tokenizer, films=films)[0]["pixels"] for films in (None, tmp_path))
    assert small.shape == large.shape == (3, 32, 32)
    assert (small - large).abs().mean() < 0.1
    assert as_written.write_films(composed, 1, tmp_path) == mean


# The per-question design


@pytest.fixture(scope="module")
def per_question(composed, tokenizer):
    def build(box_loop: bool) -> PerQuestionModel:
        torch.manual_seed(0)
        text = text_config_of(composed.config, tokenizer)
        release = composed.release
        return PerQuestionModel(composed.config, text, len(release.entities), len(release.region_names), box_loop)

    return build


@pytest.fixture(scope="module")
def items(composed, tokenizer):
    dataset = items_of(composed, tokenizer)
    return collate([dataset[n] for n in range(12)])


def other_of(model, config, update: bool) -> Other:
    return Other(model, lambda m, b: per_question_loss(m(b), b, config.training), config.training, CPU, update)


@pytest.mark.parametrize("box_loop", [False, True])
def test_the_baseline_learns(composed, per_question, items, box_loop):
    config = composed.config
    model = per_question(box_loop)
    other = other_of(model, config, update=True)
    losses = [float(other.step(items)) for _ in range(20)]
    assert losses[-1] < 0.9 * losses[0]


def test_all_of_the_baseline_is_trained(composed, per_question, items):
    model = per_question(False).train()
    per_question_loss(model(items), items, composed.config.training).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    # of a single query the key's bias changes no softmax; these heads have no question in the batch
    assert [name for name in without if "heads" not in name and not name.endswith("bias")] == []


def test_padding_changes_no_answer_of_the_baseline(per_question, items):
    model = per_question(False).eval()
    few = collate_rows(items, 4)
    with torch.no_grad():
        many_logits, one_by_one = model(items)[0], [model(collate_rows(items, n, n + 1))[0] for n in range(4)]
        few_logits = model(few)[0]
    for name, logits in many_logits.items():
        torch.testing.assert_close(few_logits[name], logits[:4], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(torch.cat([o[name] for o in one_by_one]), logits[:4], atol=1e-4, rtol=1e-4)


def collate_rows(items, *bounds):
    rows = slice(*bounds)
    values = {name: value[rows] for name, value in vars(items).items() if isinstance(value, torch.Tensor)}
    targets = type(items.targets)(**{name: value[rows] for name, value in vars(items.targets).items()})
    return type(items)(**values, targets=targets)


# Our step


def test_our_step_leaves_the_weights_unless_asked(composed, index, tokenizer, window):
    training = composed.config.training
    model = random_model(composed.config, index, tokenizer)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = Ours(model, training, CPU, update=False).step(window)
    assert report.questions == FILMS * QUESTIONS
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    Ours(model, training, CPU, update=True).step(window)
    assert not all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_a_twin_shares_the_weights(composed, index, tokenizer):
    model = random_model(composed.config, index, tokenizer)
    other = twin(model, composed.config, index, tokenizer)
    assert [id(p) for p in other.parameters()] == [id(p) for p in model.parameters()]


def test_the_loader_goes_on_after_an_epoch(composed, index, tokenizer):
    stream = endless_windows(training_questions(composed.config, index, tokenizer), 3, 2, 0)
    found = [next(stream) for _ in range(3)]
    assert [w.visits for w in found] == [3, 3, 3]  # of four films; the rest of an epoch is left out


# Peers


@pytest.mark.parametrize(
    ("size", "expected"), [((2544, 3056), (384, 448)), ((400, 400), (384, 384)), ((300, 900), (192, 608))]
)
def test_vilt_keeps_the_shape_of_a_film(size, expected):
    assert peers.vilt_size(*size) == expected


def peer_examples(composed, tokenizer):
    from PIL import Image

    dataset = QuestionDataset(composed, 2, tokenizer, PAD, FolderFiles(composed.member_folder))
    return [peers.Example(Image.new("L", (50, 60), 128), q.text, q) for q in dataset.questions()]


def test_peers_are_given_the_same_answers(composed, tokenizer):
    examples = peer_examples(composed, tokenizer)
    labels = peers.vilt_batch(examples, tokenizer, (32, 64))["labels"]
    assert labels.shape == (2, sum(len(spec.classes) for spec in HEADS.values()))
    words = [name for spec in HEADS.values() for name in spec.classes]
    for example, row in zip(examples, labels, strict=True):
        chosen = [words[n] for n in row.nonzero().flatten()]
        assert ", ".join(chosen) == as_written.answer_text(example.question)
    batch = peers.blip_batch(examples, tokenizer, 32)
    told = tokenizer.batch_decode(batch["decoder_input_ids"], skip_special_tokens=True)
    first = tokenizer(as_written.answer_text(examples[0].question))["input_ids"]
    assert told[0] == tokenizer.decode(first, skip_special_tokens=True)
    assert (batch["labels"] == -100).equal(batch["decoder_attention_mask"] == 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vilt", "blip"])
def test_peers_take_a_step(composed, tokenizer, name):
    examples = peer_examples(composed, tokenizer)
    model = getattr(peers, name)()
    batch = peers.vilt_batch(examples, tokenizer) if name == "vilt" else peers.blip_batch(examples, tokenizer, 64)
    loss = Other(model, peers.peer_loss, composed.config.training, CPU, update=False).step(batch)
    assert loss.isfinite()
    assert loss > 0


# The command


@pytest.mark.slow
def test_train_prints_tables_and_writes_json(bench, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(machine, "CEILING_SECONDS", 0.0)
    monkeypatch.setattr(machine, "MATRIX", {"cpu": 64})
    monkeypatch.setattr(machine, "COPIED_BYTES", {"cpu": 2**16})
    monkeypatch.setattr(train, "FAST_PATH", ("shared_images", "roi_matrix"))
    config, output = tmp_path / "small.yaml", tmp_path / "found.json"
    config.write_text(to_yaml(bench.config), encoding="utf-8")
    words = ["train", "--config", str(config), "--workdir", str(bench.workdir), "--json", str(output), "--rounds", "2"]
    words += [
        "--images",
        str(FILMS),
        "--questions",
        f"{QUESTIONS},1",
        "--micro_batch",
        str(TOGETHER),
        "--device",
        "cpu",
    ]
    words += ["--against", "per_question,padded_128,as_written", "--baseline_questions", "2"]
    words += ["--switches", "--against_loader"]
    assert session.run(build_parser("").parse_args(words), words) == 0
    printed = capsys.readouterr().out
    found = json.loads(output.read_text())
    assert found["argv"] == words
    steps, ratios, switches, waiting = found["sections"]
    assert [row[""] for row in ratios["rows"]] == [v["name"] for v in steps["variants"][2:]]
    assert all(len(row) == 1 + 2 * 2 for row in ratios["rows"])
    rates = {v["name"]: v["items_per_second"] for v in steps["variants"]}
    assert steps["baseline"] in rates
    assert {"ours, 4 x 6", "ours, 4 x 1", "as written, from files"} <= rates.keys()
    assert all(rate > 0 for rate in rates.values())
    assert all(v["flops"] > 0 for v in steps["variants"])
    assert all(len(v["rounds"]) == 2 for v in steps["variants"])
    assert all(name in printed for name in rates)
    assert "0.50 a question" in printed
    named = [v["name"] for v in switches["variants"]]
    assert named[:4] == ["fast path", "without shared_images", "without roi_matrix", "without all of them"]
    assert all(name.startswith("fast path in ") for name in named[4:]), "where the processor has other precisions"
    flops = {v["name"]: v["flops"] for v in switches["variants"]}
    assert flops["without shared_images"] > 1.5 * flops["fast path"]
    assert 0 < waiting["facts"]["share of the time spent in the loader"] < 1


@pytest.mark.slow
def test_start_times_new_processes(bench, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(machine, "CEILING_SECONDS", 0.0)
    config, output = tmp_path / "small.yaml", tmp_path / "found.json"
    config.write_text(to_yaml(bench.config), encoding="utf-8")
    words = ["start", "--config", str(config), "--workdir", str(bench.workdir), "--json", str(output), "--rounds", "1"]
    words += ["--studies", str(compose.LEAST_STUDIES), "--sizes", "2000", "--device", "cpu"]
    assert session.run(build_parser("").parse_args(words), words) == 0
    calls, phases = json.loads(output.read_text())["sections"]
    assert [v["name"] for v in calls["variants"]] == ["train_mimic_cxr.py", "index of 2,000 questions"]
    (row,) = phases["rows"]
    seconds = sum(row[name] for name in PHASES)
    assert 0.5 * calls["variants"][1]["seconds"] < seconds < calls["variants"][1]["seconds"]
    assert "first step" in capsys.readouterr().out
