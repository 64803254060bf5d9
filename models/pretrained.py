"""Pretrained weights and tokenizers: from a local folder, the local cache or the Hugging Face Hub, in this order.

When they cannot be had the run stops with one line that says how to go on. Random weights are never a fallback.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import huggingface_hub
import timm
import torch
import transformers
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from configs.mimic_cxr_config import ModelConfig
from utils.errors import ConfigError
from utils.utils import get_logger

HUB_TIMEOUT = 10
"""Seconds that one question to the hub may take before the network counts as absent"""
LOAD_ERRORS = (OSError, ValueError, KeyError, RuntimeError, SafetensorError, pickle.UnpicklingError, HfHubHTTPError)
"""What a folder, cache or download that cannot be used raises"""
OF_THE_CLASSIFIER = ("in_chans", "num_classes", "global_pool")
"""Stored arguments that say nothing about feature maps of grey images"""
TEXT, VISUAL = "model.text_encoder", "model.visual_backbone"
TIMM_WEIGHTS = ("model.safetensors", "pytorch_model.bin")

os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
"""Else transformers tells a service the name of an encoder that is published as a pickle, at each load, to have it converted"""

log = get_logger(__name__)


def cannot_load(key: str, name: str, reason: object) -> ConfigError:
    """The error for weights that cannot be had; `reason` is cut to its first line."""
    lines = str(reason).strip().splitlines() or [type(reason).__name__]
    return ConfigError(
        f"{key} = {name}: cannot be loaded ({lines[0].rstrip('.')}); give a local folder as {key}, fill the cache on a"
        " machine with network (HF_HOME), or set model.pretrained: false to train from random weights"
    )


def check_hub(key: str, name: str, repository: str = "") -> None:
    """ConfigError within seconds when the hub does not have or does not give this repository.

    The libraries' own downloads retry for most of a minute before they say so.
    """
    try:
        huggingface_hub.model_info(repository or name, timeout=HUB_TIMEOUT)
    except OfflineModeIsEnabled as error:
        raise cannot_load(key, name, "not in the local cache, and HF_HUB_OFFLINE is set") from error
    except GatedRepoError as error:
        raise cannot_load(key, name, "access to this repository must be granted first; set HF_TOKEN") from error
    except RepositoryNotFoundError as error:
        raise cannot_load(key, name, "no such repository on the Hugging Face Hub, or no access to it") from error
    except Exception as error:  # the HTTP library's own exceptions, which differ between releases
        raise cannot_load(key, name, f"not in the local cache, and the hub does not answer: {error}") from error


def from_folder_cache_or_hub(key: str, name: str, load: Callable[[bool], object]):
    """`load(local_files_only)`: first without network, then, if the hub has the repository, with it."""
    try:
        return load(True)
    except LOAD_ERRORS as error:
        if Path(name).is_dir():
            raise cannot_load(key, name, error) from error
    check_hub(key, name)
    try:
        return load(False)
    except LOAD_ERRORS as error:
        raise cannot_load(key, name, error) from error


# Text


def load_text_model(config: ModelConfig, extra: Callable[[object], dict]) -> PreTrainedModel:
    """The weights of `model.text_encoder` in float32; `extra(text_config)` gives further constructor arguments."""
    name = config.text_encoder

    def load(local: bool) -> PreTrainedModel:
        text_config = AutoConfig.from_pretrained(name, local_files_only=local)
        model, report = AutoModel.from_pretrained(
            name,
            config=text_config,
            dtype=torch.float32,
            local_files_only=local,
            output_loading_info=True,
            **extra(text_config),
        )
        missing = sorted(report["missing_keys"])
        if missing:
            raise ValueError(f"its weights lack {len(missing)} tensors of the encoder, for example {missing[0]}")
        return model

    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # heads of the pretraining task that are not used are no news
    try:
        return from_folder_cache_or_hub(TEXT, name, load)
    finally:
        transformers.logging.set_verbosity(verbosity)


def load_tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of `model.text_encoder`. A cased vocabulary is not lower-cased unless its own settings say so."""
    name = config.text_encoder

    def load(local: bool) -> PreTrainedTokenizerBase:
        tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=local)
        if not (lower_cases(tokenizer) and is_cased(tokenizer)):
            return tokenizer
        if _own_settings(name, local).get("do_lower_case") is True:
            log.warning("%s lower-cases questions although its vocabulary is cased: its own settings say so", name)
            return tokenizer
        # without tokenizer settings transformers lower-cases, and most capitalised words fall into letters
        return AutoTokenizer.from_pretrained(name, local_files_only=local, do_lower_case=False)

    return from_folder_cache_or_hub(TEXT, name, load)


