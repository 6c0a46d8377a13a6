"""The regularizer of depth that ReSplat's initial model is trained with."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def depth_smoothness(depth: Float[Tensor, "v 1 h w"], images: Float[Tensor, "v 3 h w"]) -> Float[Tensor, ""]:
    """Steps of the disparity between neighbouring pixels, less where the image has an edge (arXiv 1609.03677).

    Args:
        depth: Camera z, any units: the disparity 1 / depth is divided by its mean over each image.
        images: sRGB, 0 to 1.
    """
    disparity = 1 / depth
    disparity = disparity / (disparity.mean(dim=(2, 3), keepdim=True) + 1e-7)
    loss = disparity.new_zeros(())
    for dim in (2, 3):
        edge = images.diff(dim=dim).abs().mean(dim=1, keepdim=True)
        loss = loss + (disparity.diff(dim=dim).abs() * (-edge).exp()).mean()
    return loss
