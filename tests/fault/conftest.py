"""A tiny index, and a run that nothing happened to."""

from __future__ import annotations

import pytest

from tests.tiny_training import make_config, make_index, make_trainer


@pytest.fixture(scope="session")
def index(tmp_path_factory):
    """Also trains a little, so that forked children find warm what libraries do at their first call."""
    index = make_index(tmp_path_factory.mktemp("index"))
    make_trainer(index, make_config(tmp_path_factory.mktemp("warm"), max_steps=1)).fit()
    return index


@pytest.fixture(scope="session")
def straight(index, tmp_path_factory):
    """Folder of a run of `zygote.STEPS` steps that kept a checkpoint of each."""
    from tests.fault import zygote

    output = tmp_path_factory.mktemp("straight") / "run"
    child = zygote.start(index, zygote.settings(output, save_steps=1, save_total_limit=99))
    assert child.wait() == 0, child.said
    return output
