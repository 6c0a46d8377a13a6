"""Images of a number that each Gaussian has: an uncertainty, an age, a gain."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from l2o_splat.gaussians import SH_C0, Gaussians
from l2o_splat.raster_settings import RasterSettings
from l2o_splat.rendering import render
from l2o_splat.views import PinholeCameras


@torch.no_grad()
def draw_values(
    gaussians: Gaussians, values: Float[Tensor, " n"], cameras: PinholeCameras, settings: RasterSettings
) -> Float[Tensor, "v h w 1"]:
    """Images of the mean value of what each pixel shows, 0 to 1; 0 where nothing is drawn.

    Args:
        gaussians: The scene.
        values: One per Gaussian, 0 to 1.
        cameras: From where.
        settings: How Gaussians are drawn; background and depth have no effect.
    """
    grey = ((values - 0.5) / SH_C0)[:, None].expand(-1, 3).contiguous()
    painted = replace(gaussians.detach(), features_dc=grey, features_rest=grey.new_zeros(len(grey), 0, 3))
    drawn = render(painted, cameras, replace(settings, background=(0.0, 0.0, 0.0), sh_degree=0, depth=False))
    covered = drawn.alpha > 0
    return torch.where(covered, drawn.rgb[..., :1] / torch.where(covered, drawn.alpha, 1), 0).clamp(0, 1)
