"""Which depths other views confirm, and which view sees a place best."""

from __future__ import annotations

import numpy as np

from l2o_splat.kernel import kernel

DEPTH_TOLERANCE = 0.02
"""Relative difference of the depths of two views that agree."""
COLOUR_TOLERANCE = 0.1
"""Difference of the colours of two views that agree, mean of the channels."""


@kernel
def vote(view, others, images, counted, inverse, viewmats, Ks, confirmed, refuted, colours):
    """Count the views that agree with each depth of a view, and those that look through it.

    Args:
        view: Index of the view.
        others: ``[m]`` views that are asked.
        images: ``[v, h, w, 3]``
        counted: ``[v, h, w]``
        inverse: ``[v, h, w]`` inverse depths of all views; 0 where there is none.
        viewmats: ``[v, 4, 4]``
        Ks: ``[v, 3, 3]``
        confirmed: ``[h, w]`` written: views with the same depth and colour there.
        refuted: ``[h, w]`` written: views that see something farther away.
        colours: ``[h, w, 3]`` written: mean colour over the view and those that agree.
    """
    height, width = inverse.shape[1:]
    K, pose = Ks[view], viewmats[view]
    for y in range(height):
        for x in range(width):
            confirmed[y, x] = refuted[y, x] = 0
            for channel in range(3):
                colours[y, x, channel] = images[view, y, x, channel]
            q = inverse[view, y, x]
            if not (q > 0 and counted[view, y, x]):
                continue
            z = 1 / q
            a, b = (x + 0.5 - K[0, 2]) / K[0, 0] * z - pose[0, 3], (y + 0.5 - K[1, 2]) / K[1, 1] * z - pose[1, 3]
            c = z - pose[2, 3]
            px = pose[0, 0] * a + pose[1, 0] * b + pose[2, 0] * c
            py = pose[0, 1] * a + pose[1, 1] * b + pose[2, 1] * c
            pz = pose[0, 2] * a + pose[1, 2] * b + pose[2, 2] * c
            for other in others:
                T, k = viewmats[other], Ks[other]
                depth = T[2, 0] * px + T[2, 1] * py + T[2, 2] * pz + T[2, 3]
                if not depth > 0:
                    continue
                u = k[0, 0] * (T[0, 0] * px + T[0, 1] * py + T[0, 2] * pz + T[0, 3]) / depth + k[0, 2]
                v = k[1, 1] * (T[1, 0] * px + T[1, 1] * py + T[1, 2] * pz + T[1, 3]) / depth + k[1, 2]
                if not (u >= 0 and u < width and v >= 0 and v < height):
                    continue
                column, row = int(u), int(v)
                seen = inverse[other, row, column]
                if not (seen > 0 and counted[other, row, column]):
                    continue
                ratio = seen * depth - 1
                if abs(ratio) < DEPTH_TOLERANCE:
                    difference = 0.0
                    for channel in range(3):
                        difference += abs(images[other, row, column, channel] - images[view, y, x, channel])
                    if difference < 3 * COLOUR_TOLERANCE:
                        confirmed[y, x] += 1
                        for channel in range(3):
                            colours[y, x, channel] += images[other, row, column, channel]
                elif ratio < -2 * DEPTH_TOLERANCE:
                    refuted[y, x] += 1
            for channel in range(3):
                colours[y, x, channel] /= np.float32(confirmed[y, x] + 1)
