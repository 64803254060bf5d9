"""A hand-made index for tests: written straight into tables, without a release."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from data import label_space
from data.index import Index, open_index
from data.index.store import COLUMNS, FORMAT, write_table
from data.label_space import CHEXPERT, HEAD_INDEX, QUESTION_TYPES, TYPE_INDEX, Head
from data.vocabulary import Vocabulary

ENTITIES = ("pleural effusion", "cardiomegaly", "nodule")


def write_mini_index(path: Path, studies: list[dict], *, side: int = 16) -> Index:
    """Write an index.

    Each study: {split, subject, questions: [(type name, text, target, grade)], images: n, findings: [(regions, entity name or
    id, kind, from_report)], boxes: [(region, x1, y1, x2, y2)], chexpert: 14 numbers}. Images have a grey level of their own.
    """
    vocabulary = Vocabulary(ENTITIES, ("lungs",))
    tables = {t: {c: [] for c in names} for t, names in COLUMNS.items()}
    chexpert, boxes, image_ids, views, pixels = [], [], [], [], []
    texts, keys = {}, {}
    for number, study in enumerate(studies):
        questions, images = study.get("questions", []), study.get("images", 1)
        _add(
            tables["studies"],
            subject_id=study.get("subject", 10_000_000 + number),
            study_id=50_000_000 + number,
            split=("train", "validate", "test").index(study["split"]),
            question_start=len(tables["questions"]["study"]),
            question_count=len(questions),
            image_start=len(image_ids),
            image_count=images,
        )
        chexpert.append(study.get("chexpert", [np.nan] * len(CHEXPERT)))
        for n, (name, text, target, grade) in enumerate(questions):
            head = QUESTION_TYPES[TYPE_INDEX[name]].head
            _add(
                tables["questions"],
                study=number,
                text=texts.setdefault(text, len(texts)),
                type=TYPE_INDEX[name],
                head=HEAD_INDEX[head],
                target=target,
                grade=grade,
                question_id=keys.setdefault(f"{name}_{n:03d}", len(keys)),
                regions=target if head == Head.REGION else 0,
                from_report=n % 2,
            )
        for _ in range(images):
            _add(
                tables["images"],
                study=number,
                width=side,
                height=side,
                stored_width=side,
                stored_height=side,
                offset=len(image_ids) * side * side,
                length=side * side,
                box_start=len(boxes),
                box_count=len(study.get("boxes", [])),
                finding_start=len(tables["findings"]["entity"]),
                finding_count=len(study.get("findings", [])),
            )
            for region, *box in study.get("boxes", []):
                tables["boxes"]["region"].append(region)
                boxes.append(box)
            for regions, entity, kind, from_report in study.get("findings", []):
                code = entity if isinstance(entity, int) else vocabulary.entity_index[entity]
                mask = sum(1 << r for r in regions)
                _add(tables["findings"], regions=mask, entity=code, kind=kind, from_report=from_report)
            pixels.append(np.full((side, side), 10 + len(image_ids), np.uint8))
            image_ids.append(f"image-{len(image_ids):04d}")
            views.append("PA")
    (path / "tables").mkdir(parents=True)
    (path / "images").mkdir()
    written = {t: {c: np.array(v, dtype=COLUMNS[t][c]) for c, v in cs.items()} for t, cs in tables.items()}
    written["studies"]["chexpert"] = np.array(chexpert, np.float32).reshape(-1, len(CHEXPERT))
    written["boxes"]["box"] = np.array(boxes, np.float32).reshape(-1, 4)
    written["images"] |= {"image_id": image_ids, "view": views}
    written |= {"texts": {"value": list(texts)}, "question_ids": {"value": list(keys)}}
    for name, table in written.items():
        write_table(path / "tables" / f"{name}.arrow", table)
    (path / "problems.jsonl").write_text("")
    (path / "images" / "pixels.u8").write_bytes(b"".join(p.tobytes() for p in pixels))
    counts: dict = {}
    for study in studies:
        for name, *_ in study.get("questions", []):
            by_type = counts.setdefault(study["split"], {}).setdefault(name, {"target": 0})
            by_type["target"] += 1
    meta = {
        "format": FORMAT,
        "fingerprint": "0" * 16,
        "label_space": label_space.checksum(),
        "image_store": "raw",
        "synthetic": True,
        "credentialed": False,
        "vocabulary": vocabulary.as_json(),
        "counts": counts,
        "unmapped": {},
        "problems": {},
    }
    (path / "index.json").write_text(json.dumps(meta))
    return open_index(path)


def _add(table: dict[str, list], **values) -> None:
    for name, value in values.items():
        table[name].append(value)


class WordTokenizer:
    """One id a word: enough for tests of batches."""

    pad_token_id = 0

    def __init__(self):
        self.words: dict[str, int] = {}

    def get_vocab(self):
        return self.words

    def __call__(self, texts, add_special_tokens=True, truncation=True, max_length=64):
        rows = [[1, *(self.words.setdefault(w, len(self.words) + 3) for w in t.split()), 2][:max_length] for t in texts]
        return {"input_ids": rows}


def rewrite_column(path: Path, table: str, column: str, values: np.ndarray) -> None:
    """Replace one numeric column of an index on disk."""
    index = open_index(path)
    columns = {name: np.array(data) for name, data in getattr(index, table).items()}
    columns[column] = values.astype(columns[column].dtype)
    write_table(path / "tables" / f"{table}.arrow", columns)
