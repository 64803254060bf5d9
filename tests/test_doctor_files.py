"""The doctor on files, tables and archives that are not what they should be: all named, with counts, and an example."""

from __future__ import annotations

import io
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import analyze_data
from configs.mimic_cxr_config import Config
from data.doctor import diagnose, diagnose_release
from data.index import build, ensure_index
from data.release import Problem, open_release
from tests.planted import copied, questions, rewrite, studies
from tests.small_release import contents, graph_of, image_path, write_release
from utils.errors import DataError

STUDIES = studies(24)
IDS = list(STUDIES)
GOOD = questions(3)


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    root = tmp_path_factory.mktemp("clean") / "release"
    write_release(root, STUDIES)
    return root


@pytest.fixture
def release(clean, tmp_path) -> Config:
    return copied(clean, tmp_path)


def before_an_index(config: Config) -> dict[str, Problem]:
    release = open_release(config.data.mimic_cxr_path, config.data.mimic_qa_path)
    return {problem.name: problem for problem in diagnose_release(release, config.data)}


def film(config: Config, n: int) -> Path:
    return image_path(config.data, IDS[n], studies=STUDIES)


def command(config: Config, *options: str) -> int:
    data = config.data
    settings = ["--mimic_cxr_path", data.mimic_cxr_path, "--mimic_qa_path", data.mimic_qa_path, "--num_workers", "1"]
    settings += ["--config", "configs/tiny_config.yaml", "--check"]
    settings += ["--set", f"data.index_dir={data.index_dir}", "--set", "data.image_store_size=128"]
    return analyze_data.main([*settings, *options])


# Image files


def saved(path: Path, form: str, mode: str = "L") -> None:
    stream = io.BytesIO()
    Image.open(path).convert(mode).save(stream, form)
    path.write_bytes(stream.getvalue())


