"""Which Gaussians a scene can do without."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from l2o_splat.gaussians import Gaussians
from l2o_splat.growth.choice import LEAST_VIEWS

LEAST_OPACITY = 0.005
"""Fainter ones are removed (3DGS, arXiv 2308.04079); the renderer draws nothing below 1/255."""


def kept(gaussians: Gaussians) -> Bool[Tensor, " n"]:
    """Which Gaussians stay: all but those of an opacity below 0.005.

    At most half of the Gaussians go at a time, the faintest first, so that a scene is never emptied.

    Args:
        gaussians: Unactivated scene.
    """
    opacity = gaussians.opacities.detach()[:, 0].sigmoid()
    return ~_at_most_half(opacity < LEAST_OPACITY, opacity)


def confirmed(views: Int[Tensor, " n"]) -> Bool[Tensor, " n"]:
    """Which Gaussians of a prediction stay when it is no longer held: those that at least two training views see.

    One view alone says nothing about their depth, and they would come to explain whatever it shows. At most half of
    the Gaussians go, so that a scene is never emptied.

    Args:
        views: Training views that see each Gaussian.
    """
    return ~_at_most_half(views < LEAST_VIEWS, views)


def _at_most_half(needless: Bool[Tensor, " n"], worth: Shaped[Tensor, " n"]) -> Bool[Tensor, " n"]:
    """Those that are needless, or half of all Gaussians, the least worthy of them, if there are more."""
    most = len(needless) // 2
    if int(needless.sum()) <= most:
        return needless
    order = torch.where(needless, worth.double(), torch.inf).argsort(stable=True)[:most]
    return torch.zeros_like(needless).index_fill(0, order, True)
