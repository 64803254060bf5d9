"""Benchmarks of data path, index build, inference and growth, at sizes of seconds."""

import gc
import json
import os
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

import benchmarks.build
import benchmarks.data
import benchmarks.infer
import benchmarks.scale
import benchmarks.scoring
from benchmarks import scale_point
from benchmarks.big_index import QUESTIONS_PER_STUDY, draw_picture, write_big_index
from benchmarks.commands import build_parser
from benchmarks.films import psnr, store_of
from benchmarks.loading import BATCHES, LoaderRun, bytes_of, worker_memory
from benchmarks.machine import Ceilings, Machine
from benchmarks.memory import private_bytes, tree_bytes, tree_peak
from benchmarks.scale import check_space, exponent
from benchmarks.session import Session
from benchmarks.timing import measure
from configs.mimic_cxr_config import DataConfig, load_config
from data.images import STORE_FILES
from data.index import SPLITS
from data.label_space import HEAD_INDEX, HEADS, QUESTION_TYPES
from data.loader import make_loader
from data.mimic_cxr_dataset import VQADataset
from tests.mini_index import WordTokenizer
from utils.errors import DataError

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


# Measurements


def session_of(tmp_path, command, *options):
    """A session of the tiny preset, made smaller still."""
    argv = [command, *options, "--rounds", "1", "--config", "configs/tiny_config.yaml", "--set", "data.image_size=32"]
    args = build_parser("").parse_args(argv)
    config = load_config(args.config, args.set).config
    config.model.pretrained = False
    ceilings = Ceilings({"fp32": 1e9}, 1e9)
    machine = Machine("cpu", "a processor", 1, 1, 1.0, False, [], {}, None, ceilings)
    return QuietSession(args, config, torch.device("cpu"), tmp_path, machine)


class QuietSession(Session):
    """Does not look for the ceilings of the machine again."""

    def measure(self, variants, *, least_seconds=0.0, rounds=0):
        return measure(variants, rounds or self.args.rounds)


def tables(sections, machine):
    """Title -> names of the rows of each table, all of which can be printed and stored."""
    found = {}
    for section in sections:
        json.dumps(section.as_json(machine))
        assert section.title in section.text(machine)
        found[section.title] = [one.name for one in section.measured] or [
            str(row[""]) for row in section.rows if "" in row
        ]
    return found


def test_data_path_is_measured_part_by_part(tmp_path):
    options = ["--questions", "2000", "--sizes", "1000,2000", "--images", "4", "--workers", "0,1"]
    options += ["--pass_seconds", "2", "--films", "1", "--study_questions", "20"]
    session = session_of(tmp_path, "data", *options)
    found = tables(benchmarks.data.run(session), session.machine)
    assert found["Opening an index"] == ["1,000 questions", "2,000 questions"]
    loader = next(rows for title, rows in found.items() if title.startswith("Loader"))
    assert loader[:2] == list(benchmarks.data.WRITTEN)
    assert {"raw store, in the main process", "raw store, 1 process", "jpeg store, 1 process"} < set(loader)
    assert {"Random questions, 1,280 at a time", "Order of an epoch", "Reading films at 32 pixels"} < set(found)


def test_a_faster_loader_is_called_faster(tmp_path, index):
    """The rate of the loader counts questions of its batches, each once, whether a process of its own makes them or not."""
    data = dataset(index)
    for workers in (0, 1):
        run = LoaderRun(data, 4, workers, torch.device("cpu"))
        batches = [next(run.start()) for _ in range(2)]
        assert torch.equal(batches[0].ids.question, batches[1].ids.question)
        questions = run.watch(run.start())
        assert BATCHES * 4 * 1 <= questions <= BATCHES * 4 * 8
        assert len(run.cpu_rates) == workers
    assert bytes_of(batches[0]) > batches[0].images.pixels.numel()


def test_films_are_read_from_file_and_store(tmp_path):
    rng = np.random.default_rng(0)
    pictures = [draw_picture(rng, 80, 64), draw_picture(rng, 64, 96)]
    for kind in STORE_FILES:
        store = store_of(tmp_path / kind, kind, pictures)
        for row, picture in enumerate(pictures):
            likeness = psnr(store[row], picture)
            assert likeness == float("inf") if kind == "raw" else 35 < likeness < 60
    assert psnr(np.zeros((4, 4), np.uint8), np.full((4, 4), 255, np.uint8)) == 0


def test_memory_of_a_loader_process_is_seen(index):
    found = worker_memory(dataset(index), 4, 1, 30.0)
    assert found["questions"] == dataset(index).num_questions
    assert 1 < found["at first"] <= found["highest"]
    assert found["growth"] == pytest.approx(found["at the end"] - found["at first"])
    assert abs(found["growth"]) < 40  # the larger the process that forks, the more of its pages are written to


