"""A step in which the host does not wait for the device, and outcomes that are read late."""

from __future__ import annotations

import json
import math
import os
import signal
from functools import partial

import pytest
import torch

from data.loader import Layout, windows
from tests import host_waits
from tests.tiny_training import make_config, make_index, make_trainer, weights_of
from training import checkpoint
from training.engine import TorchEngine
from training.outcome import Readout
from training.trainer import Trainer
from utils.errors import NonFiniteError
from utils.interruption import Interrupted, interruption

UNSTABLE = ("system/", "train/images_per_second", "train/questions_per_second", "train/seconds_left", "val/seconds")


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return make_index(tmp_path_factory.mktemp("index"))


# What would wait is found


class Asking(torch.autograd.Function):
    """Wants to know its gradient."""

    @staticmethod
    def forward(ctx, values):
        return values.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient if float(gradient.sum()) else None


x, mask = torch.arange(1.0, 5.0), torch.tensor([False, True, False, True])
WAITS = {
    "item": lambda: x[0].item(),
    "list": lambda: x.tolist(),
    "number": lambda: float(x[0]),
    "decision": lambda: 1 if x[0] > 0 else 2,
    "range": lambda: range(torch.tensor(3)),
    "to numpy": lambda: x.numpy(),
    "to main memory": lambda: x.cpu(),
    "blocking copy": lambda: x.to("cpu"),
    "new constant": lambda: torch.tensor(1.0, device="cpu"),
    "places": lambda: mask.nonzero(),
    "where": lambda: torch.where(mask),
    "selection": lambda: x[mask],
    "replacement": lambda: x.clone().index_put_((mask,), x[2:]),
    "repeat": lambda: x.repeat_interleave(torch.tensor([1, 2, 3, 4])),
    "backward pass": lambda: Asking.apply(x.clone().requires_grad_()).sum().backward(),
}


@pytest.mark.parametrize("name", WAITS)
def test_what_waits_is_found(name):
    WAITS[name]()
    with pytest.raises(host_waits.HostWait), host_waits.forbidden():
        WAITS[name]()


def test_what_does_not_wait_passes():
    with host_waits.forbidden():
        x.clone()[mask] = 0.0
        torch.where(mask, x, 0.0).index_select(0, torch.zeros(3, dtype=torch.long))
        x.to("cpu", non_blocking=True)
        torch.zeros((), device="cpu")
        with host_waits.allowed():
            found = x[mask].tolist()
    assert len(found) == mask.sum()


# The step


@pytest.fixture
def watched(monkeypatch):
    """A trainer in which nothing may wait, from copying a batch to the update, but for the step before."""

    def watch(trainer: Trainer) -> Trainer:
        read = Readout.read

        def read_late(self):
            with host_waits.allowed():
                return read(self)

        def guarded(function, *args):
            with host_waits.forbidden():
                return function(*args)

        monkeypatch.setattr(Readout, "read", read_late)
        trainer.take_step.accumulate = partial(guarded, trainer.take_step.accumulate)
        trainer.engine.step = partial(guarded, trainer.engine.step)
        trainer.engine.runs_ahead = True
        return trainer

    return watch


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_waits_for_nothing(index, tmp_path, watched, precision):
    settings = {"graph_none_fraction": 0.3, "graph_oracle_fraction": 0.3, "gradient_checkpointing": precision == "bf16"}
    trainer = watched(make_trainer(index, make_config(tmp_path, precision=precision, max_steps=3, **settings)))
    trainer.fit()
    assert trainer.state.step == 3 and trainer.state.skipped == 0


@pytest.mark.parametrize("fusion", ["concat", "none"])
def test_the_other_fusions_wait_for_nothing(index, tmp_path, watched, fusion):
    config = make_config(tmp_path, max_steps=1)
    config.model.fusion = fusion
    trainer = watched(make_trainer(index, config))
    trainer.fit()
    assert trainer.state.step == 1 and trainer.state.skipped == 0


def test_a_step_is_read_when_the_next_one_waits_for_its_update_only(index, tmp_path, monkeypatch):
    trainer = make_trainer(index, make_config(tmp_path, max_steps=3, logging_steps=100, eval_steps=100, save_steps=100))
    engine, events = trainer.engine, []
    engine.runs_ahead = True

    def noted(name, function, *args):
        events.append(name)
        return function(*args)

    engine.backward = partial(noted, "backward", engine.backward)
    engine.optimizer.register_step_pre_hook(lambda *_: events.append("update"))
    monkeypatch.setattr(Readout, "read", lambda self, read=Readout.read: noted("read", read, self))
    stream = windows(trainer.train_data, Layout(8, 4))
    for number in range(3):
        trainer.take_step(next(stream), number)
        events.append("end")
    later = ["backward", "backward", "read", "update", "end"]
    assert events == ["backward", "backward", "update", "end", *later, *later]


# The engine alone


def engine_of(index, folder, **training) -> TorchEngine:
    return make_trainer(index, make_config(folder, **training)).engine


