"""Images as chunks store them: the bytes of a JPEG or PNG file each."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from l2o_splat.scenes.chunks.errors import ChunkError
from l2o_splat.scenes.pixels import BROKEN_FILE, on_black

FORMATS = ("JPEG", "PNG")


def decoded(encoded: UInt8[Tensor, " b"], frame: str) -> Image.Image:
    """The picture as stored (an EXIF orientation is not looked at), RGB, on black where it has alpha.

    Args:
        encoded: The bytes.
        frame: How errors name the frame.

    Raises:
        ChunkError: The bytes are no whole JPEG or PNG image.
    """
    try:
        with _opened(encoded) as image:
            if image.has_transparency_data:
                return Image.fromarray(on_black(np.array(image.convert("RGBA"))))
            return image.convert("RGB")
    except (*BROKEN_FILE, Image.DecompressionBombError) as error:
        raise _undecodable(frame, error) from error


def stored_size(encoded: UInt8[Tensor, " b"], frame: str) -> tuple[int, int]:
    """Width and height without decoding the pixels; arguments and errors as :func:`decoded`."""
    try:
        with _opened(encoded) as image:
            return image.size
    except (*BROKEN_FILE, Image.DecompressionBombError) as error:
        raise _undecodable(frame, error) from error


def encoded_jpeg(pixels: UInt8[np.ndarray, "h w 3"], quality: int) -> UInt8[Tensor, " b"]:
    """The bytes of a JPEG image without reduced colour resolution.

    Args:
        pixels: RGB.
        quality: Of Pillow, 1 to 100.
    """
    file = BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG", quality=quality, subsampling=0)
    return torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)


def _opened(encoded: UInt8[Tensor, " b"]) -> Image.Image:
    return Image.open(BytesIO(encoded.numpy()), formats=FORMATS)


def _undecodable(frame: str, error: Exception) -> ChunkError:
    detail = "not a JPEG or PNG file" if isinstance(error, Image.UnidentifiedImageError) else error
    return ChunkError(f"The image of {frame} cannot be decoded ({detail}); prepare the scene again or leave it out.")
