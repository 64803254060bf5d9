"""Frozen encoders: their weights stay, and what they give is computed once, kept with the index and read from then on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from configs.mimic_cxr_config import Config
from data.feature_store import kept_features
from data.mimic_cxr_dataset import VQADataset
from models.mimic_vqa_model import SSGVQA
from training.processes import Processes
from utils.utils import get_logger

log = get_logger(__name__)

IMAGES_AT_ONCE, TEXTS_AT_ONCE = 64, 512


def freeze(config: Config, model: SSGVQA) -> None:
    """Keep the weights of the encoders that `training.freeze_*_encoder` names; they are no longer trained, nor do they drop out."""
    if config.training.freeze_image_encoder:
        model.image_encoder.freeze()
    if config.training.freeze_text_encoder:
        model.question_encoder.freeze()


def read_kept_features(config: Config, model: SSGVQA, datasets: Sequence[VQADataset], processes: Processes) -> None:
    """Let data sets hand out what frozen encoders give in place of images and word pieces.

    The first process computes it, unless it is there. A training with augmentation sees every image anew each time: then
    the image encoder is frozen, but goes on computing.
    """
    if config.training.freeze_image_encoder and not config.data.augmentation:
        maps = processes.main_first(
            "the features of images", lambda: _image_features(model, datasets, processes.device)
        )
        for dataset in datasets:
            dataset.image_features = maps
    if config.training.freeze_text_encoder:
        states = processes.main_first(
            "the states of questions", lambda: _text_states(model, datasets[0], processes.device)
        )
        for dataset in datasets:
            dataset.text_states = states


def _image_features(model: SSGVQA, datasets: Sequence[VQADataset], device: torch.device) -> np.ndarray:
    """(images of the index, h, w, C) float16; rows of other splits are zeros."""
    index, encoder = datasets[0].index, model.image_encoder
    first, count = (index.studies[column].astype(np.int64) for column in ("image_start", "image_count"))
    rows = np.concatenate([np.arange(first[s], first[s] + count[s]) for dataset in datasets for s in dataset.studies])
    rows = np.unique(rows)

    def compute(some: np.ndarray) -> Tensor:
        return encoder.backbone_map(datasets[0].canonical_images(some).to(device))

    settings = [datasets[0].data.image_size, model.config.image_normalization, len(rows)]
    folder = index.path / "features" / f"images-{_name(encoder.backbone, settings)}"
    with _computing(model, device):
        shape = (len(index.images["study"]), *compute(rows[:1]).shape[1:])
        return kept_features(
            folder, shape, _filler("features of images", rows, IMAGES_AT_ONCE, lambda r: (r, compute(r)))
        )


def _text_states(model: SSGVQA, dataset: VQADataset, device: torch.device) -> np.ndarray:
    """(word pieces of all texts, width) float16, in the order of the token table."""
    table, encoder = dataset.token_table, model.question_encoder

    def compute(codes: np.ndarray) -> tuple[slice, Tensor]:
        tokens, _ = table.encode(codes)
        return slice(table.offsets[codes[0]], table.offsets[codes[-1] + 1]), encoder.token_states(tokens.to(device))

    folder = dataset.index.path / "features" / f"texts-{_name(encoder.model, [table.max_length, len(table.ids)])}"
    with _computing(model, device):
        shape = (len(table.ids), compute(np.array([0]))[1].shape[1])
        codes = np.arange(len(table.lengths))
        return kept_features(folder, shape, _filler("states of questions", codes, TEXTS_AT_ONCE, compute))


@contextmanager
def _computing(model: SSGVQA, device: torch.device) -> Iterator[None]:
    """The model on its device, as it answers; afterwards as it was."""
    was_training = model.training
    model.to(device).eval()
    with torch.no_grad():
        yield
    model.train(was_training)


def _filler(
    what: str, rows: np.ndarray, at_once: int, compute: Callable[[np.ndarray], tuple[np.ndarray | slice, Tensor]]
) -> Callable[[np.ndarray], None]:
    """Fills an array; `compute` gives the places of some rows and what stands there."""

    def fill(array: np.ndarray) -> None:
        parts = np.array_split(rows, -(-len(rows) // at_once))
        for some in tqdm(parts, desc=what, unit="batch", disable=None):
            places, values = compute(some)
            array[places] = values.half().cpu().numpy()

    return fill


def _name(module: nn.Module, settings: list) -> str:
    """16 hex digits that stand for weights and settings."""
    digest = hashlib.sha256(repr(settings).encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
