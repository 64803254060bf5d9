"""A few questions in the form of VQA-RAD, for tests of `data.vqa_rad` and of what is made of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image


def entry(number, image, question, answer, kind="CLOSED", organ="CHEST"):
    return {
        "qid": number,
        "image_name": f"{image}.jpg",
        "image_organ": organ,
        "question": question,
        "answer": answer,
        "answer_type": kind,
    }


def vqa_rad_folder(root: Path) -> Path:
    """Seven training and two test questions on four images, as the files of VQA-RAD; the folder."""
    train = [
        entry(1, "a", "Is there an effusion?", "Yes"),
        entry(2, "a", "Where is the lesion?", "Right upper lobe and left lung", "OPEN"),
        entry(3, "b", "What is the pathology?", "cardiomegaly with pulmonary edema", "OPEN"),
        entry(4, "b", "Is it PA or AP?", "pa"),
        entry(5, "c", "Are the ventricles normal?", "yes", organ="HEAD"),
        entry(6, "b", "Where is the catheter tip?", "somewhere", "OPEN "),
        entry(7, "b", "What modality is this?", "x-ray", "OPEN"),
    ]
    test = [entry(8, "a", "Is the heart enlarged?", "no"), entry(9, "d", "How severe is it?", "Mild", "OPEN")]
    return _write(root, train, test)


def trainable_vqa_rad(root: Path, images: int = 24) -> Path:
    """Two questions on each of so many training images, enough for a validation split, and four test questions."""
    train = []
    for n in range(images):
        train.append(entry(2 * n, f"train{n:02d}", "Is there an effusion?", ("Yes", "No")[n % 2]))
        train.append(entry(2 * n + 1, f"train{n:02d}", "Where is the lesion?", "Right upper lobe", "OPEN"))
    test = [entry(900 + n, f"test{n}", "Is the heart enlarged?", ("Yes", "No")[n % 2]) for n in range(4)]
    return _write(root, train, test)


def _write(root: Path, train: list[dict], test: list[dict]) -> Path:
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, part in (("trainset", train), ("testset", test)):
        (root / f"{name}.json").write_text(json.dumps(part))
    for name in sorted({one["image_name"] for one in train + test}):
        Image.fromarray(rng.integers(0, 255, (40, 50), dtype=np.uint8)).save(root / "images" / name)
    return root
