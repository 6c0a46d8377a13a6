"""The one door through which photographs and masks are read: every kind of image becomes what it shows.

A photograph becomes 8 bits of red, green and blue, with alpha as a fourth channel where the file has transparency.
Colours are never multiplied by alpha here. ICC profiles are ignored.

| stored as | becomes |
|---|---|
| 8 bits per channel, a palette, 1 bit, gray | the colours it names |
| CMYK, YCbCr, LAB, HSV | RGB, by Pillow's conversion |
| colours multiplied by alpha (La, RGBa) | divided by alpha again |
| 16 bits per channel | divided by 257 (gray) or the higher 8 bits (colour) |
| 32-bit integers | as 16-bit numbers, or as 8-bit ones if none is above 255 |
| floating point | times 255; 0 to 1 is needed |

Several pictures in one file: the first counts (:class:`PhotographHeader` tells how many there are).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError

from l2o_splat.errors import L2OError
from l2o_splat.scenes.heif import HEIF_SUFFIXES, heif_is_readable

_DRAWINGS = ("EPS", "WMF")
"""Formats that Pillow gives to another program to draw."""

BROKEN_FILE = (
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    ZeroDivisionError,
    struct.error,
    zlib.error,
)
"""What Pillow's decoders raise for broken files. Nothing else may run where these are caught."""

_TURNS = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}
"""From stored to upright pixels, by the value of the EXIF tag 0x112."""
_UNDO = {6: 8, 8: 6}
"""The other orientations undo themselves."""


class PixelsError(L2OError, ValueError):
    """A file cannot be read as a photograph or mask; the message names it and says what to do."""


@dataclass(frozen=True)
class PhotographHeader:
    """What a file says of its picture before it is decoded."""

    size: tuple[int, int]
    """Width and height as stored, pixels."""
    orientation: int
    """EXIF orientation, 1 to 8; 1 where there is none."""
    num_pictures: int
    """Pictures, pages or frames in the file. The second picture of a phone's MPO is not counted."""

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height after turning as the orientation says, pixels."""
        return self.size[::-1] if self.orientation >= 5 else self.size


def read_header(path: Path) -> PhotographHeader:
    """Size, orientation and number of pictures, without decoding the pixels.

    Raises:
        PixelsError: The file is not there, is no image, or has no pixels.
    """
    try:
        opened = _open(path)
    except NotForPillowError:
        height, width = _float_colours(path).shape[:2]
        return PhotographHeader((width, height), 1, 1)
    with opened as image:
        try:
            orientation = _orientation(image)
            num_pictures = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        except (*BROKEN_FILE, Image.DecompressionBombError) as error:
            raise _unreadable(path, error) from error
        width, height = image.size
        if image.format == "TIFF" and orientation >= 5:
            width, height = height, width  # Pillow turns TIFF files itself.
        return PhotographHeader((width, height), orientation, num_pictures)


def read_exif(path: Path) -> Image.Exif:
    """The EXIF data of a file without its orientation; empty if it has none or it is broken."""
    try:
        opened = _open(path)
    except NotForPillowError:
        return Image.Exif()
    with opened as image:
        try:
            exif = image.getexif()
            exif.pop(ExifTags.Base.Orientation, None)
            exif.tobytes()
        except BROKEN_FILE:
            return Image.Exif()
        return exif


def read_photograph(path: Path, *, upright: bool = True) -> UInt8[np.ndarray, "h w c"]:
    """Pixels of a photograph, sRGB 0 to 255: c is 3, or 4 with alpha (not premultiplied).

    Args:
        path: Any image that Pillow reads, or a TIFF of three float channels.
        upright: Turn the picture as its EXIF orientation says; otherwise the pixels stay as stored.

    Raises:
        PixelsError: The file cannot be read, or holds numbers that show no picture.
    """
    try:
        with _decoded(path) as (image, turn):
            pixels = _shown(image, path)
    except NotForPillowError:
        pixels, turn = _float_colours(path), None
    return _turned(pixels, turn, upright)


def on_black(pixels: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels of a photograph, put on black if it has alpha."""
    if pixels.shape[2] == 3:
        return pixels
    return (pixels[..., :3] * (pixels[..., 3:] / 255)).round().astype(np.uint8)


