"""Objective of trainings: the error of rendered views."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from l2o_splat.losses import photometric_loss
from l2o_splat.metrics import Lpips


@dataclass
class Objective:
    """Error of rendered views: L1 and SSIM as in inner steps, and LPIPS if its backbone is available.

    Learn2Splat's released weights were trained with L1 and a VGG perceptual term, ours with the relative inner loss.
    """

    ssim_weight: float = 0.2
    """Share of the SSIM term, 0 to 1."""
    perceptual_weight: float = 0.0
    """Weight of LPIPS, which is added; 0 leaves it out."""
    relative: bool = True
    """Minimise the logarithm of the error, so that bright and dark, early and late scenes count equally (ours)."""
    _lpips: Lpips = field(default_factory=Lpips, init=False, repr=False)

    def error(
        self, rendered: Float[Tensor, "v h w 3"], images: Float[Tensor, "v h w 3"], masks: Tensor | None = None
    ) -> Float[Tensor, ""]:
        """Error, mean over pixels, sum over views; masked pixels change nothing."""
        error = photometric_loss(rendered, images, masks, self.ssim_weight)
        if self.perceptual_weight:
            distances = self._lpips.distances(rendered, images, masks)
            if distances is not None:
                error = error + self.perceptual_weight * distances.sum()
        return error

    def scale(self, error: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Factor that turns gradients of ``error`` into gradients of the objective."""
        return 1 / error.detach().clamp(min=1e-6) if self.relative else torch.ones_like(error)
