"""Which views a run sees and which are held out; the same for every method and seed."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from jaxtyping import Float

from l2o_splat.bench.errors import BenchError
from l2o_splat.bench.spec import Views
from l2o_splat.view_sampling import farthest_points

HOLD_OUT_EVERY = 8


def split_views(centres: Float[np.ndarray, "n 3"], views: Views) -> tuple[list[int], list[int]]:
    """Training views and held-out views.

    Dense (``"all"``): views 0, 8, 16, ... are held out, all others are trained on (as Mip-NeRF 360, arXiv 2111.12077).

    Sparse (K): K context views are trained on. The first is the view farthest from the mean of all camera centres,
    every other one the farthest from those before it. Between each context view and the next one in the order of
    file names the view in the middle is held out; the remaining views are not used.

    Args:
        centres: Camera centres in the order of file names, scene units.
        views: ``"all"`` or K.

    Raises:
        BenchError: when no view would be left to hold out, or fewer than two to train on.
    """
    n = len(centres)
    if views == "all":
        held_out = list(range(0, n, HOLD_OUT_EVERY))
        training = [view for view in range(n) if view % HOLD_OUT_EVERY]
        if len(training) < 2:
            raise BenchError(f"The capture has {n} views; with every 8th held out at least 3 are needed.")
        return training, held_out
    if views >= n:
        raise BenchError(f"--views {views} of {n} leaves none to hold out; give at most {n - 1}, or `all`.")
    start = int(np.linalg.norm(centres - centres.mean(axis=0), axis=1).argmax())
    context = sorted(farthest_points(centres, list(range(n)), views, [start]))
    held_out = [(left + right) // 2 for left, right in pairwise(context) if right - left > 1]
    if not held_out:
        raise BenchError(f"--views {views} of {n} leaves no view between two context views; give fewer.")
    return context, held_out
