"""Every kind of image becomes what it shows, and every broken file is named in one sentence."""

import io
import re
import sys

import numpy as np
import pytest
from PIL import Image

from l2o_splat.scenes.pixels import PixelsError, on_black, read_exif, read_header, read_mask, read_photograph

COLOURS = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[255, 255, 255], [0, 0, 0], [200, 120, 40]]], np.uint8)
"""Two rows of three known pixels."""
BIG = COLOURS.repeat(16, axis=0).repeat(16, axis=1)
GRAY = np.array([[0, 51, 102], [153, 204, 255]], np.uint8)


def save(tmp_path, image: Image.Image, name: str, **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def gray_of(pixels: np.ndarray) -> np.ndarray:
    assert pixels.dtype == np.uint8 and pixels.shape == (*GRAY.shape, 3)
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        *(("RGB", suffix) for suffix in ("png", "jpg", "tif", "bmp", "webp")),
        *(("RGBA", suffix) for suffix in ("png", "tif", "webp")),
    ],
)
def test_ordinary_pixels_are_those_of_pillow(tmp_path, mode, suffix):
    random = np.random.default_rng(0).integers(0, 256, (17, 23, len(mode)), dtype=np.uint8)
    path = save(tmp_path, Image.fromarray(random), f"a.{suffix}")
    with Image.open(path) as image:
        before = np.array(image, dtype="uint8")
    assert (read_photograph(path) == before).all()


@pytest.mark.parametrize(
    ("mode", "suffix", "bound"),
    [("P", "png", 0), ("CMYK", "tif", 1), ("CMYK", "jpg", 12), ("LAB", "tif", 24), ("YCbCr", "tif", 3)],
)
def test_colours_of_other_modes(tmp_path, mode, suffix, bound):
    """8-bit LAB cannot hold the pure blue of sRGB."""
    image = Image.fromarray(BIG)
    if mode == "P":
        image = image.quantize(16)
    elif mode == "LAB":
        from PIL import ImageCms

        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(image, srgb, lab, outputMode="LAB")
    else:
        image = image.convert(mode)
    options = {"quality": 98, "subsampling": 0} if suffix == "jpg" else {}
    path = save(tmp_path, image, f"a.{suffix}", **options)
    with Image.open(path) as saved:
        assert saved.mode == mode
    # Beside the edges, where JPEG rings.
    difference = np.abs(read_photograph(path).astype(int) - BIG)[8::16, 8::16]
    assert difference.max() <= bound


