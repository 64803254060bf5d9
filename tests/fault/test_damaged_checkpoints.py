"""Damage to a checkpoint is found, named, and answered by the checkpoint before; never by a wrong load or a fresh start."""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import asdict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fault import trials, zygote
from tests.fault.unprivileged import public_folder, unprivileged
from training.checkpoint import MANIFEST, find_checkpoint, step_directory, verify
from training.trainer import TrainerState
from utils.errors import CheckpointError
from utils.utils import write_json

NEWEST, BEFORE = (f"step-{step:08d}" for step in (zygote.STEPS, zygote.STEPS - 1))


def test_every_damage_to_every_file_is_found_and_named(straight, tmp_path):
    found = trials.damaged_files(straight, tmp_path / "run")
    files = {p.name for p in (straight / NEWEST).iterdir()}
    assert len(files) == 12
    for kind in ("truncated", "one bit flipped", "missing", "empty"):
        assert {trial.file for trial in found if trial.kind == kind} == files
    swapped = {trial.file for trial in found if trial.kind == "of another step"}
    assert swapped == {"model.safetensors", "optimizer.safetensors", "training_state.json", MANIFEST}
    assert [trial for trial in found if trial.found != BEFORE] == []
    for trial in found:
        (warning,) = trial.warnings
        assert f"/{NEWEST}: " in warning
        if trial.file == MANIFEST and trial.kind in ("one bit flipped", "of another step"):
            assert "instead of" in warning or "differs" in warning or "missing" in warning or "unreadable" in warning
        else:
            assert f": {trial.file} " in warning


def test_a_sound_checkpoint_is_taken(straight):
    with trials.listening() as warnings:
        assert find_checkpoint(straight, "auto").name == NEWEST
    assert warnings == []


def test_only_damaged_checkpoints_stop_the_run_and_are_all_named(index, straight, tmp_path):
    output = tmp_path / "run"
    for step in (5, 9):
        shutil.copytree(step_directory(straight, step), step_directory(output, step))
    (step_directory(output, 5) / "config.yaml").unlink()
    (step_directory(output, 9) / "model.safetensors").write_bytes(b"")
    (output / "metrics.jsonl").write_text('{"step": 9}\n')
    child = zygote.start(index, zygote.settings(output))
    assert child.wait() == 4
    last = child.said.splitlines()[-1]
    assert last.startswith(f"error: none of the 2 checkpoints in {output} is sound (")
    assert "step-00000009: model.safetensors has 0 bytes" in last and "step-00000005: config.yaml is missing" in last
    assert (output / "metrics.jsonl").read_text() == '{"step": 9}\n' and not (output / "best_model").exists()


def test_a_renamed_folder_is_found(straight, tmp_path):
    shutil.copytree(straight / BEFORE, tmp_path / BEFORE)
    shutil.copytree(straight / BEFORE, tmp_path / "step-00000099")
    with trials.listening() as warnings:
        assert find_checkpoint(tmp_path, "auto") == tmp_path / BEFORE
    assert "step-00000099: holds step 13: the folder was renamed" in warnings[0]
    shutil.copytree(straight / BEFORE, tmp_path / "under another name")
    assert find_checkpoint(tmp_path, str(tmp_path / "under another name")), "a name of the user's is no claim"


def test_a_file_that_cannot_be_read_is_named(straight):
    with public_folder() as folder:
        shutil.copytree(straight / BEFORE, folder / BEFORE)
        shutil.copytree(straight / NEWEST, folder / NEWEST)
        for checkpoint in (BEFORE, NEWEST):
            os.chmod(folder / checkpoint, 0o755)
            for path in (folder / checkpoint).iterdir():
                os.chmod(path, 0o644)
        os.chmod(folder / NEWEST / "model.safetensors", 0)
        with unprivileged(), trials.listening() as warnings:
            assert find_checkpoint(folder, "auto").name == BEFORE
    assert "Permission denied" in warnings[0] and "model.safetensors" in warnings[0]


# Manifests that no program of ours has written

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(
    ["model.safetensors", "optimizer.safetensors", "training_state.json", "..", "/", "a\0b", "x" * 999]
)
near_manifests = st.dictionaries(names, st.tuples(json_values, json_values) | json_values)


@pytest.fixture(scope="module")
def checkpoint(straight, tmp_path_factory):
    return shutil.copytree(straight / NEWEST, tmp_path_factory.mktemp("manifest") / NEWEST)


@given(json_values | near_manifests)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_json_for_a_manifest_is_a_checkpoint_error(checkpoint, value):
    (checkpoint / MANIFEST).write_text(json.dumps(value))
    with pytest.raises(CheckpointError):
        verify(checkpoint)


@given(st.binary(max_size=60))
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_for_a_manifest_are_a_checkpoint_error(checkpoint, data):
    (checkpoint / MANIFEST).write_bytes(data)
    with pytest.raises(CheckpointError):
        verify(checkpoint)


def test_a_deep_manifest_is_a_checkpoint_error(checkpoint):
    (checkpoint / MANIFEST).write_text("[" * 100_000)
    with pytest.raises(CheckpointError):
        verify(checkpoint)


# Numbers

finite = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 2**62)


@given(
    st.builds(
        TrainerState,
        **dict.fromkeys(("step", "epoch", "visits", "micro_batch", "best_step", "looked_at", "questions"), counts),
        best_score=st.none() | finite,
        meter=st.dictionaries(st.text(), st.tuples(finite, counts), max_size=3),
    )
)
def test_the_state_of_a_trainer_survives_json_to_the_last_bit(tmp_path_factory, state):
    path = tmp_path_factory.getbasetemp() / "state.json"
    write_json(path, asdict(state))
    stored = TrainerState(**json.loads(path.read_text(encoding="utf-8")))
    stored.meter = {name: tuple(value) for name, value in stored.meter.items()}
    assert stored == state
    if state.best_score is not None:
        assert math.copysign(1, stored.best_score) == math.copysign(1, state.best_score)
