"""Adaptive density control of 3DGS (arXiv 2308.04079, section 5), as a baseline that other growth is compared with.

The numbers are those of the paper's code and of gsplat's DefaultStrategy; times are shares of its run of 30,000 steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from l2o_splat.gaussians import Gaussians
from l2o_splat.growth.event import Grown, replaced
from l2o_splat.raster_settings import RasterSettings
from l2o_splat.rendering import Backend
from l2o_splat.rendering.rendered_loss import rendered_loss
from l2o_splat.rotations import rotate
from l2o_splat.views import Photographs, PinholeCameras, Views


@dataclass(frozen=True)
class AdcOptions:
    """3DGS's own numbers, scaled to a short run where they are times."""

    least_gradient: float = 2e-4
    """Mean over views of the gradient to the centre in the image, in halves of the image, from which on a Gaussian
    grows."""
    clone_extent: float = 0.01
    """Longest standard deviation, in scene extents, up to which a Gaussian is cloned rather than split."""
    split_factor: float = 1.6
    """What the standard deviations of a split Gaussian are divided by."""
    least_opacity: float = 0.005
    """Fainter Gaussians are removed at every event."""
    first_share: float = 500 / 30_000
    """Share of the run at the first event."""
    last_share: float = 0.5
    """Share of the run at the last event."""
    events: int = 15
    """Events in all. The paper has 145, one every 100 steps; a short run has no room for so many."""
    reset_shares: tuple[float, ...] = ()
    """Shares of the run at which opacities are cut to ``reset_opacity``. The paper does so at 0.1, 0.2, 0.3 and 0.4,
    and needs thousands of steps to recover; a short run has none to spare."""
    reset_opacity: float = 0.01
    """Opacity after a reset."""

    def __post_init__(self) -> None:
        if self.events < 1:
            raise ValueError(f"There are {self.events} events of density control; at least 1 is needed.")
        if not 0 <= self.first_share <= self.last_share <= 1:
            raise ValueError(
                f"Density control goes from {self.first_share} to {self.last_share} of the run; "
                "0 <= first_share <= last_share <= 1 is needed."
            )


FIRST_ITERATION, ITERATIONS_BETWEEN = 500, 100
"""Images that 3DGS has seen before its first event, and sees between two; it sees one in each of its iterations."""


def adc_event_is_due(event: int, images: int, progress: float, options: AdcOptions) -> bool:
    """Whether 3DGS would control density now: not before the scene has settled, and not in the second half of a run.

    Args:
        event: 0 for the first.
        images: Shown so far, all steps together.
        progress: Share of the run.
        options: ``last_share`` ends it.
    """
    return images >= FIRST_ITERATION + ITERATIONS_BETWEEN * event and progress <= options.last_share


def adc_event_shares(options: AdcOptions) -> tuple[float, ...]:
    """Share of the run at each event, in order, evenly spaced."""
    spacing = (options.last_share - options.first_share) / max(options.events - 1, 1)
    return tuple(options.first_share + spacing * event for event in range(options.events))


def collect_screen_gradient(
    gaussians: Gaussians,
    shown: Sequence[Photographs],
    settings: RasterSettings,
    ssim_weight: float = 0.2,
    backend: Backend | None = None,
) -> Float[Tensor, " n"]:
    """Mean norm of the loss's gradient to the centres in the image, over the views that draw a Gaussian.

    3DGS averages it over the steps since the last event, each of which sees one view; here it is taken at the event, of
    the views that are given. 0 for what no view draws.

    Args:
        gaussians: Unactivated scene.
        shown: Training views, one entry per image size, on the scene's device; looked at one at a time.
        settings: What changes the image.
        ssim_weight: Share of the SSIM term in the loss, 0 to 1.
        backend: As for :func:`l2o_splat.rendering.render`.
    """
    leaves = gaussians.detach().map(lambda tensor: tensor.clone().requires_grad_())
    total, drawn_in = leaves.means.new_zeros(2, len(gaussians)).unbind(0)
    for photographs, view in ((group, view) for group in shown for view in range(len(group))):
        image, counted = photographs.photograph(view)
        mask = None if counted is None else counted[None, ..., None].to(image.dtype)
        exposures = None if photographs.exposures is None else photographs.exposures[view : view + 1].detach()
        one = Views(photographs.cameras[view : view + 1], image[None], mask, exposures=exposures)
        with torch.enable_grad():
            loss = rendered_loss(leaves, one, settings, ssim_weight, backend).loss
            (of_means,) = torch.autograd.grad(loss, leaves.means)
        total = total + screen_gradient(of_means, leaves.means.detach(), one.cameras).norm(dim=1)
        drawn_in = drawn_in + of_means.any(dim=1)
    return total / drawn_in.clamp(min=1)


