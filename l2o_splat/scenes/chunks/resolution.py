"""How pixelSplat, DepthSplat, ReSplat and Learn2Splat bring photographs to the size that they train on."""

from __future__ import annotations

from PIL import Image

from l2o_splat.scenes.chunks.errors import ChunkError
from l2o_splat.views import PinholeCameras

Size = tuple[int, int]
"""Height and width in pixels, in the order of the papers: 256 x 448 is 448 pixels wide."""


def covering_size(width: int, height: int, size: Size) -> tuple[int, int]:
    """Width and height at which an image just covers a size, one of its sides being equal.

    Raises:
        ChunkError: The image would have to be enlarged.
    """
    factor = max(size[0] / height, size[1] / width)
    if factor > 1:
        raise ChunkError(
            f"Images of {height} x {width} pixels (height x width) cannot be reduced to {size[0]} x {size[1]}; ask for "
            "a smaller size, or prepare the scenes at a larger one."
        )
    return round(width * factor), round(height * factor)


def fit_image(image: Image.Image, size: Size) -> Image.Image:
    """Reduce an image (Lanczos filter on 8 bits) until it just covers a size, and cut its middle out.

    Raises:
        ChunkError: The image is smaller than the size.
    """
    width, height = covering_size(image.width, image.height, size)
    left, top = _margins(width, height, size)
    reduced = image if image.size == (width, height) else image.resize((width, height), Image.Resampling.LANCZOS)
    return reduced.crop((left, top, left + size[1], top + size[0]))


def fit_cameras(cameras: PinholeCameras, size: Size) -> PinholeCameras:
    """The cameras of images that :func:`fit_image` has brought to a size.

    fx and fy change with the size of the reduced image. cx and cy do too, and move with the border that is cut off, so
    that a point stays on the pixel that shows it. The loader of the papers leaves cx and cy where they are in units of
    the image size, which is the same where the principal point is in the middle and the border even, and half a
    pixel away where the border is odd (360 x 640 or 540 x 960 to 256 x 256 or 256 x 448, for example). All views of a
    scene have that offset there, so weights trained with it work with exact cameras.

    Raises:
        ChunkError: The images are smaller than the size.
    """
    width, height = covering_size(cameras.width, cameras.height, size)
    left, top = _margins(width, height, size)
    factors = cameras.Ks.new_tensor([width / cameras.width, height / cameras.height, 1.0])
    Ks = cameras.Ks * factors[:, None]
    Ks[:, :2, 2] -= Ks.new_tensor([left, top])
    return PinholeCameras(cameras.viewmats, Ks, size[1], size[0])


def _margins(width: int, height: int, size: Size) -> tuple[int, int]:
    """Pixels cut off at the left and at the top; where the border is odd, one more is cut off opposite."""
    return (width - size[1]) // 2, (height - size[0]) // 2
