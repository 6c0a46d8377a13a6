"""Photographs reduced by area averaging, for steps that look at a scene coarsely before they look closely.

A pixel of the reduced photograph is the mean of the part of the photograph that it covers, each pixel weighted with the
area that lies inside, at any ratio of the sides. The mean is computed in whole numbers and rounded once, so that it
depends neither on the device nor on the number of threads.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from l2o_splat.views import PinholeCameras

LEAST_SIDE = 64
"""Pixels that the shorter side of a reduced photograph has at least; windows of SSIM are 11 wide."""


def usable_scale(scale: float, width: int, height: int) -> float:
    """The scale itself, or the smallest one above it that leaves the shorter side ``LEAST_SIDE`` pixels; at most 1.

    Args:
        scale: Wanted factor of both sides.
        width: Of the photograph, pixels.
        height: Of the photograph, pixels.

    Raises:
        ValueError: If the scale is not above 0 and at most 1.
    """
    if not 0 < scale <= 1:
        raise ValueError(f"The scale of a photograph is {scale}; a factor above 0 and at most 1 is needed.")
    return min(1.0, max(scale, LEAST_SIDE / min(width, height)))


def reduced_size(scale: float, width: int, height: int) -> tuple[int, int]:
    """Width and height at :func:`usable_scale`, each rounded to the nearest whole number of pixels."""
    scale = usable_scale(scale, width, height)
    return int(width * scale + 0.5), int(height * scale + 0.5)


def reduced_cameras(cameras: PinholeCameras, width: int, height: int) -> PinholeCameras:
    """The cameras of photographs that were reduced to a size: a point at pixel (x, y) is at (x width / old width, ...).

    Each axis has its own factor, since sizes are rounded.
    """
    if (width, height) == (cameras.width, cameras.height):
        return cameras
    Ks = cameras.Ks.clone()
    # Row by row: a tensor of factors would be copied to a card in every step.
    Ks[:, 0] *= width / cameras.width
    Ks[:, 1] *= height / cameras.height
    return PinholeCameras(cameras.viewmats, Ks, width, height)


def reduced_photograph(
    pixels: UInt8[Tensor, "h w c"] | Float[Tensor, "h w c"], mask: Bool[Tensor, "h w 1"] | None, width: int, height: int
) -> tuple[UInt8[Tensor, "height width c"] | Float[Tensor, "height width c"], Bool[Tensor, "height width 1"] | None]:
    """A stored photograph and its mask, averaged over areas.

    A reduced pixel counts only if every pixel that it covers a part of counts, so that nothing under a mask shows in
    one that counts; the others have no meaning, but are finite. Colours with alpha are averaged with alpha as their
    weight, so that the result on any background is the mean of the photograph on that background.

    Args:
        pixels: RGB or RGBA, 0 to 255, or 0 to 1 if they are floats.
        mask: True where the photograph counts; None counts everywhere.
        width: At most that of the photograph.
        height: At most that of the photograph.

    Returns:
        Pixels of the same type on the same device, and the mask.
    """
    if pixels.dtype == torch.uint8 and pixels.device.type == "cpu":
        return _reduced_by_kernels(pixels, mask, width, height)
    return reduced_in_torch(pixels, mask, width, height)


def _reduced_by_kernels(
    pixels: UInt8[Tensor, "h w c"], mask: Bool[Tensor, "h w 1"] | None, width: int, height: int
) -> tuple[UInt8[Tensor, "height width c"], Bool[Tensor, "height width 1"] | None]:
    from l2o_splat.reduction.area_kernel import average_areas, check_areas

    reduced = torch.empty((height, width, pixels.shape[2]), dtype=torch.uint8)
    average_areas(pixels.contiguous().numpy(), reduced.numpy())
    if mask is None:
        return reduced, None
    counts = torch.empty((height, width, 1), dtype=torch.bool)
    check_areas(mask.contiguous().numpy()[..., 0], counts.numpy()[..., 0])
    return reduced, counts


def reduced_in_torch(
    pixels: UInt8[Tensor, "h w c"] | Float[Tensor, "h w c"], mask: Bool[Tensor, "h w 1"] | None, width: int, height: int
) -> tuple[UInt8[Tensor, "height width c"] | Float[Tensor, "height width c"], Bool[Tensor, "height width 1"] | None]:
    """What the kernels compute where pixels count, on any device and for floats too; see :func:`reduced_photograph`."""
    if mask is not None:
        pixels = torch.where(mask, pixels, 0)  # Floats under a mask may be NaN.
        mask = _covers_only_true(_covers_only_true(mask, 0, height), 1, width)
    return _average_areas(pixels, width, height), mask


def _average_areas(
    pixels: UInt8[Tensor, "h w c"] | Float[Tensor, "h w c"], width: int, height: int
) -> UInt8[Tensor, "height width c"] | Float[Tensor, "height width c"]:
    values = pixels.double()  # Sums of whole numbers below 2^53 are exact.
    area = float(pixels.shape[0] * pixels.shape[1])
    if pixels.shape[2] == 4:
        values = torch.cat([values[..., 3:] * values[..., :3], values[..., 3:]], dim=2)
    sums = _area_sums(_area_sums(values, 0, height), 1, width)
    if pixels.shape[2] == 4:
        alpha = sums[..., 3:]
        means = torch.cat([torch.where(alpha > 0, sums[..., :3] / alpha.clamp(min=1e-30), 0.0), alpha / area], dim=2)
    else:
        means = sums / area
    if pixels.dtype == torch.uint8:
        return (means + 0.5).to(torch.uint8)
    return means.to(pixels.dtype)


def _taps(old: int, new: int, device: torch.device) -> tuple[Int[Tensor, "taps new"], Int[Tensor, "taps new"]]:
    """Along one axis, the pixels that each reduced pixel covers and the part of each, in units of 1 / ``new``.

    In these units a pixel is ``new`` long and a reduced one ``old``; pixels that fill up the list have part 0.
    """
    begin = torch.arange(new, device=device) * old
    count = -(-old // new) + 1
    index = begin // new + torch.arange(count, device=device)[:, None]
    part = torch.minimum((index + 1) * new, begin + old) - torch.maximum(index * new, begin)
    return index.clamp(max=old - 1), part.clamp(min=0)


def _area_sums(values: Float[Tensor, ...], dim: int, new: int) -> Float[Tensor, ...]:
    index, parts = _taps(values.shape[dim], new, values.device)
    shape = [-1 if axis == dim else 1 for axis in range(values.ndim)]
    return sum(
        part.to(values).reshape(shape) * values.index_select(dim, covered)
        for covered, part in zip(index, parts, strict=True)
    )


def _covers_only_true(mask: Bool[Tensor, "h w 1"], dim: int, new: int) -> Bool[Tensor, ...]:
    index, parts = _taps(mask.shape[dim], new, mask.device)
    # What is covered by nothing is replaced by the first pixel, which always is.
    index = torch.where(parts > 0, index, index[0])
    return torch.stack([mask.index_select(dim, covered) for covered in index]).all(dim=0)
