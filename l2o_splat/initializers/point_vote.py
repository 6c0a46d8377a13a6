"""Whether sparse points agree with the depths that a network has predicted (ours)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Shaped
from torch import Tensor

from l2o_splat.initializers.points import unit_colours
from l2o_splat.views import Views

FEWEST_SIGHTINGS = 50
"""Fewest points in all views together that can tell."""


def depth_error(
    depth: Float[Tensor, "v h w"], context: Views, xyz: Float[Tensor, "p 3"], rgb: Shaped[Tensor, "p 3"]
) -> float | None:
    """Median relative difference of predicted depths from those of the sparse points that the views see.

    Points decide since the photographs cannot: a prediction fits those that it was made from whatever its depths are,
    and points before their first steps fit none.

    Args:
        depth: Camera z of every pixel of the context, scene units.
        context: The views that the prediction was made from.
        xyz: Sparse points, world frame, scene units.
        rgb: Their colours, sRGB: 0 to 1, or 0 to 255 when integers.

    Returns:
        |log(predicted / seen)|, the median over all views; None if they see too few points.
    """
    # Imported late, since they load numba, for which no `--help` should wait.
    from l2o_splat.initializers.dense.observations import sight
    from l2o_splat.initializers.dense.working_views import working_views

    rgb = unit_colours(rgb)
    views = working_views([context.to("cpu")])
    seen = sight(views, xyz.double().cpu().numpy(), rgb.cpu().numpy())
    height, width = views.images.shape[1:3]
    predicted, errors = depth.cpu().numpy(), []
    for v in range(len(views)):
        places, inverse = seen.in_view(v)
        columns = places[:, 0] * predicted.shape[2] // width
        rows = places[:, 1] * predicted.shape[1] // height
        errors.append(np.abs(np.log(predicted[v, rows, columns] * inverse)))
    found = np.concatenate(errors)
    return float(np.median(found)) if len(found) >= FEWEST_SIGHTINGS else None