def give_gradients(engine: TorchEngine, seed: int, factor: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(seed)
    engine.begin()
    for parameter in engine.model.parameters():
        values = 1e-2 * factor * torch.randn(parameter.shape, generator=generator)
        parameter.grad = torch.empty_like(parameter).copy_(values)


def everything(engine: TorchEngine) -> dict[str, torch.Tensor]:
    state = engine.state_dict()
    weights = {name: value.clone() for name, value in engine.model.state_dict().items()}
    return weights | state.tensors | {"numbers": torch.tensor([state.numbers["steps"], state.numbers["schedule_step"]])}


def assert_same(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


GOOD = torch.tensor(1.0)


@pytest.mark.parametrize(("factor", "loss"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, math.inf)])
def test_a_step_that_is_not_finite_leaves_no_trace(index, tmp_path, factor, loss):
    engines = [engine_of(index, tmp_path) for _ in range(2)]
    for engine in engines:
        give_gradients(engine, 1)
        engine.step(GOOD)
    give_gradients(engines[0], 2, factor)
    skipped = engines[0].step(torch.tensor(loss))
    for engine in engines:
        give_gradients(engine, 3)
        last = engine.step(GOOD)
    assert not skipped.settle().applied and last.settle().applied
    assert skipped.settle().lr == last.settle().lr, "the schedule did not move either"
    assert_same(*map(everything, engines))


def test_a_first_step_that_is_not_finite_leaves_no_trace(index, tmp_path):
    engines = [engine_of(index, tmp_path) for _ in range(2)]
    give_gradients(engines[0], 1, math.nan)
    engines[0].step(GOOD)
    for engine in engines:
        give_gradients(engine, 2)
        engine.step(GOOD)
    assert_same(*map(everything, engines))


def test_settling_twice_moves_the_schedule_once(index, tmp_path):
    engine = engine_of(index, tmp_path)
    give_gradients(engine, 1)
    pending = engine.step(GOOD)
    assert pending.settle() is pending.settle()
    assert engine.state_dict().numbers["schedule_step"] == 1


def test_updates_are_those_of_a_plain_adamw(index, tmp_path):
    settings = {"max_grad_norm": 0.5, "weight_decay": 0.1}
    engine, other = (engine_of(index, tmp_path, **settings) for _ in range(2))
    groups = [
        {name: group[name] for name in ("params", "lr", "weight_decay")} for group in other.optimizer.param_groups
    ]
    plain = torch.optim.AdamW(groups, foreach=False)
    for number in range(4):
        for group, planned in zip(plain.param_groups, engine.optimizer.param_groups, strict=True):
            group["lr"] = planned["lr"]
        give_gradients(engine, number)
        engine.step(GOOD).settle()
        give_gradients(other, number)
        torch.nn.utils.clip_grad_norm_(other.model.parameters(), 0.5)
        plain.step()
    for (name, value), expected in zip(engine.model.named_parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6, msg=name)


def scaled(engine: TorchEngine, scale: float) -> TorchEngine:
    """As with fp16, which no CPU is given."""
    engine.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=2)
    return engine


def take_scaled(engine: TorchEngine, seed: int, overflows: bool = False):
    give_gradients(engine, seed)
    scale = engine.scaler.scale(torch.tensor(1.0))
    for parameter in engine.model.parameters():
        parameter.grad *= math.inf if overflows else scale
    return engine.step(GOOD)


def test_loss_scale_halves_after_an_overflow_and_changes_no_number(index, tmp_path):
    engine, plain = scaled(engine_of(index, tmp_path), 1024.0), engine_of(index, tmp_path)
    outcomes = [take_scaled(engine, 1), take_scaled(engine, 7, overflows=True), take_scaled(engine, 2)]
    for seed in (1, 2):
        give_gradients(plain, seed)
        plain.step(GOOD)
    settled = [outcome.settle() for outcome in outcomes]
    assert [outcome.applied for outcome in settled] == [True, False, True]
    assert [outcome.overflow for outcome in settled] == [False, True, False]
    assert engine.state_dict().numbers["loss_scale"] == 512.0
    assert_same(everything(engine), everything(plain))
    take_scaled(engine, 3)
    assert engine.state_dict().numbers["loss_scale"] == 1024.0, "two good steps in a row"


def test_a_scale_of_one_that_still_overflows_is_a_failure(index, tmp_path):
    engine = scaled(engine_of(index, tmp_path), 2.0)
    assert [take_scaled(engine, 1, overflows=True).settle().overflow for _ in range(2)] == [False, False]


def test_gradients_lie_in_memory_as_their_weights_do(index, tmp_path):
    """The fused AdamW of CPUs takes both as they lie, and does not check."""
    trainer = make_trainer(index, make_config(tmp_path))
    step, layouts = trainer.engine.step, {}

    def layout(tensor) -> tuple:
        return tuple(stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size > 1)

    def noted(loss):
        layouts.update({name: (layout(p), layout(p.grad)) for name, p in trainer.model.named_parameters()})
        return step(loss)

    trainer.engine.step = noted
    trainer.take_step(next(windows(trainer.train_data, Layout(8, 4))), 0)
    assert layouts and not {name: pair for name, pair in layouts.items() if pair[0] != pair[1]}


