"""Radiographs in DICOM files: what a reading room would show of them, as grey levels.

Stored values go through the file's modality and VOI transformations (window or table; DICOM PS3.3 C.11.1 and C.11.2). MONOCHROME1
is turned over, so that dense is bright. Without a window the film's own range is used.
"""

from __future__ import annotations

import io

import numpy as np

MAGIC = b"DICM"
MAGIC_PLACE = 128
GREY = {"MONOCHROME1", "MONOCHROME2"}


def is_dicom(data: bytes) -> bool:
    """Does the file begin as DICOM part 10 files do?"""
    return data[MAGIC_PLACE : MAGIC_PLACE + 4] == MAGIC


def decode_dicom(data: bytes, max_pixels: int) -> np.ndarray:
    """The film of a DICOM file.

    Returns:
        (h, w) uint8.
    Raises:
        ValueError: no picture, several, colour, too large, or a compression that no decoder is installed for.
    """
    import pydicom
    from pydicom.errors import InvalidDicomError
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    try:
        film = pydicom.dcmread(io.BytesIO(data))
    except (InvalidDicomError, EOFError) as error:
        raise ValueError(f"damaged DICOM: {error}") from error
    if "PixelData" not in film:
        raise ValueError(f"DICOM without a picture ({film.get('Modality') or 'no modality'})")
    if int(film.get("NumberOfFrames") or 1) != 1:
        raise ValueError(f"DICOM with {film.NumberOfFrames} pictures: which one is meant is not known")
    kind = film.get("PhotometricInterpretation", "")
    if kind not in GREY:
        raise ValueError(f"DICOM of kind {kind or 'unknown'}: a radiograph is MONOCHROME1 or MONOCHROME2")
    if film.Rows * film.Columns > max_pixels:
        raise ValueError(f"{film.Columns}x{film.Rows} pixels are more than {max_pixels:,}")
    try:
        stored = film.pixel_array
    except (RuntimeError, NotImplementedError, AttributeError) as error:
        syntax = film.file_meta.get("TransferSyntaxUID")
        raise ValueError(
            f"DICOM of transfer syntax {getattr(syntax, 'name', syntax)} cannot be decoded: {error}"
        ) from error
    values = apply_voi_lut(apply_modality_lut(stored, film), film).astype(np.float64)
    return _levels(values, film, inverted=kind == "MONOCHROME1")


def _levels(values: np.ndarray, film, inverted: bool) -> np.ndarray:
    low, high = _range(values, film)
    grey = np.clip((values - low) / (high - low), 0, 1) if high > low else np.zeros(values.shape)
    return np.round(255 * (1 - grey if inverted else grey)).astype(np.uint8)


def _range(values: np.ndarray, film) -> tuple[float, float]:
    """What becomes black and white: the range that a window gives to its outputs, else that of the film."""
    windowed = film.get("WindowWidth") is not None or "VOILUTSequence" in film
    if not windowed:
        return float(values.min()), float(values.max())
    if "VOILUTSequence" in film:
        return 0.0, float(2 ** int(film.VOILUTSequence[0].LUTDescriptor[2]) - 1)
    bits = int(film.BitsStored)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if film.PixelRepresentation else (0, 2**bits - 1)
    slope, intercept = float(film.get("RescaleSlope") or 1), float(film.get("RescaleIntercept") or 0)
    ends = sorted((low * slope + intercept, high * slope + intercept))  # pydicom maps a window onto these
    return ends[0], ends[1]
