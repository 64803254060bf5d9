"""Which settings may leave the machine inside a model folder: those that say what a model is and how it learned."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from configs.mimic_cxr_config import Config, to_dict
from configs.validation import CHOICES
from utils.hub import is_repository
from utils.privacy import shareable_values

SECTIONS = ("model", "data", "training")
ENCODERS = ("model.visual_backbone", "model.text_encoder")
"""Names of public weights, or folders on this machine"""
_PUBLIC = re.compile(r"(?:hf[-_]hub:)?([\w.-]+(?:/[\w.-]+)?)(?:@[\w.-]+)?", re.ASCII)


def shared_settings(
    config: Config, exists: Callable[[str], bool] = lambda name: Path(name).exists(), architecture: str = ""
) -> dict[str, dict]:
    """Section -> setting -> value: numbers, switches, words that a setting allows, and names of public encoders.

    Paths, data sets' files, repositories, names of runs and every other text are left out: read back, they are defaults. Of a
    text encoder that came from a local folder the name is empty, so that none is claimed; in the place of such an image
    encoder's stands its `architecture`.
    """
    values = to_dict(config)
    words = {key: choices for key, choices in CHOICES.items() if key.split(".")[0] in SECTIONS}
    names = {key: values["model"][key.split(".")[1]] for key in ENCODERS}
    words |= {key: (name,) for key, name in names.items() if is_public_name(name, exists)}
    shared = {section: shareable_values(section, values[section], words) for section in SECTIONS}
    shared["model"] = {"visual_backbone": architecture, "text_encoder": ""} | shared["model"]
    return shared


def is_public_name(name: str, exists: Callable[[str], bool] = lambda name: Path(name).exists()) -> bool:
    """Whether `name` can be that of weights on the Hub or in timm, and is no file or folder here."""
    match = _PUBLIC.fullmatch(name)
    if match is None or exists(name):
        return False
    return "/" not in match[1] or is_repository(match[1])