def screen_gradient(
    of_means: Float[Tensor, "n 3"], means: Float[Tensor, "n 3"], camera: PinholeCameras
) -> Float[Tensor, "n 2"]:
    """Change of a loss as Gaussians move parallel to the image of the only camera, per half of the image.

    3DGS takes the derivative to the projected centre with the projected covariance held fixed. This one moves the
    Gaussian itself, so that covariance and colour follow as they are seen from the new place; they change by a share of
    the angle that the move spans, which is small for whatever is small in the image.

    Args:
        of_means: Gradient to the means, per scene unit, of a loss of this one view.
        means: World frame, scene units.
        camera: One camera.
    """
    in_camera = of_means @ camera.viewmats[0, :3, :3].mT
    focal = torch.stack([camera.Ks[0, 0, 0], camera.Ks[0, 1, 1]])
    half = focal.new_tensor([camera.width / 2, camera.height / 2])
    depth = camera.depths(means)[0]
    return in_camera[:, :2] * depth[:, None] / focal * half


@torch.no_grad()
def control_density(
    gaussians: Gaussians,
    gradient: Float[Tensor, " n"],
    extent: float,
    options: AdcOptions,
    most: int,
    generator: torch.Generator,
) -> Grown:
    """Clone small Gaussians and split large ones whose gradient is large, and remove the faint.

    A clone is an exact copy. The two children of a split lie at random places in their parent, a factor smaller.

    Args:
        gaussians: The scene before the event, unactivated.
        gradient: As :func:`collect_screen_gradient` gives it.
        extent: Extent of the cameras, scene units, as ``SceneKnowledge`` has it.
        options: 3DGS's numbers.
        most: Number of Gaussians not to be exceeded, for the memory's sake; those of largest gradient come first.
        generator: On the CPU, as :func:`.event.event_generator` makes it.

    Returns:
        What is kept, in its order, then clones and children. A cloned Gaussian itself is kept.
    """
    stay = gaussians.opacities[:, 0].sigmoid() >= options.least_opacity
    if not stay.any():
        stay[gaussians.opacities[:, 0].argmax()] = True
    growing = stay & (gradient >= options.least_gradient)
    room = max(most - int(stay.sum()), 0)
    if int(growing.sum()) > room:
        ranked = torch.where(growing, gradient, -torch.inf).argsort(descending=True, stable=True)
        growing = torch.zeros_like(growing)
        growing[ranked[:room]] = True
    small = gaussians.scales.amax(dim=1).exp() <= options.clone_extent * extent
    cloned, divided = (growing & small).nonzero()[:, 0], (growing & ~small).nonzero()[:, 0]
    stay[divided] = False
    with_clones = replaced(gaussians, stay, cloned, gaussians[cloned])
    children = _random_halves(gaussians[divided], options.split_factor, generator)
    return Grown(
        with_clones.gaussians.zip_map(lambda old, new: torch.cat([old, new]), children),
        torch.cat([with_clones.source, divided.repeat_interleave(2)]),
        torch.cat([with_clones.fresh, stay.new_ones(len(children))]),
    )


def _random_halves(parents: Gaussians, factor: float, generator: torch.Generator) -> Gaussians:
    """Two smaller children at places drawn from each parent's own density."""
    both = parents[torch.arange(len(parents)).repeat_interleave(2)]
    normal = torch.randn(len(both), 3, generator=generator).to(both.means)
    means = both.means + rotate(both.quats, normal * both.scales.exp())
    return replace(both, means=means, scales=both.scales - math.log(factor))


@torch.no_grad()
def reset_opacities(gaussians: Gaussians, opacity: float = AdcOptions.reset_opacity) -> Gaussians:
    """The scene with no Gaussian more opaque than ``opacity``; its colours have to be found through the fog again."""
    return replace(gaussians, opacities=gaussians.opacities.clamp(max=math.log(opacity / (1 - opacity))))
