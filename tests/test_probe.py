"""Measured advice: the search for a micro-batch, workers and costs by arithmetic, and the command on a tiny model."""

import json
import mmap
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from configs.mimic_cxr_config import Config, load_config, to_dict
from data.index import open_index
from tests.mini_index import write_mini_index
from tests.tiny_training import make_config, make_index
from training.engine import TorchEngine
from training.loss import MultiTaskLoss
from training.probe import Probe, bench, choices
from training.probe.batches import IndexSource, made_up_batch
from training.probe.bench import Bench, build_rig
from training.probe.choices import Trial, best_trial, choose_workers, doubled, search, stopped_growing, with_loader
from training.probe.costs import PAGE, Size, forecast, needed_memory, published_size
from training.probe.memory import Peak, expected_peak, line, memory_limit, most_visits, peak_memory
from utils.errors import ConfigError, DataError, OutOfMemoryError
from utils.hardware_utils import Hardware, main

FREE = ("training.batch_size_per_gpu", "training.gradient_accumulation_steps", "data.num_workers")
CPU = Hardware([], 2, 8.0)


@pytest.fixture
def quick(monkeypatch):
    """Two timed steps of a size, and short looks at the loader."""
    monkeypatch.setattr(bench, "TIMED_SECONDS", 0.0)
    monkeypatch.setattr(bench, "LOADER_SECONDS", 0.05)
    monkeypatch.setattr(choices, "PATIENCE", 99)


def write_config(folder: Path, index_dir: object = "", **values) -> Path:
    """The tiny configuration without the settings that a probe chooses; `values` are further settings of training."""
    sections = to_dict(make_config(folder / "out", **values))
    sections["data"]["index_dir"] = str(index_dir)
    for key in FREE:
        section, name = key.split(".")
        if name not in values:
            del sections[section][name]
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(sections))
    return path


def probe(capsys, *options) -> dict:
    assert main(["--probe", "--json", *map(str, options)]) == 0
    return json.loads(capsys.readouterr().out)


# The search


def trial(size: int, seconds: float, update: float = 0.0, peak: int = 0) -> Trial:
    return Trial(size, peak, questions=10.0 * size, micro_seconds=seconds, update_seconds=update)


def run_search(most: int, fitting: int, hurdle=lambda trials, size: ""):
    tried = []

    def fits(size: int) -> bool:
        tried.append(size)
        return size <= fitting

    return search(most, lambda size: trial(size, 1.0) if fits(size) else None, fits, hurdle), tried


@pytest.mark.parametrize("fitting", [1, 2, 3, 5, 8, 13, 63, 64])
def test_the_largest_micro_batch_is_found_exactly(fitting):
    found, tried = run_search(64, fitting)
    assert found.largest == fitting
    assert [t.size for t in found.trials] == sorted({*doubled(1 << fitting.bit_length() - 1), fitting})
    assert found.is_exact == (fitting < 64)
    assert len(tried) < 16


def test_nothing_fits_and_nothing_larger_is_needed():
    found, _ = run_search(64, 0)
    assert (found.trials, found.largest, found.refused) == ([], 0, 1)
    assert list(doubled(12)) == [1, 2, 4, 8, 12]
    assert list(doubled(1)) == [1]


def test_a_hurdle_ends_the_search_but_never_before_the_first_trial():
    found, tried = run_search(64, 40, lambda trials, size: "no time")
    assert (tried, found.why, found.is_exact) == ([1], "no time", False)
    found, tried = run_search(64, 5, lambda trials, size: "" if trials else "no time")
    assert (tried, found.largest, found.refused, found.is_exact) == ([1, 2, 4, 8], 4, 8, False)


def test_the_rate_must_grow():
    assert not stopped_growing([100, 101])
    assert stopped_growing([100, 101, 104])
    assert not stopped_growing([100, 101, 106])
    assert not stopped_growing([100, 150, 151])


