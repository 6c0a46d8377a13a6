"""Jacobian products of renderers that give gradients only, such as gsplat.

Never differentiate such a renderer twice or in forward mode: depending on its release, gsplat answers with an error, a
zero tangent or a silently wrong second derivative. J^T u comes from a graph that is recorded once and kept; J v comes
from the list compositor (:mod:`l2o_splat.implicit.pair_list`) or, where the list would be too long, from central
differences of images.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version

import torch
from torch import Tensor

from l2o_splat.gaussians import Gaussians
from l2o_splat.implicit.pair_list import ListedLinearization, list_pairs
from l2o_splat.rendering import ImageRules, Linearization, RasterSettings, Rendering
from l2o_splat.views import PinholeCameras

MAX_LISTED_PAIRS = 16_000_000
"""Above it, J v comes from differences: a list of that length takes several gigabytes."""

DISPLACEMENT = 1e-2
"""Largest displacement of a parameter in a central difference; smaller ones drown in rounding, larger ones bend."""

Draw = Callable[[Gaussians], Rendering]
"""Draws one view, differentiable once."""


class ReverseOnlyLinearization(Linearization):
    """One view of a renderer that has no forward mode.

    Args:
        gaussians: Where to linearize.
        draw: The renderer, for this view.
        camera: The one view, for the tangents.
        settings: For the tangents; ``image_rules`` must be those that ``draw`` follows.
    """

    def __init__(self, gaussians: Gaussians, draw: Draw, camera: PinholeCameras, settings: RasterSettings) -> None:
        self._gaussians = gaussians.map(lambda tensor: tensor.detach().clone())
        self._draw, self._camera = draw, camera
        with torch.enable_grad():
            self._leaves = self._gaussians.map(lambda tensor: tensor.clone().requires_grad_())
            self._rendering = draw(self._leaves)
        pairs = list_pairs(self._gaussians, camera, settings)
        listed = len(pairs) <= MAX_LISTED_PAIRS
        self._listed = ListedLinearization(self._gaussians, pairs, camera, settings) if listed else None

    @property
    def rendering(self) -> Rendering:
        return self._rendering.map(lambda image: image.detach().clone())

    def jvp(self, tangents: Gaussians) -> Rendering:
        if self._listed is not None:
            return self._listed.jvp(tangents)
        return difference_jvp(self._draw, self._gaussians, tangents, self._camera)

    def vjp(self, cotangents: Rendering) -> Gaussians:
        gradients = torch.autograd.grad(
            [self._rendering.rgb, self._rendering.alpha],
            [leaf for _, leaf in self._leaves.items()],
            [cotangents.rgb.detach(), cotangents.alpha.detach()],
            retain_graph=True,
            materialize_grads=True,
        )
        return Gaussians(*gradients)


@torch.no_grad()
def difference_jvp(draw: Draw, gaussians: Gaussians, tangents: Gaussians, camera: PinholeCameras) -> Rendering:
    """J v by a central difference, in two renderings.

    The step is such that no parameter is displaced by more than ``DISPLACEMENT``, positions in units of the larger of
    the Gaussian's own size and a pixel at its depth. Where splats enter or leave pixels the result is off.
    """
    unit = torch.maximum(gaussians.scales.amax(dim=1, keepdim=True).exp(), _pixel_size(gaussians.means, camera))
    largest = max(
        (tangent / unit if name == "means" else tangent).abs().amax().item() if tangent.numel() else 0.0
        for name, tangent in tangents.items()
    )
    step = DISPLACEMENT / max(largest, torch.finfo(unit.dtype).tiny)
    ahead, behind = (
        draw(gaussians.zip_map(lambda value, tangent, sign=sign: value + sign * step * tangent, tangents))
        for sign in (1, -1)
    )
    return Rendering((ahead.rgb - behind.rgb) / (2 * step), (ahead.alpha - behind.alpha) / (2 * step))


def _pixel_size(means: Tensor, camera: PinholeCameras) -> Tensor:
    """Scene units per pixel at each Gaussian's depth, ``[n, 1]``."""
    return camera.depths(means)[0].abs()[:, None] / camera.Ks[0, 0, 0]


def installed_image_rules() -> ImageRules:
    """Image rules of the installed gsplat."""
    release = tuple(int(part) for part in version("gsplat").split(".")[:2])
    return "1.4" if release < (1, 5) else "1.5" if release == (1, 5) else "1.6"
