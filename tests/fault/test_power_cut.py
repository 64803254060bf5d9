"""After a power cut at any moment the next start finds what the last finished save has written, or something newer."""

from __future__ import annotations

import pytest

from tests.fault import crash_disk, power_cut
from utils import utils

WRITERS = {
    "checkpoints": (power_cut.write_checkpoint, power_cut.read_checkpoint, 3),
    "a damaged checkpoint": (power_cut.replace_checkpoint, power_cut.read_checkpoint, 2),
    "the best model": (power_cut.write_best, power_cut.read_best, 3),
}


@pytest.mark.parametrize("name", WRITERS)
def test_no_power_cut_loses_what_was_saved(tmp_path, name):
    found = power_cut.tally(*WRITERS[name], tmp_path)
    assert found.states > 100
    assert (found.wrong, found.older) == (0, 0)


DISHONEST = {
    "no fsync": lambda folder: False,
    "no fsync of files": lambda folder: folder,
    "no fsync of folders": lambda folder: not folder,
}


@pytest.mark.parametrize("writer", ["checkpoints", "the best model"])
@pytest.mark.parametrize("name", DISHONEST)
def test_the_checker_notices_missing_fsyncs(tmp_path, name, writer):
    found = power_cut.tally(*WRITERS[writer], tmp_path, DISHONEST[name], most=4)
    assert found.wrong + found.older > 0


def test_the_checker_notices_that_an_old_model_goes_before_the_new_one_is_safe(tmp_path, monkeypatch):
    fsync, taking = utils._fsync_directory, []
    take_place = utils._take_place

    def without_the_fsync_between(temporary, final):
        taking.append(final)
        take_place(temporary, final)
        taking.clear()

    monkeypatch.setattr(utils, "_take_place", without_the_fsync_between)
    monkeypatch.setattr(utils, "_fsync_directory", lambda folder: None if taking else fsync(folder))
    assert power_cut.tally(*WRITERS["the best model"], tmp_path).wrong > 0


def test_states_of_a_file_that_is_written_and_renamed():
    made, write = crash_disk.Entry(0, None, "a", 1), crash_disk.Data(1, b"1234")
    rename, sync, folder = crash_disk.Entry(0, "a", "b", 1), crash_disk.Sync(1), crash_disk.Sync(0)

    def after(*operations):
        trees = [tree for moment, tree in crash_disk.states(list(operations)) if moment == len(operations)]
        return sorted(map(str, trees))

    assert after(made, write) == ["{'a': b''}", "{'a': b'12'}", "{'a': b'1234'}", "{}"]
    assert after(made, write, sync) == ["{'a': b'1234'}", "{}"]
    assert after(made, write, sync, folder) == ["{'a': b'1234'}"]
    assert after(made, write, sync, folder, rename) == ["{'a': b'1234'}", "{'b': b'1234'}"]
    assert after(made, write, folder, rename, folder) == ["{'b': b''}", "{'b': b'12'}", "{'b': b'1234'}"]
