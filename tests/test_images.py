"""Decoding and storing images."""

import numpy as np
import pytest
from PIL import Image

from data.images import STORE_FILES, ImageStore, decode, encode
from utils.errors import DataError


def _save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


def test_decode_grey_colour_and_orientation(tmp_path):
    grey = np.tile(np.arange(120, dtype=np.uint8), (80, 1))
    pixels, width, height = decode(_save(tmp_path / "g.png", grey))
    assert (width, height) == (120, 80)
    np.testing.assert_array_equal(pixels, grey)
    colour = np.repeat(grey[..., None], 3, axis=2)
    np.testing.assert_array_equal(decode(_save(tmp_path / "c.png", colour))[0], grey)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying, to be turned by 90 degrees
    pixels, width, height = decode(_save(tmp_path / "t.png", grey, exif=exif))
    assert (width, height) == (80, 120) and pixels.shape == (120, 80)


def test_decode_resizes_the_shorter_side_and_never_enlarges(tmp_path):
    path = _save(tmp_path / "a.jpg", np.full((300, 200), 90, np.uint8), quality=95)
    pixels, width, height = decode(path, 64)
    assert pixels.shape == (96, 64) and (width, height) == (200, 300)
    assert decode(path, 1000)[0].shape == (300, 200)


@pytest.mark.parametrize("orientation", [1, 6])
def test_scaled_decoding_keeps_every_pixel_in_its_place(tmp_path, orientation):
    """Sides that are no multiple of 4: the last column and row of the quarter-size image lie partly outside."""
    y, x = np.mgrid[0:1453, 0:1211]
    waves = (127 + 100 * np.sin(x / 23) * np.sin(y / 31)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(waves).save(tmp_path / "film.jpg", quality=95, exif=exif)
    found, width, height = decode(tmp_path / "film.jpg", 128)
    upright = np.rot90(waves, -1) if orientation == 6 else waves
    assert (height, width) == upright.shape
    expected = Image.fromarray(upright).resize(found.shape[::-1], Image.Resampling.BICUBIC)
    error = np.square(found.astype(float) - np.asarray(expected)).mean()
    assert 10 * np.log10(255**2 / error) > 50  # dB


@pytest.mark.parametrize("kind", ["missing", "empty", "truncated", "text", "sixteen_bit", "folder"])
def test_bad_files_are_named_with_their_reason(tmp_path, kind):
    path = tmp_path / f"{kind}.jpg"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        noise = np.random.default_rng(0).integers(0, 255, (200, 200)).astype(np.uint8)
        whole = _save(tmp_path / "whole.jpg", noise).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "text":
        path.write_text("<html>not found</html>")
    elif kind == "sixteen_bit":
        Image.fromarray(np.full((50, 50), 40_000, np.uint16)).save(path, format="png")
    elif kind == "folder":
        path.mkdir()
    with pytest.raises(DataError, match=kind):
        decode(path, 32)


@pytest.fixture(params=["raw", "jpeg"])
def store(request, tmp_path):
    """A store of two smooth images of different sizes, and these."""
    arrays = [np.add.outer(np.arange(h) * 2, np.arange(w) * 3).astype(np.uint8) for h, w in [(30, 40), (24, 50)]]
    data = [encode(array, request.param) for array in arrays]
    (tmp_path / STORE_FILES[request.param]).write_bytes(b"".join(data))
    lengths = np.array([len(d) for d in data], np.uint32)
    columns = np.array([0, len(data[0])], np.uint64), lengths, np.array([40, 50]), np.array([30, 24])
    return tmp_path, request.param, columns, arrays


def test_store_reads_back(store):
    folder, kind, columns, arrays = store
    for row, array in enumerate(arrays):
        pixels = ImageStore(folder, kind, *columns)[row]
        assert pixels.dtype == np.uint8 and pixels.shape == array.shape
        np.testing.assert_allclose(pixels.astype(int), array, atol=0 if kind == "raw" else 4)


def test_store_of_another_size_is_refused(store):
    folder, kind, columns, _ = store
    path = folder / STORE_FILES[kind]
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=f"{size - 1} bytes instead of {size}"):
        ImageStore(folder, kind, *columns)


