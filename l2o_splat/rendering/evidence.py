"""What the views of a step say about each Gaussian besides the gradient: how much of it is seen, and how well it fits.

All are sums over pixels with the blending weight w of the Gaussian as factor: the share that its colour has in a pixel.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from l2o_splat.views import Views

EvidenceKind = Literal["visibility", "colours", "error"]
"""Sums that can be asked for; visibility comes with each of the others."""

LEAST_VISIBILITY = 0.1
"""Pixels that a Gaussian must be worth in a view, in blending weight, to count as seen by it."""
LEAST_DIFFERENCE = 0.02
"""Smaller absolute differences are taken for this large in a curvature, since 1 / |r| has no bound."""
TOLERATED_ERROR = 0.02
"""Absolute difference that is put down to noise."""
BLUR = 3
"""Side of the box that differences are averaged over, pixels."""


@dataclass(frozen=True)
class ColourEvidence:
    """What each view says about the colours that it sees."""

    gradients: Float[Tensor, "v n 3"]
    """Sum of w d loss / d image: gradient of the loss to the colour of a Gaussian towards the view; 0 where the colour
    is cut off at 0."""
    curvature: Float[Tensor, "v n"]
    """Sum of w kappa, see :func:`curvatures`."""
    centres: Float[Tensor, "v 3"]
    """Camera centres, world frame, scene units."""
    sh_degree: int
    """Degree of spherical harmonics that is drawn."""


@dataclass(frozen=True)
class Evidence:
    """Sums over the pixels of the views of a step; what was not asked for is None."""

    visibility: Float[Tensor, " n"]
    """Sum of w over all pixels and views, in pixels."""
    views: Int[Tensor, " n"]
    """Views that see the Gaussian: its visibility there is at least ``LEAST_VISIBILITY``."""
    colours: ColourEvidence | None = None
    error: Float[Tensor, " n"] | None = None
    """Sum of w E over pixels and views, in pixels times sRGB, see :func:`excess_errors`."""

    @staticmethod
    def total(parts: Sequence[Evidence]) -> Evidence:
        """The evidence of several groups of views together; all hold the same sums of the same Gaussians."""
        if len(parts) == 1:
            return parts[0]
        colours, error = None, None
        if parts[0].colours is not None:
            joined = {
                name: torch.cat([getattr(part.colours, name) for part in parts])
                for name in ("gradients", "curvature", "centres")
            }
            colours = ColourEvidence(**joined, sh_degree=parts[0].colours.sh_degree)
        if parts[0].error is not None:
            error = torch.stack([part.error for part in parts]).sum(dim=0)
        visibility = torch.stack([part.visibility for part in parts]).sum(dim=0)
        return Evidence(visibility, torch.stack([part.views for part in parts]).sum(dim=0), colours, error)


def evidence_from(
    kinds: Collection[EvidenceKind],
    visibility: Float[Tensor, "v n"],
    colours: ColourEvidence,
    error: Float[Tensor, "v n"],
) -> Evidence:
    """The evidence in the sums of each view, as far as it is asked for."""
    return Evidence(
        visibility.sum(dim=0),
        (visibility >= LEAST_VISIBILITY).sum(dim=0),
        colours if "colours" in kinds else None,
        error.sum(dim=0) if "error" in kinds else None,
    )


def curvatures(images: Float[Tensor, "v h w 3"], views: Views, ssim_weight: float) -> Float[Tensor, "v h w"]:
    """Curvature kappa of the L1 term at the present images, one number for the three channels of a pixel.

    Iteratively reweighted least squares: s |r| is replaced by kappa r^2 / 2 with kappa = s / |r|, whose derivative at r
    is the same, and s = (1 - ssim_weight) / (3 pixels that count) as in the loss. |r| is the mean over the channels, at
    least ``LEAST_DIFFERENCE``. Pixels that do not count have no curvature.

    Args:
        images: Renders, sRGB, not clamped.
        views: The photographs.
        ssim_weight: Share of the SSIM term, which has no part in it.
    """
    differences = (images - views.images).abs().mean(dim=3).clamp(min=LEAST_DIFFERENCE)
    if views.counted is None:
        return (1 - ssim_weight) / (3 * images.shape[1] * images.shape[2]) / differences
    counted = views.counted[..., 0]
    pixels = counted.sum(dim=(1, 2), keepdim=True).clamp(min=1)
    return torch.where(counted, (1 - ssim_weight) / (3 * pixels) / differences, 0)


def excess_errors(images: Float[Tensor, "v h w 3"], views: Views) -> Float[Tensor, "v h w"]:
    """How far renders are from the photographs beyond noise (ours, not a paper's).

    E = max(0, mean |r| - ``TOLERATED_ERROR``), the mean over channels and over the pixels that count of a box of
    ``BLUR`` x ``BLUR`` pixels, cut off at the image's edge. 0 in pixels that do not count.
    """
    differences = (images - views.images).abs().mean(dim=3)
    counted = torch.ones_like(differences)
    if views.counted is not None:
        counted = views.counted[..., 0].to(differences)
        differences = torch.where(views.counted[..., 0], differences, 0)

    def box(values: Tensor) -> Tensor:
        return F.avg_pool2d(values[:, None], BLUR, stride=1, padding=BLUR // 2)[:, 0]

    means = box(differences) / box(counted).clamp(min=1e-6)
    return (means - TOLERATED_ERROR).clamp(min=0) * counted
