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
    """Interpolate the depths of the points, match views, let them vote, and interpolate between what they agree on."""
    inverse = np.zeros(views.grey.shape, np.float32)

    def spread(v: int) -> None:
        values, weights = observed(views.grey.shape[1:], *sightings.in_view(v))
        if np.count_nonzero(weights) < FEWEST_POINTS:
            return
        interpolate(values, weights, views.images[v], inverse[v])
        weights[np.abs(inverse[v] - values) > OUTLIER * inverse[v]] = 0
        if weights.any():
            interpolate(values, weights, views.images[v], inverse[v])

    threads.run(spread, len(views))

    def refine(v: int) -> None:
        if inverse[v].any():
            inverse[v] = matched(views, v, neighbours[v, :COMPARED], inverse[v])

    threads.run(refine, len(views))
    voted = ballot(views, neighbours, inverse, STRIDE)
    filled = np.zeros_like(inverse)

    def refill(v: int) -> None:
        if voted.trusted[v].any():
            weights = np.where(voted.trusted[v], np.float32(TRUST), np.float32(0))
            interpolate(inverse[v], weights, views.images[v], filled[v])

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
