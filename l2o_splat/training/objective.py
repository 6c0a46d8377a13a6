"""Objective of trainings: the error of rendered views. Its options are read before torch is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass
class Objective:
    """Error of rendered views: L1 and SSIM as in inner steps, and LPIPS if its backbone is available.

    Learn2Splat's released weights were trained with L1 and a VGG perceptual term, ours with the relative inner loss.
    """

    ssim_weight: float = 0.2
    """Share of the SSIM term, 0 to 1."""
    perceptual_weight: float = 0.0
    """Weight of LPIPS, which is added; 0 leaves it out."""
    over_views: Literal["sum", "mean"] = "sum"
    """How the errors of views are put together; it matters beside terms of another kind, unless ``relative`` is set."""
    relative: bool = True
    """Minimise the logarithm of the error, so that bright and dark, early and late scenes count equally (ours)."""

    _lpips: Any = field(default=None, init=False, repr=False, compare=False)
    """Made at its first use; a field all the same, because saved states hold it by name."""

    def error(
        self, rendered: Float[Tensor, "v h w 3"], images: Float[Tensor, "v h w 3"], masks: Tensor | None = None
    ) -> Float[Tensor, ""]:
        """Error, mean over pixels, sum or mean over views; masked pixels change nothing."""
        from l2o_splat.losses import photometric_loss

        error = photometric_loss(rendered, images, masks, self.ssim_weight)
        if self.perceptual_weight:
            if self._lpips is None:
                from l2o_splat.metrics import Lpips

                self._lpips = Lpips()
            distances = self._lpips.distances(rendered, images, masks)
            if distances is not None:
                error = error + self.perceptual_weight * distances.sum()
        return error / len(rendered) if self.over_views == "mean" else error

    def scale(self, error: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Factor that turns gradients of ``error`` into gradients of the objective."""
        return 1 / error.detach().clamp(min=1e-6) if self.relative else error.new_ones(error.shape)
