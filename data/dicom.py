"""Radiographs in DICOM files: what a reading room would show of them, as grey levels.

Stored values go through the file's modality and VOI transformations (window or table; DICOM PS3.3 C.11.1 and C.11.2). MONOCHROME1
is turned over, so that dense is bright. Without a window the film's own range is used, but for what only pads it.
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

    try:
        if _is_deflated(data):  # films never are, and pydicom would unpack a bomb into memory
            raise ValueError("DICOM that is compressed as a whole")
        film = pydicom.dcmread(io.BytesIO(data))
    except (InvalidDicomError, EOFError) as error:
        raise ValueError(f"damaged DICOM: {error}") from error
    if "PixelData" not in film:
        raise ValueError(f"DICOM without a picture ({film.get('Modality') or 'no modality'}), or cut off before it")
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
            f"DICOM of transfer syntax {getattr(syntax, 'name', syntax)} cannot be decoded: {' '.join(str(error).split())}"
        ) from error
    grey = _shown(stored, film)
    return np.round(255 * (1 - grey if kind == "MONOCHROME1" else grey)).astype(np.uint8)


def _is_deflated(data: bytes) -> bool:
    from pydicom.filereader import read_dataset
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    file = io.BytesIO(data)
    file.seek(MAGIC_PLACE + len(MAGIC))
    header = read_dataset(file, False, True, stop_when=lambda tag, *_: tag.group != 2)
    return header.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian


def _shown(stored: np.ndarray, film) -> np.ndarray:
    """Stored values -> 0 (black) to 1 (white), as of MONOCHROME2."""
    from pydicom.pixels import apply_modality_lut
    from pydicom.pixels.processing import apply_voi, apply_windowing

    values = apply_modality_lut(stored, film)
    tables = film.get("VOILUTSequence") or []
    if tables and None not in (tables[0].get("LUTDescriptor"), tables[0].get("LUTData")):
        entries, first, bits = map(int, tables[0].LUTDescriptor)
        tables[0].LUTDescriptor = [entries, first, 16]  # of a table of 8 bits pydicom counts the entries in 8 bits too
        return apply_voi(np.rint(values).astype(np.int64), film) / (2**bits - 1)
    if None not in (film.get("WindowCenter"), film.get("WindowWidth")):
        return apply_windowing(values, _window(film)) / 255
    values = values.astype(np.float64)
    padding = film.get("PixelPaddingValue")
    of_film = values if padding is None or (stored == padding).all() else values[stored != padding]
    low, high = of_film.min(), of_film.max()
    return np.clip((values - low) / (high - low), 0, 1) if high > low else np.zeros(values.shape)


def _window(film):
    """The film's window by itself. pydicom maps it onto the range of the film's values: here onto 0 to 255, and it is not
    turned over by a negative slope."""
    from pydicom.dataset import Dataset

    window = Dataset()
    for name in ("PhotometricInterpretation", "WindowCenter", "WindowWidth", "VOILUTFunction"):
        if film.get(name) not in (None, ""):
            window.add(film[name])
    window.BitsStored, window.PixelRepresentation = 8, 0
    return window
