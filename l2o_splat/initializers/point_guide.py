"""Depths of context views from the sparse points of a scene, as ReSplat's networks of our own take them (ours)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from l2o_splat.initializers.points import unit_colours
from l2o_splat.views import Views

if TYPE_CHECKING:
    from l2o_splat.initializers.dense.observations import Sightings

REACH = 0.05
"""Distance from a point at which nearness falls to 1 / e, as a share of the longer side of a view."""


def point_guide(
    views: Views, xyz: Float[Tensor, "p 3"], rgb: Shaped[Tensor, "p 3"], size: tuple[int, int]
) -> Float[Tensor, "v 3 h w"]:
    """What the sparse points and the comparison of views say about depths.

    Depths are those of the dense start (:mod:`l2o_splat.initializers.dense.depths`): interpolated between the points a
    view sees and places that several views agree on.

    Args:
        views: Context views, at any size.
        xyz: Sparse points, world frame, scene units.
        rgb: Their colours, sRGB: 0 to 1, or 0 to 255 when integers.
        size: Height and width of the result.

    Returns:
        Camera z, scene units, 0 in views that see too few points; nearness to the nearest point, 0 to 1; and 1 where
        views agree, 0 elsewhere. On the device of the views.
    """
    # Imported late, since they load numba, for which no `--help` should wait.
    from l2o_splat.initializers.dense.depths import estimate_depths
    from l2o_splat.initializers.dense.neighbours import neighbours
    from l2o_splat.initializers.dense.observations import sight
    from l2o_splat.initializers.dense.working_views import REDUCTION, working_views

    rgb = unit_colours(rgb)
    # Photographs not much larger than what the networks see stay as they are.
    reduction = min(max(views.cameras.width / size[1], 1.0), REDUCTION)
    working = working_views([views.to("cpu")], reduction=reduction)
    sightings = sight(working, xyz.double().cpu().numpy(), rgb.cpu().numpy())
    found = estimate_depths(working, sightings, neighbours(working, sightings))
    inverse = torch.from_numpy(found.inverse)
    maps = [
        torch.where(inverse > 0, 1 / inverse.clamp(min=1e-12), 0),
        _nearness(sightings, inverse.shape[1:]),
        torch.from_numpy(found.trusted).float(),
    ]
    # Nearest, as there is no mean of two surfaces.
    return F.interpolate(torch.stack(maps, dim=1), size=size, mode="nearest-exact").to(views.images.device)


def _nearness(sightings: Sightings, size: tuple[int, int]) -> Float[Tensor, "v h w"]:
    from scipy.ndimage import distance_transform_edt

    maps = torch.zeros(len(sightings.visible), *size)
    for v, nearness in enumerate(maps):
        places, _ = sightings.in_view(v)
        if len(places):
            away = torch.ones(size)
            away[places[:, 1], places[:, 0]] = 0
            distance = torch.from_numpy(distance_transform_edt(away.numpy())).float()
            nearness.copy_(torch.exp(-distance / (REACH * max(size))))
    return maps
