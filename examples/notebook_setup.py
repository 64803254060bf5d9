"""What the notebooks share: a release, an index and a model to work with, and how results are shown.

They use what `./scripts/quickstart.sh` left in `quickstart/`. Without it they make a smaller release of their own, and train
on that, in `quickstart/notebooks/`. Importing this module goes to the root of the repository.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
os.chdir(ROOT)
sys.path.insert(0, str(ROOT))  # a notebook is started in its own folder
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the models of these notebooks start from scratch
warnings.filterwarnings("ignore", message="IProgress not found")  # bars are shown as text without ipywidgets

from IPython.display import HTML, display

QUICKSTART = Path("quickstart")
OWN = QUICKSTART / "notebooks"
OWN_STUDIES = 120
OWN_STEPS = 60


@dataclass(frozen=True)
class Place:
    """Where things lie, relative to the root of the repository."""

    release: Path
    index: Path
    folder: Path
    """what the notebooks write"""

    @property
    def options(self) -> list[str]:
        """The options that `setup_data.py` and the other programs need for this release."""
        return [
            *("--config", "configs/tiny_config.yaml", "--set", f"data.index_dir={self.index}"),
            *("--mimic_cxr_path", str(self.release / "mimic-cxr-jpg")),
            *("--mimic_qa_path", str(self.release / "mimic-ext-cxr-qba")),
        ]


def run(*words: str | Path) -> None:
    """Run a program of this repository as a user would, and show the command and what it prints. RuntimeError if it fails."""
    command = [sys.executable, *map(str, words)]
    print("$ python", " ".join(map(str, words)), flush=True)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for line in process.stdout:
        print(line, end="", flush=True)
    if process.wait():
        raise RuntimeError(f"{words[0]} ended with exit code {process.returncode}: its last lines above say why")


def prepare() -> Place:
    """The quickstart's release and index, or a smaller release and its index; each is made once."""
    if (QUICKSTART / "index" / "index.json").is_file():
        return Place(QUICKSTART / "release", QUICKSTART / "index", OWN)
    place = Place(OWN / "release", OWN / "index", OWN)
    if not (place.release / "mimic-ext-cxr-qba" / "metadata" / "dataset_info.json").is_file():
        run("setup_data.py", "--synthetic", place.release, "--studies", str(OWN_STUDIES))
    if not (place.index / "index.json").is_file():
        run("setup_data.py", *place.options)
    return place


def train(place: Place) -> Path:
    """Train for OWN_STEPS steps into the notebooks' folder, or go on where that was stopped; the model folder."""
    output = place.folder / "checkpoints"
    if not (output / "best_model" / "question_only").is_dir():
        options = ["--set", f"training.max_steps={OWN_STEPS}", "--set", "training.eval_steps=20"]
        run("train_mimic_cxr.py", *place.options, *options, "--output_dir", output, "--resume", "auto")
    return output / "best_model"


def model(place: Place) -> Path:
    """Folder of the quickstart's model; without it, of one that is trained here."""
    best = QUICKSTART / "checkpoints" / "best_model"
    return best if (best / "question_only").is_dir() else train(place)


def show(html: str, title: str = "") -> None:
    """Show HTML or SVG, on white in dark notebooks too."""
    head = f"<b>{title}</b><br>" if title else ""
    display(HTML(f'<div style="background:white;color:black;padding:8px">{head}{html}</div>'))