def read_mask(path: Path, *, upright: bool = True) -> Bool[np.ndarray, "h w"]:
    """Which pixels a mask keeps, from an image of any kind.

    The brightness of a pixel is its largest channel, or its alpha if the file has an alpha channel that varies. Kept
    is what is brighter than half of full scale. In a mask that nowhere reaches half (one stored as 0 and 1, or as
    small labels) everything that is not 0 is kept.

    Args:
        path: Any image that :func:`read_photograph` reads, and integers or floats from 0 up of any range.
        upright: Turn it as its EXIF orientation says.

    Raises:
        PixelsError: The file cannot be read as an image.
    """
    try:
        with _decoded(path) as (image, turn):
            if _is_integer(image) or image.mode == "F":
                brightness = np.asarray(image).astype(np.float64)
                if not np.isfinite(brightness).all() or brightness.min() < 0:
                    raise PixelsError(f"{path} is a mask with negative, infinite or NaN numbers; save it as 8-bit PNG.")
                half = 0.5 if image.mode == "F" else 32767.5
            else:
                brightness, half = _brightness(_shown(image, path)), 127.5
    except NotForPillowError:
        brightness, half, turn = _brightness(_float_colours(path)), 127.5, None
    kept = brightness > half
    return _turned(kept if kept.any() else brightness > 0, turn, upright)


def turned_upright(pixels: Shaped[np.ndarray, "h w ..."], orientation: int) -> Shaped[np.ndarray, "h2 w2 ..."]:
    """Stored pixels turned as an EXIF orientation (1 to 8) says."""
    return np.ascontiguousarray(_TURNS[orientation](pixels))


def is_rgb_jpeg(path: Path) -> bool:
    """Whether a file that can be read is a JPEG of red, green and blue, and nothing else."""
    try:
        with _open(path) as image:
            return image.format == "JPEG" and image.mode == "RGB"
    except NotForPillowError:
        return False


