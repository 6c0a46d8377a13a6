"""Splits of a capture into training views and held-out views; the same for every method and seed."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import numpy as np
from jaxtyping import Float

from l2o_splat.errors import L2OError
from l2o_splat.view_sampling import farthest_points

HOLD_OUT_EVERY = 8
"""Views 0, 8, 16, ... are held out, as Mip-NeRF 360 does (arXiv 2111.12077)."""

NumContext = int | Literal["all"]
"""Number of context views, or ``"all"`` for every view that is not held out."""


ViewChoice = NumContext | Literal["own"]
"""The same, or ``"own"`` for the split that the capture itself names."""


class SplitError(L2OError, ValueError):
    """A capture has too few views for a split; the message says how many are needed."""


def split_views(centres: Float[np.ndarray, "n 3"], views: NumContext) -> tuple[list[int], list[int]]:
    """Training views and held-out views.

    Dense (``"all"``): views 0, 8, 16, ... are held out, all others are training views (Mip-NeRF 360, arXiv 2111.12077).

    Sparse (K): the training views are K context views. The first is the view farthest from the mean of all camera
    centres, each further one the farthest from those before it. Between each context view and the next one in the
    order of file names, the view in the middle is held out; the remaining views are not used.

    Args:
        centres: Camera centres in the order of file names, scene units.
        views: ``"all"`` or K.

    Raises:
        SplitError: If no view would be left to hold out, or fewer than two to train on.
    """
    n = len(centres)
    if views == "all":
        held_out = list(range(0, n, HOLD_OUT_EVERY))
        training = [view for view in range(n) if view % HOLD_OUT_EVERY]
        if len(training) < 2:
            raise SplitError(f"The capture has {n} views; with every 8th held out at least 3 are needed.")
        return training, held_out
    if views >= n:
        raise SplitError(f"--views {views} of {n} leaves none to hold out; give at most {n - 1}, or `all`.")
    start = int(np.linalg.norm(centres - centres.mean(axis=0), axis=1).argmax())
    context = sorted(farthest_points(centres, list(range(n)), views, [start]))
    held_out = [(left + right) // 2 for left, right in pairwise(context) if right - left > 1]
    if not held_out:
        raise SplitError(f"--views {views} of {n} leaves no view between two context views; give fewer.")
    return context, held_out
