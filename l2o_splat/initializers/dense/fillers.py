"""Depth of what views do not agree on: sky, even walls, places that one view sees.

A block of such pixels starts at its interpolated depth and moves away from the camera, until no other view looks
through it and those that should see it show its colour; what finds no such place goes far behind everything.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from l2o_splat import threads
from l2o_splat.initializers.dense.depths import Depths
from l2o_splat.initializers.dense.working_views import WorkingViews
from l2o_splat.kernel import kernel

BLOCK = 2
"""Pixels across a block."""
STEP = 0.8
"""Factor of inverse depth from one place to the next."""
FAR = 0.25
"""Inverse depth at which the search ends, in that of the farthest point that the view sees."""
FARTHEST_SHARE = 0.02
"""Share of a view's points that are taken for outliers when its farthest one is looked for."""
ASKED = 16
"""Views that are asked about a place."""
THROUGH = 0.05
"""A view whose surface is this share farther away looks through a place."""
SAME_COLOUR = 0.1
"""Difference of colours, mean of the channels, that is none."""
AGREEING = 2
"""Views that must show the colour of a place other than the interpolated one, and none another."""


@kernel
def place_fillers(view, others, images, candidates, guesses, refuted, far, known, viewmats, Ks, placed):
    """Find depths for blocks of a view.

    Args:
        view: Index of the view.
        others: ``[m]`` views that are asked.
        images: ``[v, h, w, 3]``
        candidates: ``[h, w]`` pixels that need a depth.
        guesses: ``[h, w]`` inverse depths to start at.
        refuted: ``[h, w]`` views that look through the guesses.
        far: Smallest inverse depth.
        known: ``[v, h, w]`` inverse depths that are agreed on, 0 where there is none.
        viewmats: ``[v, 4, 4]``
        Ks: ``[v, 3, 3]``
        placed: ``[h, w]`` inverse depths; written, 0 where no depth was needed.
    """
    height, width = candidates.shape
    K, pose = Ks[view], viewmats[view]
    colour = np.empty(3, np.float32)
    for top in range(0, height, BLOCK):
        for left in range(0, width, BLOCK):
            n, q, refuted_guess = 0, np.float32(0.0), 0
            colour[:] = 0
            for y in range(top, top + BLOCK):
                for x in range(left, left + BLOCK):
                    placed[y, x] = 0
                    if candidates[y, x]:
                        n += 1
                        q = max(q, guesses[y, x])
                        refuted_guess = max(refuted_guess, refuted[y, x])
                        for k in range(3):
                            colour[k] += images[view, y, x, k]
            if n == 0:
                continue
            for k in range(3):
                colour[k] /= np.float32(n)
            chosen, first = far, True
            a, b = (left + BLOCK / 2 - K[0, 2]) / K[0, 0], (top + BLOCK / 2 - K[1, 2]) / K[1, 1]
            while q > far:
                z = 1 / q
                dx, dy, dz = a * z - pose[0, 3], b * z - pose[1, 3], z - pose[2, 3]
                px = pose[0, 0] * dx + pose[1, 0] * dy + pose[2, 0] * dz
                py = pose[0, 1] * dx + pose[1, 1] * dy + pose[2, 1] * dz
                pz = pose[0, 2] * dx + pose[1, 2] * dy + pose[2, 2] * dz
                score, against = 0, np.int64(refuted_guess if first else 0)
                for other in others:
                    T, k3 = viewmats[other], Ks[other]
                    depth = T[2, 0] * px + T[2, 1] * py + T[2, 2] * pz + T[2, 3]
                    if not depth > 0:
                        continue
                    u = k3[0, 0] * (T[0, 0] * px + T[0, 1] * py + T[0, 2] * pz + T[0, 3]) / depth + k3[0, 2]
                    v = k3[1, 1] * (T[1, 0] * px + T[1, 1] * py + T[1, 2] * pz + T[1, 3]) / depth + k3[1, 2]
                    if not (u >= 0 and u < width and v >= 0 and v < height):
                        continue
                    row, column = int(v), int(u)
                    seen = known[other, row, column]
                    if seen > 0:
                        if seen * depth < 1 - THROUGH:
                            against += 1
                            break
                        if seen * depth > 1 + THROUGH:
                            continue
                    difference = np.float32(0.0)
                    for k in range(3):
                        difference += abs(images[other, row, column, k] - colour[k])
                    if difference < 3 * SAME_COLOUR:
                        score += 1
                    elif not first:
                        against += 1
                if score >= (0 if first else AGREEING) and against == 0:
                    chosen = q
                    break
                first = False
                q *= np.float32(STEP)
            for y in range(top, top + BLOCK):
                for x in range(left, left + BLOCK):
                    if candidates[y, x]:
                        placed[y, x] = chosen


def filled(views: WorkingViews, neighbours: Int[np.ndarray, "v others"], depths: Depths) -> Float[np.ndarray, "v h w"]:
    """Inverse depths of the pixels that count and are not trusted; 0 for all others."""
    known = np.where(depths.trusted, depths.inverse, np.float32(0))
    placed = np.zeros_like(known)
    farthest = np.array([np.quantile(k[k > 0], FARTHEST_SHARE) if k.any() else 0 for k in known])
    if not farthest.any():
        return placed
    farthest[farthest == 0] = np.median(farthest[farthest > 0])

    def place(v: int) -> None:
        candidates = views.counted[v] & ~depths.trusted[v]
        cameras = known, views.viewmats, views.Ks
        far = np.float32(FAR * farthest[v])
        others = neighbours[v, :ASKED]
        place_fillers(
            v, others, views.images, candidates, depths.inverse[v], depths.refuted[v], far, *cameras, placed[v]
        )

    threads.run(place, len(views))
    return placed