def test_a_loader_process_copies_nothing_by_collecting_garbage(index, monkeypatch):
    """The collector writes to each object that it looks through: pages that a fork shares would be copied."""
    many = [[number] for number in range(1_000_000)]  # 100 MB
    made = VQADataset.batch
    seen = []

    def batch(self, *given):
        found = made(self, *given)
        seen.append(found)
        if len(seen) == 4:  # the process has made two batches before its memory is looked at
            gc.collect()
        return found

    monkeypatch.setattr(VQADataset, "batch", batch)
    assert worker_memory(dataset(index), 4, 1, 30.0)["growth"] < 50
    assert len(many) == 1_000_000


def test_private_memory_counts_what_a_process_writes():
    before, tree = private_bytes(os.getpid()), tree_bytes()
    with tree_peak() as peak:
        written = np.ones(200_000_000, np.uint8)  # more than freed memory could serve
        growth = private_bytes(os.getpid()) - before
    assert 150e6 < growth < 250e6
    assert peak.growth > 150e6
    assert written[-1] == 1
    assert peak.highest >= tree


@pytest.mark.slow
def test_building_is_measured_against_the_simple_conversion(tmp_path):
    session = session_of(tmp_path, "build", "--studies", "6", "--workers", "1")
    found = tables(benchmarks.build.run(session), session.machine)
    names = [benchmarks.build.QUESTIONS_ONLY, benchmarks.build.WITH_FILMS, "index, 1 process"]
    assert list(found.values()) == [names, names]


def test_answers_and_evaluation_are_measured(tmp_path):
    session = session_of(tmp_path, "infer", "--questions", "1,3", "--sides", "32,64", "--eval_studies", "30")
    session.config.model.visual_kwargs = {}
    session.config.model.visual_backbone = "test_convnext"
    found = tables(benchmarks.infer.run(session), session.machine)
    assert [title.split(" at ")[0] for title in found][:2] == [
        f"Answers about one image of {s} pixels" for s in (32, 64)
    ]
    names = next(iter(found.values()))
    assert names[:3] == [
        "fp32, a call for each question",
        "fp32, one call for 1 question",
        "fp32, one call for 3 questions",
    ]
    assert found["Evaluation at 32 pixels"] == ["model alone", "model with all controls"]


def test_one_call_gives_the_answers_of_single_calls(tmp_path):
    session = session_of(tmp_path, "infer")
    texts = ["Is there a nodule?", "Where is the large pleural effusion?", "How severe?"]
    user = benchmarks.infer.random_user(session, 32, texts, "fp32")
    together = user.ask(texts)
    for n, text in enumerate(texts):
        for head, values in user.ask([text]).items():
            torch.testing.assert_close(values[0], together[head][n], atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_growth_of_every_stage_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmarks.scale, "in_own_process", lambda job: scale_point.main([str(job)]))
    monkeypatch.setattr(scale_point, "STEADY_SECONDS", 0.2)
    plot = tmp_path / "growth.svg"
    options = ["--sizes", "1000,3000", "--images", "4", "--workers", "1", "--pass_seconds", "1", "--plot", str(plot)]
    session = session_of(tmp_path, "scale", *options)
    (section,) = benchmarks.scale.run(session)
    stages = {row[""]: row for row in section.rows}
    assert {"open, s", "data set, s", "first batch, s", "resume in mid-epoch, s", "loader, questions/s"} < set(stages)
    assert all(row["1,000"] > 0 for stage, row in stages.items() if stage.endswith(", s"))
    assert stages["index on disk, MB"]["3,000"] > stages["index on disk, MB"]["1,000"]
    lines = [element for element in ElementTree.parse(plot).iter() if element.tag.endswith("polyline")]
    assert len(lines) >= sum(stage.endswith(", s") for stage in stages)
    assert not list(tmp_path.glob("scale-*"))


@pytest.mark.slow
def test_sizes_are_measured_in_processes_of_their_own(tmp_path):
    session = session_of(tmp_path, "scale", "--sizes", "1000", "--images", "4", "--workers", "1", "--pass_seconds", "1")
    (section,) = benchmarks.scale.run(session)
    assert {row[""]: row for row in section.rows}["first batch, s"]["1,000"] > 0


def test_a_size_that_fails_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmarks.scale.sys, "executable", "false")
    with pytest.raises(DataError, match="ended with code 1"):
        benchmarks.scale.in_own_process(tmp_path / "job.json")


def test_exponents_of_growth():
    sizes = [10**3, 10**4, 10**6]
    assert exponent({n: 7.0 * n for n in sizes}) == pytest.approx(1)
    assert exponent(dict.fromkeys(sizes, 3.0)) == pytest.approx(0)
    assert exponent({n: n**0.5 for n in sizes} | {10**5: None, 10**7: 0.0}) == pytest.approx(0.5)
    assert exponent({10: 1.0, 100: None}) is None


def test_an_index_that_does_not_fit_the_disk_is_not_begun(tmp_path):
    with pytest.raises(DataError, match="must stay free"):
        check_space(tmp_path, 10**15)


def test_scoring_resamples_has_all_ways(tmp_path):
    session = session_of(tmp_path, "score", "--questions", "2000", "--patients", "50", "--samples", "20")
    (rows,) = tables(benchmarks.scoring.run(session), session.machine).values()
    assert len(rows) == 3 and rows[0].startswith("scikit-learn")
