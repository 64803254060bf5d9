"""A user's folder for the commands of the documents: a copy of the repository with a small look-alike release.

It differs from a user's own in size alone: `configs/default_config.yaml` and `tiny_config.yaml` hold a model of a few
thousand weights that starts from scratch (pretrained ones need a network), six steps and 50 resamples.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from data.index import open_index
from tests.own_files import own_file
from tests.test_dicom import film as dicom_film
from tests.vqa_rad_files import trainable_vqa_rad

ROOT = Path(__file__).resolve().parent.parent
STUDIES = 60
SMALL = {
    "model": {"visual_backbone": "convnext_atto", "visual_kwargs": {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}},
    "training": {"max_steps": 6, "eval_steps": 3, "logging_steps": 2, "save_steps": 3, "max_eval_questions": 200},
    "evaluation": {"bootstrap_samples": 50},
}
TRAIN = "python train_mimic_cxr.py --config configs/default_config.yaml"
EVALUATE = "python evaluate.py --model_path checkpoints/best_model --config configs/default_config.yaml"
SECONDS = 1200
"""Longest block, on a machine that has other work too"""


class Checkout:
    """Makes folders with what a block needs; each thing is made once, when it is first asked for."""

    def __init__(self, folder: Path):
        if not ((ROOT / ".git").exists() and shutil.which("git")):
            pytest.skip("not a git checkout: which files belong to the repository is not known")
        self.home, self.base, self.made = folder / "home", folder / "base", folder / "made"
        for path in (self.home, self.base, self.made):
            path.mkdir()
        copy_tree(self.base)
        shrink_configs(self.base / "configs")
        make_environment(self.base / ".venv")
        self.bash(self.base, f"python setup_data.py --synthetic release --studies {STUDIES} && python setup_data.py")

    def bash(self, folder: Path, text: str) -> str:
        """Run commands in a folder; their output. AssertionError with its end where one fails."""
        release = folder / "release"
        environment = {
            "PATH": f"{folder}/.venv/bin:{os.environ['PATH']}",
            "HOME": str(self.home),
            "MIMIC_CXR_PATH": "release/mimic-cxr-jpg",
            "MIMIC_QA_PATH": "release/mimic-ext-cxr-qba",
            "QUICKSTART_STUDIES": str(STUDIES),
            "CUDA_VISIBLE_DEVICES": "",  # the same everywhere
            **{name: os.environ[name] for name in ("HF_HUB_OFFLINE", "WANDB_MODE", "OMP_NUM_THREADS")},
        }
        for name in ("mimic-cxr-jpg", "mimic-ext-cxr-qba"):
            text = text.replace(f"/path/to/{name}", str(release / name))
        if "/path/to/index" in text:
            text = text.replace("/path/to/index", str(next((folder / "data_cache").iterdir())))
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode == 0, f"{text}\n\nexit code {done.returncode}, output:\n{done.stdout[-6000:]}"
        return done.stdout

    def with_things(self, folder: Path, names: tuple[str, ...]) -> Path:
        """A new folder like the base, with what `names` say."""
        shutil.copytree(self.base, folder, symlinks=True)
        for name in names:
            made = self.thing(name)
            copy = shutil.copytree if made.is_dir() else shutil.copy2
            copy(made, folder / name)
            if name == "films.csv":
                shutil.copytree(self.made / "films", folder / "films")
        return folder

    def thing(self, name: str) -> Path:
        path = self.made / name
        if not path.exists():
            MAKERS[name](self)
        return path

    def make_checkpoints(self) -> None:
        self.bash(self.base, f"{TRAIN} --output_dir {self.made}/training")
        (self.made / "training").rename(self.made / "checkpoints")

    def make_results(self) -> None:
        folder = self.with_things(self.made / "evaluated", ("checkpoints",))
        self.bash(folder, f"{EVALUATE} --output_dir {self.made}/results")

    def make_answers(self) -> None:
        shutil.copy2(self.thing("results") / "predictions.parquet", self.made / "answers.parquet")

    def make_film(self) -> None:
        name = open_index(next((self.base / "data_cache").iterdir())).image_id(0)  # a frontal one
        (film,) = (self.base / "release").rglob(f"{name}.jpg")
        shutil.copy2(film, self.made / "film.jpg")

    def make_png(self) -> None:
        Image.open(self.thing("film.jpg")).save(self.made / "film.png")

    def make_dicom(self) -> None:
        grey = np.asarray(Image.open(self.thing("film.jpg")).convert("L"))
        (self.made / "film.dcm").write_bytes(dicom_film(grey, bits=8))

    def make_questions(self) -> None:
        (self.made / "questions.csv").write_text("image,question\nfilm.png,Is there a pleural effusion?\n")

    def make_other(self) -> None:
        shutil.copytree(self.thing("results"), self.made / "other")


MAKERS = {
    "checkpoints": Checkout.make_checkpoints,
    "results": Checkout.make_results,
    "answers.parquet": Checkout.make_answers,
    "other": Checkout.make_other,
    "film.jpg": Checkout.make_film,
    "film.png": Checkout.make_png,
    "film.dcm": Checkout.make_dicom,
    "questions.csv": Checkout.make_questions,
    "films.csv": lambda checkout: own_file(checkout.made),
    "vqa-rad": lambda checkout: trainable_vqa_rad(checkout.made / "vqa-rad"),
}
"""What may stand behind `with` in a document."""


def copy_tree(folder: Path) -> None:
    """The repository as its next commit would be."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def shrink_configs(folder: Path) -> None:
    default = yaml.safe_load((folder / "default_config.yaml").read_text(encoding="utf-8"))
    tiny = yaml.safe_load((folder / "tiny_config.yaml").read_text(encoding="utf-8"))
    base = tiny.pop("base")
    for changes in (tiny, SMALL):
        for section, values in changes.items():
            default[section] = {**default[section], **{k: v for k, v in values.items() if k != "image_size"}}
    tiny = {section: {**tiny.get(section, {}), **SMALL.get(section, {})} for section in {*tiny, *SMALL}}
    (folder / "default_config.yaml").write_text(yaml.safe_dump(default))
    (folder / "tiny_config.yaml").write_text(yaml.safe_dump({"base": base, **tiny}))


def make_environment(folder: Path) -> None:
    """An environment whose `python` is the one of the tests, and whose pip installs nothing."""
    (folder / "bin").mkdir(parents=True)
    python = folder / "bin" / "python"
    python.write_text(f'#!/bin/sh\n[ "$1 $2" = "-m pip" ] && exit 0\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
