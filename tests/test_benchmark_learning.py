"""The study of questions per image: equal questions, equal time, intervals, and going on where it was stopped."""

import json

import pytest

from benchmarks import learning
from scripts.benchmark import main

OPTIONS = (
    "--studies",
    "40",
    "--questions",
    "1,4",
    "--balanced",
    "4",
    "--seeds",
    "2",
    "--seconds",
    "1",
    "--rounds",
    "1",
)
SMALL = ("data.image_size=32",)
WAYS = ["M = 1", "M = 4", "M = 4, balanced"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Arguments, and the tables of a first run."""
    folder = tmp_path_factory.mktemp("learn")
    argv = ["learn", "--config", "configs/tiny_config.yaml", *OPTIONS, "--step_questions", "48"]
    argv += ["--workdir", str(folder / "work"), "--json", str(folder / "out.json")]
    argv += [word for value in SMALL for word in ("--set", value)]
    assert main(argv) == 0
    return argv, folder, tables(folder)


def tables(folder):
    found = json.loads((folder / "out.json").read_text())["sections"]
    return [{row[""]: row for row in section["rows"]} for section in found]


def test_every_way_has_a_cost_and_two_rows(study):
    costs, *trained = study[2]
    assert len(trained) == 2
    for rows in (costs, *trained):
        assert list(rows) == WAYS
    assert costs["M = 1"]["images a step"] > 2 * costs["M = 4"]["images a step"]


def test_questions_or_time_are_equal(study):
    costs, same_questions, same_time = study[2]
    for way in WAYS:
        step = costs[way]["questions a step"]
        assert same_questions[way]["questions"] == pytest.approx(same_questions["M = 1"]["questions"], abs=1.5 * step)
        assert same_time[way]["minutes"] == pytest.approx(1 / 60, abs=costs[way]["ms a step"] / 60e3)
        assert same_time[way]["steps"] * costs[way]["images a step"] == same_time[way]["images"]


def test_a_study_goes_on_with_the_trainings_that_it_has(study, monkeypatch):
    argv, folder, first = study
    monkeypatch.setattr(learning, "_train", lambda run: pytest.fail("trained again"))
    monkeypatch.setattr(learning, "_costs", lambda *given: pytest.fail("measured again"))
    assert main(argv) == 0
    assert tables(folder) == first


def test_other_settings_are_another_study(study, monkeypatch):
    argv, _, _ = study
    monkeypatch.setattr(learning, "_costs", lambda *given: pytest.fail("measured again"))
    with pytest.raises(pytest.fail.Exception, match="measured again"):
        main([*argv, "--set", "training.learning_rate=0.001"])


def test_the_interval_is_students():
    assert learning.interval([1.0, 2.0, 3.0]) == "2.000 ± 2.484"  # 4.303 x 1 / sqrt(3)
    assert learning.interval([0.5]) == "0.500"
    assert learning.interval([0.5, None]) == "n/a"