# A run


def run(index, folder, late: bool, bad: frozenset[int] = frozenset(), **settings) -> Trainer:
    """Train; the gradients of the steps `bad`, counted from 0, are no numbers."""
    resume = settings.pop("resume", "never")
    trainer = make_trainer(index, make_config(folder, **settings), resume=resume)
    trainer.engine.runs_ahead = late
    backward = trainer.engine.backward
    trainer.engine.backward = lambda loss: backward(loss * math.nan if trainer.state.step in bad else loss)
    trainer.fit()
    return trainer


def lines_of(trainer: Trainer, after: int = 0) -> list[str]:
    lines = [line for line in trainer.sinks._sinks[0].lines if line[0] > after]
    return [
        f"{step} { ({name: v for name, v in values.items() if name not in UNSTABLE and not name.startswith('system/')}) }"
        for step, values in lines
    ]


def skipped_in(folder) -> list[dict]:
    path = folder / "skipped_steps.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize(
    ("bad", "logging_steps"), [(frozenset({0, 2, 3}), 1), (frozenset({5, 7}), 3), (frozenset(), 20)]
)
def test_settled_late_or_at_once_is_the_same_run(index, tmp_path, bad, logging_steps):
    settings = {"logging_steps": logging_steps, "save_total_limit": 9, "max_skipped_fraction": 0.9}
    folders = tmp_path / "at_once", tmp_path / "late"
    runs = [run(index, folder, late, bad, **settings) for folder, late in zip(folders, (False, True), strict=True)]
    assert lines_of(runs[0]) == lines_of(runs[1])
    assert skipped_in(folders[0]) == skipped_in(folders[1])
    assert [line["step"] for line in skipped_in(folders[0])] == [number + 1 for number in sorted(bad)]
    assert runs[0].state == runs[1].state
    for step in (3, 6, 8):
        for name in ("model.safetensors", "optimizer.safetensors"):
            one, other = (checkpoint.step_directory(folder, step) / name for folder in folders)
            assert one.read_bytes() == other.read_bytes(), (step, name)


def test_too_many_skipped_steps_stop_the_run_also_when_they_are_settled_late(index, tmp_path):
    with pytest.raises(NonFiniteError, match="3 steps in a row up to step 5"):
        run(index, tmp_path, True, frozenset(range(2, 99)), max_skipped_steps=3, logging_steps=100, save_steps=100)
    assert [line["step"] for line in skipped_in(tmp_path)] == [3, 4, 5]


def test_weights_do_not_change_in_a_run_of_nothing_but_nan(index, tmp_path):
    trainer = make_trainer(index, make_config(tmp_path, max_skipped_steps=2))
    trainer.engine.runs_ahead = True
    before = weights_of(trainer)
    trainer.engine.backward = lambda loss: (loss * math.nan).backward()
    with pytest.raises(NonFiniteError, match="2 steps in a row up to step 2"):
        trainer.fit()
    assert_same(weights_of(trainer), before)


def test_a_run_with_late_outcomes_resumes_bit_for_bit(index, tmp_path):
    settings = {"save_steps": 1, "save_total_limit": 20, "max_skipped_fraction": 0.9, "logging_steps": 4}
    bad = frozenset({2, 4, 5})
    straight = run(index, tmp_path / "straight", True, bad, **settings)
    for step in (3, 5):
        resume = str(checkpoint.step_directory(tmp_path / "straight", step))
        resumed = run(index, tmp_path / str(step), True, bad, resume=resume, **settings)
        assert_same(weights_of(straight), weights_of(resumed))
        assert lines_of(straight, after=step) == lines_of(resumed)


def test_a_signal_leaves_a_checkpoint_and_the_line_of_the_last_step(index, tmp_path):
    trainer = make_trainer(index, make_config(tmp_path, save_steps=1000, eval_steps=1000))
    trainer.engine.runs_ahead = True
    take_step = trainer.take_step

    def interrupted_step(window, seed):
        if trainer.state.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return take_step(window, seed)

    trainer.take_step = interrupted_step
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    interruption.install()
    try:
        with pytest.raises(Interrupted, match="step-00000003 is complete"):
            trainer.fit()
    finally:
        interruption.forget()
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert [step for step, _ in trainer.sinks._sinks[0].lines] == [1, 2, 3]
    run(index, tmp_path / "straight", False, max_steps=8, save_steps=3, save_total_limit=9, eval_steps=1000)
    for name in ("model.safetensors", "optimizer.safetensors"):
        left, whole = (checkpoint.step_directory(f, 3) / name for f in (tmp_path, tmp_path / "straight"))
        assert left.read_bytes() == whole.read_bytes()
