"""Files appear whole or not at all, JSON is strict, errors end a program with one line and the right code."""

import json
import logging
import math
import os
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils import cli
from utils.errors import CheckpointError, ConfigError, DataError, NonFiniteError, UserError
from utils.utils import (
    atomic_directory,
    clean_leftovers,
    format_duration,
    get_logger,
    seed_everything,
    setup_logging,
    write_atomic,
    write_json,
)


def test_the_same_seed_gives_the_same_numbers():
    import torch

    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002

    seed_everything(7)
    first = draw()
    assert draw() != first
    seed_everything(7)
    assert draw() == first


# Files


def test_write_atomic_makes_folders_and_replaces(tmp_path):
    path = tmp_path / "new" / "file.txt"
    write_atomic(path, "één")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["file.txt"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    write_atomic(path, "old")

    def full_disk(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_json_has_null_for_what_is_not_finite_and_plain_numbers_for_numpy(tmp_path):
    path = tmp_path / "a.json"
    values = {
        "nan": math.nan,
        "inf": [np.float32(np.inf)],
        "array": np.arange(2),
        "n": np.int64(3),
        np.int64(4): tmp_path,
    }
    write_json(path, values)
    expected = {"nan": None, "inf": [None], "array": [0, 1], "n": 3, "4": str(tmp_path)}
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == expected


def test_json_refuses_what_it_cannot_say(tmp_path):
    path = tmp_path / "a.json"
    for wrong in ({"x": object()}, {("a", "b"): 1}, {"x": {1, 2}}, {None: 1}):
        with pytest.raises(TypeError):
            write_json(path, wrong)
    assert not path.exists()


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=25)
@given(value=plain)
def test_json_keeps_plain_values(value, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "plain.json"
    write_json(path, value)
    assert json.loads(path.read_text(encoding="utf-8")) == value


def test_an_atomic_directory_appears_at_the_end(tmp_path):
    final = tmp_path / "model"
    with atomic_directory(final) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_text("1")
        assert not final.exists()
    assert (final / "sub" / "a").read_text() == "1"
    with atomic_directory(final) as folder:
        (folder / "b").write_text("2")
    assert [p.name for p in final.iterdir()] == ["b"]
    assert os.listdir(tmp_path) == ["model"]


def test_an_error_leaves_the_old_directory(tmp_path, monkeypatch):
    final = tmp_path / "model"
    with atomic_directory(final) as folder:
        (folder / "a").write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_directory(final) as folder:
        (folder / "a").write_text("new")
        raise KeyboardInterrupt
    real, calls = os.rename, []

    def second_rename_fails(source, target):
        calls.append(source)
        if len(calls) == 2:
            raise OSError("gone")
        real(source, target)

    monkeypatch.setattr(os, "rename", second_rename_fails)
    with pytest.raises(OSError, match="gone"), atomic_directory(final) as folder:
        (folder / "a").write_text("new")
    assert (final / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["model"]


def test_leftovers_of_a_kill_are_mended(tmp_path):
    (tmp_path / ".model.old-1").mkdir()
    (tmp_path / ".model.old-1" / "weights").write_text("kept")
    (tmp_path / ".other.tmp-2").mkdir()
    (tmp_path / ".file.tmp-3").write_text("half")
    (tmp_path / "mine").write_text("")
    (tmp_path / ".hidden").write_text("")
    assert clean_leftovers(tmp_path) == [".file.tmp-3", ".model.old-1", ".other.tmp-2"]
    assert sorted(os.listdir(tmp_path)) == [".hidden", "mine", "model"]
    assert (tmp_path / "model" / "weights").read_text() == "kept"
    (tmp_path / ".model.old-4").mkdir()  # killed after the new one took its place
    clean_leftovers(tmp_path)
    assert (tmp_path / "model" / "weights").read_text() == "kept"
    assert not (tmp_path / ".model.old-4").exists()


# Messages


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (7620, "2 h 07 min"),
        (273_600, "3 d 04 h"),
        (math.inf, "unknown"),
        (math.nan, "unknown"),
        (-1, "0 s"),
    ],
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text


def test_messages_go_to_stderr_and_the_file_once_each(tmp_path, capsys):
    logfile = tmp_path / "run" / "train.log"
    try:
        setup_logging(logfile)
        setup_logging(logfile)
        get_logger("part").info("hello")
        logging.getLogger("another.library").warning("not ours")
    finally:
        setup_logging()
    assert capsys.readouterr().err == "hello\n"
    lines = logfile.read_text().splitlines()
    assert len(lines) == 1
    assert lines[0].endswith("INFO ssgvqa.part: hello")


# The ends of a program


def outcome(main, capsys, argv=()):
    with pytest.raises(SystemExit) as stop:
        cli.run(main, list(argv))
    return stop.value.code, capsys.readouterr().err


def raiser(error):
    def main(argv):
        raise error

    return main


@pytest.mark.parametrize(
    ("kind", "code"),
    [(UserError, 2), (ConfigError, 2), (DataError, 3), (CheckpointError, 4), (NonFiniteError, 5)],
)
def test_a_user_error_is_one_line(kind, code, capsys):
    assert outcome(raiser(kind("what is\nwrong")), capsys) == (code, "error: what is wrong\n")


def test_an_unexpected_error_shows_its_traceback_only_when_asked(capsys, monkeypatch):
    code, err = outcome(raiser(ValueError("odd")), capsys)
    assert code == 1
    assert err == "internal error: ValueError: odd (run again with --debug for the traceback)\n"
    code, err = outcome(raiser(ValueError("odd")), capsys, ["--debug"])
    assert code == 1
    assert "Traceback" in err
    assert err.endswith("internal error: ValueError: odd\n")
    monkeypatch.setenv("DEBUG", "1")
    assert "Traceback" in outcome(raiser(ConfigError("bad")), capsys)[1]


def test_ctrl_c_and_plain_ends(capsys):
    assert outcome(raiser(KeyboardInterrupt()), capsys) == (130, "interrupted\n")
    assert outcome(lambda argv: None, capsys) == (0, "")
    assert outcome(lambda argv: 7, capsys) == (7, "")


def test_a_reader_that_leaves_is_no_error(root):
    program = "from utils.cli import run; run(lambda argv: print('x\\n' * 1_000_000))"
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141
