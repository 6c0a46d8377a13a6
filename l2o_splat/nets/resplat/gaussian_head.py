"""From the outputs of the Gaussian head to Gaussians."""

from __future__ import annotations

import math

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from l2o_splat.gaussians import SH_C0
from l2o_splat.nets.resplat.camera_gaussians import OPACITY_EPS, CameraGaussians
from l2o_splat.nets.resplat.cameras import ContextCameras
from l2o_splat.nets.resplat.config import NUMBERS_PER_GAUSSIAN, ReSplatConfig
from l2o_splat.nets.resplat.resize import resize

WIDTHS = (4, 3, 1, 2, 48)
"""Numbers per Gaussian: rotation, scale, opacity, offset in the image, spherical harmonics."""


def decode_gaussians(
    outputs: Float[Tensor, "cells d"],
    depth: Float[Tensor, "v 1 h w"],
    images: Float[Tensor, "v 3 height width"],
    grid: tuple[int, int],
    cameras: ContextCameras,
    config: ReSplatConfig,
) -> CameraGaussians:
    """Gaussians from the head's outputs, one or a square number per cell of the latent grid.

    Args:
        outputs: d = 58 m numbers per cell for m Gaussians; each quantity's channels hold the m rows and columns
            inside the cell.
        depth: Camera z, units of the poses, at any resolution.
        images: sRGB, 0 to 1; their colours are added to those of the head.
        grid: Height and width of the latent grid.
        cameras: Of the views.
        config: Range of the scales.

    Returns:
        Gaussians in order of their view, row and column on the grid that is as many times finer as m says.
    """
    side = math.isqrt(outputs.shape[1] // NUMBERS_PER_GAUSSIAN)
    fine = (grid[0] * side, grid[1] * side)
    cells = outputs.float().view(-1, *grid, outputs.shape[1])
    rotations, scales, opacities, offsets, harmonics = (
        _spread(group, side) for group in cells.split([width * side**2 for width in WIDTHS], dim=3)
    )
    offsets = (offsets.sigmoid() - 0.5) / offsets.new_tensor([fine[1], fine[0]])
    depth = resize(depth, fine)[:, 0]
    means = cameras.unproject(depth, offsets)
    colours = F.interpolate(images, size=fine, mode="area").permute(0, 2, 3, 1)
    harmonics = harmonics.unflatten(3, (3, -1)).flatten(0, 2)
    colours = F.pad(((colours - 0.5) / SH_C0).flatten(0, 2)[..., None], (0, harmonics.shape[2] - 1))
    scales = F.softplus(scales - config.scale_bias).clamp(config.scale_min, config.scale_max)
    if config.gaussian_units == "cells":
        focal = cameras.intrinsics.diagonal(dim1=1, dim2=2)[:, :2] * scales.new_tensor([fine[1], fine[0]])
        scales = scales * (depth / focal.prod(dim=1).sqrt()[:, None, None])[..., None]
    return CameraGaussians(
        means=means.flatten(0, 2),
        scales=scales.flatten(0, 2),
        rotations=rotations.flatten(0, 2),
        opacity_logits=opacities.sigmoid().logit(OPACITY_EPS).flatten(0, 2),
        harmonics=harmonics + colours,
    )


def _spread(cells: Float[Tensor, "v h w c_m"], side: int) -> Float[Tensor, "v h_side w_side c"]:
    """The side x side values that each cell holds, in their places on the finer grid."""
    v, height, width, channels = cells.shape
    values = cells.view(v, height, width, channels // side**2, side, side)
    return values.permute(0, 1, 4, 2, 5, 3).reshape(v, height * side, width * side, -1)
