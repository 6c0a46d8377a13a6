"""How much of the error of the training views lies on each Gaussian, found with one more backward pass a view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from l2o_splat.gaussians import SH_C0, Gaussians
from l2o_splat.raster_settings import RasterSettings
from l2o_splat.rendering import Backend, render
from l2o_splat.views import Photographs

TOLERATED_ERROR = 0.02
"""Difference (sRGB 0 to 1, mean of the channels) below which a pixel needs no more Gaussians."""
LEAST_WEIGHT = 1e-3
"""Sum of blending weights, in pixels, from which on a Gaussian counts as seen by a view."""


@dataclass(frozen=True)
class ErrorMass:
    """Sums over views and pixels, with w the blending weight of a Gaussian in a pixel."""

    error: Float[Tensor, " n"]
    """Sum of w E, E as in :func:`error_map`."""
    visibility: Float[Tensor, " n"]
    """Sum of w, pixels."""
    views: Int[Tensor, " n"]
    """Views in which the Gaussian is drawn with a weight."""


def error_map(
    image: Float[Tensor, "h w 3"], photograph: Float[Tensor, "h w 3"], counted: Bool[Tensor, "h w"] | None = None
) -> Float[Tensor, "h w"]:
    """Absolute difference, mean over channels and 3 x 3 pixels, of which only what exceeds 0.02 remains.

    Noise of single pixels is averaged away. Pixels that do not count have and give no error, whatever they hold.
    """
    error = (image - photograph).abs().mean(dim=-1)
    if counted is not None:
        error = torch.where(counted, error, 0)
    smooth = F.avg_pool2d(error[None, None], 3, stride=1, padding=1, count_include_pad=False)[0, 0]
    excess = (smooth - TOLERATED_ERROR).clamp(min=0)
    return excess if counted is None else torch.where(counted, excess, 0)


def collect_error(
    gaussians: Gaussians,
    photographs: Photographs,
    settings: RasterSettings,
    chosen: Sequence[int] | None = None,
    backend: Backend | None = None,
) -> ErrorMass:
    """Error mass of all Gaussians over some views.

    Args:
        gaussians: Unactivated scene.
        photographs: Training views of one image size, on the scene's device; looked at one at a time.
        settings: What changes the image.
        chosen: Views to look at; None takes all.
        backend: As for :func:`l2o_splat.rendering.render`.
    """
    gaussians = gaussians.detach()
    error, visibility = gaussians.means.new_zeros(2, len(gaussians)).unbind(0)
    views = torch.zeros(len(gaussians), dtype=torch.int64, device=gaussians.device)
    for view in range(len(photographs)) if chosen is None else chosen:
        photograph, counted = photographs.photograph(view)
        camera = photographs.cameras[view : view + 1]
        with torch.no_grad():
            image = render(gaussians, camera, settings, backend).rgb[0]
        amounts = torch.stack([error_map(image, photograph, counted), torch.ones_like(image[..., 0])], dim=-1)
        if counted is not None:
            amounts = amounts * counted[..., None]
        of_view = _weighted_sums(gaussians, camera, amounts, settings, backend)
        error, visibility = error + of_view[:, 0], visibility + of_view[:, 1]
        views += of_view[:, 1] >= LEAST_WEIGHT
    return ErrorMass(error, visibility, views)


def _weighted_sums(
    gaussians: Gaussians, camera, amounts: Float[Tensor, "h w 2"], settings: RasterSettings, backend: Backend | None
) -> Float[Tensor, "n 2"]:
    """Sum over pixels of blending weight times amount.

    Colours enter an image linearly, so these are derivatives of the image to the colours of a grey copy of the scene,
    in which no colour is cut off. The third channel is not used.
    """
    colours = torch.zeros_like(gaussians.features_dc).requires_grad_()
    grey = replace(gaussians, features_dc=colours, features_rest=gaussians.features_rest[:, :0])
    with torch.enable_grad():
        image = render(grey, camera, replace(settings, depth=False), backend).rgb
        (gradient,) = torch.autograd.grad(image, colours, F.pad(amounts, (0, 1))[None])
    return gradient[:, :2] / SH_C0
