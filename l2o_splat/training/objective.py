"""Objective of trainings: the error of rendered views. Its options are read before torch is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from l2o_splat.training.errors import TrainingError

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from l2o_splat.training.perceptual import PerceptualTerm

Perceptual = Literal["lpips", "vgg19", "vgg16-substitute", "vgg"]
"""What compares images as eyes do: LPIPS's AlexNet, the papers' VGG-19 from ``perceptual_file``, the VGG-16 that
`l2o weights import` brings in its place, or of these two the best that can be had."""


@dataclass
class Objective:
    """Error of rendered views: L1 and SSIM as in inner steps, and a perceptual term if its network is available.

    Learn2Splat's and ReSplat's released weights were trained with L1 and half of the term of a VGG-19, ours with the
    relative inner loss.
    """

    ssim_weight: float = 0.2
    """Share of the SSIM term, 0 to 1."""
    perceptual_weight: float = 0.0
    """Weight of the perceptual term, which is added; 0 leaves it out, the papers have 0.5."""
    over_views: Literal["sum", "mean"] = "sum"
    """How the errors of views are put together; it matters beside terms of another kind, unless ``relative`` is set."""
    relative: bool = True
    """Minimise the logarithm of the error, so that bright and dark, early and late scenes count equally (ours)."""
    perceptual: Perceptual = "lpips"
    """Network of the perceptual term. vgg19 is the papers' and needs --perceptual-file; vgg16-substitute stands in for
    it; vgg is vgg19 if its file is named, else vgg16-substitute if it was imported; lpips is an AlexNet. Without their
    networks vgg and lpips leave the term out, with one line."""
    perceptual_file: Path | None = None
    """imagenet-vgg-verydeep-19.mat of MatConvNet, the weights of vgg19."""
    perceptual_scale: float = 1.0
    """Factor of the size of images in the perceptual term; ReSplat's training at 540 x 960 has 0.5."""

    def __post_init__(self) -> None:
        if self.perceptual == "vgg19" and self.perceptual_file is None:
            raise TrainingError(
                "perceptual is vgg19 and perceptual_file names none; give it imagenet-vgg-verydeep-19.mat of "
                "MatConvNet, or choose vgg16-substitute or vgg."
            )
        if self.perceptual_file is not None:
            if self.perceptual not in ("vgg19", "vgg"):
                raise TrainingError(
                    f"perceptual_file is {self.perceptual_file} and perceptual is {self.perceptual}, which does not "
                    "read it; choose vgg19, or leave the file out."
                )
            if not self.perceptual_file.is_file():
                raise TrainingError(
                    f"There is no file {self.perceptual_file}; perceptual_file takes imagenet-vgg-verydeep-19.mat of "
                    "MatConvNet."
                )
        if not 0 < self.perceptual_scale <= 1:
            raise TrainingError(f"perceptual_scale is {self.perceptual_scale}; a factor above 0, up to 1, is needed.")

    @cached_property
    def perceptual_term(self) -> PerceptualTerm | None:
        """Made at its first use; None without a weight, or if its network cannot be had and may be left out.

        Raises:
            WeightsError: If the named file cannot be used, or vgg16-substitute was not imported.
        """
        if not self.perceptual_weight:
            return None
        from l2o_splat.training.perceptual import perceptual_term

        return perceptual_term(self.perceptual, self.perceptual_file, self.perceptual_scale)

    @property
    def perceptual_used(self) -> str | None:
        """Network that the perceptual term takes, as training records name it; None without the term."""
        return None if self.perceptual_term is None else self.perceptual_term.used

    def error(
        self, rendered: Float[Tensor, "v h w 3"], images: Float[Tensor, "v h w 3"], masks: Tensor | None = None
    ) -> Float[Tensor, ""]:
        """Error, mean over pixels, sum or mean over views; masked pixels change nothing."""
        from l2o_splat.losses import photometric_loss

        error = photometric_loss(rendered, images, masks, self.ssim_weight)
        if self.perceptual_term is not None:
            distances = self.perceptual_term(rendered, images, masks)
            if distances is not None:
                error = error + self.perceptual_weight * distances.sum()
        return error / len(rendered) if self.over_views == "mean" else error

    def scale(self, error: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Factor that turns gradients of ``error`` into gradients of the objective."""
        return 1 / error.detach().clamp(min=1e-6) if self.relative else error.new_ones(error.shape)
