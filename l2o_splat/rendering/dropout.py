"""Steps that show a part of the Gaussians, so that these do not learn to hide the faults of others."""

from __future__ import annotations

from dataclasses import replace

import torch

from l2o_splat.gaussians import Gaussians

HIGHEST_OPACITY = 0.999
"""Of a Gaussian that makes up for others; that of the renderers' alpha clamp."""
LEFT_OUT = -20.0
"""Logit of the opacity of a Gaussian that is left out, below what any renderer draws."""


def dropped(gaussians: Gaussians, share: float, generator: torch.Generator) -> Gaussians:
    """The scene as one step sees it: a share of its Gaussians is left out, the others are as many times as opaque.

    After DropGaussian (Park et al., arXiv 2504.00773): opacities are divided by 1 - share, so that a place that many
    Gaussians cover is as opaque as before in the mean. Differentiable to the Gaussians; those that are left out have
    gradients of 0.

    Args:
        gaussians: Unactivated scene.
        share: Probability that a Gaussian is left out, from 0 to below 1; 0 gives the scene itself.
        generator: Of the draw, on the scene's device.

    Raises:
        ValueError: If the share is out of range.
    """
    if not 0 <= share < 1:
        raise ValueError(f"The share of Gaussians that is left out is {share}; 0 or more and less than 1 is needed.")
    if share == 0:
        return gaussians
    logits = gaussians.opacities
    kept = torch.rand(logits.shape, generator=generator, device=logits.device) >= share
    opaque = torch.logit((torch.sigmoid(logits) / (1 - share)).clamp(max=HIGHEST_OPACITY))
    return replace(gaussians, opacities=torch.where(kept, opaque, torch.full_like(logits, LEFT_OUT)))


def dropout_generator(seed: int, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Random numbers of a step, a function of seed and step alone, so that a resumed run draws the same."""
    # Mixed by torch; neighbouring seeds give unrelated numbers.
    return torch.Generator(device).manual_seed(seed * 1_000_003 + step)
