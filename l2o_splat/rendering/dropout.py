"""Steps that show a part of the Gaussians, so that these do not learn to hide the faults of others."""

from __future__ import annotations

from dataclasses import replace

import torch

from l2o_splat.gaussians import Gaussians

HIGHEST_OPACITY = 0.999
"""Highest opacity that dropout gives a Gaussian. The renderers clamp alpha to the same value."""
LEFT_OUT = -20.0
"""Logit of the opacity of a Gaussian that is left out, below what any renderer draws."""


def dropped(gaussians: Gaussians, share: float, seed: int, step: int) -> Gaussians:
    """The scene as one step sees it: some Gaussians are left out, and the others are more opaque to make up for them.

    After DropGaussian (Park et al., arXiv 2504.00773): opacities are divided by 1 - share, so that a place that many
    Gaussians cover is as opaque as before in the mean. Differentiable to the Gaussians; those that are left out have
    gradients of 0.

    Args:
        gaussians: Unactivated scene.
        share: Probability that a Gaussian is left out, from 0 to below 1; 0 gives the scene itself.
        seed: Seed of the run.
        step: The step. The draw depends on seed and step alone, so that a resumed run leaves out the same Gaussians.

    Raises:
        ValueError: If the share is out of range.
    """
    if not 0 <= share < 1:
        raise ValueError(f"The share of Gaussians that is left out is {share}; 0 or more and less than 1 is needed.")
    if share == 0:
        return gaussians
    logits = gaussians.opacities
    # torch mixes the seed: neighbouring ones give unrelated numbers.
    generator = torch.Generator(logits.device).manual_seed(seed * 1_000_003 + step)
    kept = torch.rand(logits.shape, generator=generator, device=logits.device) >= share
    opaque = torch.logit((torch.sigmoid(logits) / (1 - share)).clamp(max=HIGHEST_OPACITY))
    return replace(gaussians, opacities=torch.where(kept, opaque, torch.full_like(logits, LEFT_OUT)))
