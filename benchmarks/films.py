"""What it costs to read a film: from its file in several ways, and from the image store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.as_written import DEVIATION, MEAN
from benchmarks.report import Section
from benchmarks.session import Session
from benchmarks.timing import Variant
from data.images import STORE_FILES, ImageStore, decode, encode

AS_WRITTEN = "file: PIL, colour, full decode, resize, float"


def reading_films(session: Session, paths: list[Path]) -> Section:
    """Time and likeness of reading each of these films, at the size of the image store."""
    side = session.config.data.image_store_size or session.config.data.image_size
    small = [decode(path, side)[0] for path in paths]
    stores = {kind: store_of(session.workdir / f"store-{side}-{kind}", kind, small) for kind in STORE_FILES}
    shapes = [array.shape for array in small]
    target = np.empty(max(h * w for h, w in shapes), np.uint8)

    def copied(array: np.ndarray) -> np.ndarray:
        """Into the batch, as a loader does."""
        place = target[: array.size].reshape(array.shape)
        place[:] = array
        return place

    read: dict[str, Callable[[int], np.ndarray]] = {
        "file: PIL, grey, full decode, resize": lambda n: fully(paths[n], shapes[n]),
        "file: as the index is built, grey, decoded at 1/2 to 1/8, resize": lambda n: decode(paths[n], side)[0],
        "store: JPEG": lambda n: copied(stores["jpeg"][n]),
        "store: raw": lambda n: copied(stores["raw"][n]),
    }
    numbers = range(len(paths))
    reference = [fully(path, shape) for path, shape in zip(paths, shapes, strict=True)]
    variants = [Variant(AS_WRITTEN, lambda: [in_colour(path, side) for path in paths], len(paths), "images")]
    for name, get in read.items():
        likeness = np.mean([psnr(get(n), reference[n]) for n in numbers])
        note = f"PSNR {likeness:.1f} dB" if np.isfinite(likeness) else "the reference of PSNR"
        variants.append(Variant(name, lambda get=get: [get(n) for n in numbers], len(paths), "images", note=note))
    return Section(
        f"Reading films at {side} pixels",
        session.measure(variants, least_seconds=0.1),
        AS_WRITTEN,
        facts={
            "films": len(paths),
            "pixels of a film": round(float(np.mean([np.prod(Image.open(path).size) for path in paths]))),
            "bytes of a film": round(float(np.mean([path.stat().st_size for path in paths]))),
            "bytes in the store, raw": round(float(np.mean([array.size for array in small]))),
            "bytes in the store, JPEG": round(stores["jpeg"].path.stat().st_size / len(paths)),
        },
        notes=["Files are in the system's cache. PSNR in 8 bits, against the grey full decode with bicubic resizing."],
    )


def store_of(folder: Path, kind: str, arrays: list[np.ndarray]) -> ImageStore:
    """An image store of its own with some images in it."""
    folder.mkdir(parents=True, exist_ok=True)
    encoded = [encode(array, kind) for array in arrays]
    (folder / STORE_FILES[kind]).write_bytes(b"".join(encoded))
    lengths = np.array([len(data) for data in encoded])
    heights, widths = np.array([array.shape for array in arrays]).T
    return ImageStore(folder, kind, np.cumsum(lengths) - lengths, lengths, widths, heights)


def in_colour(path: Path, side: int) -> torch.Tensor:
    """(3, side, side) float, normalised: what most programs make of a film."""
    with Image.open(path) as image:
        pixels = np.array(image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC))
    tensor = torch.from_numpy(pixels).permute(2, 0, 1).float().div_(255)
    return tensor.sub_(torch.tensor(MEAN)[:, None, None]).div_(torch.tensor(DEVIATION)[:, None, None])


def fully(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """(h, w) uint8 of a film decoded in full and resized."""
    with Image.open(path) as image:
        return np.asarray(image.convert("L").resize(shape[::-1], Image.Resampling.BICUBIC))


def psnr(image: np.ndarray, reference: np.ndarray) -> float:
    """Peak signal to noise ratio of 8-bit images in dB; infinite where they are the same."""
    error = np.square(image.astype(np.float64) - reference).mean()
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)
