"""Which depths other views confirm, and which view sees a place best."""

from __future__ import annotations

import numpy as np

from l2o_splat.kernel import kernel

DEPTH_TOLERANCE = 0.02
"""Relative difference of the depths of two views that agree."""
COLOUR_TOLERANCE = 0.1
"""Difference of the colours of two views that agree, mean of the channels."""


@kernel
def vote(view, step, others, maps, offsets, images, counted, inverse, confirmed, refuted, colours):
    """Count the views that agree with each depth of a view, and those that look through it.

    Args:
        view: Index of the view.
        step: Every so many pixels of each axis one is voted on; the others have no agreement.
        others: ``[m]`` views that are asked.
        maps: ``[m, 3, 3]`` and
        offsets: ``[m, 3]`` of :meth:`WorkingViews.maps`.
        images: ``[v, h, w, 3]``
        counted: ``[v, h, w]``
        inverse: ``[v, h, w]`` inverse depths of all views; 0 where there is none.
        confirmed: ``[h, w]`` written: views with the same depth and colour there.
        refuted: ``[h, w]`` written: views that see something farther away.
        colours: ``[h, w, 3]`` written: mean colour over the view and those that agree.
    """
    height, width = inverse.shape[1:]
    half, one = np.float32(0.5), np.float32(1.0)
    right, bottom = np.float32(width), np.float32(height)
    for y in range(height):
        for x in range(width):
            confirmed[y, x] = refuted[y, x] = 0
            for channel in range(3):
                colours[y, x, channel] = images[view, y, x, channel]
            q = inverse[view, y, x]
            if not (q > 0 and counted[view, y, x]) or y % step != 0 or x % step != 0:
                continue
            px, py = np.float32(x) + half, np.float32(y) + half
            for m in range(len(others)):
                A, t, other = maps[m], offsets[m], others[m]
                scaled = A[2, 0] * px + A[2, 1] * py + A[2, 2] + t[2] * q
                if not scaled > 0:
                    continue
                u = (A[0, 0] * px + A[0, 1] * py + A[0, 2] + t[0] * q) / scaled
                v = (A[1, 0] * px + A[1, 1] * py + A[1, 2] + t[1] * q) / scaled
                if not (u >= 0 and u < right and v >= 0 and v < bottom):
                    continue
                column, row = np.uint64(u), np.uint64(v)
                seen = inverse[other, row, column]
                if not (seen > 0 and counted[other, row, column]):
                    continue
                ratio = seen * scaled / q - one
                if abs(ratio) < np.float32(DEPTH_TOLERANCE):
                    difference = np.float32(0.0)
                    for channel in range(3):
                        difference += abs(images[other, row, column, channel] - images[view, y, x, channel])
                    if difference < np.float32(3 * COLOUR_TOLERANCE):
                        confirmed[y, x] += 1
                        for channel in range(3):
                            colours[y, x, channel] += images[other, row, column, channel]
                elif ratio < np.float32(-2 * DEPTH_TOLERANCE):
                    refuted[y, x] += 1
            for channel in range(3):
                colours[y, x, channel] /= np.float32(confirmed[y, x] + 1)
