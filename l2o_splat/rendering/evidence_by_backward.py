"""The sums of :mod:`evidence` for backends that know nothing of them: by backward passes with other cotangents."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from l2o_splat.gaussians import SH_C0, Gaussians
from l2o_splat.harmonics import sh_basis
from l2o_splat.losses import photometric_loss
from l2o_splat.raster_settings import RasterSettings
from l2o_splat.rendering import Backend, render
from l2o_splat.rendering.evidence import (
    ColourEvidence,
    Evidence,
    EvidenceKind,
    curvatures,
    evidence_from,
    excess_errors,
)
from l2o_splat.rendering.exposure import exposed, sensitivities
from l2o_splat.views import PinholeCameras, Views


def evidence_by_backward(
    gaussians: Gaussians,
    views: Views,
    images: Float[Tensor, "v h w 3"],
    settings: RasterSettings,
    ssim_weight: float,
    backend: Backend,
    kinds: Collection[EvidenceKind],
) -> Evidence:
    """Find the evidence that views hold, one view after the other.

    The image is linear in the colours, so that the gradient of <image, X> to the colour of a Gaussian is the sum of
    w X. Three of these come from one backward pass, since each channel may have its own X.

    Args:
        gaussians: Unactivated scene.
        views: Cameras and photographs, with their exposures if they have any.
        images: Renders of the cameras, sRGB, not clamped, in the colours of the scene.
        settings: What changes the image.
        ssim_weight: Share of the SSIM term in the loss, 0 to 1.
        backend: As for :func:`l2o_splat.rendering.render`.
        kinds: What to find.
    """
    gaussians, images, degree = gaussians.detach(), images.detach(), settings.drawn_degree(gaussians.sh_degree)
    exposures = None if views.exposures is None else views.exposures.detach()
    shown = exposed(images, exposures)
    curvature = curvatures(shown, views, ssim_weight)
    if exposures is not None:
        curvature = curvature * sensitivities(exposures)[:, None, None]
    counts = torch.stack([torch.ones_like(images[..., 0]), curvature, excess_errors(shown, views)], dim=3)
    sums, gradients = [], []
    for view in range(len(views)):
        camera = views.cameras[view : view + 1]
        with torch.enable_grad():
            # Gray of degree 0, far from the cut at 0.
            grey = torch.zeros_like(gaussians.features_dc).requires_grad_()
            scene = replace(gaussians, features_dc=grey, features_rest=gaussians.features_rest[:, :0])
            drawn = render(scene, camera, settings, backend).rgb
        (by_count,) = torch.autograd.grad(drawn, grey, counts[view : view + 1], retain_graph="colours" in kinds)
        sums.append(by_count / SH_C0)
        if "colours" in kinds:
            cotangent = _loss_gradient(images[view : view + 1], views[view : view + 1], ssim_weight)
            (by_colour,) = torch.autograd.grad(drawn, grey, cotangent)
            gradients.append(torch.where(_raw_colours(gaussians, camera, degree) > 0, by_colour / SH_C0, 0))
    visibility, curvature, error = torch.stack(sums).unbind(dim=2)
    by_colour = torch.stack(gradients) if gradients else visibility.new_empty(0, len(gaussians), 3)
    colours = ColourEvidence(by_colour, curvature, views.cameras.centres, degree)
    return evidence_from(kinds, visibility, colours, error)


def _loss_gradient(image: Float[Tensor, "1 h w 3"], view: Views, ssim_weight: float) -> Float[Tensor, "1 h w 3"]:
    with torch.enable_grad():
        leaf = image.clone().requires_grad_()
        loss = photometric_loss(exposed(leaf, view.exposures), view.images, view.masks, ssim_weight)
    return torch.autograd.grad(loss, leaf)[0]


def _raw_colours(gaussians: Gaussians, camera: PinholeCameras, degree: int) -> Float[Tensor, "n 3"]:
    """Colour of every Gaussian towards a camera, before it is cut off at 0."""
    directions = gaussians.means - camera.centres
    basis = sh_basis(directions / directions.norm(dim=1, keepdim=True), degree)
    return 0.5 + (basis[:, :, None] * gaussians.sh[:, : basis.shape[1]]).sum(dim=1)
