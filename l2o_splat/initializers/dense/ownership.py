"""Which view makes the Gaussians of a place that several views see: the one that sees it largest."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from l2o_splat import threads
from l2o_splat.initializers.dense.depths import Depths
from l2o_splat.initializers.dense.working_views import WorkingViews
from l2o_splat.kernel import kernel

SAME_PLACE = 0.04
"""Relative difference of the depths of one place in two views that agree on it."""
SAME_GUESS = 0.1
"""The same for depths that are interpolated only."""
LOOKS_THROUGH = 0.05
"""A view whose surface is this share farther away looks through a place."""


@kernel
def own(view, others, candidates, allowed, inverse, tolerance, known, viewmats, Ks, owned):
    """Decide which pixels of a view make Gaussians.

    Args:
        view: Index of the view.
        others: ``[m]`` views that compete.
        candidates: ``[h, w]`` inverse depths of the pixels in question, 0 for all others.
        allowed: ``[h, w]`` how many views may look through the place.
        inverse: ``[v, h, w]`` inverse depths of the pixels that may make Gaussians, 0 for all others.
        tolerance: Relative difference of depths of one place.
        known: ``[v, h, w]`` inverse depths that are agreed on, 0 where there is none.
        viewmats: ``[v, 4, 4]``
        Ks: ``[v, 3, 3]``
        owned: ``[h, w]`` written.
    """
    height, width = inverse.shape[1:]
    K, pose = Ks[view], viewmats[view]
    for y in range(height):
        for x in range(width):
            q = candidates[y, x]
            owned[y, x] = q > 0
            if not q > 0:
                continue
            z = 1 / q
            size = K[0, 0] * K[1, 1] * q * q
            a, b = (x + 0.5 - K[0, 2]) / K[0, 0] * z - pose[0, 3], (y + 0.5 - K[1, 2]) / K[1, 1] * z - pose[1, 3]
            c = z - pose[2, 3]
            px = pose[0, 0] * a + pose[1, 0] * b + pose[2, 0] * c
            py = pose[0, 1] * a + pose[1, 1] * b + pose[2, 1] * c
            pz = pose[0, 2] * a + pose[1, 2] * b + pose[2, 2] * c
            through = 0
            for other in others:
                T, k = viewmats[other], Ks[other]
                depth = T[2, 0] * px + T[2, 1] * py + T[2, 2] * pz + T[2, 3]
                if not depth > 0:
                    continue
                u = k[0, 0] * (T[0, 0] * px + T[0, 1] * py + T[0, 2] * pz + T[0, 3]) / depth + k[0, 2]
                v = k[1, 1] * (T[1, 0] * px + T[1, 1] * py + T[1, 2] * pz + T[1, 3]) / depth + k[1, 2]
                if not (u >= 0 and u < width and v >= 0 and v < height):
                    continue
                row, column = int(v), int(u)
                seen = known[other, row, column]
                if seen > 0 and seen * depth < 1 - LOOKS_THROUGH:
                    through += 1
                    if through > allowed[y, x]:
                        owned[y, x] = False
                        break
                other_size = k[0, 0] * k[1, 1] / (depth * depth)
                if other_size < size or (other_size == size and other > view):
                    continue
                seen = inverse[other, row, column]
                if seen > 0 and abs(seen * depth - 1) < tolerance:
                    owned[y, x] = False
                    break


def owned_pixels(
    views: WorkingViews,
    neighbours: Int[np.ndarray, "v others"],
    depths: Depths,
    fillers: Float[np.ndarray, "v h w"],
) -> Bool[np.ndarray, "v h w"]:
    """The pixels that make Gaussians.

    Of the pixels on whose depth views agree, those that no other view sees larger, unless more views look through the
    place than agree. Of the fillers, those that no other view has as well, and that no view looks through.
    """
    known = np.where(depths.trusted, depths.inverse, np.float32(0))
    either = known + fillers
    owned, filling = np.empty(known.shape, bool), np.empty(known.shape, bool)
    none = np.zeros(known.shape[1:], np.int32)
    cameras = views.viewmats, views.Ks

    def decide(v: int) -> None:
        own(v, neighbours[v], known[v], depths.confirmed[v], known, SAME_PLACE, known, *cameras, owned[v])
        own(v, neighbours[v], fillers[v], none, either, SAME_GUESS, known, *cameras, filling[v])

    threads.run(decide, len(views))
    return owned | filling
