"""The photometric loss of a scene, view by view, so that no more than a view per thread is in memory at a time."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from l2o_splat import threads
from l2o_splat.gaussians import FIELDS, Gaussians
from l2o_splat.losses import photometric_loss
from l2o_splat.raster_settings import RasterSettings
from l2o_splat.rendering import Backend, backend_for, render
from l2o_splat.rendering.camera_motion import viewmats_gradient
from l2o_splat.rendering.evidence import Evidence, EvidenceKind
from l2o_splat.rendering.evidence_by_backward import evidence_by_backward
from l2o_splat.rendering.exposure import exposed, sensitivities
from l2o_splat.rendering.once import differentiable_once
from l2o_splat.views import Photographs, Views


@dataclass(frozen=True)
class RenderedLoss:
    """How far a scene is from photographs."""

    loss: Float[Tensor, ""]
    """Photometric loss, mean over pixels, sum over views; differentiable once, to the Gaussians, the exposures and, if
    they require it, to the cameras' matrices as :func:`l2o_splat.rendering.render` is."""
    squared_errors: Float[Tensor, " v"]
    """Squared difference of each view, mean over the pixels that count and channels; NaN where none counts."""
    evidence: Evidence | None = None
    """What the views say about each Gaussian besides the gradient; None if nothing was asked for."""


def rendered_loss(
    gaussians: Gaussians,
    photographs: Photographs,
    settings: RasterSettings,
    ssim_weight: float = 0.2,
    backend: Backend | None = None,
    evidence: Collection[EvidenceKind] = (),
) -> RenderedLoss:
    """Draw the cameras of some photographs and compare.

    The same as :func:`l2o_splat.losses.photometric_loss` of what :func:`l2o_splat.rendering.render` draws, in the
    exposures of the photographs if they have any. The ``cpu`` backend draws, compares and differentiates one view after
    the other in each of its threads, and keeps of a view only what its splats have to do with the loss.

    Args:
        gaussians: Unactivated scene.
        photographs: One image size, on the scene's device.
        settings: What changes the image.
        ssim_weight: Share of the SSIM term, 0 to 1.
        backend: As for :func:`l2o_splat.rendering.render`.
        evidence: Which sums to find beside the loss; they have no gradient. The ``cpu`` backend finds them in the
            pass that finds the gradient, the others draw once more.

    Raises:
        ValueError: As the two functions do.
    """
    backend = backend or backend_for(gaussians)
    if backend == "cpu":
        inputs = [photographs.cameras.viewmats, *(tensor for _, tensor in gaussians.items())]
        if photographs.exposures is not None:
            inputs.append(photographs.exposures)
        inputs = differentiable_once("cpu", *inputs)
        return RenderedLoss(*_RenderedLoss.apply(photographs, settings, ssim_weight, evidence, *inputs))
    views = photographs.views()
    images = render(gaussians, views.cameras, settings, backend).rgb
    shown = exposed(images, views.exposures)
    loss = photometric_loss(shown, views.images, views.masks, ssim_weight)
    errors, found = squared_errors(shown.detach(), views), None
    if evidence:
        views = replace(views, cameras=replace(views.cameras, viewmats=views.cameras.viewmats.detach()))
        found = evidence_by_backward(gaussians, views, images, settings, ssim_weight, backend, evidence)
    return RenderedLoss(loss, errors, found)


def squared_errors(images: Float[Tensor, "v h w 3"], views: Views) -> Float[Tensor, " v"]:
    """Squared difference of each view, mean over the pixels that count and channels; NaN where none counts."""
    squared = (images - views.images).square()
    if views.counted is None:
        return squared.mean(dim=(1, 2, 3))
    total = torch.where(views.counted, squared, 0).sum(dim=(1, 2, 3))
    return total / (3 * views.counted.sum(dim=(1, 2, 3)))


