"""What frozen encoders give, computed once and kept with the index, memory-mapped and in half precision.

A feature map of ConvNeXt-Base at 224 pixels has 100 kB (7 x 7 x 1024), the states of a question of 16 word pieces 25 kB.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from data.tensor_group import TensorGroup
from utils.errors import DataError
from utils.privacy import private_directory
from utils.utils import atomic_directory, writing_to

ARRAY = "features.npy"


@dataclass
class FeatureMaps(TensorGroup):
    """Stored outputs of the image encoder's backbone, in the place of images."""

    maps: Tensor
    """(B, h, w, C) float16"""

    def __len__(self) -> int:
        return len(self.maps)


def kept_features(folder: Path, shape: tuple[int, ...], fill: Callable[[np.ndarray], None]) -> np.ndarray:
    """The array of this shape, float16, in `folder`; `fill` writes it the first time. Complete or not there.

    DataError: the disk has no room for it, or refuses to write.
    """
    if not (folder / ARRAY).exists():
        advice = "free space, or set training.freeze_image_encoder and training.freeze_text_encoder to false"
        with writing_to(folder, advice):
            private_directory(folder.parent)
            needed, free = 2 * int(np.prod(shape, dtype=np.int64)), shutil.disk_usage(folder.parent).free
            if needed > free:
                raise DataError(
                    f"{folder}: features of the frozen encoder need {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free: {advice}"
                )
            with atomic_directory(folder) as partial:
                array = np.lib.format.open_memmap(partial / ARRAY, mode="w+", dtype=np.float16, shape=shape)
                fill(array)
                array.flush()
    found = np.load(folder / ARRAY, mmap_mode="r")
    if found.shape != shape:
        raise DataError(f"{folder / ARRAY} has the shape {found.shape}, not {shape}; delete it")
    return found
