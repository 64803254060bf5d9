"""Patient data: who may read what the commands write, what they say, and what is remembered of where a result comes from."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import wandb
from safetensors import safe_open

import analyze_data
import evaluate
import setup_data
import train_mimic_cxr
from data.index import open_index
from data.release import open_release
from data.synthetic import write_release
from tests.test_modes import mode_of, open_places, within_reach  # noqa: F401 (a fixture)
from tests.tiny_training import make_config
from training import question_only
from utils import cli, privacy

KEY = "key-canary-" + "7" * 29


def mark_as_credentialed(folder: Path) -> None:
    """Take the generator's mark away: what has none is treated as a real release."""
    info = folder / "mimic-ext-cxr-qba" / "metadata" / "dataset_info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"synthetic": False}))


@dataclass
class Story:
    """A release that passes for a credentialed one, and what the four commands made of it."""

    folder: Path
    console: str = ""
    sent: list[object] = field(default_factory=list)
    """all that the tracker got"""

    def paths(self) -> list[str]:
        origin = self.folder / "release"
        return [
            *("--config", "configs/tiny_config.yaml", "--mimic_cxr_path", str(origin / "mimic-cxr-jpg")),
            *(
                "--mimic_qa_path",
                str(origin / "mimic-ext-cxr-qba"),
                "--set",
                f"data.index_dir={self.folder / 'index'}",
            ),
        ]

    def call(self, main, *arguments: object) -> None:
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = main([*map(str, arguments), *self.paths(), *SMALL])
        self.console += said.getvalue()
        assert code == 0, said.getvalue()

    def ids(self) -> set[str]:
        """Of patients, studies and images."""
        index = open_index(self.folder / "index")
        numbers = {str(n) for column in ("subject_id", "study_id") for n in index.studies[column].tolist()}
        return numbers | set(index.image_ids(np.arange(len(index.images["study"]))))

    def texts(self) -> set[str]:
        index = open_index(self.folder / "index")
        return set(index.texts(np.arange(index.num_texts)))


def small_settings() -> list[str]:
    model = make_config(".").model
    settings = {
        "data.image_size": 32,
        "model.visual_backbone": model.visual_backbone,
        "model.visual_kwargs": json.dumps(model.visual_kwargs),
        "model.text_kwargs": json.dumps(model.text_kwargs),
        "model.hidden_dim": 16,
        "model.fusion_heads": 2,
        "training.batch_size_per_gpu": 4,
        "training.max_steps": 3,
        "training.logging_steps": 1,
        "training.eval_steps": 3,
        "evaluation.bootstrap_samples": 20,
        "data.num_workers": 0,
    }
    return [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]


SMALL = small_settings()


class FakeWandb:
    """Remembers every argument of every call."""

    starting_step = 0

    def __init__(self, sent: list[object]):
        self.sent = sent

    def init(self, **arguments):
        self.sent.append({name: value for name, value in arguments.items() if name not in ("dir", "settings")})
        return self

    def log(self, values, step):
        self.sent.append((values, step))

    def define_metric(self, *_, **__):
        pass

    def finish(self):
        pass


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """setup, analyse, train and evaluate, with umask 0, a broken film and a tracker."""
    told = Story(tmp_path_factory.mktemp("story"))
    write_release(told.folder / "release", 24, 0, workers=1, progress=False)
    mark_as_credentialed(told.folder / "release")
    broken = sorted((told.folder / "release" / "mimic-cxr-jpg" / "files").rglob("*.jpg"))[0]
    broken.write_bytes(broken.read_bytes()[:500])
    umask = os.umask(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wandb, "init", FakeWandb(told.sent).init)
        patch.setenv("WANDB_API_KEY", KEY)
        patch.delenv("WANDB_MODE")
        patch.setattr(question_only, "MOST_STEPS", 5)
        patch.setattr(question_only, "MOST_PASSES", 1)
        patch.setattr(privacy, "LOCAL_NAMES", told.folder / "local" / "names.log")
        view = ("--set", "data.view_filter=all")
        told.call(setup_data.main, "--num_workers", 1, *view)
        told.call(setup_data.main, "--subset", 6, "--subset_dir", told.folder / "subset", *view)
        told.call(analyze_data.main, "--output_dir", told.folder / "analysis_output", *view)
        told.call(train_mimic_cxr.main, "--output_dir", told.folder / "run", "--no_auto", *view)
        best = told.folder / "run" / "best_model"
        told.call(evaluate.main, "--model_path", best, "--output_dir", told.folder / "results", "--with_images", *view)
    os.umask(umask)
    return told


