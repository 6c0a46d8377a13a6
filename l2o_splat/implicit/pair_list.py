"""Compositing over a fixed list of pairs of pixel and Gaussian, in plain tensor operations.

A renderer decides what is drawn where, and in which order; then it computes colours. Here the decisions are taken
once, with the rules of the torch twin (:mod:`l2o_splat.rendering.reference`), and written down as a list. Over a fixed
list the images are a smooth function of the Gaussians (but for the clamps of alpha and colour), so that derivatives of
any order, Newton's method and finite differences agree with one another. At the point where the list was made, images
and first derivatives are those of the renderer itself.

Works for any dtype and device. The list takes about 60 bytes per pair and recorded copy, so it suits a few views of
256 x 256 or so.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from l2o_splat.gaussians import Gaussians
from l2o_splat.rendering import Linearization, RasterSettings, Rendering
from l2o_splat.rendering.reference import TILE, Splats, project
from l2o_splat.views import PinholeCameras

MAX_CANDIDATES = 4_000_000
"""Pairs tried at a time while a list is made; bounds the memory."""


@dataclass(frozen=True)
class PairList:
    """Which Gaussians are drawn in which pixels of one view."""

    gaussians: Int[Tensor, " m"]
    """Gaussians in sight, front to back."""
    members: Int[Tensor, " p"]
    """Entry of ``gaussians`` of every pair."""
    pixels: Int[Tensor, " p"]
    """Row-major pixel of every pair, ascending; front to back within a pixel."""
    first: Int[Tensor, " p"]
    """The first pair of the same pixel."""

    def __len__(self) -> int:
        return len(self.members)


@torch.no_grad()
def list_pairs(gaussians: Gaussians, camera: PinholeCameras, settings: RasterSettings) -> PairList:
    """What the torch twin draws in the one view of ``camera``."""
    splats = _project(gaussians, camera, settings)
    visible = splats.visible.nonzero()[:, 0]
    visible = visible[splats.depths[visible].argsort(stable=True)]
    splats = _project(gaussians[visible], camera, settings)

    size = splats.centres.new_tensor([camera.width, camera.height])
    first = (((splats.centres - splats.radii) / TILE).floor() * TILE).clamp(min=0).minimum(size).long()
    last = (((splats.centres + splats.radii) / TILE).ceil() * TILE).clamp(min=0).minimum(size).long()
    spans = last - first
    areas = spans.prod(dim=1)
    members, pixels = [], []
    for block in _blocks(areas):
        owners = torch.arange(len(areas), device=areas.device)[block].repeat_interleave(areas[block])
        within = torch.arange(len(owners), device=areas.device)
        within = within - (areas[block].cumsum(0) - areas[block]).repeat_interleave(areas[block])
        x = first[owners, 0] + within % spans[owners, 0]
        y = first[owners, 1] + within // spans[owners, 0]
        candidates = y * camera.width + x
        alphas, exponents = _alphas(splats, owners, candidates, camera.width, settings)
        drawn = (exponents >= 0) & (alphas >= 1 / 255)
        members.append(owners[drawn])
        pixels.append(candidates[drawn])
    members, pixels = torch.cat(members), torch.cat(pixels)
    pixels, order = pixels.sort(stable=True)
    pairs = _with_first(visible, members[order], pixels)

    alphas, _ = _alphas(splats, pairs.members, pairs.pixels, camera.width, settings)
    # The light never grows, so whatever follows the Gaussian that would leave too little is left out as well.
    seen = _light(alphas, pairs) * (1 - alphas) > 1e-4
    return _with_first(visible, pairs.members[seen], pairs.pixels[seen])


def draw_pairs(gaussians: Gaussians, pairs: PairList, camera: PinholeCameras, settings: RasterSettings) -> Rendering:
    """The one view of ``camera``, differentiable to the Gaussians any number of times. There is no depth image."""
    splats = _project(gaussians[pairs.gaussians], camera, settings)
    alphas, _ = _alphas(splats, pairs.members, pairs.pixels, camera.width, settings)
    weights = _light(alphas, pairs) * alphas
    drawn = torch.cat([weights[:, None] * splats.colours[pairs.members], weights[:, None]], dim=1)
    total = drawn.new_zeros(camera.height * camera.width, 4).index_add(0, pairs.pixels, drawn)
    rgb, alpha = total.unflatten(0, (1, camera.height, camera.width)).split([3, 1], dim=3)
    return Rendering(rgb + (1 - alpha) * rgb.new_tensor(settings.background), alpha)


class ListedLinearization(Linearization):
    """Jacobian products of one view over a fixed list.

    Both directions of differentiation reuse one recorded graph: a gradient is linear in its cotangent, so
    differentiating it by the cotangent gives the product with a tangent ("double vjp").
    """

    def __init__(self, gaussians: Gaussians, pairs: PairList, camera: PinholeCameras, settings: RasterSettings) -> None:
        with torch.enable_grad():
            self._leaves = [tensor.detach().clone().requires_grad_() for _, tensor in gaussians.items()]
            drawn = draw_pairs(Gaussians(*self._leaves), pairs, camera, settings)
            self._images = [drawn.rgb, drawn.alpha]
            self._cotangents = [torch.zeros_like(image, requires_grad=True) for image in self._images]
            self._gradients = torch.autograd.grad(
                self._images, self._leaves, self._cotangents, create_graph=True, materialize_grads=True
            )

    @property
    def rendering(self) -> Rendering:
        return Rendering(*(image.detach().clone() for image in self._images))

    def jvp(self, tangents: Gaussians) -> Rendering:
        products = torch.autograd.grad(
            self._gradients,
            self._cotangents,
            [tangent.detach() for _, tangent in tangents.items()],
            retain_graph=True,
            materialize_grads=True,
        )
        return Rendering(*products)

    def vjp(self, cotangents: Rendering) -> Gaussians:
        given = [cotangents.rgb.detach(), cotangents.alpha.detach()]
        products = torch.autograd.grad(self._images, self._leaves, given, retain_graph=True, materialize_grads=True)
        return Gaussians(*products)


def _project(gaussians: Gaussians, camera: PinholeCameras, settings: RasterSettings) -> Splats:
    return project(gaussians, camera.viewmats[0], camera.Ks[0], (camera.width, camera.height), settings)


def _blocks(areas: Int[Tensor, " m"]) -> list[slice]:
    """Runs of Gaussians with at most ``MAX_CANDIDATES`` pairs each, or a single one."""
    blocks, begin, total = [], 0, 0
    for index, area in enumerate(areas.tolist()):
        if total + area > MAX_CANDIDATES and index > begin:
            blocks.append(slice(begin, index))
            begin, total = index, 0
        total += area
    return [*blocks, slice(begin, len(areas))]


def _with_first(gaussians: Tensor, members: Tensor, pixels: Tensor) -> PairList:
    return PairList(gaussians, members, pixels, torch.searchsorted(pixels, pixels))


def _alphas(
    splats: Splats, members: Int[Tensor, " p"], pixels: Int[Tensor, " p"], width: int, settings: RasterSettings
) -> tuple[Float[Tensor, " p"], Float[Tensor, " p"]]:
    """How much of the light each Gaussian takes from its pixel, and the exponents of the Gaussian bell."""
    dx, dy = (splats.centres[members] - torch.stack([pixels % width, pixels // width], dim=1) - 0.5).unbind(1)
    xx, xy, yy = splats.conics[members].unbind(1)
    exponents = (xx * dx * dx + yy * dy * dy) / 2 + xy * dx * dy
    limit = 0.99 if settings.image_rules == "1.6" else 0.999
    return (splats.opacities[members] * (-exponents).exp()).clamp(max=limit), exponents


def _light(alphas: Float[Tensor, " p"], pairs: PairList) -> Float[Tensor, " p"]:
    """Light that reaches each Gaussian of a pixel."""
    # In float64: the sum runs over all pixels, and its rounding error would reach the last ones.
    logs = torch.log1p(-alphas.double())
    before = logs.cumsum(0) - logs
    return (before - before[pairs.first]).exp().to(alphas.dtype)
