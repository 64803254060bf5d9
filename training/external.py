"""Data sets that are no MIMIC release, as indexes for a model that is there already."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from configs.data_sets import external_setting, other_sets
from configs.mimic_cxr_config import Config, DataConfig
from data import label_space
from data.index import Index, open_index
from data.index.origin import CACHE
from data.index.store import META
from data.records import RecordSet, write_record_index
from models.model_folder import read_lineage, read_vocabulary
from utils.errors import ConfigError, DataError
from utils.utils import get_logger

log = get_logger(__name__)


def reader_of(setting: str) -> Callable[[Path], RecordSet]:
    """What reads the file or folder that a setting of `data` names."""
    module, _, function = other_sets(DataConfig)[setting].metadata["reader"].rpartition(".")
    return getattr(import_module(module), function)


def same_set(one: DataConfig, other: DataConfig) -> bool:
    """Whether both read the release, or the same other set. Of a release it is not asked which."""
    setting = external_setting(one)
    if setting != external_setting(other):
        return False
    if setting is None or other_sets(one)[setting].metadata["published"]:
        return True
    return Path(getattr(one, setting)).resolve() == Path(getattr(other, setting)).resolve()


def external_index(config: Config, model: Path | str | None) -> Index:
    """The index of the data set that `external_setting` names, for a model's vocabulary and lineage; written at the first call.

    ConfigError without a model. DataError: the set is not what it should be, or `data.index_dir` holds another index.
    """
    setting = external_setting(config.data)
    if not model:
        raise ConfigError(
            f"data.{setting}: this set has no scene graphs to start from; set training.init_from to a trained model folder, "
            "or give it to evaluate.py as --model_path"
        )
    source, vocabulary, credentialed = Path(getattr(config.data, setting)), read_vocabulary(model), read_lineage(model)
    read = reader_of(setting)(source)
    for line in read.lines + read.count_lines():
        log.info("%s", line)
    for line in read.warnings + read.notes:
        log.warning("%s", line)
    side, store = config.data.image_store_size or config.data.image_size, config.data.image_store
    made_of = [str(source.resolve()), side, store, label_space.checksum(), vocabulary.as_json(), _content(read)]
    origin = f"{setting}-{hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]}"
    path = Path(config.data.index_dir) if config.data.index_dir else CACHE / origin
    if not os.path.exists(path / META):
        options = {"side": side, "image_store": store, "origin": origin, "credentialed": credentialed}
        return write_record_index(path, read, vocabulary, **options)
    index = open_index(path)
    if index.meta.get("origin") != origin:
        raise DataError(
            f"the index in {path} is not one of {source} for this model, or {source.name} has changed: name another folder "
            "with data.index_dir, or leave it empty"
        )
    if credentialed and not index.is_credentialed:
        index.mark_credentialed()
    return index


def leave_out_reports(config: Config, index: Index) -> None:
    """Switch off what training takes from reports, where the index has none, and say so.

    Else a report's graph that does not exist would stand in for the model's, and each image count as "not No Finding".
    """
    if index.meta.get("has_graphs", True):
        return
    for name in ("graph_oracle_fraction", "chexpert_loss_weight"):
        if getattr(config.training, name):
            log.info("training.%s = 0: %s has neither graphs nor labels of reports", name, index.meta["dataset"])
            setattr(config.training, name, 0.0)


def _content(read: RecordSet) -> list:
    """Everything that was read, and what the image files look like now."""
    records = [[str(value) for value in vars(record).values()] for record in read.records]
    images = sorted({record.image for record in read.records})
    return [read.name, records, read.fates, read.notes, [_state(image) for image in images]]


def _state(image: Path) -> list[int] | None:
    """Size and time of change; None where there is no such file."""
    try:
        state = image.stat()
    except OSError:
        return None
    return [state.st_size, state.st_mtime_ns]
