"""Which views a view is compared with: those that see the same points, from places not too near and not too far."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int

from l2o_splat.initializers.dense.observations import Sightings
from l2o_splat.initializers.dense.working_views import WorkingViews

BEST_ANGLE = 0.15
"""Angle (radians) between the lines of sight of two views at which depth shows well and both look alike."""
NEAREST, FARTHEST = 0.15, 0.3
"""Difference from it at which a view counts 0.6 times as much, towards smaller and larger angles."""


def neighbours(views: WorkingViews, sightings: Sightings) -> Int[np.ndarray, "v v_minus_1"]:
    """All other views of each view, the most useful first."""
    seen = torch.from_numpy(sightings.visible).float()
    shared = (seen @ seen.T).numpy()
    depths = np.ones(len(views))
    for v in range(len(views)):
        if sightings.visible[v].any():
            depths[v] = 1 / np.median(sightings.inverse[v, sightings.visible[v]])
    apart = np.linalg.norm(views.centres[:, None] - views.centres, axis=2)
    off = apart / depths[:, None] - BEST_ANGLE
    score = shared * np.exp(-0.5 * (off / np.where(off < 0, NEAREST, FARTHEST)) ** 2)
    np.fill_diagonal(score, -1)
    return np.argsort(-score, axis=1, kind="stable")[:, :-1]