def test_damaged_jpeg_in_the_store_is_named(store):
    folder, kind, columns, _ = store
    if kind == "raw":
        pytest.skip("every byte is a grey level")
    path = folder / STORE_FILES[kind]
    data = bytearray(path.read_bytes())
    data[:20] = bytes(20)
    path.write_bytes(data)
    with pytest.raises(DataError, match="image 0 is damaged"):
        ImageStore(folder, kind, *columns)[0]


NO_IMAGE = "not a JPEG or PNG image"
REAL_ODD = {
    "12in16bit.tif": NO_IMAGE,
    "16_bit_binary.pgm": NO_IMAGE,
    "16_bit_noise.tif": NO_IMAGE,
    "16bit.cropped.jp2": NO_IMAGE,
    "16bit.cropped.tif": NO_IMAGE,
    "1_trns.png": (64, 64),
    "broken.png": NO_IMAGE,
    "broken_data_stream.png": "bad header checksum",
    "broken_exif_dpi.jpg": (100, 100),
    "decompression_bomb.gif": NO_IMAGE,
    "exif_imagemagick_orientation.png": (512, 512),
    "exif_typeerror.jpg": (800, 531),
    "g4_orientation_6.tif": NO_IMAGE,
    "hopper.Lab.tif": NO_IMAGE,
    "hopper_16bit.pgm": NO_IMAGE,
    "hopper_16bit_qtables.jpg": (128, 128),
    "hopper_bad_exif.jpg": (500, 500),
    **{f"hopper_orientation_{n}.jpg": (128, 128) for n in range(2, 9)},
    "i_trns.png": "16 bits a channel",
    "l_trns.png": (64, 64),
    "p_trns_single.png": (64, 64),
    "pil_sample_cmyk.jpg": (100, 100),
    "pil_sample_rgb.jpg": (100, 100),
    "rgb_trns.png": (64, 64),
    "transparent.png": (200, 150),
    "truncated_image.png": "Truncated",
    "truncated_jpeg.jpg": "truncated",
}
"""Real odd files -> width and height of what is read, or why it is refused"""


def test_real_odd_files_are_read_as_documented_or_refused_with_their_reason(shared_dir):
    folder = shared_dir / "real" / "odd-images" / "pillow"
    names = {path.name for path in folder.iterdir() if path.suffix not in ("", ".json")}
    assert names == set(REAL_ODD)
    for name, wanted in REAL_ODD.items():
        if isinstance(wanted, str):
            with pytest.raises(DataError, match=wanted) as refused:
                decode(folder / name)
            assert name in str(refused.value) and "\n" not in str(refused.value)
        else:
            pixels, *size = decode(folder / name)
            assert tuple(size) == wanted and pixels.shape == (wanted[1], wanted[0]) and pixels.dtype == np.uint8, name


def test_real_films_of_every_orientation_stand_upright(shared_dir):
    """The eight files show one picture; its JPEGs differ by what coding loses."""
    folder = shared_dir / "real" / "odd-images" / "pillow"
    first = decode(folder / "hopper_orientation_2.jpg")[0].astype(int)
    for n in range(3, 9):
        other = decode(folder / f"hopper_orientation_{n}.jpg")[0].astype(int)
        assert np.abs(first - other).mean() < 6, n
    assert np.abs(first - first[:, ::-1]).mean() > 20, "a picture that does not look the same when turned"


def test_a_real_cmyk_file_is_not_inverted(shared_dir):
    folder = shared_dir / "real" / "odd-images" / "pillow"
    cmyk, rgb = (decode(folder / f"pil_sample_{kind}.jpg")[0].astype(int) for kind in ("cmyk", "rgb"))
    assert np.abs(cmyk - rgb).mean() < 5


def test_transparency_of_real_files_does_not_matter(shared_dir):
    """Pixels are those that the file stores, whatever its alpha says."""
    folder = shared_dir / "real" / "odd-images" / "pillow"
    for name in ("transparent.png", "l_trns.png", "rgb_trns.png", "p_trns_single.png"):
        with Image.open(folder / name) as image:
            stored = np.asarray(image.convert("RGBA").convert("RGB").convert("L")).astype(int)
        assert np.abs(decode(folder / name)[0] - stored).max() <= 1, name
