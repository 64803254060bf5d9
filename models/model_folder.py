"""Model folders: safetensors, YAML and JSON, complete or absent; read strictly and without network.

- model.safetensors, config.yaml, label_space.json, text_config.json and the tokenizer's files;
- of the full model also visual_config.json and vocabulary.json;
- what the caller adds (metrics.json, README.md).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from configs.mimic_cxr_config import Config, from_dict, to_yaml
from data import label_space
from data.vocabulary import Vocabulary
from models.hub_folder import model_directory
from utils.errors import CheckpointError, ConfigError
from utils.privacy import is_credentialed
from utils.utils import atomic_directory, write_atomic, write_json

WEIGHTS, CONFIG, LABELS = "model.safetensors", "config.yaml", "label_space.json"
LINEAGE = "credentialed"
"""In the header of the weights: true or false. Where it is missing nobody knows, and it counts as true"""
SHOWN = 3
"""Differing tensors that an error message names"""


def write(
    folder: str | Path,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    config: Config,
    description: dict[str, object],
    extra_files: dict[str, object],
    weights: dict[str, Tensor] | None = None,
    *,
    credentialed: bool | None = None,
) -> None:
    """Write a model folder beside `folder` and rename it; an old one is replaced as a whole.

    `description` and `extra_files`: name -> text, bytes or something for JSON. `weights`: the model's as they were when
    `copy_weights` took them; those of now when None. `credentialed`: see `LINEAGE`. CheckpointError when the disk refuses.
    """
    weights = copy_weights(model) if weights is None else weights
    try:
        with atomic_directory(folder) as target:
            # one entry: safetensors writes several in no order, and equal weights would be other bytes
            lineage = {"format": "pt"} if credentialed is None else {LINEAGE: str(credentialed).lower()}
            save_file(weights, target / WEIGHTS, metadata=lineage)
            tokenizer.save_pretrained(target)
            own = {CONFIG: to_yaml(config), LABELS: label_space.as_json()}
            files = {**own, **description, **extra_files}
            for name, content in files.items():
                if isinstance(content, (str, bytes)):
                    write_atomic(target / name, content)
                else:
                    write_json(target / name, content)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: the model folder cannot be written ({error})") from error


def copy_weights(model: nn.Module) -> dict[str, Tensor]:
    """All weights in main memory, each with its own: safetensors refuses shared memory and channels-last storage."""
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in model.state_dict().items()}


@dataclass
class Stored:
    """What a model folder holds, read and checked, except for the weights."""

    folder: Path
    config: Config
    tokenizer: PreTrainedTokenizerBase
    json: dict[str, dict]
    credentialed: bool

    def load_weights(self, model: nn.Module) -> None:
        """Fill the model; CheckpointError that names what differs."""
        try:
            weights = load_file(self.folder / WEIGHTS)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{self.folder / WEIGHTS}: cannot be read ({error}); copy the folder again"
            ) from error
        differences = compare(model.state_dict(), weights)
        if differences:
            more = f" and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
            raise CheckpointError(
                f"{self.folder / WEIGHTS}: not the weights of the model that {CONFIG} describes:"
                f" {'; '.join(differences[:SHOWN])}{more}"
            )
        model.load_state_dict(weights)


def compare(expected: dict[str, Tensor], found: dict[str, Tensor]) -> list[str]:
    """How two sets of named tensors differ, one line each; empty when names and shapes are the same."""
    lines = [f"{name} is missing" for name in expected if name not in found]
    lines += [f"{name} is not of this model" for name in found if name not in expected]
    for name, value in expected.items():
        if name in found and value.shape != found[name].shape:
            lines.append(f"{name} has shape {list(found[name].shape)} instead of {list(value.shape)}")
    return lines


def read(folder: str | Path, json_files: tuple[str, ...]) -> Stored:
    """Read and check everything but the weights; CheckpointError that says which file is wrong, and how.

    `folder`: also `user/name` on the Hugging Face Hub, see `models.hub_folder`; likewise below.
    """
    folder = model_directory(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; give the folder of a trained model, for example best_model")
    needed = (WEIGHTS, CONFIG, LABELS, "tokenizer_config.json", *json_files)
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{folder}: not a complete model folder, it lacks {', '.join(missing)}")
    labels = _read_json(folder / LABELS)
    if labels.get("checksum") != label_space.checksum():
        raise CheckpointError(
            f"{folder / LABELS}: the model was trained with other classes or question types than this version of the"
            " code has; use the version it was trained with"
        )
    with explained(folder):
        config = from_dict(yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8")), str(folder / CONFIG))
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    contents = {name: _read_json(folder / name) for name in json_files}
    return Stored(folder, config, tokenizer, contents, read_lineage(folder))


def read_lineage(folder: str | Path) -> bool:
    """Whether what is in a model folder counts as credentialed; CheckpointError where the weights cannot be read."""
    path = model_directory(folder) / WEIGHTS
    try:
        with safe_open(path, "pt") as weights:
            return is_credentialed((weights.metadata() or {}).get(LINEAGE))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); copy the folder again") from error


def read_vocabulary(folder: str | Path) -> Vocabulary:
    """Names that the model of a folder knows; CheckpointError as `read`."""
    return Vocabulary.from_json(_read_json(model_directory(folder) / "vocabulary.json"))


@contextmanager
def explained(folder: str | Path) -> Iterator[None]:
    """Turn what damaged or foreign files raise into a CheckpointError."""
    try:
        yield
    except (ConfigError, OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{folder}: the model cannot be rebuilt from its files ({reason})") from error


def text_config(stored: dict):
    """The text encoder's configuration from `text_config.json`."""
    return AutoConfig.for_model(**stored)


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({error})") from error
