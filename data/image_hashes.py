"""Perceptual hashes of an index's images, made once and kept in its folder: which images show the same?"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
from PIL import Image
from tqdm import tqdm

from data.index import Index
from utils.utils import atomic_directory, get_logger

SIDE = 16
"""A hash has SIDE x SIDE bits. The usual 64 do not tell one chest film from another."""
CLOSE = 10
"""Most differing bits of the same picture. Of 400 NIH films at 224 and at 128 pixels 99 % differ in so many or fewer; films of
different patients in 20 and more."""
IMAGES_KEPT = 1_000
"""Images whose memory is kept at a time while all are looked at"""
ROWS_AT_ONCE, OTHERS_AT_ONCE = 1_000, 20_000

log = get_logger(__name__)


def image_hashes(index: Index) -> np.ndarray:
    """(images, SIDE² / 8) uint8: each bit says whether a cell is darker than its right neighbour (dHash).

    Cells are means of a grey picture of SIDE + 1 by SIDE. Made at the first call; where the folder cannot be written to, at each.
    """
    folder = index.path / "hashes"
    if os.path.exists(folder / "dhash.npy"):
        return np.load(folder / "dhash.npy", mmap_mode="r")
    hashes = np.empty((len(index.images["width"]), SIDE * SIDE // 8), dtype=np.uint8)
    for row in tqdm(range(len(hashes)), desc="image hashes", unit="image", disable=None):
        hashes[row] = hash_of(index.pixels[row])
        if row % IMAGES_KEPT == IMAGES_KEPT - 1:
            index.pixels.let_go()  # else the whole store ends up in the memory of this process
    try:
        with atomic_directory(folder) as partial:
            np.save(partial / "dhash.npy", hashes)
    except OSError as error:
        log.info("image hashes are made again each time: %s cannot be written (%s)", folder, error)
    return hashes


def hash_of(pixels: np.ndarray) -> np.ndarray:
    """(h, w) uint8 -> (SIDE² / 8,) uint8"""
    small = np.asarray(Image.fromarray(pixels).resize((SIDE + 1, SIDE), Image.Resampling.BOX), dtype=np.int16)
    return np.packbits(small[:, :-1] < small[:, 1:])


def close_pairs(hashes: np.ndarray, others: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """(row of `hashes`, row of `others`, differing bits) of all pairs that differ in at most `CLOSE` bits."""
    for low in range(0, len(others), OTHERS_AT_ONCE):
        right = _signs(others[low : low + OTHERS_AT_ONCE])
        for start in range(0, len(hashes), ROWS_AT_ONCE):
            alike = _signs(hashes[start : start + ROWS_AT_ONCE]) @ right.T
            distance = (SIDE * SIDE - alike) / 2
            for row, other in zip(*np.nonzero(distance <= CLOSE), strict=True):
                yield start + int(row), low + int(other), int(distance[row, other])


def _signs(hashes: np.ndarray) -> np.ndarray:
    """(n, bytes) -> (n, bits) of 1 and -1: a product of two counts equal bits minus differing ones."""
    return np.unpackbits(hashes, axis=1).astype(np.float32) * 2 - 1
