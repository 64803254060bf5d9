"""The look-alike release: layout, determinism, balance, truth in the pixels, honesty about what it is."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zipfile
from collections import Counter, defaultdict

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data.answers import Dropped, parse_question
from data.label_space import HEADS, QUESTION_TYPES, REGIONS, TYPE_INDEX, Head
from data.scene_graph import parse_scene_graph
from data.synthetic import answers, cases, graph, images, questions, write_release
from data.synthetic.vocabulary import FINDINGS, NOTICE
from utils.errors import DataError

STUDIES, SEED = 30, 5
TABLES = ("patient", "study", "image", "question", "question_image", "answer", "answer_image")


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    root = tmp_path_factory.mktemp("synthetic") / "release"
    write_release(root, STUDIES, SEED, workers=1, progress=False)
    return root


@pytest.fixture(scope="module")
def members(release):
    """Suffix (`qa`, `scene_graph`, `metadata`) -> study id -> JSON."""
    found = defaultdict(dict)
    for archive in ("qa", "scene_data"):
        with zipfile.ZipFile(release / "mimic-ext-cxr-qba" / f"{archive}.zip") as file:
            for name in file.namelist():
                if name.endswith(".json"):
                    assert name.startswith(f"{archive}/p1")
                    found[name.rsplit(".", 2)[-2]][name.rsplit("/s", 1)[1].split(".")[0]] = json.loads(file.read(name))
    return found


def qa_of(studies, seed):
    """qa.json of each study, without drawing a film."""
    for study, planned in zip(studies, questions.plan_questions(studies, seed), strict=True):
        body, poses = images.study_poses(study, seed)
        films = graph.locate(study, body, poses, seed)
        yield answers.Writer(study, films, graph.observations(study, films, seed), seed).qa(planned)


@pytest.fixture(scope="module")
def asked():
    """(split, question) of all questions of 260 studies that have a target."""
    studies = cases.make_studies(260, 11)
    rows = []
    for study, qa in zip(studies, qa_of(studies, 11), strict=True):
        for raw in qa["questions"]:
            question = parse_question(raw, None)
            if not isinstance(question, Dropped):
                rows.append((study.split, question))
    return rows


def files_of(root):
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


# Layout


def test_image_paths_sizes_and_tables_agree(release):
    cxr = release / "mimic-cxr-jpg"
    metadata = pd.read_csv(cxr / "mimic-cxr-2.0.0-metadata.csv.gz")
    split = pd.read_csv(cxr / "mimic-cxr-2.0.0-split.csv.gz")
    listed = (cxr / "IMAGE_FILENAMES").read_text().split()
    assert list(metadata.columns)[:7] == [
        *("dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition"),
        *("Rows", "Columns"),
    ]
    assert set(metadata.dicom_id) == set(split.dicom_id) and metadata.study_id.nunique() == STUDIES
    paths = []
    for row in metadata.itertuples():
        paths.append(f"files/p{str(row.subject_id)[:2]}/p{row.subject_id}/s{row.study_id}/{row.dicom_id}.jpg")
        with Image.open(cxr / paths[-1]) as image:
            assert image.mode == "L" and image.size == (row.Columns, row.Rows)
            assert max(image.size) <= 480 and image.info["comment"].decode() == NOTICE
    assert sorted(paths) == sorted(listed) == sorted(p.relative_to(cxr).as_posix() for p in cxr.rglob("*.jpg"))
    assert metadata.groupby("study_id").ViewPosition.apply(lambda v: v.isin(["AP", "PA"]).any()).all()


def test_parquet_has_the_ids_as_index_and_equals_csv(release):
    folder = release / "mimic-ext-cxr-qba" / "metadata"
    for name in TABLES:
        parquet = pd.read_parquet(folder / f"{name}_metadata.parquet")
        csv = pd.read_csv(folder / f"{name}_metadata.csv.gz")
        assert parquet.index.names[0] == "patient_id" and parquet.index.is_unique
        assert list(csv.columns) == [*parquet.index.names, *parquet.columns] and len(csv) == len(parquet)
    question = pd.read_parquet(folder / "question_metadata.parquet")
    assert {"question.question_type", "question.quality.rating", "split"} <= set(question.columns)
    assert set(question["split"]) == {"train", "val", "test"}


def test_tables_count_what_the_archives_hold(release, members):
    table = pd.read_parquet(release / "mimic-ext-cxr-qba/metadata/question_metadata.parquet").reset_index()
    assert len(members["qa"]) == len(members["scene_graph"]) == len(members["metadata"]) == STUDIES
    for study, qa in members["qa"].items():
        rows = table[table.study_id == f"s{study}"]
        assert list(rows.question_id) == [q["question_id"] for q in qa["questions"]]
        assert list(rows["question.quality.rating"]) == [q["question_quality"]["rating"] for q in qa["questions"]]


def test_checksums_cover_every_file(release):
    for root in (release / "mimic-cxr-jpg", release / "mimic-ext-cxr-qba"):
        lines = (root / "SHA256SUMS.txt").read_text().splitlines()
        sums = {line.split(" ", 1)[1]: line.split(" ", 1)[0] for line in lines}
        files = files_of(root)
        files.pop("SHA256SUMS.txt")
        assert sums == {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def test_unzipped_release_has_the_same_members(tmp_path):
    write_release(tmp_path / "zip", 4, 2, workers=1, progress=False)
    write_release(tmp_path / "folder", 4, 2, zipped=False, workers=1, progress=False)
    for name in ("qa", "scene_data"):
        with zipfile.ZipFile(tmp_path / f"zip/mimic-ext-cxr-qba/{name}.zip") as archive:
            inside = {n: archive.read(n) for n in archive.namelist() if not n.endswith("/")}
        root = tmp_path / "folder/mimic-ext-cxr-qba"
        assert inside == {p.relative_to(root).as_posix(): p.read_bytes() for p in (root / name).rglob("*.json")}


def test_everything_says_that_it_is_generated(release):
    papers = ("README.md", "mimic-cxr-jpg/README", "mimic-cxr-jpg/LICENSE.txt")
    papers += ("mimic-ext-cxr-qba/README.md", "mimic-ext-cxr-qba/LICENSE.txt")
    for paper in papers:
        assert NOTICE in (release / paper).read_text()
    info = json.loads((release / "mimic-ext-cxr-qba/metadata/dataset_info.json").read_text())
    assert info["synthetic"] is True and info["notice"] == NOTICE
    assert len(info["regions"]) >= 60 and len(info["finding_entities"]) >= 60


# Determinism, and complete or not at all


def test_same_bytes_twice_and_with_any_number_of_workers(tmp_path):
    for name, workers in (("a", 1), ("b", 2), ("c", 3)):
        write_release(tmp_path / name, 8, 3, workers=workers, progress=False)
    first = files_of(tmp_path / "a")
    assert first == files_of(tmp_path / "b") == files_of(tmp_path / "c")
    write_release(tmp_path / "d", 8, 4, workers=1, progress=False)
    assert files_of(tmp_path / "d") != first


def test_a_study_does_not_depend_on_how_many_there_are():
    few, many = cases.make_studies(7, 3), cases.make_studies(40, 3)
    assert few == many[:7]


def test_refuses_a_folder_with_files(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match="not empty") as error:
        write_release(tmp_path, 3, 0, progress=False)
    assert "\n" not in str(error.value) and [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(DataError, match="at least 1 study"):
        write_release(tmp_path / "new", 0, 0, progress=False)


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    calls = []

    def fail(film):
        calls.append(film)
        if len(calls) > 2:
            raise OSError("no space left on device")
        return b"jpeg"

    monkeypatch.setattr(images, "encode", fail)
    with pytest.raises(OSError, match="no space"):
        write_release(tmp_path / "release", 6, 0, workers=1, progress=False)
    assert list(tmp_path.iterdir()) == []


# Questions and answers


def test_every_question_is_understood(members):
    """No unknown name, type or value; all 27 types occur; dropped only what no class can answer."""
    counts, seen, reasons = Counter(), set(), Counter()
    for qa in members["qa"].values():
        for raw in qa["questions"]:
            seen.add(raw["question_type"])
            parsed = parse_question(raw, counts)
            if isinstance(parsed, Dropped):
                reasons[parsed.reason] += 1
    assert not counts
    assert seen == {t.name for t in QUESTION_TYPES}
    assert set(reasons) <= {"unsupported_type", "entities_outside_table"}
    assert reasons["entities_outside_table"] < 0.02 * sum(len(qa["questions"]) for qa in members["qa"].values())


def test_thirty_to_thirty_six_questions_a_study_over_all_heads(asked):
    heads = Counter(question.head for _, question in asked)
    assert set(heads) == set(range(len(HEADS)))
    assert 28 <= len(asked) / 260 <= 36
    assert sum(question.grade >= 4 for _, question in asked) / len(asked) > 0.75
    assert len({question.grade for _, question in asked}) == 7


def test_each_text_has_as_many_of_each_answer_in_each_split_at_any_grade(asked):
    cells = defaultdict(Counter)
    for split, question in asked:
        if list(HEADS)[question.head] in (Head.BINARY, Head.SEVERITY):
            for minimum in (0, 4, 5):
                if question.grade >= minimum:
                    cells[split, question.type, question.text, minimum][question.target] += 1
    assert len(cells) > 500
    for cell, answers_ in cells.items():
        assert len(answers_) > 1 and len(set(answers_.values())) == 1, (cell, answers_)


def test_places_are_balanced_per_text(asked):
    """The commonest answer to a where-question stays rare."""
    cells = defaultdict(Counter)
    for split, question in asked:
        if question.type == TYPE_INDEX["D03_where_is_finding"] and split == "train":
            cells[question.text][question.target] += 1
    for text, places in cells.items():
        assert max(places.values()) <= 0.6 * sum(places.values()), (text, places)


def test_answers_agree_with_what_was_drawn():
    studies = cases.make_studies(60, 8)
    for study, qa in zip(studies, qa_of(studies, 8), strict=True):
        for raw in qa["questions"]:
            question = parse_question(raw, None)
            if raw["question_type"] == "D02_has_finding":
                assert bool(question.target) == questions.has_finding(study, raw["variables"]["finding"])
            elif raw["question_type"] in ("B03_is_abnormal", "B04_is_normal"):
                assert bool(question.target) == (bool(study.findings) == raw["question_type"].startswith("B03"))
            elif raw["question_type"] == "D04_how_severe_is_finding":
                assert question.target == questions.severity(study, raw["variables"]["finding"]) + 1
            elif raw["question_type"] == "D06_has_device":
                assert bool(question.target) == (raw["variables"]["device"] in study.kinds)


def test_labels_agree_with_what_was_drawn(release):
    truth = pd.read_csv(release / "mimic-cxr-jpg/mimic-cxr-2.1.0-test-set-labeled.csv").set_index("study_id")
    labels = pd.read_csv(release / "mimic-cxr-jpg/mimic-cxr-2.0.0-chexpert.csv.gz").set_index("study_id")
    for study in cases.make_studies(STUDIES, SEED):
        row = labels.loc[study.study_id]
        assert (row["No Finding"] == 1) == (not study.findings)
        for kind, spec in FINDINGS.items():
            if spec.label:
                assert questions.has_finding(study, kind) or row[spec.label] not in (1.0, -1.0)
                assert row[spec.label] != 0.0 or not questions.has_finding(study, kind)
                if study.split == "test" and spec.label != "Lung Opacity":
                    assert truth.loc[study.study_id, spec.label] == questions.has_finding(study, kind)
    assert (labels == 0.0).any().any() and labels.isna().any().any()


def test_splits_hold_whole_patients_in_the_stated_shares():
    studies = cases.make_studies(900, 1)
    patients = {}
    for study in studies:
        assert patients.setdefault(study.subject_id, study.split) == study.split
    shares = Counter(patients.values())
    assert 1.2 < len(studies) / len(patients) < 1.4
    for split, share in (("train", 0.7), ("validate", 0.15), ("test", 0.15)):
        assert abs(shares[split] / len(patients) - share) < 0.02
    assert {study.split for study in cases.make_studies(3, 1)} == {"train", "validate", "test"}
    assert 0.35 < np.mean([not study.findings for study in studies]) < 0.47
    assert len({study.study_id for study in studies}) == 900


# Pixels and boxes


def test_graph_gives_boxes_of_nearly_all_regions_on_frontal_films_only(members, release):
    info = json.loads((release / "mimic-ext-cxr-qba/metadata/dataset_info.json").read_text())
    index = {entity: i + 2 for i, entity in enumerate(info["finding_entities"])}
    counts, frontal, qualities, defaults = Counter(), [], set(), 0
    for study, raw in members["scene_graph"].items():
        for image, entry in members["metadata"][study]["images"].items():
            arrays = parse_scene_graph(raw, image, *entry["size"], index, counts)
            lateral = raw["study_img_localization_quality"][image] == 0
            assert not (lateral and len(arrays.boxes))
            if not lateral:
                frontal.append(len(arrays.boxes))
            assert ((arrays.boxes >= 0) & (arrays.boxes <= 1)).all()
            defaults += int((~arrays.from_report).sum())
        for region in raw["regions"].values():
            qualities |= {block["localization_quality"] for block in region["localization"].values()}
    assert np.mean(frontal) > len(REGIONS) - 2 and defaults > 0
    assert {0, 1, 4} <= qualities
    assert counts["box", "fallback"] and counts["box", "degenerate"]
    assert not {kind for kind, _ in counts} - {"box"}


@pytest.mark.parametrize("kind", ["consolidation", "lung lesion", "pleural effusion", "rib fracture", "pacemaker"])
def test_findings_are_drawn_where_the_graph_says(kind):
    study = next(s for s in cases.make_studies(600, 2) if s.kinds == {kind} or (s.of(kind) and not s.artifacts))
    instance = study.of(kind)[0]
    alone = dataclasses.replace(study, findings=(), devices=(), artifacts=(), occluded=False)
    where = "findings" if instance in study.findings else "devices"
    shown = dataclasses.replace(alone, **{where: (instance,)})
    body, poses = images.study_poses(study, 2)
    films = graph.locate(shown, body, poses, 2)
    change = np.abs(
        images.draw_film(shown, 0, body, poses[0], 2).astype(float)
        - images.draw_film(alone, 0, body, poses[0], 2).astype(float)
    )
    x1, y1, x2, y2 = (int(v) for v in films.boxes[0][instance.regions[0]][0])
    margin = int(0.1 * poses[0].half_width)
    inside = np.zeros_like(change, dtype=bool)
    inside[max(0, y1 - margin) : y2 + margin, max(0, x1 - margin) : x2 + margin] = True
    assert np.percentile(change[inside], 99) > 20
    assert (change > 20)[inside].sum() > 0.5 * (change > 20).sum()


@pytest.mark.slow
def test_thumbnails_do_not_give_the_findings_away():
    """A linear model on 32 x 32 thumbnails stays at or below 0.70 balanced accuracy on "has finding" questions."""
    from concurrent.futures import ProcessPoolExecutor

    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.preprocessing import StandardScaler

    studies = cases.make_studies(900, 21)
    with ProcessPoolExecutor(2) as pool:
        thumbnails = np.stack(list(pool.map(_thumbnail, studies, chunksize=16)))
    train = np.array([study.split == "train" for study in studies])
    scaler = StandardScaler().fit(thumbnails[train])
    inputs = scaler.transform(thumbnails)
    scores = defaultdict(list)
    for kind, spec in FINDINGS.items():
        present = [questions.has_finding(study, kind) for study in studies]
        known = np.array([value is not None for value in present])
        truth = np.array([bool(value) for value in present])
        if spec.label is None:
            continue
        for strength in (1e-3, 1e-2, 1e-1):
            model = LogisticRegression(C=strength, class_weight="balanced", max_iter=300, tol=1e-3)
            model.fit(inputs[train & known], truth[train & known])
            held_out = ~train & known
            scores[strength].append(balanced_accuracy_score(truth[held_out], model.predict(inputs[held_out])))
    best = max(np.mean(values) for values in scores.values())
    assert best <= 0.70, {strength: np.round(values, 2) for strength, values in scores.items()}


def _thumbnail(study):
    body, poses = images.study_poses(study, 21)
    film = Image.fromarray(images.draw_film(study, 0, body, poses[0], 21))
    scale = 32 / max(film.size)
    small = film.resize((max(1, round(film.width * scale)), max(1, round(film.height * scale))), Image.Resampling.BOX)
    canvas = Image.new("L", (32, 32))
    canvas.paste(small, ((32 - small.width) // 2, (32 - small.height) // 2))
    return np.asarray(canvas, dtype=np.float32).ravel() / 255
