"""The one way in which ReSplat resizes maps."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def resize(maps: Float[Tensor, "v c h w"], size: tuple[int, int]) -> Float[Tensor, "v c h2 w2"]:
    """Bilinear, with the centres of the corner pixels kept in place and without a filter against aliasing."""
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=True)
