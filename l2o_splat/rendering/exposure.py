"""Colours as a photograph shows them: an affine transform of those of the scene, one for each view.

A camera that meters each photograph by itself makes the same wall brighter in one than in another. The transform stands
between the render and the loss, so that the scene has one colour for the wall.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def exposed(images: Float[Tensor, "v h w 3"], exposures: Float[Tensor, "v 3 4"] | None) -> Float[Tensor, "v h w 3"]:
    """Renders in the colours of their photographs: ``A c + b`` in place of each colour c.

    Args:
        images: Renders, sRGB, not clamped.
        exposures: ``[A | b]`` of each view; None leaves the images as they are.
    """
    if exposures is None:
        return images
    colours = torch.baddbmm(exposures[:, None, :, 3], images.flatten(1, 2), exposures[:, :, :3].mT)
    return colours.view_as(images)


def sensitivities(exposures: Float[Tensor, "v 3 4"]) -> Float[Tensor, " v"]:
    """Factor by which each view's transform raises the curvature of a loss to the scene's colours, mean over channels.

    The curvature to scene channel d is the sum over the photograph's channels c of ``A[c, d] ** 2`` times that to c.
    """
    return exposures[:, :, :3].square().sum(dim=(1, 2)) / 3
