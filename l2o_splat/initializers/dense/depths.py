"""Depth of every pixel of every view, and which of them several views agree on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from l2o_splat import threads
from l2o_splat.initializers.dense.consistency import vote
from l2o_splat.initializers.dense.interpolation import interpolate
from l2o_splat.initializers.dense.matching import STRIDE, matched
from l2o_splat.initializers.dense.observations import Sightings
from l2o_splat.initializers.dense.working_views import WorkingViews

FEWEST_POINTS = 10
"""Points that a view must see to get depths."""
OUTLIER = 0.1
"""Relative difference of a point's inverse depth from the surface around it above which it is left out."""
COMPARED = 4
"""Views that a view is matched with."""
ASKED = 8
"""Views that vote on the depths of a view."""
AGREEING = 2
"""Views that must agree with a depth."""
TRUST = 4.0
"""Weight of a depth that views agree on, against 1 of smoothness, where the others are interpolated."""
TRUST_IN_POINTS = 64.0
"""Weight of the depth of a sparse point there: it was measured in more views, and more finely."""


@dataclass(frozen=True)
class Depths:
    """What is known of the surfaces behind the pixels."""

    inverse: Float[np.ndarray, "v h w"]
    """Inverse camera z, 1 / scene units; 0 in views that see too few points."""
    trusted: Bool[np.ndarray, "v h w"]
    """Where enough views agree."""
    confirmed: Int[np.ndarray, "v h w"]
    """Views that agree."""
    refuted: Int[np.ndarray, "v h w"]
    """Views that look through the place."""
    colours: Float[np.ndarray, "v h w 3"]
    """Mean colour over the views that agree."""


def estimate_depths(views: WorkingViews, sightings: Sightings, neighbours: Int[np.ndarray, "v others"]) -> Depths:
    """Interpolate the depths of the points, match views, let them vote, and interpolate between the points and what
    views agree on."""
    inverse = np.zeros(views.grey.shape, np.float32)
    points, weights = np.zeros_like(inverse), np.zeros_like(inverse)

    def spread(v: int) -> None:
        points[v], weights[v] = observed(views.grey.shape[1:], *sightings.in_view(v))
        if np.count_nonzero(weights[v]) < FEWEST_POINTS:
            weights[v] = 0
            return
        interpolate(points[v], weights[v], views.images[v], inverse[v])
        weights[v, np.abs(inverse[v] - points[v]) > OUTLIER * inverse[v]] = 0
        if weights[v].any():
            interpolate(points[v], weights[v], views.images[v], inverse[v])

    threads.run(spread, len(views))

    def refine(v: int) -> None:
        if inverse[v].any():
            inverse[v] = matched(views, v, neighbours[v, :COMPARED], inverse[v])

    threads.run(refine, len(views))
    voted = ballot(views, neighbours, inverse, STRIDE)
    filled = np.zeros_like(inverse)

    def refill(v: int) -> None:
        agreed = np.where(voted.trusted[v], np.float32(TRUST), np.float32(0))
        trust = agreed + np.float32(TRUST_IN_POINTS) * weights[v]
        if trust.any():
            mean = np.zeros_like(trust)
            sums = agreed * inverse[v] + np.float32(TRUST_IN_POINTS) * weights[v] * points[v]
            np.divide(sums, trust, out=mean, where=trust > 0)
            interpolate(mean, trust, views.images[v], filled[v])

    threads.run(refill, len(views))
    return ballot(views, neighbours, filled)


def ballot(
    views: WorkingViews, neighbours: Int[np.ndarray, "v others"], inverse: Float[np.ndarray, "v h w"], step: int = 1
) -> Depths:
    """Let views vote on depths, of every ``step``-th pixel of each axis."""
    confirmed, refuted = np.zeros(inverse.shape, np.int32), np.zeros(inverse.shape, np.int32)
    colours = np.empty_like(views.images)

    def count(v: int) -> None:
        others = neighbours[v, :ASKED]
        seen = views.images, views.counted, inverse
        vote(v, step, others, *views.maps(v, others), *seen, confirmed[v], refuted[v], colours[v])

    threads.run(count, len(views))
    trusted = (confirmed >= min(AGREEING, len(views) - 1)) & (confirmed > refuted)
    return Depths(inverse, trusted, confirmed, refuted, colours)


def observed(
    size: tuple[int, int], pixels: Int[np.ndarray, "s 2"], inverse: Float[np.ndarray, " s"]
) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
    """Mean inverse depth and number of the points in each pixel."""
    height, width = size
    places = pixels[:, 1] * width + pixels[:, 0]
    counts = np.bincount(places, minlength=height * width)
    sums = np.bincount(places, inverse, minlength=height * width)
    values = (sums / np.maximum(counts, 1)).astype(np.float32)
    return values.reshape(size), counts.astype(np.float32).reshape(size)