class _RenderedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        photographs: Photographs,
        settings: RasterSettings,
        ssim_weight: float,
        evidence: Collection[EvidenceKind],
        viewmats: Tensor,
        *tensors: Tensor,
    ):
        """``tensors`` are the six fields and, if the photographs have some, their exposures."""
        from l2o_splat.losses.fused import view_loss
        from l2o_splat.rendering.cpu import check
        from l2o_splat.rendering.cpu_evidence import evidence_of, weigh_pixels
        from l2o_splat.rendering.cpu_exposure import expose, expose_vjp
        from l2o_splat.rendering.cpu_scene import ProjectedScene, empty_images

        gaussians = Gaussians(*tensors[: len(FIELDS)])
        # Detached: a thread may hold on to its last job for a while, and with it to the graph of this step.
        exposures = None if len(tensors) == len(FIELDS) else tensors[-1].detach().contiguous().numpy()
        v_exposures = None if exposures is None else np.zeros_like(exposures)
        check(gaussians, photographs.cameras)
        scene = ProjectedScene(gaussians, photographs.cameras, settings)
        sensitivity = np.ones(len(scene)) if exposures is None else sensitivities(tensors[-1]).tolist()
        with_gradient = any(ctx.needs_input_grad)
        splat_sums = scene.empty_splat_sums() if with_gradient or evidence else None

        def compare(view: int) -> tuple[float, float]:
            image, mask = photographs.photograph(view)
            images, tiles = empty_images(image.shape[:2]), scene.bin(view)
            scene.draw(view, tiles, images)
            v_rgb = None if splat_sums is None else torch.empty_like(image).numpy()
            image, mask = image.numpy(), None if mask is None else mask.numpy()
            shown = images.rgb if exposures is None else expose(images.rgb, exposures[view])
            found = view_loss(shown, image, mask, ssim_weight, v_rgb)
            if splat_sums is not None:
                weights = weigh_pixels(shown, image, mask, ssim_weight, evidence, sensitivity[view])
                if exposures is not None:
                    v_shown, v_rgb = v_rgb, shown  # Nobody needs the image any more.
                    expose_vjp(images.rgb, exposures[view], v_shown, v_rgb, v_exposures[view])
                scene.differentiate(view, tiles, images, v_rgb, None, None, splat_sums[view], *weights)
            return found.loss, float("nan") if found.squared_error is None else found.squared_error

        losses, errors = zip(*threads.run(compare, len(scene)), strict=True)
        ctx.gradients, ctx.motions = None, None
        if with_gradient:
            ctx.gradients, ctx.motions = scene.gradients(splat_sums, cameras=ctx.needs_input_grad[4])
        ctx.v_exposures = None if v_exposures is None else torch.from_numpy(v_exposures)
        found_evidence = None
        if evidence:
            found_evidence = evidence_of(splat_sums, photographs.cameras.centres, scene.rules.degree, evidence)
        ctx.set_materialize_grads(False)
        # Saving them lets autograd notice when one is changed before the gradient is asked for.
        ctx.save_for_backward(viewmats, *tensors)
        errors = torch.tensor(errors)
        ctx.mark_non_differentiable(errors)
        return torch.tensor(sum(losses)), errors, found_evidence

    @staticmethod
    def backward(ctx, v_loss: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        viewmats, *_ = ctx.saved_tensors  # Reading them is the check as well.
        # Handed over, not kept: autograd may then take them for the parameters' own gradients without copying.
        gradients, ctx.gradients = ctx.gradients, None
        if v_loss is None:
            return tuple(None for _ in ctx.needs_input_grad)
        if gradients is None:
            raise RuntimeError("The gradient of a rendered loss can be asked for once; compute the loss again.")
        found = [tensor for _, tensor in gradients.items()]
        if ctx.v_exposures is not None:
            found.append(ctx.v_exposures)
        if v_loss != 1:
            found = [tensor.mul_(v_loss) for tensor in found]
        v_viewmats = None if ctx.motions is None else v_loss * viewmats_gradient(ctx.motions, viewmats)
        return None, None, None, None, v_viewmats, *found