def cut(path: Path, keep: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def sixteen_bits(path: Path) -> None:
    Image.fromarray(np.asarray(Image.open(path)).astype(np.uint16) * 257).save(path, format="PNG")


BAD = {
    "empty": lambda p: p.write_bytes(b""),
    "html": lambda p: p.write_text("<html>403</html>"),
    "half": lambda p: cut(p, 0.5),
    "header only": lambda p: cut(p, 0.02),
    "no end": lambda p: p.write_bytes(p.read_bytes()[:-2]),
    "zeros": lambda p: p.write_bytes(bytes(4000)),
    "gif": lambda p: saved(p, "GIF"),
    "webp": lambda p: saved(p, "WEBP"),
    "tiff": lambda p: saved(p, "TIFF"),
    "bmp": lambda p: saved(p, "BMP"),
    "16 bits": sixteen_bits,
    "a pixel": lambda p: Image.new("L", (1, 1)).save(p),
    "folder": folder,
}
GOOD_ALL_THE_SAME = {"cmyk": lambda p: saved(p, "JPEG", "CMYK"), "alpha": lambda p: saved(p, "PNG", "RGBA")}


@pytest.fixture
def sick(release) -> Config:
    """Every kind of bad image, two that are missing, and some that only look odd."""
    for n, damage in enumerate([*BAD.values(), *GOOD_ALL_THE_SAME.values()]):
        damage(film(release, n))
    film(release, 20).unlink()
    film(release, 21).unlink()
    film(release, 21).symlink_to("nowhere")
    return release


def test_however_many_images_are_bad_all_are_named_and_counted(sick, capsys):
    assert command(sick) == 1
    out = capsys.readouterr().out
    assert f"error [image_unreadable] {len(BAD)} images cannot be read" in out
    assert "error [image_missing] 2 images have no file" in out
    assert "warning [image_files_missing] 2 of 24 images looked for have no file" in out
    names = Path(sick.data.index_dir, "problems.jsonl").read_text().splitlines()
    assert len(names) == len(BAD) + 2
    unheard_of = ("--allow", "question_type_unknown")  # of every study of `write_release`
    assert command(sick, *unheard_of, "--allow", "image_unreadable", "--allow", "image_missing") == 0
    assert command(sick, *unheard_of, "--set", "data.max_bad_fraction=0.9") == 0
    assert command(sick, *unheard_of) == 1


def test_a_training_refuses_what_the_doctor_has_indexed(sick):
    command(sick)
    sick.data.image_store_size = 128
    with pytest.raises(DataError, match=r"15 of 24 image files cannot be read, more than data.max_bad_fraction = 0.01"):
        ensure_index(sick, 1)
    sick.data.max_bad_fraction = 0.7
    assert len(ensure_index(sick, 1).images["width"]) == 24 - 15


def test_one_bad_file_stops_where_the_settings_say_so(release):
    film(release, 0).write_bytes(b"")
    index = ensure_index(release, 1)
    problem = {p.name: p for p in diagnose(index, release.data)}["image_unreadable"]
    assert problem.severity == "warning"
    release.data.on_bad_sample = "error"
    problem = {p.name: p for p in diagnose(index, release.data)}["image_unreadable"]
    assert problem.severity == "error" and "data.on_bad_sample" in problem.mend


def test_other_sizes_and_absent_graphs_are_counted(release):
    for n in range(5):
        Image.open(film(release, n)).resize((200, 300)).save(film(release, n))
    archive = Path(release.data.mimic_qa_path) / "scene_data.zip"
    with zipfile.ZipFile(archive) as old:
        members = {name: old.read(name) for name in old.namelist() if f"s{IDS[7]}" not in name}
    with zipfile.ZipFile(archive, "w") as new:
        for name, data in members.items():
            new.writestr(name, data)
    found = {p.name: p for p in diagnose(ensure_index(release, 1), release.data)}
    assert found["image_size_differs"].count == 5 and found["image_size_differs"].severity == "error"
    assert found["graph_missing"].count == 1
    assert before_an_index(release)["studies_without_scene_graph"].count == 1


# Files that belong to another study or patient


def test_a_file_that_says_it_is_of_another_study_is_not_used(release):
    qba = Path(release.data.mimic_qa_path)
    rewrite(qba / "qa.zip", IDS[0], {"study_id": f"s{IDS[1]}", "questions": GOOD})
    rewrite(qba / "qa.zip", IDS[1], {"study_id": f"s{IDS[1]}", "questions": GOOD})
    rewrite(qba / "scene_data.zip", IDS[2], graph_of(IDS[2], (100, 150)) | {"study_id": f"s{IDS[3]}"})
    index = ensure_index(release, 1)
    found = {p.name: p for p in diagnose(index, release.data)}
    assert found["questions_unreadable"].count == found["graph_unreadable"].count == 1
    assert index.studies["study_id"].tolist().count(IDS[0]) == 0 and IDS[1] in index.studies["study_id"]
    row = index.studies["study_id"].tolist().index(IDS[2])
    assert index.images["finding_count"][index.studies["image_start"][row]] == 0


def test_a_study_under_another_patient_gets_no_images(release):
    archive = Path(release.data.mimic_qa_path) / "qa.zip"
    subject = STUDIES[IDS[0]][0]
    with zipfile.ZipFile(archive) as old:
        members = {name.replace(f"p{subject}/s", "p10000077/s"): old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(archive, "w") as new:
        for name, data in members.items():
            new.writestr(name, data)
    index = ensure_index(release, 1)
    assert IDS[0] not in index.studies["study_id"] and 10000077 not in index.studies["subject_id"]
    found = before_an_index(release)
    assert found["studies_without_images"].count == 1
    assert found["studies_without_questions"].count == 1 and found["studies_without_questions"].severity == "note"


# Tables


def table(config: Config, name: str) -> Path:
    return next(Path(config.data.mimic_cxr_path).glob(f"*-{name}.csv*"))


def edit(config: Config, name: str, change) -> None:
    path = table(config, name)
    change(pd.read_csv(path, dtype=str, keep_default_na=False)).to_csv(path, index=False)


def value(column: str, rows: int, text: str):
    return lambda frame: frame.assign(**{column: [text] * rows + frame[column].tolist()[rows:]})


ODD = {
    "duplicate_images": ("metadata", lambda f: pd.concat([f, f.head(2)]), 2),
    "images_without_split": ("split", lambda f: f.tail(-1), 1),
    "split_rows_without_metadata": ("metadata", lambda f: f.tail(-2), 2),
    "split_unknown": ("split", value("split", 2, "holdout"), 2),
    "label_values_unknown": ("chexpert", value("Edema", 2, "maybe"), 2),
    "duplicate_label_rows": ("chexpert", lambda f: pd.concat([f, f.head(3)]), 3),
    "view_position_blank": ("metadata", value("ViewPosition", 2, ""), 2),
    "studies_without_labels": ("chexpert", lambda f: f.tail(-2), 2),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_tables_are_named_with_file_count_and_example(release, name):
    file, change, count = ODD[name]
    edit(release, file, change)
    found = before_an_index(release)
    where = {"split_rows_without_metadata": "split"}.get(name, file)
    assert found[name].count == count and found[name].where == str(table(release, where))
    assert len(found[name].example) == 12 and found[name].severity != "error" and found[name].mend


def test_many_images_without_a_split_stop_a_training(release):
    edit(release, "split", value("split", 6, "holdout"))
    found = before_an_index(release)
    assert found["split_unknown"].severity == found["images_without_split"].severity == "error"


@pytest.mark.parametrize("name", ["negbio", "test-set-labeled"])
def test_labels_that_nothing_is_trained_on_are_not_fatal(release, name):
    path = Path(release.data.mimic_cxr_path) / f"mimic-cxr-2.1.0-{name}.csv"
    path.write_text("study_id,Edema\n50000001,1.0\n")
    found = before_an_index(release)
    assert found["label_table_unreadable"].where == str(path) and "no column" in found["label_table_unreadable"].mend
    edit(release, "chexpert", lambda f: f.to_csv(path, index=False) or f)
    frame = pd.read_csv(path, dtype=str).rename(columns={"Lung Opacity": "Airspace Opacity"} if "test" in name else {})
    frame.assign(Edema="7").to_csv(path, index=False)
    assert before_an_index(release)["label_values_unknown"].where == str(path)


def test_rows_that_end_early_have_blank_columns(release):
    path = table(release, "metadata")
    frame = pd.read_csv(path, dtype=str)
    columns = ["dicom_id", "subject_id", "study_id", "ViewPosition"]
    lines = [",".join(columns)] + [",".join(row) for row in frame[columns].to_numpy().tolist()]
    lines[3] = lines[3].rsplit(",", 1)[0]
    path.unlink()
    path.with_suffix("").write_text("\n".join(lines))
    assert before_an_index(release)["view_position_blank"].count == 1


# Parts of an index that a disk has damaged


@pytest.mark.parametrize("file", ["part-000000/columns.npz", "part-000000/strings.json", "plan.json"])
def test_a_damaged_part_of_an_unfinished_index_is_built_again(release, monkeypatch, file):
    monkeypatch.setattr(build, "STUDIES_PER_PART", 8)
    whole = contents(ensure_index(release, 1).path)
    shutil.rmtree(release.data.index_dir)
    assemble = build.assemble

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "assemble", killed)
    with pytest.raises(KeyboardInterrupt):
        ensure_index(release, 1)
    cut(Path(release.data.index_dir + ".partial", file), 0.5)
    monkeypatch.setattr(build, "assemble", assemble)
    assert contents(ensure_index(release, 1).path) == whole
