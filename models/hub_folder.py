"""Model folders on the Hugging Face Hub: which files one has there, and how it becomes a folder here.

    model, tokenizer, config, vocabulary = SSGVQA.from_pretrained("user/name@revision")

A local folder of that name wins. Only listed files are downloaded, and nothing in them is ever run or unpickled.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import yaml

from configs.mimic_cxr_config import from_dict, to_dict
from configs.sharing import shared_settings
from utils import hub
from utils.errors import CheckpointError, ConfigError
from utils.privacy import make_private
from utils.utils import get_logger

CONTROL = "question_only"
"""The text-only control: a folder in the model's"""
SMALL_FILES = (
    *("README.md", "config.yaml", "label_space.json", "vocabulary.json", "text_config.json", "visual_config.json"),
    *("tokenizer_config.json", "tokenizer.json", "metrics.json", "temperature.json", "routing.json", "report.json"),
)
HUB_FILES = tuple(f"{folder}{name}" for folder in ("", f"{CONTROL}/") for name in ("model.safetensors", *SMALL_FILES))
"""Every file that a model folder can have on the Hub: no other is uploaded, and no other downloaded"""

log = get_logger(__name__)


def model_directory(name: str | Path, revision: str | None = None) -> Path:
    """The folder that `name` is or, of a Hub repository `user/name` or `user/name@revision`, the one it is downloaded to.

    What is neither comes back as it is. With HF_HUB_OFFLINE, or without network, the cache (HF_HOME) answers.

    Raises:
        CheckpointError: the repository cannot be had, is none of a model of this program, or holds settings that could only
            harm here.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    if str(folder) != str(name):  # `./user/name` is written as a path, and stays one
        return folder.absolute()
    repository, found = hub.split_revision(str(name))
    # a mistyped path of a folder that is here is no name to ask the Hub for
    if not hub.is_repository(repository) or Path(repository).parent.exists():
        return folder
    return _downloaded(repository, revision or found)


def beside(folder: Path) -> Path:
    """Where what is kept beside a model folder goes; of a downloaded one into the folder of its repository in the cache."""
    parent = folder.resolve().parent
    return parent.parent if parent.name == "snapshots" else parent


@lru_cache
def _downloaded(repository: str, revision: str | None) -> Path:
    from huggingface_hub.errors import HfHubHTTPError

    shown = f"{repository}@{revision}" if revision else repository
    try:
        folder = _snapshot(repository, revision, SMALL_FILES)
        _check(folder, shown)
        folder = _snapshot(repository, folder.name, HUB_FILES)  # the same commit
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise _cannot_have(shown, error) from error
    except CheckpointError:
        raise
    except Exception as error:  # the HTTP library's own exceptions, which differ between releases
        raise _cannot_have(shown, error) from error
    make_private(folder.parents[1])
    log.info("%s: commit %s", shown, folder.name[:12])
    return folder


def _snapshot(repository: str, revision: str | None, files: tuple[str, ...]) -> Path:
    options = {"revision": revision, "allow_patterns": list(files)}
    try:
        return Path(hub.client().snapshot_download(repository, **options))
    except Exception as error:
        if not hub.is_passing(error):
            raise
        try:
            found = Path(hub.client().snapshot_download(repository, local_files_only=True, **options))
        except Exception:
            raise error from None
        log.warning("%s: the Hub does not answer, the commit in the cache is used", repository)
        return found


def _cannot_have(name: str, error: Exception) -> CheckpointError:
    return CheckpointError(f"{name}: neither a folder here nor a model of the Hugging Face Hub: {hub.reason(error)}")


def _check(folder: Path, name: str) -> None:
    """CheckpointError unless these are settings as our uploads have them: a stranger's must not say where to write."""
    path = folder / "config.yaml"
    if not path.is_file() or not (folder / "label_space.json").is_file():
        raise CheckpointError(f"{name}: its repository holds no model of this program (config.yaml, label_space.json)")
    try:
        config = from_dict(yaml.safe_load(path.read_text(encoding="utf-8")), f"config.yaml of {name}")
    except (ConfigError, OSError, ValueError, yaml.YAMLError) as error:
        raise CheckpointError(f"{name}: its config.yaml cannot be read ({' '.join(str(error).split())})") from error
    shared = from_dict(shared_settings(config, exists=lambda _: False))
    if to_dict(shared) != to_dict(config):
        raise CheckpointError(
            f"{name}: its config.yaml has settings that no upload of this program has, such as paths: it is not used"
        )
