"""The perceptual term of the papers' losses: mean absolute differences of images and of what a VGG makes of them.

Source: Learn2Splat (arXiv 2605.15760) and ReSplat (arXiv 2510.08575), whose losses are L1 plus half of it; the weights
of the features are those of Chen & Koltun 2017 for crowdsourced photographs (Li et al. 2020).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from l2o_splat.losses import equal_where_masked

FEATURE_WEIGHTS = (1 / 2.6, 1 / 4.8, 1 / 3.7, 1 / 5.6, 10 / 1.5)
"""Weights of the five taps; the images themselves have weight 1."""
GREY_LEVELS = 255.0
"""Of a channel from black to white; features are measured in grey levels, distances in units of the whole range."""

Features = Callable[[Tensor], list[Tensor]]
"""Five feature maps [v c _ _], in grey levels, of sRGB images [v h w 3] in 0..1."""


def perceptual_distances(
    features: Features,
    rendered: Float[Tensor, "v h w 3"],
    images: Float[Tensor, "v h w 3"],
    masks: Float[Tensor, "v h w 1"] | None = None,
) -> Float[Tensor, " v"]:
    """Perceptual distance of every pair of images, in units of the sRGB range; lower is more alike.

    Args:
        features: The network, see :class:`l2o_splat.nets.perceptual_network.PerceptualNetwork`.
        rendered: Rendered views, sRGB, not clamped.
        images: Photographs, sRGB 0 to 1; they are constants.
        masks: A pixel counts where its mask exceeds 0.5. Both images are black elsewhere, so that nothing differs
            there; the means go on over the whole image.

    The features are computed in bfloat16 on CUDA, their differences in float32.
    """
    rendered, images = equal_where_masked(rendered, images, masks)
    images = images.detach()
    with torch.autocast(rendered.device.type, torch.bfloat16, enabled=rendered.is_cuda):
        found = features(rendered)
        with torch.no_grad():
            expected = features(images)
    distances = GREY_LEVELS * _differences(rendered, images)
    for weight, one, other in zip(FEATURE_WEIGHTS, found, expected, strict=True):
        distances = distances + weight * _differences(one, other)
    return distances / GREY_LEVELS


def _differences(one: Tensor, other: Tensor) -> Float[Tensor, " v"]:
    """Mean absolute difference of each view, in float32 at least."""
    if one.dtype in (torch.bfloat16, torch.float16):
        one, other = one.float(), other.float()
    return (one - other).abs().flatten(1).mean(dim=1)