@pytest.mark.parametrize("mode", ["La", "RGBa", "HSV", "I;16L", "I;16B", "I;16N", "RGBX", "PA"])
def test_modes_that_few_files_have(tmp_path, monkeypatch, mode):
    """The decoded image is replaced by one of the mode."""
    alpha = np.array([[255, 255, 255], [255, 255, 255], [255, 255, 255]], np.uint8)[:2]
    if mode.startswith("I;16"):
        kind = {"B": ">u2", "L": "<u2", "N": "=u2"}[mode[-1]]
        image = Image.frombytes(mode, (3, 2), (GRAY.astype(np.uint16) * 257).astype(kind).tobytes())
        expected = GRAY[..., None].repeat(3, axis=2)
    elif mode == "La":
        image = Image.fromarray(np.dstack([GRAY, alpha // 255 * 128])).convert("La")
        expected = np.dstack([GRAY, GRAY, GRAY, alpha // 255 * 128])
    elif mode == "RGBa":
        image = Image.fromarray(np.dstack([COLOURS, alpha // 255 * 128])).convert("RGBa")
        expected = np.dstack([COLOURS, alpha // 255 * 128])
    elif mode == "PA":
        image = Image.fromarray(COLOURS).quantize(16).convert("PA")
        expected = np.dstack([COLOURS, alpha])
    else:
        image, expected = Image.fromarray(COLOURS).convert(mode), COLOURS
    assert image.mode == mode
    path = save(tmp_path, Image.fromarray(COLOURS), "a.png")
    monkeypatch.setattr(Image, "open", lambda _: image)
    found = read_photograph(path)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 3


def test_one_bit_and_gray_with_alpha(tmp_path):
    bits = GRAY > 100
    assert (gray_of(read_photograph(save(tmp_path, Image.fromarray(bits), "1.png"))) == bits * 255).all()
    pixels = read_photograph(save(tmp_path, Image.fromarray(np.dstack([GRAY, 255 - GRAY])), "la.png"))
    assert (pixels == np.dstack([GRAY, GRAY, GRAY, 255 - GRAY])).all()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits(tmp_path, suffix):
    cv2 = pytest.importorskip("cv2")
    values = GRAY.astype(np.uint16) * 257
    path = save(tmp_path, Image.fromarray(values), f"gray.{suffix}")
    assert (gray_of(read_photograph(path)) == GRAY).all()
    path = tmp_path / f"colours.{suffix}"
    cv2.imwrite(str(path), COLOURS[..., ::-1].astype(np.uint16) * 257)
    assert (read_photograph(path) == COLOURS).all()


def test_sixteen_bits_that_hold_eight_show_black_and_are_refused(tmp_path):
    path = save(tmp_path, Image.fromarray(GRAY.astype(np.uint16)), "a.png")
    with pytest.raises(PixelsError, match="a.png has 16 bits per pixel but no number above 255 of 65535"):
        read_photograph(path)


@pytest.mark.parametrize("factor", [1, 257])
def test_integers(tmp_path, factor):
    path = save(tmp_path, Image.fromarray(GRAY.astype(np.int32) * factor), "a.tif")
    assert (gray_of(read_photograph(path)) == GRAY).all()


@pytest.mark.parametrize("value", [-1, 70000])
def test_integers_of_no_picture(tmp_path, value):
    path = save(tmp_path, Image.fromarray(np.full((2, 3), value, np.int32)), "a.tif")
    with pytest.raises(PixelsError, match=f"a.tif holds integers from {value}"):
        read_photograph(path)


def test_floats(tmp_path):
    cv2 = pytest.importorskip("cv2")
    path = save(tmp_path, Image.fromarray(GRAY.astype(np.float32) / 255), "gray.tif")
    assert (gray_of(read_photograph(path)) == GRAY).all()
    cv2.imwrite(str(tmp_path / "colours.tif"), COLOURS[..., ::-1].astype(np.float32) / 255)
    assert (read_photograph(tmp_path / "colours.tif") == COLOURS).all()
    assert read_header(tmp_path / "colours.tif").size == (3, 2)


@pytest.mark.parametrize(
    ("value", "message"), [(255.0, "from 0 to 255; 0 to 1 is needed"), (-0.5, "from -0.5"), (np.nan, "NaN")]
)
def test_floats_of_no_picture(tmp_path, value, message):
    values = np.zeros((2, 3), np.float32)
    values[1, 1] = value
    with pytest.raises(PixelsError, match=message):
        read_photograph(save(tmp_path, Image.fromarray(values), "a.tif"))


@pytest.mark.parametrize("mode", ["P", "RGB", "L"])
def test_a_transparent_colour_becomes_alpha(tmp_path, mode):
    image = Image.fromarray(COLOURS).quantize(8) if mode == "P" else Image.fromarray(COLOURS).convert(mode)
    key = image.getpixel((0, 1))
    path = save(tmp_path, image, "a.png", transparency=key)
    alpha = read_photograph(path)[..., 3]
    assert alpha[1, 0] == 0 and (alpha == 0).sum() == 1 and (alpha == 255).sum() == 5


def test_alpha_is_kept_once(tmp_path):
    pixels = np.dstack([COLOURS, np.full((2, 3), 100, np.uint8)])
    found = read_photograph(save(tmp_path, Image.fromarray(pixels), "a.png"))
    assert (found == pixels).all()
    assert on_black(found)[0, 0].tolist() == [100, 0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
def test_orientation(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x112], exif[0x110] = orientation, "Camera"
    path = save(tmp_path, Image.fromarray(BIG), f"a.{suffix}", exif=exif)
    header = read_header(path)
    assert (header.size, header.orientation, header.num_pictures) == ((48, 32), orientation, 1)
    stored = np.abs(read_photograph(path, upright=False).astype(int) - BIG)[8::16, 8::16]
    assert stored.max() <= (0 if suffix != "jpg" else 60)
    upright = read_photograph(path)
    assert upright.shape[1::-1] == header.upright_size
    # Where the upper left pixel of the stored picture lies upright, by the table of the EXIF standard.
    row, column = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}[
        orientation
    ]
    assert (upright[row, column] == read_photograph(path, upright=False)[0, 0]).all()
    assert (read_mask(path) == (upright.max(axis=2) > 127)).all()
    assert dict(read_exif(path)).get(0x112) is None


def test_an_orientation_that_is_none(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 77
    path = save(tmp_path, Image.fromarray(COLOURS), "a.png", exif=exif)
    assert read_header(path).orientation == 1
    assert (read_photograph(path) == COLOURS).all()


def test_the_first_of_several_pictures(tmp_path):
    pages = [Image.fromarray(COLOURS), Image.fromarray(255 - COLOURS)]
    path = save(tmp_path, pages[0], "a.tif", save_all=True, append_images=pages[1:])
    assert read_header(path).num_pictures == 2
    assert (read_photograph(path) == COLOURS).all()


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header tells another size than its pixels have."""
    import struct
    import zlib

    buffer = io.BytesIO()
    Image.fromarray(COLOURS).save(buffer, "png")
    data = bytearray(buffer.getvalue())
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


def noise_as(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"not an image", "cannot be read as an image"),
        (b"II*\0garbage", "TIFF of a kind that cannot be read|cannot be read as an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "is a drawing"),
        (png_of_size(0, 5), "cannot be read as an image|shows nothing"),
        (png_of_size(60000, 60000), "too large"),
        *[(noise_as(kind)[:-700], "cannot be read as an image") for kind in ("png", "jpeg", "tiff", "bmp", "webp")],
    ],
)
@pytest.mark.parametrize("read", [read_photograph, read_mask])
def test_broken_files_are_named(tmp_path, content, message, read):
    path = tmp_path / "broken.img"
    path.write_bytes(content)
    with pytest.raises(PixelsError, match=message) as caught:
        read(path)
    assert "broken.img" in str(caught.value) and "\n" not in str(caught.value)


def test_damaged_bytes_raise_nothing_else(tmp_path):
    """Files of many kinds with bytes overwritten or cut off are read or refused."""
    random = np.random.default_rng(1)
    refused = 0
    for kind in ("png", "jpeg", "tiff", "gif", "bmp", "webp", "ppm", "tga"):
        whole = noise_as(kind)
        for _ in range(25):
            data = bytearray(whole)
            # Mostly in the head, where the fields are.
            for place in (random.random(4) ** 4 * len(data)).astype(int):
                data[place] = random.integers(256)
            if random.random() < 0.3:
                del data[random.integers(len(data)) :]
            (tmp_path / "a").write_bytes(data)
            try:
                read_header(tmp_path / "a")
                pixels = read_photograph(tmp_path / "a")
            except PixelsError as error:
                assert "\n" not in str(error)
                refused += 1
            else:
                assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] in (3, 4)
    assert 50 < refused < 200


def test_heic_is_refused_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(PixelsError, match=re.escape("a.heic is a HEIC photograph")):
        read_photograph(tmp_path / "a.heic")


KEPT = np.array([[True, False, True], [False, False, True]])


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(KEPT),
        Image.fromarray((KEPT * 255).astype(np.uint8)),
        Image.fromarray(KEPT.astype(np.uint8)),
        Image.fromarray((KEPT * 65535).astype(np.uint16)),
        Image.fromarray(np.dstack([KEPT * 255] * 3).astype(np.uint8)),
        Image.fromarray(np.dstack([KEPT * 255, KEPT * 0, KEPT * 0]).astype(np.uint8)),
        Image.fromarray(np.dstack([KEPT * 0, KEPT * 0, KEPT * 0, KEPT * 255]).astype(np.uint8)),
        Image.fromarray(np.dstack([KEPT * 255, KEPT * 0 + 255]).astype(np.uint8)),
        Image.fromarray(np.dstack([KEPT * 255] * 3).astype(np.uint8)).quantize(2),
        Image.fromarray((KEPT * 155 + 60).astype(np.uint8)),
    ],
    ids=["1", "L", "zero-one", "16 bit", "RGB", "red", "RGBA", "LA", "P", "soft"],
)
def test_masks_of_every_kind(tmp_path, image):
    mask = read_mask(save(tmp_path, image, "mask.png"))
    assert mask.dtype == bool
    assert (mask == KEPT).all()


@pytest.mark.parametrize("value", [0, 1, 255])
def test_masks_of_one_value(tmp_path, value):
    path = save(tmp_path, Image.fromarray(np.full((2, 3), value, np.uint8)), "mask.png")
    assert (read_mask(path) == (value > 0)).all()


@pytest.mark.parametrize("values", [KEPT.astype(np.float32), (KEPT * 7).astype(np.int32)])
def test_masks_of_numbers(tmp_path, values):
    assert (read_mask(save(tmp_path, Image.fromarray(values), "mask.tif")) == KEPT).all()
