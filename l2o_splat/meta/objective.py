"""What meta-training minimises on the images of a scene after a step."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from l2o_splat.losses import photometric_loss
from l2o_splat.metrics import Lpips


@dataclass
class Objective:
    """Error of rendered views: L1 and SSIM as in inner steps, and LPIPS where its backbone can be had.

    The released weights were trained with L1 and a VGG perceptual term; ours with the inner loss, relative.
    """

    ssim_weight: float = 0.2
    """Share of the SSIM term, 0 to 1."""
    perceptual_weight: float = 0.0
    """Weight of LPIPS beside it; 0 leaves it out."""
    relative: bool = True
    """Minimise the logarithm of the error, so that bright and dark, early and late scenes count alike (ours)."""
    _lpips: Lpips = field(default_factory=Lpips, init=False, repr=False)

    def error(
        self, rendered: Float[Tensor, "v h w 3"], images: Float[Tensor, "v h w 3"], masks: Tensor | None = None
    ) -> Float[Tensor, ""]:
        """Error, mean over pixels, sum over views."""
        error = photometric_loss(rendered, images, masks, self.ssim_weight)
        if self.perceptual_weight:
            distances = self._lpips.distances(rendered, images)
            if distances is not None:
                error = error + self.perceptual_weight * distances.sum()
        return error

    def scale(self, error: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """What gradients of ``error`` are multiplied with, so that they are those of the objective."""
        return 1 / error.detach().clamp(min=1e-6) if self.relative else torch.ones_like(error)
