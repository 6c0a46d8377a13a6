"""The sparse points whose places no view has depths of: far backgrounds, twigs, what only the edges of views show."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from l2o_splat import threads
from l2o_splat.initializers.dense.depths import Depths
from l2o_splat.initializers.dense.working_views import WorkingViews
from l2o_splat.kernel import kernel

SAME_PLACE = 0.05
"""Relative difference of the depths of a point and of a surface that stands for it."""


@kernel
def account(points, viewmat, K, known, covered):
    """Mark the points that lie on the depths of a view.

    Args:
        points: ``[p, 3]`` world frame, scene units.
        viewmat: ``[4, 4]``
        K: ``[3, 3]``
        known: ``[h, w]`` inverse depths that are agreed on, 0 where there is none.
        covered: ``[p]`` bool; written.
    """
    height, width = known.shape
    for i in range(len(points)):
        covered[i] = False
        x, y, z = points[i]
        depth = viewmat[2, 0] * x + viewmat[2, 1] * y + viewmat[2, 2] * z + viewmat[2, 3]
        if not depth > 0:
            continue
        u = K[0, 0] * (viewmat[0, 0] * x + viewmat[0, 1] * y + viewmat[0, 2] * z + viewmat[0, 3]) / depth + K[0, 2]
        v = K[1, 1] * (viewmat[1, 0] * x + viewmat[1, 1] * y + viewmat[1, 2] * z + viewmat[1, 3]) / depth + K[1, 2]
        if u >= 0 and u < width and v >= 0 and v < height:
            covered[i] = abs(known[int(v), int(u)] * depth - 1) < SAME_PLACE


def remaining(views: WorkingViews, points: Float[np.ndarray, "p 3"], depths: Depths) -> Bool[np.ndarray, " p"]:
    """Which points lie on no depth that views agree on.

    Args:
        views: The views.
        points: World frame, scene units; float64.
        depths: Of the views.
    """
    covered = np.zeros((len(views), len(points)), bool)

    def mark(v: int) -> None:
        known = np.where(depths.trusted[v], depths.inverse[v], np.float32(0))
        account(points, views.viewmats[v], views.Ks[v], known, covered[v])

    threads.run(mark, len(views))
    return ~covered.any(axis=0)
