"""Data sets that are no MIMIC release, as indexes for a model that is there already."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from configs.mimic_cxr_config import Config
from data import label_space
from data.index import Index, open_index
from data.index.origin import CACHE
from data.index.store import META
from data.vqa_rad import RULES, describe, vqa_rad_index
from models.model_folder import read_lineage, read_vocabulary
from utils.errors import ConfigError, DataError
from utils.utils import get_logger

log = get_logger(__name__)


def vqa_rad(config: Config, model: Path | str | None) -> Index:
    """The index of `data.vqa_rad_path` for a model's vocabulary, of that model's lineage; written at the first call.

    ConfigError without a model. DataError: the folder is not VQA-RAD, or `data.index_dir` holds another index.
    """
    if not model:
        raise ConfigError(
            "data.vqa_rad_path: VQA-RAD has no scene graphs to start from; set training.init_from to a trained model folder"
        )
    folder, vocabulary, credentialed = Path(config.data.vqa_rad_path), read_vocabulary(model), read_lineage(model)
    side = config.data.image_store_size or config.data.image_size
    identity = [str(folder.resolve()), side, label_space.checksum(), vocabulary.as_json(), RULES.read_text()]
    origin = f"vqa-rad-{hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]}"
    path = Path(config.data.index_dir) if config.data.index_dir else CACHE / origin
    if os.path.exists(path / META):
        index = open_index(path)
        if index.meta.get("origin") != origin:
            raise DataError(
                f"the index in {path} is not one of {folder} for this model: name another folder with data.index_dir, or "
                "leave it empty"
            )
        if credentialed and not index.is_credentialed:
            index.mark_credentialed()
        for note in index.meta.get("notes", ()):
            log.warning("%s", note)
        return index
    index, read = vqa_rad_index(folder, path, vocabulary, side, origin, credentialed=credentialed)
    for line in describe(read):
        log.info("%s", line)
    return index