def test_the_smallest_size_near_the_best_rate_that_keeps_the_global_batch():
    trials = [trial(1, 1.0), trial(2, 1.0), trial(4, 1.5), trial(5, 1.1), trial(8, 2.95)]
    share = {size: max(1, 8 // size) for size in (1, 2, 4, 5, 8)}
    assert best_trial(trials, share.get, 8, limit=1).size == 4
    assert best_trial(trials[:2], share.get, 8, limit=1).size == 2
    assert best_trial(trials, share.get, 7, limit=1).size == 5  # none makes 7 exactly: the fastest
    large = [trial(1, 1.0, peak=5), trial(2, 1.0, peak=50)]
    assert best_trial(large, share.get, 8, limit=10).size == 1


def test_a_trial_shares_the_update_among_its_micro_batches():
    found = trial(4, seconds=2.0, update=2.0)
    assert found.questions_per_second(1) == 10
    assert found.questions_per_second(4) == 16
    assert found.visits_per_second(4) == 1.6


def test_workers_are_the_fewest_that_keep_up():
    assert choose_workers({0: 2000, 1: 3000}, step=100) == (0, True)
    assert choose_workers({0: 1999, 1: 119, 2: 121, 4: 500}, step=100) == (2, True)
    assert choose_workers({0: 50, 1: 60, 2: 90, 4: 90}, step=100) == (2, False)
    assert choose_workers({0: 300, 1: 60}, step=100) == (0, False)  # in turn: 75 a second
    assert with_loader(100, 300, 0) == pytest.approx(75)
    assert with_loader(100, 90, 2) == 90


# Memory


def test_a_line_through_two_peaks_says_the_rest():
    peaks = {0: 90, 1: 112, 2: 120}
    assert line(peaks) == (104, 8)
    assert expected_peak(peaks, 10) == 184
    assert most_visits(peaks, limit=143, most=100) == 4
    assert most_visits(peaks, limit=10**6, most=100) == 100
    assert most_visits({0: 90}, limit=100, most=7) == 7
    assert most_visits({0: 90}, limit=80, most=7) == 0


def test_peak_and_limit_of_main_memory():
    device = torch.device("cpu")
    # straight from the system: an allocator would hand out what earlier tests have left free, which is in use already
    with peak_memory(device) as peak, mmap.mmap(-1, 2**28, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block:
        for page in range(0, 2**28, mmap.PAGESIZE):
            block[page] = 1
        time.sleep(0.5)  # the watching thread looks every 2 ms when the machine lets it
    with peak_memory(device) as without:
        pass
    assert 200 * 2**20 < peak.highest - without.highest < 400 * 2**20
    assert memory_limit(device, 0) <= peak.highest
    assert memory_limit(device, 1e15) > memory_limit(device, 2**30)


def test_a_gpu_keeps_its_own_books(monkeypatch):
    called = []
    for name in ("synchronize", "empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda *args, name=name: called.append(name))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 7)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (70, 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 20)
    with peak_memory(torch.device("cuda")) as peak:
        called.append("inside")
    assert peak.highest == 7
    assert called == ["synchronize", "empty_cache", "reset_peak_memory_stats", "inside", "synchronize"]
    assert memory_limit(torch.device("cuda"), 0) == 90


def test_main_memory_is_never_used_up(tmp_path, monkeypatch):
    """A model that needs 100 bytes and 10 a visit, where there are 215: 11 fit, and more are never run."""
    ran = []

    @contextmanager
    def fake_peak(device):
        peak = Peak()
        yield peak
        peak.highest = 100 + 10 * ran[-1]

    monkeypatch.setattr(bench, "peak_memory", fake_peak)
    monkeypatch.setattr(bench, "memory_in_use", lambda device: 0)
    monkeypatch.setattr(bench, "memory_limit", lambda device, machine: 215)
    monkeypatch.setattr(Bench, "run", lambda self, window: ran.append(window.images) or True)
    monkeypatch.setattr(choices, "PATIENCE", 99)
    loaded = load_config(write_config(tmp_path, reference_batch_size=64))
    measured = Probe(loaded, CPU, 1, 1.0)
    rig = build_rig(loaded.config)
    tested = Bench(rig, 2**30, float("inf"))
    tested.peaks = {0: 100}
    found = measured.search(tested)
    assert (found.largest, found.refused, max(ran)) == (11, 12, 11)
    ran.clear()
    loaded = load_config(write_config(tmp_path, batch_size_per_gpu=12))
    tested.peaks = {0: 100}
    with pytest.raises(OutOfMemoryError, match=r"batch_size_per_gpu = 12 \(from mine.yaml\) does not fit"):
        Probe(loaded, CPU, 1, 1.0).search(tested)
    assert max(ran) == 2


# Batches


def test_the_worst_visits_are_those_with_most_and_longest_questions(tmp_path):
    def study(count, text):
        return {"split": "train", "questions": [("D02_has_finding", f"{text} {n} ?", 0, 4) for n in range(count)]}

    long = "a b c d e f g h i j k"
    write_mini_index(tmp_path / "index", [study(2, "x"), study(1, long), study(3, "x"), study(3, "x y z")])
    config = make_config(tmp_path)
    config.data.index_dir = str(tmp_path / "index")
    source = build_rig(config).source
    assert isinstance(source, IndexSource)
    [batch] = source.worst(3).batches
    assert np.bincount(batch.image_of).tolist() == [1, 3, 3]
    assert batch.questions.input_ids.shape == (7, 15)  # the long text, its number, ? and two special pieces
    assert source.worst(6).images == 6  # more than there are
    assert [window.images for window in source.ordinary(3, 2)] == [3, 3]


def test_made_up_tensors_go_through_model_and_loss(tmp_path):
    config = make_config(tmp_path)
    config.model.max_question_length = 16
    batch = made_up_batch(config, np.array([3, 0, 2]), (10, 20))
    assert batch.images.shape == (3, 1, 32, 32)
    assert batch.image_of.tolist() == [0, 0, 0, 2, 2]
    assert 10 <= batch.questions.input_ids.shape[1] <= 16
    assert batch.graph.present.shape == (3, 26, 232)
    counts = MultiTaskLoss(config.training).window_counts([batch])
    assert counts["question_type"] == 5
    rig = build_rig(config)
    assert Bench(rig, 2**30, float("inf")).run(SimpleNamespace(batches=[batch]))


# Costs


def test_published_counts():
    config = Config()
    config.data.questions_per_image = 20
    size = published_size(config)
    assert (size.questions, size.visits) == (7_378_344, 368_918 + 111_090)
    assert size.source == f"published: {PAGE}"
    config.data.quality_grade = "B"
    assert published_size(config).questions == 30_542_190
    config.data.quality_grade = "all"
    assert published_size(config).questions == 42_172_827
    assert published_size(config).source.startswith("at most")
    config.data.quality_grade, config.data.max_samples = "A", 1000
    assert (published_size(config).questions, published_size(config).visits) == (1000, 66)


def test_a_forecast_by_hand():
    config = Config()
    config.training.num_epochs = 3
    size = Size(questions=20_000, visits=1_000, index_bytes=0, source="")
    cost = forecast(config, size, micro_batch=8, accumulation=4, devices=2, visits_per_second=0.5)
    assert cost.steps == 3 * 16  # 1000 visits in windows of 64
    assert (cost.epochs, cost.questions) == (3, 60_000)
    assert cost.hours == pytest.approx(3_000 / 0.5 / 3600)
    assert cost.hours_per_epoch == pytest.approx(cost.hours / 3)
    assert cost.hours_on_devices == pytest.approx(cost.hours / 2)
    assert cost.device_hours == cost.hours
    config.training.max_steps = 10
    assert forecast(config, size, 8, 4, 2, 0.5).epochs == 0.64


def test_memory_of_a_model():
    model = torch.nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    need = needed_memory(model, save_total_limit=3, per_visit=5.0, index_bytes=7)
    assert (need.weights, need.gradients, need.optimizer) == (32, 24, 48)
    assert (need.checkpoint, need.output) == (80, 4 * 80 + 2 * 32)


# The command


def test_with_an_index(tmp_path, capsys, quick, monkeypatch):
    make_index(tmp_path)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    before = sorted(tmp_path.rglob("*"))
    config = write_config(tmp_path, tmp_path / "index")
    found = probe(capsys, "--config", config)
    assert sorted(tmp_path.rglob("*")) == sorted([*before, config])
    assert "generated look-alike data" in found["data"]
    assert found["size"]["questions"] == sum(open_index(tmp_path / "index").counts("train").values())
    assert [t["size"] for t in found["trials"]] == [1, 2, 4, 8]
    assert all(t["questions_per_second"] > 0 and t["peak"] > 0 for t in found["trials"])
    settings = found["settings"]
    assert settings["training.batch_size_per_gpu"] * settings["training.gradient_accumulation_steps"] == 8
    assert set(found["loader"]["questions_per_second"]) <= {"0", "1"}
    assert str(settings["data.num_workers"]) in found["loader"]["questions_per_second"]
    assert found["forecast"]["steps"] == 8
    assert found["forecast"]["hours"] > 0


def test_without_data_and_with_values_of_the_user(tmp_path, capsys, quick, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = write_config(tmp_path)
    own = ["--set", "training.batch_size_per_gpu=3", "--set", "data.num_workers=2", "--devices", "2"]
    assert main(["--probe", "--config", str(config), *own]) == 0
    box = capsys.readouterr().out
    assert box.startswith("MEASURED TRAINING STEPS\n  Device:            CPU, ")
    assert "made-up tensors" in box
    assert "no data given" in box
    assert "training.batch_size_per_gpu: as you set it" in box
    assert "on 2 devices at best" in box
    sizes = [line.split()[0] for line in box.split("peak memory\n")[1].split("  Optimal")[0].splitlines()]
    assert sizes == ["3"]
    use = "--set training.batch_size_per_gpu=3 --set training.gradient_accumulation_steps=1 --set data.num_workers=2"
    assert f"  Use:\n    {use}\n" in box
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["mine.yaml"]


def test_out_of_memory_above_five_images(tmp_path, capsys, quick, monkeypatch):
    original = TorchEngine.forward

    def forward(self, images, *args, **kwargs):
        if len(images) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, images, *args, **kwargs)

    monkeypatch.setattr(TorchEngine, "forward", forward)
    found = probe(capsys, "--config", write_config(tmp_path))
    assert found["largest"] == {"size": 5, "exact": True, "why": "out of memory"}
    assert [t["size"] for t in found["trials"]] == [1, 2, 4, 5]
    assert found["effective_batch"] == 8
    with pytest.raises(OutOfMemoryError, match="batch_size_per_gpu = 6"):
        main(["--probe", "--config", str(write_config(tmp_path)), "--set", "training.batch_size_per_gpu=6"])


def test_pretrained_encoders_that_are_not_here(tmp_path, monkeypatch):
    """Random weights in the right shapes, and both said."""
    monkeypatch.setattr(bench, "BertConfig", lambda vocab_size: small_bert(vocab_size))
    make_index(tmp_path)
    config = make_config(tmp_path)
    config.model.pretrained, config.model.text_kwargs = True, {}
    config.data.index_dir, config.training.init_from = str(tmp_path / "index"), str(tmp_path / "none")
    rig = build_rig(config)
    assert rig.engine.model.question_encoder.model.config.vocab_size == 28_996
    said = " ".join(rig.notes)
    assert all(words in said for words in ("random weights", "Bio_ClinicalBERT's shape", "tokenizer", "init_from"))


def small_bert(vocab_size):
    from transformers import BertConfig

    return BertConfig(
        vocab_size=vocab_size, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--probe", "--simulate", "L4"], "--probe measures this machine"),
        (["--config", "a.yaml", "--devices", "2"], "--config, --devices: for --probe only"),
        (["--probe", "--config", "nowhere.yaml"], "nowhere.yaml: no such configuration file"),
        (["--probe", "--devices", "0"], "--devices 0: must be at least 1"),
        (["--probe", "--max_minutes", "0"], "--max_minutes 0: must be greater than 0"),
    ],
)
def test_contradictions(options, message):
    with pytest.raises(ConfigError) as error:
        main(options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_folders_without_a_release_are_an_error(tmp_path):
    with pytest.raises(DataError):
        main(["--probe", "--mimic_cxr_path", str(tmp_path), "--mimic_qa_path", str(tmp_path)])


def test_print_config_measures_nothing(capsys):
    assert main(["--probe", "--print_config", "--set", "training.num_epochs=3"]) == 0
    assert "num_epochs: 3" in capsys.readouterr().out
