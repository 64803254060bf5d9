"""Two processes, whatever engine: the numbers of one process, exact resume, and faults that hit one of them."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from data.index import open_index
from models.mimic_vqa_model import SSGVQA
from tests.fault.launch import Ended, Launcher
from tests.tiny_training import make_config, make_index
from training import checkpoint

STEPS = 50
ENGINES = {
    "torch": {"enabled": False},
    "zero-1": {"stage": 1},
    "zero-2": {"stage": 2},
    "zero-3": {"stage": 3, "config_path": "tests/fault/zero3_config.json"},
}
pytestmark = pytest.mark.slow
CALM = {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0}
"""of the text encoder; `model.dropout` is the rest"""


@pytest.fixture(scope="module")
def launcher():
    launcher = Launcher()
    yield launcher
    launcher.close()


@pytest.fixture(scope="module")
def index_folder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("index")
    make_index(folder)
    return str(folder / "index")


def jobs(index_folder: str, folder: Path):
    """Makes trainings of 8 image visits a step that write to `folder`; `processes` share them."""

    def make(processes=1, engine="torch", output="run", data=None, fault=None, resume="never", model=None, **training):
        size = {"batch_size_per_gpu": 4 // processes, "gradient_accumulation_steps": 2}
        settings = {"max_steps": 12, "num_epochs": 100, "save_steps": 1000, "eval_steps": 6} | size | training
        return {
            "index": index_folder,
            "output": str(folder / output),
            "training": settings,
            "deepspeed": ENGINES[engine],
            "data": data or {},
            "model": model or {},
            "fault": fault or {},
            "resume": resume,
        }

    return make


@pytest.fixture
def job(index_folder, tmp_path):
    return jobs(index_folder, tmp_path)


@pytest.fixture(scope="module")
def straight(launcher, index_folder, tmp_path_factory):
    """How two processes end that nothing cuts, and their folder with a checkpoint every five steps: once an engine."""
    done: dict[str, tuple[Ended, Path]] = {}

    def run(engine: str) -> tuple[Ended, Path]:
        if engine not in done:
            folder = tmp_path_factory.mktemp("straight")
            ended = launcher.run(jobs(index_folder, folder)(2, engine, save_steps=5, save_total_limit=9), 2)
            assert_ended_well(ended)
            done[engine] = ended, folder / "run"
        return done[engine]

    return run


def without_dropout() -> dict:
    text = make_config("unused").model.text_kwargs
    return {"dropout": 0.0, "drop_path": 0.0, "text_kwargs": text | CALM}


def assert_ended_well(ended: Ended) -> None:
    assert set(ended.codes) == {0}, ended.stderr
    assert len({report["weights"] for report in ended.reports}) == 1, "all processes have the same weights"


# The numbers of one process


@pytest.fixture(scope="module")
def one_process(launcher, index_folder, tmp_path_factory) -> Ended:
    settings = {"max_steps": STEPS, "num_epochs": 100, "save_steps": 1000, "eval_steps": 25}
    job = {
        "index": index_folder,
        "output": str(tmp_path_factory.mktemp("one")),
        "training": settings | {"batch_size_per_gpu": 4, "gradient_accumulation_steps": 2},
        "model": without_dropout(),
    }
    ended = launcher.run(job)
    assert_ended_well(ended)
    return ended


@pytest.mark.parametrize("engine", ENGINES)
def test_two_processes_give_the_loss_curve_of_one(launcher, job, one_process, engine):
    ended = launcher.run(job(2, engine, model=without_dropout(), max_steps=STEPS, eval_steps=25), 2)
    assert_ended_well(ended)
    assert ("DeepSpeed" in ended.reports[0]["kind"]) == (engine != "torch")
    assert ended.losses.keys() == one_process.losses.keys() and len(ended.losses) == STEPS
    for step, loss in one_process.losses.items():
        assert ended.losses[step] == pytest.approx(loss, rel=1e-5), step
    for name in ("questions", "best", "step"):
        assert ended.reports[0][name] == pytest.approx(one_process.reports[0][name], abs=1e-6), name


def test_gradient_checkpointing_under_zero_changes_no_number(launcher, job, one_process):
    settings = {"max_steps": STEPS, "eval_steps": 25, "gradient_checkpointing": True}
    ended = launcher.run(job(2, "zero-2", model=without_dropout(), **settings), 2)
    assert_ended_well(ended)
    assert list(ended.losses.values()) == pytest.approx(list(one_process.losses.values()), rel=1e-5)


def test_bf16_under_zero_stays_near_fp32(launcher, job, one_process):
    ended = launcher.run(job(2, "zero-2", model=without_dropout(), max_steps=8, precision="bf16"), 2)
    assert_ended_well(ended)
    losses = list(ended.losses.values())
    assert losses[:3] == pytest.approx(list(one_process.losses.values())[:3], rel=0.02)
    assert losses != list(one_process.losses.values())[:8]


def test_a_loss_scale_changes_no_number_and_halves_after_an_overflow(launcher, job, straight):
    scaled = launcher.run(job(2, "zero-2", fault={"kind": "scale", "scale": 1024.0, "step": 6}), 2)
    assert_ended_well(scaled)
    plain = straight("zero-2")[0]
    assert list(scaled.losses.values())[:6] == pytest.approx(list(plain.losses.values())[:6], rel=1e-6)
    assert "7" not in scaled.losses and "step 7 skipped: fp16 overflowed" in scaled.stderr[0]
    assert [report["skipped"] for report in scaled.reports] == [0, 0], "the search for a scale is no failure"
    assert [report["scale"] for report in scaled.reports] == [512.0, 512.0]


def test_batch_norms_see_the_images_of_all_processes(launcher, job):
    model = without_dropout() | {"visual_backbone": "resnet10t", "visual_kwargs": {}}
    slow = {"max_steps": 12, "learning_rate": 1e-5}  # of four images a batch norm makes much out of a rounding error
    one = launcher.run(job(model=model, output="one", **slow))
    two = launcher.run(job(2, model=model, output="two", **slow), 2)
    apart = launcher.run(
        job(model=model, output="apart", **slow | {"batch_size_per_gpu": 2, "gradient_accumulation_steps": 4})
    )
    for ended in (one, two, apart):
        assert_ended_well(ended)
    assert list(two.losses.values()) == pytest.approx(list(one.losses.values()), rel=1e-5)
    assert two.reports[0]["best"] == pytest.approx(one.reports[0]["best"], abs=1e-3), "running statistics agree too"
    assert list(apart.losses.values()) != pytest.approx(list(one.losses.values()), rel=1e-3), "statistics matter here"


# Resuming


@pytest.mark.parametrize("engine", ["torch", "zero-2", "zero-3"])
def test_two_processes_resume_bit_for_bit(launcher, job, straight, engine, tmp_path):
    uncut, folder = straight(engine)
    shutil.copytree(folder, tmp_path / "run")
    keep_until(tmp_path / "run", 5)
    resumed = launcher.run(job(2, engine, resume="auto"), 2)
    assert_ended_well(resumed)
    assert resumed.losses == {step: loss for step, loss in uncut.losses.items() if int(step) > 5}
    assert resumed.reports[0]["weights"] == uncut.reports[0]["weights"]


@pytest.mark.parametrize(("before", "after"), [((2, "zero-2"), (1, "torch")), ((1, "torch"), (2, "zero-2"))])
def test_another_number_of_processes_or_engine_goes_on(launcher, job, before, after, tmp_path):
    model = without_dropout()
    straight = launcher.run(job(*before, model=model, save_steps=5, save_total_limit=9), before[0])
    keep_until(tmp_path / "run", 5)
    resumed = launcher.run(job(*after, model=model, resume="auto"), after[0])
    for ended in (straight, resumed):
        assert_ended_well(ended)
    assert f"not bit-identical to one that was not cut: world_size: {before[0]} -> {after[0]}" in resumed.stderr[0]
    for step, loss in resumed.losses.items():
        assert loss == pytest.approx(straight.losses[step], rel=1e-5), step


def test_another_global_batch_is_refused_by_all_processes(launcher, job):
    assert_ended_well(launcher.run(job(max_steps=6)))
    ended = launcher.run(job(2, resume="auto", max_steps=6, batch_size_per_gpu=4), 2)
    assert ended.codes == [4, 4]
    assert "8 image visits a step, now they are 16" in ended.stderr[0]


def test_a_zero_2_checkpoint_is_a_plain_model_folder(launcher, job, index_folder, tmp_path):
    assert_ended_well(launcher.run(job(2, "zero-2", max_steps=6), 2))
    for folder in (checkpoint.step_directory(tmp_path / "run", 6), tmp_path / "run" / "best_model"):
        model, *_ = SSGVQA.from_pretrained(folder)
        assert model.vocabulary == open_index(Path(index_folder)).vocabulary


def keep_until(run: Path, step: int) -> None:
    """As if the run had been killed behind this checkpoint."""
    for folder in checkpoint.list_checkpoints(run):
        if folder != checkpoint.step_directory(run, step):
            shutil.rmtree(folder)


# Faults that hit one of two


@pytest.mark.parametrize("engine", ["torch", "zero-2"])
def test_nan_in_one_process_is_skipped_in_both_and_counted(launcher, job, engine, tmp_path):
    ended = launcher.run(job(2, engine, fault={"kind": "nan", "step": 4, "rank": 1}), 2)
    assert_ended_well(ended)
    assert [report["skipped"] for report in ended.reports] == [1, 1]
    assert "5" not in ended.losses and "6" in ended.losses
    (line,) = [json.loads(line) for line in (tmp_path / "run" / "skipped_steps.jsonl").read_text().splitlines()]
    assert line["step"] == 5 and line["index_rows"]
    assert "step 5 skipped" in ended.stderr[0]


def test_outcomes_that_are_read_late_change_nothing_in_two_processes(launcher, job, tmp_path):
    ends = []
    for late in (False, True):
        settings = {"fault": {"kind": "nan", "step": 4, "rank": 1}, "logging_steps": 2, "save_steps": 5}
        ends.append(launcher.run(job(2, output=str(late), **settings) | {"runs_ahead": late}, 2))
        assert_ended_well(ends[-1])
    assert ends[0].reports == ends[1].reports and ends[0].losses.keys() == {"2", "4", "6", "8", "10", "12"}
    skipped = [(tmp_path / str(late) / "skipped_steps.jsonl").read_text() for late in (False, True)]
    assert skipped[0] == skipped[1] and json.loads(skipped[0])["step"] == 5


@pytest.mark.parametrize("engine", ["torch", "zero-2"])
def test_memory_that_runs_out_in_one_process_shrinks_the_micro_batch_of_both(launcher, job, engine):
    model = without_dropout()
    calm = launcher.run(
        job(2, engine, model=model, output="calm", batch_size_per_gpu=4, gradient_accumulation_steps=1), 2
    )
    tight = launcher.run(
        job(
            2,
            engine,
            model=model,
            output="tight",
            batch_size_per_gpu=4,
            gradient_accumulation_steps=1,
            fault={"kind": "oom", "step": 3, "rank": 1, "most": 2},
        ),
        2,
    )
    for ended in (calm, tight):
        assert_ended_well(ended)
    assert [report["micro_batch"] for report in tight.reports] == [2, 2]
    assert re.search(r"from step \d+ on micro-batches of 2 image visits; the global batch stays 8", tight.stderr[0])
    assert list(tight.losses.values()) == pytest.approx(list(calm.losses.values()), rel=1e-5)


@pytest.mark.slow
def test_memory_that_runs_out_in_both_processes_under_zero_3(launcher, job):
    size = {"batch_size_per_gpu": 4, "gradient_accumulation_steps": 1, "max_steps": 6}
    tight = launcher.run(job(2, "zero-3", fault={"kind": "oom", "step": 3, "most": 2}, **size), 2)
    assert_ended_well(tight)
    assert [report["micro_batch"] for report in tight.reports] == [2, 2]


@pytest.mark.parametrize("engine", ["torch", "zero-2"])
def test_an_error_in_one_process_is_its_own_and_the_other_leaves(launcher, job, engine):
    started = time.monotonic()
    ended = launcher.run(job(2, engine, fault={"kind": "error", "step": 4, "rank": 1}, hang_timeout=6), 2)
    assert ended.codes == [1, 1]
    assert time.monotonic() - started < 40
    assert "RuntimeError: made up" in ended.stderr[1]
    assert "another process is gone" in ended.stderr[0] and "Exception ignored" not in ended.stderr[0]


@pytest.mark.parametrize("engine", ["torch", "zero-2"])
def test_sigterm_to_one_process_ends_both_at_one_step(launcher, job, straight, engine, tmp_path):
    fault = {"kind": "signal", "signal": "SIGTERM", "step": 4, "rank": 1}
    ended = launcher.run(job(2, engine, fault=fault), 2)
    assert ended.codes == [75, 75], ended.stderr
    found = checkpoint.find_checkpoint(tmp_path / "run", "auto")
    assert found.name == "step-00000004"
    resumed = launcher.run(job(2, engine, resume="auto"), 2)
    assert_ended_well(resumed)
    assert resumed.reports[0]["weights"] == straight(engine)[0].reports[0]["weights"]


@pytest.mark.parametrize("engine", ["torch", "zero-2"])
def test_a_killed_process_ends_the_other_and_the_run_goes_on(launcher, job, straight, engine, tmp_path):
    fault = {"kind": "signal", "signal": "SIGKILL", "step": 7, "rank": 1}
    started = time.monotonic()
    ended = launcher.run(job(2, engine, fault=fault, save_steps=3, hang_timeout=5), 2)
    assert ended.codes[1] == -signal.SIGKILL and ended.codes[0] not in (0, 75)
    assert time.monotonic() - started < 40
    assert checkpoint.find_checkpoint(tmp_path / "run", "auto").name == "step-00000006"
    resumed = launcher.run(job(2, engine, resume="auto"), 2)
    assert_ended_well(resumed)
    assert resumed.reports[0]["weights"] == straight(engine)[0].reports[0]["weights"]


def test_a_hanging_process_ends_both_with_the_stacks_of_all(launcher, job, tmp_path):
    ended = launcher.run(job(2, fault={"kind": "hang", "step": 4, "rank": 1}, hang_timeout=4), 2)
    assert 6 in ended.codes and 0 not in ended.codes
    events = (tmp_path / "run" / "events.log").read_text()
    assert "process 0 hangs" in events and "process 1 hangs" in events
    stacks = {rank: events.split(f"process {rank} hangs")[1].split("hangs: no")[0] for rank in (0, 1)}
    assert " in agreed_counts\n" in stacks[0], "process 0 waits for the other"
    assert " in at_step\n" in stacks[1], "process 1 sleeps"
