"""Sparse points, and places between them that a network has predicted (ours).

Of a prediction only some places and their colours are taken. All its Gaussians together, a small one for every few
pixels of each photograph, are a poor start for an optimizer: each photograph is explained by its own, so that no error
is left that would move them to where the other photographs want them.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from l2o_splat.gaussians import SH_C0
from l2o_splat.initializers.points import unit_colours
from l2o_splat.scene import SceneStart


def joined_points(
    xyz: Float[Tensor, "p 3"], rgb: Shaped[Tensor, "p 3"], predicted: SceneStart, total: int, seed: int
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
    """All sparse points, and as many predicted places as are lacking.

    Args:
        xyz: Sparse points, world frame, scene units.
        rgb: Their colours, sRGB: 0 to 1, or 0 to 255 when integers.
        predicted: What a network made of some views; it places about as many Gaussians in each part of a view.
        total: Points wanted in all.
        seed: Of the random choice.

    Returns:
        Positions and colours (sRGB, 0 to 1) on the device of the prediction.
    """
    gaussians = predicted.gaussians
    count = min(max(total - len(xyz), 0), len(gaussians))
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(gaussians), generator=generator)[:count].to(gaussians.device)
    rgb = unit_colours(rgb)
    colours = (SH_C0 * gaussians.features_dc[chosen] + 0.5).clamp(0, 1)
    return (
        torch.cat([xyz.to(gaussians.device), gaussians.means[chosen]]),
        torch.cat([rgb.to(gaussians.device), colours]),
    )
