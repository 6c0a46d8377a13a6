"""Depth of what views do not agree on: even walls, places that one view sees."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from l2o_splat.initializers.dense.depths import Depths
from l2o_splat.initializers.dense.working_views import WorkingViews


def filled(views: WorkingViews, depths: Depths) -> Float[np.ndarray, "v h w"]:
    """Interpolated inverse depths of the pixels that count and are not trusted, where no view looks through them.

    0 for all others.
    """
    kept = (depths.refuted == 0) & views.counted & ~depths.trusted
    return np.where(kept, depths.inverse, np.float32(0))
