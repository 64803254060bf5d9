"""The doctor: every planted oddity is named, counted exactly, and stops a training only where it must."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pandas as pd
import pytest

import analyze_data
from configs.mimic_cxr_config import Config
from data import published
from data.doctor import NAMES, Diagnosis, compare, comparison_lines, diagnose, diagnose_release
from data.doctor.oddities import BOXES, FATES, FILES, STATEMENTS, VALUES
from data.index import ensure_index
from data.label_space import QUESTION_TYPES
from data.release import Problem, open_release
from tests.planted import copied, questions, rewrite, settings_of, studies
from tests.small_release import graph_of, image_id, image_path, question, write_release
from utils.errors import ConfigError

STUDIES = studies(12)
FIRST, SECOND, THIRD = list(STUDIES)[:3]
GOOD = questions(30)


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """A release without any oddity but the study that is not in the tables."""
    root = tmp_path_factory.mktemp("clean") / "release"
    write_release(root, STUDIES)
    for study in STUDIES:  # the study that is not in the tables is one of them here: write_release adds its questions
        rewrite(root / "qba" / "qa.zip", study, {"questions": GOOD})
        rewrite(root / "qba" / "scene_data.zip", study, graph_of(study, (100, 150)))
    return root


@pytest.fixture
def release(clean, tmp_path):
    """A copy of the clean one, to plant something in; with the settings of an index."""
    return copied(clean, tmp_path)


def found(config: Config) -> dict[str, Problem]:
    release = open_release(config.data.mimic_cxr_path, config.data.mimic_qa_path)
    index = ensure_index(config, 1)
    problems = diagnose_release(release, config.data) + diagnose(index, config.data)
    return {problem.name: problem for problem in problems}


@pytest.fixture(scope="module")
def usual(clean, tmp_path_factory):
    """What the doctor says of the clean release."""
    return found(settings_of(clean, tmp_path_factory.mktemp("usual") / "index"))


def test_a_sound_release_can_be_trained_on(usual):
    assert not [problem for problem in usual.values() if problem.severity == "error"], usual
    assert set(usual) <= {"no_radiologist_labels", "no_test_questions", "older_release", "studies_without_images"} | {
        "study_not_in_tables"
    }


def main_answer(**fields):
    return {"answer_type": "main_answer", "text": "It is.", "positiveness": "pos"} | fields


def asked(kind: str, *answers: dict, **fields) -> dict:
    made = question(90, kind, "What is it?", "")
    return made | {"answers": list(answers)} | fields


QUESTIONS = {
    "question_type_unknown": asked("Z99_unheard_of", main_answer()),
    "question_type_unsupported": asked("A_indication", main_answer()),
    "question_without_text": asked("D02_has_finding", main_answer(text="Yes."), question=" "),
    "question_without_main_answer": asked("D02_has_finding", main_answer(answer_type="details")),
    "verdict_missing": asked("B04_is_normal", main_answer(text="Perhaps.")),
    "verdict_conflict": asked("D02_has_finding", main_answer(text="Yes."), main_answer(text="No.")),
    "polarity_missing": asked("D01_describe_finding", main_answer(positiveness=None, obs_entities=["pneumonia"])),
    "finding_missing": asked("D01_describe_finding", main_answer(obs_entities=[])),
    "finding_outside_classes": asked("D01_describe_finding", main_answer(obs_entities=["scoliosis"])),
    "nothing_there": asked("D03_where_is_finding", main_answer(positiveness="neg", regions=["heart"])),
    "region_missing": asked("D03_where_is_finding", main_answer(regions=[])),
    "region_outside_classes": asked("D03_where_is_finding", main_answer(regions=["skeleton"])),
    "region_answer_unknown": asked("D03_where_is_finding", main_answer(regions=["the third eye"])),
    "severity_unspecified": asked("D04_how_severe_is_finding", main_answer()),
    "severity_ambiguous": asked(
        "D04_how_severe_is_finding", main_answer(modifiers=[["severity", "mild"], ["severity", "severe"]])
    ),
    "finding_name_unknown": asked("D01_describe_finding", main_answer(obs_entities=["pneumonia", "blueness"])),
    "region_name_unknown": asked("D03_where_is_finding", main_answer(regions=["heart", "the third eye"])),
    "severity_word_unknown": asked(
        "D04_how_severe_is_finding", main_answer(modifiers=[["severity", "mild"], ["severity", "purple"]])
    ),
    "positiveness_unknown": asked(
        "D01_describe_finding", main_answer(positiveness="maybe", obs_entities=["pneumonia"])
    ),
    "laterality_unknown": asked("D03_where_is_finding", main_answer(regions=["heart"], laterality="upwards")),
    "laterality_conflict": asked("D03_where_is_finding", main_answer(regions=["left lung"], laterality="right")),
    "question_type_name": asked("Z99_unheard_of", main_answer()),
    "answer_type_unknown": asked("D02_has_finding", main_answer(text="Yes."), main_answer(answer_type="gossip")),
    "grade_missing": asked("D02_has_finding", main_answer(text="Yes."), question_quality=None),
    "question_type_without_prefix": asked("has_finding", main_answer(text="Yes.")),
    "grade_unknown": asked("D02_has_finding", main_answer(text="Yes."), question_quality={"rating": "9_Z"}),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_odd_questions_are_named_and_counted(release, usual, name):
    rewrite(Path(release.data.mimic_qa_path) / "qa.zip", SECOND, {"questions": GOOD + [QUESTIONS[name]] * 2})
    now = found(release)
    before = usual[name].count if name in usual else 0
    assert name in now and now[name].count - before == 2
    assert now[name].example and str(SECOND) not in now[name].example, "hashed"
    assert now[name].severity != "error", "two of hundreds stop nothing"


def test_many_of_one_oddity_stop_the_training_and_can_be_allowed(release):
    rewrite(Path(release.data.mimic_qa_path) / "qa.zip", SECOND, {"questions": [QUESTIONS["verdict_conflict"]] * 60})
    problem = found(release)["verdict_conflict"]
    assert problem.severity == "error" and problem.count == 60 and "more than 5 % is too much" in problem.mend
    assert not Diagnosis.of([problem], ["verdict_conflict"]).errors
    assert Diagnosis.of([problem], ["verdict_conflict"]).problems[0].severity == "allowed"


def observation(**fields) -> dict:
    sound = graph_of(THIRD, (100, 150))["observations"]["O01"]
    return sound | fields


GRAPHS = {
    "statement_without_polarity": observation(positiveness=None, probability=None),
    "statement_without_finding": observation(obs_entities=[]),
    "statement_without_region": observation(regions=[]),
    "probability_unknown": observation(positiveness=None, probability="fifty-fifty"),
    "region_name_outside": observation(regions=["left costophrenic angle", "skeleton"]),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_odd_statements_are_named_and_counted(release, name):
    graph = graph_of(THIRD, (100, 150))
    graph["observations"] |= {"O02": GRAPHS[name], "O03": GRAPHS[name]}
    rewrite(Path(release.data.mimic_qa_path) / "scene_data.zip", THIRD, graph)
    assert found(release)[name].count == 2


BOX = {"bboxes": [[10, 20, 50, 60]], "is_fallback": False, "localization_quality": 4}
BAD_BOXES = {
    "box_empty": BOX | {"bboxes": []},
    "box_repeated": BOX | {"bboxes": [[10, 20, 50, 60]] * 2},
    "box_of_other_image": BOX | {"image_id": image_id(FIRST, 0)},
    "box_beyond_image": BOX | {"bboxes": [[10, 20, 102, 60]]},
    "box_malformed": {"bboxes": [[1, 2, 3]], "is_fallback": False, "localization_quality": 4},
    "box_fallback": {"bboxes": [[10, 20, 50, 60]], "is_fallback": True, "localization_quality": 4},
    "box_low_quality": {"bboxes": [[10, 20, 50, 60]], "is_fallback": False, "localization_quality": 1},
    "box_unordered": {"bboxes": [[50, 20, 10, 60]], "is_fallback": False, "localization_quality": 4},
    "box_degenerate": {"bboxes": [[400, 20, 500, 60]], "is_fallback": False, "localization_quality": 4},
}


def test_a_release_without_any_box_is_worth_a_warning(release):
    for study in STUDIES:
        rewrite(
            Path(release.data.mimic_qa_path) / "scene_data.zip", study, graph_of(study, (100, 150)) | {"regions": {}}
        )
    assert found(release)["no_boxes"].severity == "warning"


@pytest.mark.parametrize("name", BAD_BOXES)
def test_odd_boxes_are_named_and_counted(release, name):
    graph = graph_of(THIRD, (100, 150))
    graph["regions"]["heart"]["localization"] = {image_id(THIRD, 0): BAD_BOXES[name]}
    rewrite(Path(release.data.mimic_qa_path) / "scene_data.zip", THIRD, graph)
    now = found(release)
    assert now[name].count == 1 and now[name].example
    assert not set(now) & set(BAD_BOXES) - {name}


def test_boxes_of_images_that_the_study_does_not_have(release):
    graph = graph_of(THIRD, (100, 150))
    own = graph["regions"]["heart"]["localization"]
    own |= {image_id(FIRST, 0): BOX, "nowhere": BOX | {"bboxes": []}}
    rewrite(Path(release.data.mimic_qa_path) / "scene_data.zip", THIRD, graph)
    assert found(release)["box_of_unknown_image"].count == 1


def test_questions_without_an_id_of_their_own(release):
    asked = [*GOOD, GOOD[0], GOOD[0], GOOD[1] | {"question_id": None}, GOOD[2] | {"question_id": ""}]
    rewrite(Path(release.data.mimic_qa_path) / "qa.zip", SECOND, {"questions": asked})
    assert found(release)["question_id_repeated"].count == 4


@pytest.mark.parametrize("content", [{"questions": []}, {"questions": None}, {}])
def test_a_file_without_questions_is_named(release, usual, content):
    rewrite(Path(release.data.mimic_qa_path) / "qa.zip", SECOND, content)
    assert "questions_none" not in usual and found(release)["questions_none"].count == 1


def test_broken_files_are_named_and_counted(release):
    qba = Path(release.data.mimic_qa_path)
    image_path(release.data, FIRST, studies=STUDIES).unlink()
    broken = image_path(release.data, SECOND, studies=STUDIES)
    broken.write_bytes(broken.read_bytes()[:300])
    rewrite(qba / "qa.zip", THIRD, "{")
    rewrite(qba / "scene_data.zip", list(STUDIES)[4], "[1, 2")
    other = image_path(release.data, list(STUDIES)[5], studies=STUDIES)
    shutil.copy(image_path(release.data, list(STUDIES)[6], studies=STUDIES), other)
    release.data.max_bad_fraction = 0.5
    now = found(release)
    for name in (
        "image_missing",
        "image_unreadable",
        "questions_unreadable",
        "graph_unreadable",
        "image_files_missing",
    ):
        assert now[name].count == 1, name
    assert now["question_image_missing"].count == now["question_image_unreadable"].count == 30


def test_layout_is_told_but_stops_nothing(release):
    jpg = Path(release.data.mimic_cxr_path)
    shutil.move(jpg / "files" / "p10", jpg / "p10")
    (jpg / "files").rmdir()
    with zipfile.ZipFile(Path(release.data.mimic_qa_path) / "qa.zip") as archive:
        archive.extractall(release.data.mimic_qa_path)
    table = next(jpg.glob("*metadata.csv.gz"))
    shutil.copy(table, jpg / "mimic-cxr-1.0.0-metadata.csv.gz")
    now = found(release)
    for name in ("images_without_files_folder", "table_copies", "questions_twice", "older_release"):
        assert now[name].severity == "note", name


def test_every_name_is_used_once_and_explained():
    assert len(set(NAMES)) == len(NAMES)
    for table in (FATES, VALUES, STATEMENTS, BOXES, FILES):
        assert all(oddity.what and oddity.mend for oddity in table.values())


def test_a_misspelt_name_to_allow_is_refused():
    with pytest.raises(ConfigError, match="did you mean box_degenerate"):
        Diagnosis.of([], ["box_degenrate"])


def test_published_counts_add_up():
    assert sum(published.TYPES.values()) == sum(published.GRADES.values()) == sum(published.QUESTIONS["all"].values())
    assert list(published.TYPES) == [kind.name for kind in QUESTION_TYPES]


def test_a_look_alike_has_no_published_counts_and_a_real_part_says_what_is_missing(release):
    real = open_release(release.data.mimic_cxr_path, release.data.mimic_qa_path)
    index = ensure_index(release, 1)
    assert compare(real, index) == []
    real.info["synthetic"] = False
    grades = pd.DataFrame({"question_id": list("abcd"), "question.quality.rating": ["6_A++", "6_A++", "3_B", "0_"]})
    grades.to_csv(Path(release.data.mimic_qa_path) / "metadata" / "question_metadata.csv.gz", index=False)
    table = {one.what: one for one in compare(real, index)}
    assert table["train images"].here == 9 and table["train images"].published == 368_960
    assert table["train questions"].here == 9 * 30 and "a part of" in table["train questions"].why
    assert table["questions D02_has_finding"].here == 12 * 30
    assert [table[f"questions of grade {g}"].here for g in ("A++", "B", "none", "D")] == [2, 1, 1, 0]
    assert table["questions of grade A++"].published == 1_368_001
    lines = comparison_lines(list(table.values()))
    assert lines[0].startswith("published counts: ") and len(lines) <= 4, "a line for each reason, not for each count"


@pytest.mark.parametrize("options", [["--check"], pytest.param([], marks=pytest.mark.slow)])
def test_the_command_ends_with_1_where_training_should_not_start(release, tmp_path, capsys, options):
    data = release.data
    rewrite(Path(data.mimic_qa_path) / "qa.zip", SECOND, {"questions": [QUESTIONS["verdict_conflict"]] * 60})
    settings = ["--mimic_cxr_path", data.mimic_cxr_path, "--mimic_qa_path", data.mimic_qa_path, "--num_workers", "1"]
    settings += ["--config", "configs/tiny_config.yaml", "--set", f"data.index_dir={data.index_dir}"]
    settings += ["--output_dir", str(tmp_path / "out"), *options]
    assert analyze_data.main(settings) == 1
    out = capsys.readouterr().out
    assert "error [verdict_conflict] 60 yes/no questions are answered with both" in out and "not ready: 1 thing" in out
    assert (tmp_path / "out" / "analysis_report.json").exists() != bool(options)
    assert analyze_data.main([*settings, "--allow", "verdict_conflict"]) == 0
    assert "allowed [verdict_conflict]" in capsys.readouterr().out


def test_a_release_that_cannot_be_trained_on_is_not_indexed(release, capsys):
    (Path(release.data.mimic_qa_path) / "scene_data.zip").unlink()
    data = release.data
    settings = ["--mimic_cxr_path", data.mimic_cxr_path, "--mimic_qa_path", data.mimic_qa_path, "--check"]
    assert analyze_data.main([*settings, "--set", f"data.index_dir={data.index_dir}"]) == 1
    assert "error [no_scene_graphs]" in capsys.readouterr().out and not Path(data.index_dir).exists()


def test_a_report_that_all_is_well_does_not_outlive_the_release(release, tmp_path):
    (Path(release.data.mimic_qa_path) / "scene_data.zip").unlink()
    out = tmp_path / "out"
    out.mkdir()
    (out / "analysis_report.json").write_text('{"summary": {"is_ready": true}}')
    data = release.data
    settings = [
        "--mimic_cxr_path",
        data.mimic_cxr_path,
        "--mimic_qa_path",
        data.mimic_qa_path,
        "--output_dir",
        str(out),
    ]
    assert analyze_data.main(settings) == 1
    report = json.loads((out / "analysis_report.json").read_text())
    assert not report["summary"]["is_ready"] and "no scene graphs" in report["summary"]["reasons"][0]
    assert "download scene_data.zip" in (out / "analysis_report.html").read_text()
