"""Exported models: three ONNX graphs, a tokenizer and manifest.json, which says what they are. Without PyTorch.

    manifest.json             what the graphs take and give, preprocessing, classes, temperatures, hashes
    image.onnx                for an image; question.onnx for a text; fusion.onnx for each question
    *.int8.onnx               the same with 8-bit weights
    tokenizer.json            word pieces, of the `tokenizers` library
    export_report.json        how far the graphs are from the model
Graphs of 2 GB and more keep their weights beside them, in *.onnx.data.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from data import label_space
from data.vocabulary import Vocabulary
from models.routing import Router
from utils.errors import CheckpointError, ConfigError
from utils.packages import require
from utils.utils import sha256_of

MANIFEST, TOKENIZER, REPORT = "manifest.json", "tokenizer.json", "export_report.json"
FORMAT = 2
GRAPHS = ("image", "question", "fusion")
PRECISIONS = ("fp32", "int8")
PACKAGES_FILE = "requirements-export.txt"
EXPORTER = ("onnx", "onnxscript", "onnxruntime")
"""Packages that an export takes; its use takes the last one alone"""


def file_of(graph: str, precision: str) -> str:
    """Name of a graph's file."""
    return f"{graph}.onnx" if precision == "fp32" else f"{graph}.{precision}.onnx"


def require_exporter() -> None:
    """ConfigError where packages are missing that an export takes."""
    require(*EXPORTER, file=PACKAGES_FILE)


def require_replaceable(output: Path) -> None:
    """ConfigError where an export would take the place of something else."""
    if not output.exists() or (output.is_dir() and (not any(output.iterdir()) or (output / MANIFEST).is_file())):
        return
    raise ConfigError(f"{output} exists and is no exported model; name another folder")


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each file that an export is used from."""
    return {path.name: sha256_of(path) for path in sorted(folder.glob("*.onnx*")) + [folder / TOKENIZER]}


@dataclass(frozen=True)
class Manifest:
    """manifest.json, checked."""

    folder: Path
    values: dict

    @property
    def image_size(self) -> int:
        """S"""
        return self.values["preprocessing"]["image_size"]

    @property
    def shorter_side(self) -> int:
        """Pixels of a decoded image's shorter side before it is letter-boxed, as in an index."""
        return self.values["preprocessing"]["shorter_side"]

    @property
    def reads_graph(self) -> bool:
        """Whether answers are given from a scene graph; not those of fusion `none`."""
        return "exists" in self.values["graphs"]["fusion"]["inputs"]

    @property
    def precisions(self) -> list[str]:
        return [name for name in PRECISIONS if file_of("image", name) in self.values["sha256"]]

    def router(self) -> Router:
        """With the threshold that an evaluation measured for the exported weights."""
        names, measured = Vocabulary.from_json(self.values["vocabulary"]), self.values["routing"]
        return Router(names) if measured is None else Router(names, measured["threshold"], measured=True)

    def temperature(self, head: str) -> float | None:
        """Divides the logits of a head before they become probabilities; None: was not fitted."""
        return (self.values["temperature"] or {}).get(head)


def read_manifest(folder: str | Path, precision: str) -> Manifest:
    """Read the manifest of an export and check all files of one precision.

    CheckpointError: no export, a file that is missing or damaged, other classes than this version of the code has.
    ConfigError: the export has no graphs of that precision.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.is_file():
        raise CheckpointError(f"{folder}: no exported model ({MANIFEST} is missing); make one with scripts/export.py")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        manifest = Manifest(folder, values)
        if values["format"] != FORMAT:
            raise CheckpointError(f"{path}: format {values['format']}, not {FORMAT}; export the model again")
        if values["label_space"]["checksum"] != label_space.checksum():
            raise CheckpointError(f"{path}: other classes than this version of the code has; export the model again")
        offered, known = manifest.precisions, values["sha256"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: damaged ({error!r}); copy the folder again or export anew") from error
    if precision not in offered:
        more = "; export with --int8" if precision == "int8" else ""
        raise ConfigError(f"{folder} has no {precision} graphs, only {', '.join(offered)}{more}")
    own = [file_of(graph, precision) for graph in GRAPHS]
    for name in [*own, *(f"{name}.data" for name in own if f"{name}.data" in known), TOKENIZER]:
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder}: not a complete export, it lacks {name}; copy the folder again")
        if sha256_of(folder / name) != known.get(name):
            raise CheckpointError(f"{folder / name}: not the file that was exported; copy the folder again")
    return manifest