# Modes


@pytest.mark.parametrize("name", ["index", "run", "results", "analysis_output"])
def test_whatever_the_umask_others_can_read_nothing(story, name):
    assert open_places(story.folder / name) == []


def test_a_subset_is_private_and_leaves_the_modes_of_linked_films_alone(story):
    folder = story.folder / "subset"
    assert [p for p in open_places(folder) if not p.endswith(".jpg")] == []
    films = list(folder.rglob("*.jpg"))
    assert films and {mode_of(film) for film in films} == {0o600}, "those of the generated release"
    own = next(film for film in films if film.stat().st_nlink > 1)
    own.chmod(0o644)
    privacy.make_private(folder)
    assert mode_of(own) == 0o644


def test_commands_warn_where_credentialed_data_lie_open(story, within_reach):  # noqa: F811
    before = story.console
    shutil.copytree(story.folder / "index", within_reach / "index")
    (within_reach / "index").chmod(0o755)
    place = ("--output_dir", within_reach, "--set", "data.view_filter=all", "--num_workers", 1)
    story.call(analyze_data.main, *place)
    new = story.console.removeprefix(before)
    assert new.count("others can read it") == 1 and str(within_reach) in new
    assert mode_of(within_reach) == 0o755 and mode_of(within_reach / "analysis_report.json") == 0o600


# Ids


def test_nothing_but_listed_numbers_reaches_the_tracker(story):
    first, *rest = story.sent
    assert rest and all(name.startswith(("train/", "val/", "system/")) for values, _ in rest for name in values)
    assert all(isinstance(value, float) for values, _ in rest for value in values.values())
    assert all(isinstance(value, (int, float)) for value in first["config"].values())
    assert set(first) == {"project", "entity", "name", "id", "mode", "config"}
    assert KEY not in str(story.sent) and str(story.folder) not in str(story.sent)


def test_no_id_and_no_question_is_on_the_console_or_in_a_report(story):
    shown = {
        name: (story.folder / name).read_text(encoding="utf-8")
        for name in (
            *("results/report.json", "results/report.md", "results/report.html", "run/metrics.jsonl"),
            *("analysis_output/analysis_report.json", "run/best_model/README.md", "run/best_model/metrics.json"),
        )
    }
    shown |= {"console": story.console, "tracker": str(story.sent)}
    ids, texts = story.ids(), story.texts()
    assert len(ids) > 50 and len(texts) > 20
    for name, text in shown.items():
        assert {one for one in ids if re.search(rf"(?<![0-9a-f.]){one}(?![0-9a-f])", text)} == set(), name
        # these were asked for with questions: the analysis counts them, and the page shows films with theirs
        if name not in ("results/report.html", "analysis_output/analysis_report.json"):
            assert {one for one in texts if one in text} == set(), name


def test_no_key_is_written_anywhere(story):
    files = [path for path in story.folder.rglob("*") if path.is_file()]
    assert [path for path in files if KEY.encode() in path.read_bytes()] == [] and KEY not in story.console


def test_a_broken_film_is_named_in_the_private_list(story):
    (problem,) = open_index(story.folder / "index").problems()
    assert "1 bad file(s) are left out" in story.console
    assert Path(problem["path"]).is_file() and problem["path"] not in story.console


def test_an_error_hides_ids_and_keeps_them_in_the_private_log(story, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(privacy, "LOCAL_NAMES", tmp_path / "cache" / "names.log")
    arguments = [
        *story.paths(),
        *SMALL,
        "--set",
        "data.view_filter=all",
        "--set",
        "data.on_bad_sample=error",
        "--debug",
    ]
    with pytest.raises(SystemExit):
        cli.run(setup_data.main, arguments)
    said = capsys.readouterr().err
    (problem,) = open_index(story.folder / "index").problems()
    subject, study, image = Path(problem["path"]).parts[-3:]
    assert "Traceback" in said and "error: image" in said and str(tmp_path / "cache" / "names.log") in said
    assert not any(name.strip("ps").removesuffix(".jpg") in said for name in (subject, study, image))
    assert problem["path"] in privacy.LOCAL_NAMES.read_text() and open_places(tmp_path / "cache") == []


def test_verifying_names_files_by_hashes(story, monkeypatch, tmp_path):
    monkeypatch.setattr(privacy, "LOCAL_NAMES", tmp_path / "names.log")
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()):
        setup_data.main([*story.paths(), "--verify", "--num_workers", "1"])
    (problem,) = open_index(story.folder / "index").problems()
    assert "images cannot be read: files/p1" in said.getvalue() and problem["image"] not in said.getvalue()
    assert problem["image"] in privacy.LOCAL_NAMES.read_text()


