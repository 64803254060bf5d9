"""Imports at the start of a program."""

import gc
import importlib
import sys

import pytest

from utils import quick_imports as module
from utils.quick_imports import quick_imports


@pytest.fixture(autouse=True)
def thawed():
    yield
    gc.unfreeze()


def test_the_collector_rests_in_the_block_only():
    with quick_imports():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0


def test_a_collector_that_was_off_stays_off():
    gc.disable()
    try:
        with quick_imports():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_nobody_calls_is_not_imported_in_the_block_and_can_be_imported_after_it(monkeypatch):
    monkeypatch.setattr(module, "UNUSED", ("colorsys",))
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with quick_imports(), pytest.raises(ImportError):
        importlib.import_module("colorsys")
    assert importlib.import_module("colorsys")


def test_what_was_imported_before_stays_as_it_is(monkeypatch):
    monkeypatch.setattr(module, "UNUSED", ("json",))
    with quick_imports():
        import json

        assert json.dumps(1) == "1"
    assert sys.modules["json"] is json


def test_an_error_in_the_block_leaves_nothing_behind(monkeypatch):
    monkeypatch.setattr(module, "UNUSED", ("colorsys",))
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with pytest.raises(RuntimeError), quick_imports():
        raise RuntimeError
    assert gc.isenabled()
    assert "colorsys" not in sys.modules
