"""Needles: Gaussians much longer than wide, which look like scratches from views that they were not fitted to."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from l2o_splat.gaussians import Gaussians

NEEDLE_RATIO = 10.0
"""Longest over second axis from which on a Gaussian is a needle. The third axis may be as short as it likes: flat
Gaussians are what surfaces are made of."""
ROUNDING = 1e-5
"""Difference of log scales that single precision may lose."""


def elongation(gaussians: Gaussians) -> Float[Tensor, " n"]:
    """Longest over second longest axis, at least 1."""
    two = gaussians.scales.topk(2, dim=1).values
    return (two[:, 0] - two[:, 1]).exp()


def share_of_needles(gaussians: Gaussians, ratio: float = NEEDLE_RATIO) -> float:
    """Share of the Gaussians whose longest axis is over ``ratio`` times the second; 0 of an empty scene."""
    return float((elongation(gaussians) > ratio).float().mean()) if len(gaussians) else 0.0


@torch.no_grad()
def bound_elongation(gaussians: Gaussians, ratio: float = NEEDLE_RATIO) -> None:
    """Shorten, in place, every longest axis that is over ``ratio`` times the second; nothing else changes.

    Raises:
        ValueError: If the ratio is below 1.
    """
    if ratio < 1:
        raise ValueError(f"The bound on elongation is {ratio}; the longest over the second axis is at least 1.")
    # A little below, so that rounding leaves none above. The second axis itself must not move at a ratio of 1.
    slack = max(math.log(ratio) - ROUNDING, 0.0)
    second = gaussians.scales.topk(2, dim=1).values[:, 1:]
    # The two others are no longer than the second, so this meets the longest axis alone.
    torch.minimum(gaussians.scales, second + slack, out=gaussians.scales)