IMAGE = "02aa804e-bde0afdd-112c0b34-7bc16630-4e384014"


@pytest.mark.parametrize(
    "text",
    [
        f"image r/files/p10/p10000032/s50414267/{IMAGE}.jpg: truncated",
        "study 50414267: questions is no list",
        "study_id 50414267, question_id D02_has_finding_001",
        "p10000032_s50414267.qa.json",
        "(10000032,50414267)",
    ],
)
def test_ids_are_found_in_what_is_said(text):
    hidden = privacy.without_ids(text)
    assert not re.search(r"10000032|50414267|02aa804e", hidden) and "#" in hidden
    assert hidden == privacy.without_ids(text), "the same id, the same hash"


@pytest.mark.parametrize(
    "text",
    [
        "step-00001000 of 10,000,032 questions",
        "has 15345678 bytes instead of 12",
        "index data_cache/1534567812345678",
        "loss 0.15345678 in 2026",
    ],
)
def test_other_numbers_stay(text):
    assert privacy.shown(text) == text


def test_a_salt_hides_an_id_from_other_reports():
    one, other = privacy.new_salt(), privacy.new_salt()
    assert len(privacy.hashed_id(10000032, one)) == 12
    assert privacy.hashed_id(10000032, one) == privacy.hashed_id("10000032", one) != privacy.hashed_id(10000032, other)


def test_names_that_cannot_be_kept_are_still_hidden(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(privacy, "LOCAL_NAMES", tmp_path / "file" / "names.log")
    assert re.fullmatch(r"study #\w{12} \(ids are hashed; .* cannot be written: .*\)", privacy.shown("study 50414267"))


# Lineage


def lineage_of(folder: Path) -> object:
    with safe_open(folder / "model.safetensors", "pt") as weights:
        return weights.metadata()["credentialed"] == "true"


def metadata_of(path: Path) -> dict[bytes, bytes]:
    return pq.read_schema(path).metadata


def test_lineage_goes_from_the_index_into_everything(story):
    run, results = story.folder / "run", story.folder / "results"
    assert open_index(story.folder / "index").meta["credentialed"] is True
    assert json.loads((story.folder / "analysis_output" / "analysis_report.json").read_text())["index"]["credentialed"]
    folders = [run / "best_model", run / "best_model" / "question_only", *run.glob("step-*")]
    assert len(folders) == 3 and all(lineage_of(folder) is True for folder in folders)
    assert "Of credentialed lineage" in (run / "best_model" / "README.md").read_text()
    for path in (results / "predictions.parquet", *(results / "controls").iterdir()):
        assert metadata_of(path)[b"credentialed"] == b"true"
    source = json.loads((results / "report.json").read_text())["provenance"]
    assert source["credentialed"] is True and source["credentialed_data"] is True
    for name in ("report.md", "report.html"):
        assert "Made from credentialed data" in (results / name).read_text()
    assert "Made from credentialed data" in story.console


def test_a_subset_of_a_credentialed_release_is_one(story):
    subset = open_release(*(story.folder / "subset" / name for name in ("mimic-cxr-jpg", "mimic-ext-cxr-qba")))
    assert subset.is_credentialed
    assert "data under the same agreement" in story.console


@pytest.mark.parametrize(("recorded", "counts"), [(False, False), ("false", False), (True, True), ("true", True)])
def test_a_record_is_believed(recorded, counts):
    assert privacy.is_credentialed(recorded) is counts


@pytest.mark.parametrize("recorded", [None, "none", "", "no"])
def test_without_a_record_everything_counts_as_credentialed(recorded):
    assert privacy.is_credentialed(recorded)