def _brightness(pixels: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w"]:
    if pixels.shape[2] == 4 and pixels[..., 3].min() != pixels[..., 3].max():
        return pixels[..., 3]
    return pixels[..., :3].max(axis=2)


def _turned(pixels: np.ndarray, turn: _Turn | None, upright: bool) -> np.ndarray:
    if turn is not None and upright != turn.done:
        orientation = turn.orientation if upright else _UNDO.get(turn.orientation, turn.orientation)
        pixels = _TURNS[orientation](pixels)
    return np.ascontiguousarray(pixels)


@dataclass(frozen=True)
class _Turn:
    orientation: int
    done: bool
    """The pixels have been turned by Pillow."""


class NotForPillowError(Exception):
    """A TIFF that Pillow does not know."""


@contextmanager
def _decoded(path: Path) -> Iterator[tuple[Image.Image, _Turn]]:
    """The decoded first picture of a file, and how it is turned."""
    with _open(path) as image:
        try:
            before = _orientation(image)
            image.load()
            # A TIFF has been turned by now, and its orientation taken out.
            after = _orientation(image)
        except (*BROKEN_FILE, Image.DecompressionBombError) as error:
            raise _unreadable(path, error) from error
        yield image, _Turn(after, False) if after != 1 else _Turn(before, before != 1)


def _open(path: Path) -> Image.Image:
    """The file, recognised but not decoded."""
    if not path.is_file():
        raise PixelsError(f"{path} does not exist or is no file; put the image there or take it out of the capture.")
    if path.suffix.lower() in HEIF_SUFFIXES:
        heif_is_readable()
    try:
        image = Image.open(path)
    except UnidentifiedImageError as error:
        if _starts_as_tiff(path):
            raise NotForPillowError from error
        raise _unreadable(path, error) from error
    except (*BROKEN_FILE, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from error
    if image.format in _DRAWINGS:
        image.close()
        raise PixelsError(f"{path} is a drawing ({image.format}), not a photograph; save it as PNG or leave it out.")
    if 0 in image.size:
        image.close()
        raise PixelsError(
            f"{path} is {image.size[0]} x {image.size[1]} pixels, so it shows nothing; save it again or leave it out."
        )
    return image


def _unreadable(path: Path, error: BaseException) -> PixelsError:
    if isinstance(error, Image.DecompressionBombError):
        return PixelsError(f"{path} cannot be read as an image, since it is too large ({error}); scale it down first.")
    if path.suffix.lower() in HEIF_SUFFIXES and not heif_is_readable():
        return PixelsError(
            f"{path} is a HEIC photograph, which Pillow cannot read by itself; convert it to JPEG, or run: "
            "pip install pillow-heif"
        )
    detail = "it is empty" if _is_empty(path) else " ".join(str(error).split()) or type(error).__name__
    return PixelsError(
        f"{path} cannot be read as an image ({detail}); save it again as an 8-bit JPEG or PNG, or take it out of the "
        "capture."
    )


def _is_empty(path: Path) -> bool:
    try:
        return path.stat().st_size == 0
    except OSError:
        return False


def _starts_as_tiff(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    except OSError:
        return False


def _orientation(image: Image.Image) -> int:
    """EXIF orientation of an opened image; 1 if it has none or its EXIF data are broken."""
    if image.format == "PNG" and not _png_tells(image):
        return 1
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        value = image.tag_v2.get(ExifTags.Base.Orientation, 1)
    else:
        try:
            value = image.getexif().get(ExifTags.Base.Orientation, 1)
        except BROKEN_FILE:
            return 1
    return value if isinstance(value, int) and value in _TURNS else 1


def _png_tells(image: Image.Image) -> bool:
    """Whether a PNG has EXIF data; Pillow would decode all pixels to find out that it has none."""
    if any(key in image.info for key in ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")):
        return True
    if image.filename == "":
        return False
    with Path(image.filename).open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind == b"eXIf":
                return True
            file.seek(length + 4, 1)
    return False


def _is_integer(image: Image.Image) -> bool:
    return image.mode == "I" or image.mode.startswith("I;16")


def _shown(image: Image.Image, path: Path) -> UInt8[np.ndarray, "h w c"]:
    """What a decoded picture shows, 8 bits, three channels or four."""
    if _is_integer(image):
        return _with_key(_gray_of_integers(image, path), image)
    if image.mode == "F":
        return _gray(_eight_bits(np.asarray(image), path))
    try:
        if image.mode == "La":
            image = image.convert("LA")
        return np.array(image.convert("RGBA" if image.has_transparency_data else "RGB"))
    except (ValueError, OSError) as error:
        raise PixelsError(
            f"{path} holds pixels of mode {image.mode}, which cannot be converted to RGB ({error}); save it again as "
            "an 8-bit JPEG or PNG."
        ) from error


def _gray(values: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    return values[..., None].repeat(3, axis=2)


def _gray_of_integers(image: Image.Image, path: Path) -> UInt8[np.ndarray, "h w 3"]:
    values = np.asarray(image).astype(np.int64)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise PixelsError(
            f"{path} holds integers from {low} to {high}; as numbers of a picture 0 to 65535 are needed: save it again "
            "as an 8-bit JPEG or PNG."
        )
    if high > 255 or high == 0:
        return _gray(((values + 128) // 257).astype(np.uint8))
    if image.mode == "I" and image.format not in ("PNG", "PPM"):
        return _gray(values.astype(np.uint8))
    raise PixelsError(
        f"{path} has 16 bits per pixel but no number above {high} of 65535, so it shows black; save it again as an "
        "8-bit PNG."
    )


def _with_key(pixels: UInt8[np.ndarray, "h w 3"], image: Image.Image) -> UInt8[np.ndarray, "h w c"]:
    """With alpha 0 where a 16-bit gray PNG has the one value that it declares transparent."""
    key = image.info.get("transparency")
    if not isinstance(key, int):
        return pixels
    alpha = np.where(np.asarray(image) == key, 0, 255).astype(np.uint8)
    return np.concatenate([pixels, alpha[..., None]], axis=2)


def _eight_bits(values: Float[np.ndarray, ...], path: Path) -> UInt8[np.ndarray, ...]:
    if not np.isfinite(values).all():
        raise PixelsError(f"{path} holds NaN or infinite numbers; numbers from 0 to 1 are needed: repair it.")
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        raise PixelsError(
            f"{path} holds floating-point numbers from {low:.4g} to {high:.4g}; 0 to 1 is needed: save it again as an "
            "8-bit JPEG or PNG."
        )
    return (values.astype(np.float64) * 255).round().astype(np.uint8)


def _float_colours(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """A TIFF of three floating-point channels, which OpenCV (a dependency of nerfstudio) reads and Pillow does not."""
    unreadable = PixelsError(
        f"{path} is a TIFF of a kind that cannot be read; save it again as an 8-bit JPEG or PNG, or take it out of the "
        "capture."
    )
    try:
        import cv2
    except ImportError as error:
        raise unreadable from error
    try:
        values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise unreadable from error
    # Four channels may be CMYK or alpha of either kind, which OpenCV does not tell.
    if values is None or values.ndim != 3 or values.shape[2] != 3 or values.dtype.kind != "f" or values.size == 0:
        raise unreadable
    return _eight_bits(values[..., ::-1], path)
