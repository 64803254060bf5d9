"""Files of questions and the images beside them, for tests of `data.own_data` and of what is made of it."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from data.vocabulary import Vocabulary

VOCABULARY = Vocabulary(("pleural effusion", "nodule"), ("lungs",))
WIDTH, HEIGHT = 50, 40
QUESTIONS = {
    "Is there an effusion?": ("yes", "no"),
    "What is abnormal?": ("Edema", "No finding"),
    "Where is the nodule?": ("left upper lobe", "right lower lobe"),
    "How severe is the edema?": ("mild", "severe"),
}


def draw(path: Path) -> None:
    noise = np.random.default_rng(len(str(path)) + path.stem.encode()[-1]).integers(0, 255, (HEIGHT, WIDTH), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise).save(path)


def write(folder: Path, text: str | bytes, name: str = "films.csv") -> Path:
    """A file beside the images a.png, b.png and more/a.png."""
    for image in ("a.png", "b.png", "more/a.png"):
        draw(folder / image)
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def own_file(folder: Path, patients: int = 20, split: str = "") -> Path:
    rows = [["image", "question", "answer", "patient", "split", "box"]]
    for patient in range(patients):
        image, part = f"films/{patient}.png", split or ("train", "train", "validate", "test")[patient % 4]
        draw(folder / image)
        for question, answers in QUESTIONS.items():
            box = "5 5 20 20" if question.startswith("Where") else ""
            rows.append([image, question, answers[patient // 4 % 2], f"p{patient}", part, box])
    with (folder / "films.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder / "films.csv"
