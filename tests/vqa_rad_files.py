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
    (root / "images").mkdir(parents=True)
    for name, part in (("trainset", train), ("testset", test)):
        (root / f"{name}.json").write_text(json.dumps(part))
    rng = np.random.default_rng(0)
    for name in "abcd":
        Image.fromarray(rng.integers(0, 255, (40, 50), dtype=np.uint8)).save(root / "images" / f"{name}.jpg")
    return root
