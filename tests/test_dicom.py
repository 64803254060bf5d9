"""DICOM films: windows, inversion, bit depths, compression, and what is refused."""

from __future__ import annotations

import io

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, JPEG2000Lossless, generate_uid

from data.dicom import decode_dicom, is_dicom
from data.images import decode
from utils.errors import DataError

SIDE = 64
RAMP = np.tile(np.arange(SIDE), (SIDE, 1))


def film(values, bits=12, kind="MONOCHROME2", signed=False, **tags) -> bytes:
    """A DICOM file of (h, w) stored values."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    data.Modality, data.PhotometricInterpretation, data.SamplesPerPixel = "CR", kind, 1
    data.Rows, data.Columns = values.shape[:2]
    data.BitsStored, data.HighBit, data.PixelRepresentation = bits, bits - 1, int(signed)
    data.BitsAllocated = 8 if bits <= 8 else 16
    dtype = np.dtype(f"{'i' if signed else 'u'}{data.BitsAllocated // 8}")
    data.PixelData = np.ascontiguousarray(values.astype(dtype)).tobytes()
    for name, value in tags.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    file = io.BytesIO()
    data.save_as(file, enforce_file_format=True)
    return file.getvalue()


def grey(content: bytes) -> np.ndarray:
    assert is_dicom(content)
    return decode_dicom(content, 10**8)


@pytest.mark.parametrize(
    ("bits", "signed"), [(8, False), (10, False), (12, False), (16, False), (12, True), (16, True)]
)
def test_without_a_window_the_range_of_the_film_is_shown(bits, signed):
    low = -(2 ** (bits - 1)) if signed else 0
    values = low + np.round(RAMP / (SIDE - 1) * (2**bits - 1)).astype(int)
    np.testing.assert_allclose(grey(film(values, bits, signed=signed)), np.round(RAMP / (SIDE - 1) * 255), atol=1)
    narrow = 100 + RAMP // 2 if not signed else RAMP // 2
    shown = grey(film(narrow, bits, signed=signed))
    assert shown.min() == 0 and shown.max() == 255, "whatever part of its bits a film uses"


def test_a_window_cuts_and_stretches():
    values = np.round(RAMP / (SIDE - 1) * 4095)
    shown = grey(film(values, 12, WindowCenter=2048, WindowWidth=1024))
    expected = np.clip((values - (2048 - 0.5)) / 1023 + 0.5, 0, 1) * 255  # PS3.3 C.11.2.1.2
    np.testing.assert_allclose(shown, expected, atol=1)
    first = grey(film(values, 12, WindowCenter=[2048, 100], WindowWidth=[1024, 50]))
    np.testing.assert_array_equal(first, shown)


def test_a_window_means_rescaled_values():
    values = np.round(RAMP / (SIDE - 1) * 4095)
    plain = grey(film(values, 12, WindowCenter=2048, WindowWidth=1024))
    rescaled = film(values, 12, WindowCenter=2048 * 2 - 1000, WindowWidth=2047, RescaleSlope=2, RescaleIntercept=-1000)
    np.testing.assert_allclose(grey(rescaled), plain, atol=1)


def test_a_table_of_values_is_applied():
    table = Dataset()
    table.LUTDescriptor = [SIDE, 0, 12]
    values = np.arange(4095, 4095 - 64 * SIDE, -64, dtype=np.uint16)
    table.LUTData = values.tobytes()
    table.LUTExplanation = "turned over"
    shown = grey(film(RAMP, 12, VOILUTSequence=Sequence([table])))
    np.testing.assert_allclose(shown, np.tile(values / 4095 * 255, (SIDE, 1)), atol=1)


def test_monochrome1_is_turned_over():
    values = np.round(RAMP / (SIDE - 1) * 4095)
    for window in ({}, {"WindowCenter": 2048, "WindowWidth": 1024}):
        bright, dark = (grey(film(values, 12, kind, **window)) for kind in ("MONOCHROME2", "MONOCHROME1"))
        np.testing.assert_allclose(dark, 255 - bright, atol=1)


def test_a_film_of_one_value_is_black():
    assert grey(film(np.full((SIDE, SIDE), 7), 12)).max() == 0


def test_compressed_films_are_the_same():
    values = np.round(RAMP / (SIDE - 1) * 4095)
    data = pydicom.dcmread(io.BytesIO(film(values, 12)))
    data.compress(JPEG2000Lossless)
    file = io.BytesIO()
    data.save_as(file)
    np.testing.assert_array_equal(grey(file.getvalue()), grey(film(values, 12)))


def test_it_is_read_where_images_are_and_resized_like_them(tmp_path):
    path = tmp_path / "film.dcm"
    path.write_bytes(film(np.tile(np.arange(200), (100, 1)), 8))
    pixels, width, height = decode(path, 50)
    assert pixels.shape == (50, 100) and (width, height) == (200, 100)
    assert decode(path)[0].shape == (100, 200)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (lambda: film(RAMP, 8, NumberOfFrames=2), "2 pictures"),
        (lambda: film(RAMP, 8, PixelData=None), "without a picture"),
        (lambda: film(RAMP, 8, "RGB"), "of kind RGB"),
        (lambda: film(RAMP[:8, :8], 8), "no film"),
        (lambda: film(RAMP, 12)[:-SIDE], "less than expected"),
        (lambda: film(RAMP, 12)[:140], "DICOM"),
    ],
)
def test_what_is_no_film_is_named(tmp_path, content, match):
    path = tmp_path / "film.dcm"
    path.write_bytes(content())
    with pytest.raises(DataError, match=match) as caught:
        decode(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_bomb_is_refused_before_it_is_unpacked():
    data = pydicom.dcmread(io.BytesIO(film(RAMP, 8)))
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data.ImageComments = "0" * 2**20
    file = io.BytesIO()
    data.save_as(file)
    with pytest.raises(ValueError, match="compressed as a whole"):
        decode_dicom(file.getvalue(), 10**8)


def test_too_large_a_film_is_refused():
    with pytest.raises(ValueError, match="more than 100"):
        decode_dicom(film(RAMP, 8), 100)


def test_real_films(shared_dir):
    chest, width, height = decode(shared_dir / "real" / "dicom" / "RG1_J2KI.dcm")
    assert (width, height) == (1841, 1955)
    middle = chest[900:1100, 800:1000].mean()  # spine and heart
    lung = chest[500:700, 450:600].mean()
    assert middle > lung + 40, "dense is bright: this one is MONOCHROME1"
    ankle, width, height = decode(shared_dir / "real" / "dicom" / "RG3_J2KI.dcm", 224)
    assert ankle.shape == (224, 224) and (width, height) == (1760, 1760)


# Against the formulas of the standard, without pydicom's


def linear(values, center, width):
    """0 to 255: PS3.3 C.11.2.1.2.1."""
    return 255 * np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1)


STORED = np.round(RAMP / (SIDE - 1) * 4095)


def test_a_negative_slope_turns_values_over_and_not_the_window():
    shown = grey(film(STORED, 12, RescaleSlope=-1, RescaleIntercept=4095, WindowCenter=1000, WindowWidth=500))
    np.testing.assert_allclose(shown, linear(4095 - STORED, 1000, 500), atol=1)


def test_a_window_on_a_table_of_the_modality():
    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [4096, 0, 16], "OD"
    values = np.arange(4096, dtype=np.uint16) * 3 + 10
    table.LUTData = values.tobytes()
    shown = grey(film(STORED, 12, ModalityLUTSequence=Sequence([table]), WindowCenter=6000, WindowWidth=4000))
    np.testing.assert_allclose(shown, linear(STORED * 3 + 10, 6000, 4000), atol=1)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("LINEAR_EXACT", 255 * np.clip((STORED - 2000) / 800 + 0.5, 0, 1)),
        ("SIGMOID", 255 / (1 + np.exp(-4 * (STORED - 2000) / 800))),
        ("", linear(STORED, 2000, 800)),
    ],
)
def test_other_forms_of_window(function, expected):
    shown = grey(film(STORED, 12, WindowCenter=2000, WindowWidth=800, VOILUTFunction=function))
    np.testing.assert_allclose(shown, expected, atol=1)


@pytest.mark.parametrize("signed", [False, True])
def test_a_window_below_zero_and_one_at_zero(signed):
    stored = STORED - 2048 if signed else STORED
    for center in (0, -300):
        shown = grey(
            film(stored, 12, signed=signed, RescaleSlope=1, RescaleIntercept=-100, WindowCenter=center, WindowWidth=900)
        )
        np.testing.assert_allclose(shown, linear(stored - 100, center, 900), atol=1)


@pytest.mark.parametrize(
    "tags",
    [
        {"VOILUTSequence": Sequence([])},
        {"VOILUTSequence": Sequence([Dataset()])},
        {"WindowWidth": 500},
        {"WindowCenter": 500},
        {"WindowCenter": "", "WindowWidth": ""},
    ],
)
def test_half_a_window_is_none(tags):
    narrow = 1000 + RAMP
    np.testing.assert_allclose(grey(film(narrow, 12, **tags)), RAMP / (SIDE - 1) * 255, atol=1)


def test_a_table_after_a_rescale_that_changes_nothing():
    table = Dataset()
    table.LUTDescriptor, table.LUTExplanation = [4096, 0, 12], "x"
    values = (np.arange(4096) ** 2 // 4095).astype(np.uint16)
    table.LUTData = values.tobytes()
    content = film(STORED, 12, VOILUTSequence=Sequence([table]), RescaleSlope=1, RescaleIntercept=0)
    np.testing.assert_allclose(grey(content), values[STORED.astype(int)] / 4095 * 255, atol=1)


def test_a_table_of_8_bits_for_a_film_of_12():
    table = Dataset()
    table.LUTDescriptor, table.LUTExplanation = [4096, 0, 8], "x"
    values = (np.arange(4096) // 16).astype(np.uint16)
    table.LUTData = values.tobytes()
    np.testing.assert_allclose(
        grey(film(STORED, 12, VOILUTSequence=Sequence([table]))), values[STORED.astype(int)], atol=1
    )


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
def test_what_pads_a_film_is_not_its_range(kind):
    values = 1000 + RAMP
    values[:10] = 4095
    shown = grey(film(values, 12, kind, PixelPaddingValue=4095))[10:]
    expected = RAMP[10:] / (SIDE - 1) * 255
    np.testing.assert_allclose(shown, 255 - expected if kind == "MONOCHROME1" else expected, atol=1)


def test_bits_above_those_stored_are_no_grey():
    content = film(STORED, 12)
    noise = np.random.default_rng(0).integers(0, 16, STORED.shape) << 12
    data = pydicom.dcmread(io.BytesIO(content))
    data.PixelData = (STORED.astype(np.uint16) | noise.astype(np.uint16)).tobytes()
    file = io.BytesIO()
    data.save_as(file)
    np.testing.assert_array_equal(grey(file.getvalue()), grey(content))


def test_a_compressed_film_that_ends_early_is_refused(tmp_path):
    values = np.random.default_rng(0).integers(0, 4096, (256, 256))
    data = pydicom.dcmread(io.BytesIO(film(values, 12)))
    data.compress(JPEG2000Lossless)
    (stream,) = pydicom.encaps.generate_frames(data.PixelData, number_of_frames=1)
    half = stream[: len(stream) // 2]
    data.PixelData = pydicom.encaps.encapsulate([half + b"\0" * (len(half) % 2)])
    data["PixelData"].is_undefined_length = True
    path = tmp_path / "film.dcm"
    data.save_as(path)
    with pytest.raises(DataError, match="film.dcm"):
        decode(path)
