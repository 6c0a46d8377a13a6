"""The sparse points whose places no view has depths of: far backgrounds, twigs, what only the edges of views show."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from l2o_splat import threads
from l2o_splat.initializers.dense.depths import Depths
from l2o_splat.initializers.dense.projection import project
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
        u, v, depth = project(points[i], viewmat, K, width, height)
        if depth > 0:
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
