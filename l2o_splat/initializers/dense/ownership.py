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
def own(view, others, maps, offsets, focal, candidates, allowed, inverse, tolerance, known, owned):
    """Decide which pixels of a view make Gaussians.

    Args:
        view: Index of the view.
        others: ``[m]`` views that compete.
        maps: ``[m, 3, 3]`` and
        offsets: ``[m, 3]`` of :meth:`WorkingViews.maps`.
        focal: ``[v]`` focal lengths, pixels; float32.
        candidates: ``[h, w]`` inverse depths of the pixels in question, 0 for all others.
        allowed: ``[h, w]`` how many views may look through the place.
        inverse: ``[v, h, w]`` inverse depths of the pixels that may make Gaussians, 0 for all others.
        tolerance: Relative difference of depths of one place.
        known: ``[v, h, w]`` inverse depths that are agreed on, 0 where there is none.
        owned: ``[h, w]`` written.
    """
    height, width = inverse.shape[1:]
    half, one = np.float32(0.5), np.float32(1.0)
    right, bottom = np.float32(width), np.float32(height)
    for y in range(height):
        for x in range(width):
            q = candidates[y, x]
            owned[y, x] = q > 0
            if not q > 0:
                continue
            size = focal[view] * q
            px, py = np.float32(x) + half, np.float32(y) + half
            through = 0
            for m in range(len(others)):
                A, t, other = maps[m], offsets[m], others[m]
                scaled = A[2, 0] * px + A[2, 1] * py + A[2, 2] + t[2] * q
                if not scaled > 0:
                    continue
                u = (A[0, 0] * px + A[0, 1] * py + A[0, 2] + t[0] * q) / scaled
                v = (A[1, 0] * px + A[1, 1] * py + A[1, 2] + t[1] * q) / scaled
                if not (u >= 0 and u < right and v >= 0 and v < bottom):
                    continue
                row, column = np.uint64(v), np.uint64(u)
                depth = scaled / q
                seen = known[other, row, column]
                if seen > 0 and seen * depth < one - np.float32(LOOKS_THROUGH):
                    through += 1
                    if through > allowed[y, x]:
                        owned[y, x] = False
                        break
                other_size = focal[other] / depth
                if other_size < size or (other_size == size and other > view):
                    continue
                seen = inverse[other, row, column]
                if seen > 0 and abs(seen * depth - one) < tolerance:
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
    focal = np.sqrt(views.Ks[:, 0, 0] * views.Ks[:, 1, 1]).astype(np.float32)

    def decide(v: int) -> None:
        others = neighbours[v]
        view = v, others, *views.maps(v, others), focal
        own(*view, known[v], depths.confirmed[v], known, np.float32(SAME_PLACE), known, owned[v])
        own(*view, fillers[v], none, either, np.float32(SAME_GUESS), known, filling[v])

    threads.run(decide, len(views))
    return owned | filling