def lower_cases(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer turns capitals into small letters."""
    normalizer = tokenizer.backend_tokenizer.normalizer
    return normalizer is not None and normalizer.normalize_str("A") == "a"


def is_cased(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether its vocabulary has capitals outside the special tokens."""
    special = set(tokenizer.all_special_tokens)
    return any(piece != piece.lower() for piece in tokenizer.get_vocab() if piece not in special)


def _own_settings(name: str, local: bool) -> dict:
    path = transformers.utils.cached_file(
        name, "tokenizer_config.json", local_files_only=local, _raise_exceptions_for_missing_entries=False
    )
    return json.loads(Path(path).read_text(encoding="utf-8")) if path else {}


# Image


@dataclass
class VisualSource:
    """Where a timm backbone comes from."""

    architecture: str
    pretrained_cfg: dict
    model_args: dict = field(default_factory=dict)
    """Constructor arguments stored beside the weights of a folder or hub repository"""
    repository: str = ""
    """Hub repository of the weights; empty for a local folder"""
    folder: Path | None = None
    """Local folder with config.json, where that says what the architecture is"""


def visual_source(config: ModelConfig) -> VisualSource:
    """Resolve `model.visual_backbone`: timm name, `hf-hub:` or `hf_hub:` repository, local folder; or ConfigError."""
    name = config.visual_backbone
    prefix, _, rest = name.partition(":")
    if prefix.replace("_", "-") == "hf-hub":
        return _stored_source(_hub_file(name, rest, ("config.json",)).parent, repository=rest)
    folder = Path(rest if prefix == "local-dir" else name)
    if folder.is_dir():
        return _stored_source(folder)
    pretrained_cfg = timm.models.get_pretrained_cfg(name) if timm.is_model(name.partition(".")[0]) else None
    if pretrained_cfg is None:
        raise ConfigError(
            f"{VISUAL} = {name}: neither a folder nor a timm model with known normalisation; timm.list_models() lists"
            " them, and hf-hub:OWNER/NAME names a repository"
        )
    return VisualSource(name, pretrained_cfg.to_dict(), repository=pretrained_cfg.hf_hub_id or "")


def _stored_source(folder: Path, repository: str = "") -> VisualSource:
    try:
        stored = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        architecture, pretrained_cfg = stored["architecture"], stored.get("pretrained_cfg", stored)
        if not {"mean", "std"} <= pretrained_cfg.keys():
            raise ValueError("its config.json has no mean and std")
    except (OSError, ValueError, KeyError) as error:
        raise cannot_load(VISUAL, folder, f"not a timm model folder: {error}") from error
    args = {key: value for key, value in stored.get("model_args", {}).items() if key not in OF_THE_CLASSIFIER}
    return VisualSource(architecture, pretrained_cfg, args, repository, folder)


def load_visual(config: ModelConfig, create: Callable[..., nn.Module]) -> nn.Module:
    """`create(name, pretrained=True, ...)` with weights from folder, cache or hub; ConfigError when there are none."""
    source = visual_source(config)
    name, overlay = source.architecture, {}
    if source.repository:
        weights = _hub_file(config.visual_backbone, source.repository, TIMM_WEIGHTS)
        source.folder = source.folder and weights.parent
        overlay = {} if source.folder else {"pretrained_cfg_overlay": {"file": str(weights)}}
    if source.folder:
        name = f"local-dir:{source.folder}"
    try:
        return create(name, pretrained=True, **overlay)
    except ConfigError as error:
        raise cannot_load(VISUAL, config.visual_backbone, error) from error
    except LOAD_ERRORS as error:
        raise cannot_load(VISUAL, config.visual_backbone, error) from error


def _hub_file(name: str, repository: str, files: tuple[str, ...]) -> Path:
    """The first of `files` that the repository has: from the local cache, so that a filled one needs no network."""
    owner_name, _, revision = repository.partition("@")
    for local in (True, False):
        if not local:
            check_hub(VISUAL, name, owner_name)
        for file in files:
            try:
                found = huggingface_hub.hf_hub_download(
                    owner_name, file, revision=revision or None, local_files_only=local
                )
                return Path(found)
            except EntryNotFoundError:  # in the cache or in the repository; of any other kind: below
                continue
            except LOAD_ERRORS as error:
                raise cannot_load(VISUAL, name, error) from error
    raise cannot_load(VISUAL, name, f"{owner_name} has no {' or '.join(files)}")
