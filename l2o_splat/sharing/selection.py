"""Which part of a scene is shared: Gaussians that can be seen and were seen, with as much colour as is wanted."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from l2o_splat.gaussians import Gaussians
from l2o_splat.views import PinholeCameras


def opaque(gaussians: Gaussians, least_opacity: float) -> Bool[Tensor, " n"]:
    """Which Gaussians are at least so opaque; ``least_opacity`` lies between 0 and 1, exclusive."""
    return gaussians.opacities[:, 0] >= math.log(least_opacity / (1 - least_opacity))


def seen_in(means: Float[Tensor, "n 3"], cameras: Iterable[PinholeCameras]) -> Int[Tensor, " n"]:
    """How many photographs each centre lies in, whatever may stand in front of it.

    What lies in none or in one was never held to a place by two photographs: most floaters do.

    Args:
        means: World frame, scene units.
        cameras: Any groups of cameras of one size.
    """
    count = torch.zeros(len(means), dtype=torch.long, device=means.device)
    for group in cameras:
        for v in range(len(group)):
            count += group[[v]].inside(*group[[v]].project(means))[0]
    return count


def cut_harmonics(gaussians: Gaussians, degree: int) -> Gaussians:
    """The Gaussians with the spherical harmonics up to ``degree``; the others are left out, which changes colours."""
    return replace(gaussians, features_rest=gaussians.features_rest[:, : (degree + 1) ** 2 - 1].contiguous())


def used_degree(gaussians: Gaussians) -> int:
    """The highest degree of spherical harmonics that any Gaussian makes use of; those above are all zero."""
    used = gaussians.features_rest.any(dim=2).any(dim=0).nonzero()
    return math.isqrt(int(used[-1]) + 1) if len(used) else 0
