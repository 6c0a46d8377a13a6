"""Which Gaussians a scene can do without."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from l2o_splat.gaussians import Gaussians

LEAST_OPACITY = 0.005
"""Fainter ones are removed (3DGS, arXiv 2308.04079); the renderer draws nothing below 1/255."""


def kept(gaussians: Gaussians) -> Bool[Tensor, " n"]:
    """Which Gaussians stay: all but those of an opacity below 0.005.

    At most half of the Gaussians go at a time, the faintest first, so that a scene is never emptied.

    Args:
        gaussians: Unactivated scene.
    """
    opacity = gaussians.opacities.detach()[:, 0].sigmoid()
    needless = opacity < LEAST_OPACITY
    most = len(gaussians) // 2
    if int(needless.sum()) > most:
        order = torch.where(needless, opacity, torch.inf).argsort(stable=True)[:most]
        needless = torch.zeros_like(needless)
        needless[order] = True
    return ~needless
