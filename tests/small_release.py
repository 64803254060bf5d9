"""Writes a small release by hand, with image files, scene graphs and questions of each fate, for the tests of the index."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from configs.mimic_cxr_config import DataConfig
from data.label_space import CHEXPERT
from tests.release_files import write_members, write_table

Film = str | tuple[str, int, int]
"""A view, or (view, width, height)."""
Studies = dict[int, tuple[int, str, list[Film]]]
"""Study -> subject, split, films."""

# the first study has two frontal films, the lateral one is never used
STUDIES: Studies = {
    50000001: (10000001, "train", ["AP", "PA", "LATERAL"]),
    50000002: (10000002, "train", ["AP"]),
    50000003: (10000003, "validate", ["PA"]),
    50000004: (10000004, "test", ["LATERAL"]),
}
NOT_IN_JPG = 50000009


def image_id(study: int, n: int) -> str:
    """The `dicom_id` of a study's film number `n`."""
    return f"{study}-{n:08d}-0000aaaa-0000bbbb-0000cccc"


def question(number: int, kind: str, text: str, answer: str, **fields) -> dict:
    main = {"answer_type": "main_answer", "text": answer, "positiveness": "pos"} | fields
    return {
        "question_id": f"{kind}_{number:03d}",
        "question_type": kind,
        "question_strategy": "finding",
        "question": text,
        "answers": [main],
        "question_quality": {"rating": "4_A"},
    }


def qa_of(study: int) -> dict:
    return {
        "questions": [
            question(
                0, "D02_has_finding", "Is there an effusion?", "Yes, there is.", obs_entities=["pleural effusion"]
            ),
            question(1, "D03_where_is_finding", "Where?", "There.", regions=["left costophrenic angle"]),
            question(2, "D04_how_severe_is_finding", "How severe?", "It is.", modifiers=[["severity", "mild"]]),
            question(3, "A_indication", "Why?", "Cough."),
            question(4, "D04_how_severe_is_finding", "How severe is it?", "Unclear.", modifiers=[]),
            question(5, "Z99_unheard_of", "What?", "Yes."),
        ]
    }


def graph_of(study: int, size: tuple[int, int]) -> dict:
    box = {"bboxes": [[10.0, 20.0, size[0] / 2, size[1] / 2]], "is_fallback": False, "localization_quality": 4}
    return {
        "observations": {
            "O01": {
                "regions": [{"region": "left costophrenic angle", "distances": []}],
                "obs_entities": ["pleural effusion"],
                "positiveness": "pos",
                "probability": "positive",
                "from_report": True,
            }
        },
        "regions": {"heart": {"region": "heart", "localization": {image_id(study, 0): box}}},
    }


def film_of(film: Film) -> tuple[str, int, int]:
    if isinstance(film, tuple):
        return film
    return (film, 120, 90) if film == "AP" else (film, 100, 150)


def write_release(root: Path, studies: Studies = STUDIES) -> DataConfig:
    """Studies with images, and one whose images are not in the tables; the settings for an index of them."""
    rng = np.random.default_rng(0)
    for study, (subject, _, films) in studies.items():
        for n, film in enumerate(films):
            _, width, height = film_of(film)
            folder = root / "jpg" / "files" / f"p{str(subject)[:2]}" / f"p{subject}" / f"s{study}"
            folder.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 255, (height, width)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{image_id(study, n)}.jpg", quality=95)
    write_tables(root, studies)
    return DataConfig(
        mimic_cxr_path=str(root / "jpg"),
        mimic_qa_path=str(root / "qba"),
        index_dir=str(root / "index"),
        image_size=64,
    )


def write_tables(root: Path, studies: Studies, qa: Callable[[int], dict] = qa_of) -> None:
    """All files of `write_release` but the images; what is there is written over."""
    rows, labels = [], []
    for study, (subject, split, films) in studies.items():
        for n, film in enumerate(films):
            view, width, height = film_of(film)
            rows.append(
                {"dicom_id": image_id(study, n), "subject_id": subject, "study_id": study, "ViewPosition": view}
                | {"Rows": height, "Columns": width, "split": split}
            )
        labels.append({"subject_id": subject, "study_id": study} | dict.fromkeys(sorted(CHEXPERT), 1.0))
    table = pd.DataFrame(rows)
    for name, frame in (
        ("metadata", table.drop(columns="split")),
        ("split", table[["dicom_id", "study_id", "subject_id", "split"]]),
        ("chexpert", pd.DataFrame(labels)),
    ):
        write_table(root / "jpg" / f"mimic-cxr-2.0.0-{name}.csv", frame, gz=True)
    keys = {(subject, study) for study, (subject, *_) in studies.items()} | {(10000009, NOT_IN_JPG)}
    write_members(root / "qba" / "qa.zip", {"qa": {k: qa(k[1]) for k in keys}}, "qa/")
    graphs = {k: graph_of(k[1], (120, 90)) for k in keys}
    write_members(root / "qba" / "scene_data.zip", {"scene_graph": graphs}, "scene_data/")
    (root / "qba" / "metadata").mkdir(exist_ok=True)
    info = {
        "regions": ["heart", "left costophrenic angle"],
        "finding_entities": ["pleural effusion"],
        "synthetic": True,
    }
    (root / "qba" / "metadata" / "dataset_info.json").write_text(json.dumps(info))


def image_path(data: DataConfig, study: int, n: int = 0, studies: Studies = STUDIES) -> Path:
    """File of a study's film number `n`."""
    subject = studies[study][0]
    return Path(data.mimic_cxr_path) / f"files/p{str(subject)[:2]}/p{subject}/s{study}/{image_id(study, n)}.jpg"


def contents(path: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(f.relative_to(path)): f.read_bytes() for f in sorted(path.rglob("*")) if f.is_file()}
