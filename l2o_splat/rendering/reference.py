"""The reference backend: the rules of the rasterizer in plain tensor operations.

Slow and readable, for any dtype and device, and differentiable twice. It is the oracle of the other
backends, the path for second derivatives, and the fallback when numba cannot be imported.

The rules are those of gsplat (arXiv 2409.06765), read from its sources: the local affine projection of
EWA splatting (Zwicker et al., IEEE VIS 2001) with the slope limited to 1.3 times the field of view,
``eps2d`` on the diagonal of the covariance, a rectangle of whole 16-pixel tiles around every Gaussian,
front-to-back compositing of every alpha of at least 1/255 until less than 1e-4 of the light is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from l2o_splat.gaussians import Gaussians
from l2o_splat.harmonics import sh_basis
from l2o_splat.raster_settings import RasterSettings
from l2o_splat.rendering.linearization import Linearization
from l2o_splat.rendering.output import Rendering
from l2o_splat.views import PinholeCameras

TILE = 16
"""Tile size of gsplat, pixels. Under rules 1.4 the image depends on it."""
CHUNK = 1024
"""Gaussians composited at a time in one tile; bounds the memory."""


def render(gaussians: Gaussians, cameras: PinholeCameras, settings: RasterSettings) -> Rendering:
    """Draw all views; see :func:`l2o_splat.rendering.render`.

    Differentiable to the Gaussians and to both camera matrices, any number of times.
    """
    views = [_render_view(gaussians, cameras, view, settings) for view in range(len(cameras))]
    size = (0, cameras.height, cameras.width)
    images = torch.stack(views) if views else gaussians.means.new_zeros((*size, 5))
    rgb, depth, alpha = images.split([3, 1, 1], dim=3)
    background = rgb.new_tensor(settings.background)
    expected = depth / alpha.clamp(min=1e-10) if settings.depth else None
    return Rendering(rgb + (1 - alpha) * background, alpha, expected)


def linearize(gaussians: Gaussians, cameras: PinholeCameras, settings: RasterSettings) -> Linearization:
    """Images and Jacobian products at ``gaussians``; see :func:`l2o_splat.rendering.linearize`."""
    return ReferenceLinearization(gaussians, cameras, settings)


class ReferenceLinearization(Linearization):
    """Jacobian products by automatic differentiation; the images are drawn once more for every tangent."""

    def __init__(self, gaussians: Gaussians, cameras: PinholeCameras, settings: RasterSettings) -> None:
        self._gaussians = gaussians.map(lambda tensor: tensor.detach().clone())
        self._cameras = PinholeCameras(cameras.viewmats.detach(), cameras.Ks.detach(), cameras.width, cameras.height)
        self._settings = settings

    @cached_property
    def _graph(self) -> tuple[Gaussians, Rendering]:
        with torch.enable_grad():
            leaves = self._gaussians.map(lambda tensor: tensor.clone().requires_grad_())
            return leaves, render(leaves, self._cameras, self._settings)

    @cached_property
    def rendering(self) -> Rendering:
        with torch.no_grad():
            return render(self._gaussians, self._cameras, self._settings)

    def jvp(self, tangents: Gaussians) -> Rendering:
        with torch.no_grad(), forward_ad.dual_level():
            duals = self._gaussians.zip_map(forward_ad.make_dual, tangents.detach())
            return render(duals, self._cameras, self._settings).map(_tangent)

    def vjp(self, cotangents: Rendering) -> Gaussians:
        leaves, rendering = self._graph
        pairs = [
            (image, cotangent.detach())
            for image, cotangent in zip(vars(rendering).values(), vars(cotangents).values(), strict=True)
            if image is not None and cotangent is not None
        ]
        gradients = torch.autograd.grad(
            [image for image, _ in pairs],
            [leaf for _, leaf in leaves.items()],
            [cotangent for _, cotangent in pairs],
            retain_graph=True,
            materialize_grads=True,
        )
        return Gaussians(*gradients)


def _tangent(dual: Tensor) -> Tensor:
    tangent = forward_ad.unpack_dual(dual).tangent
    return torch.zeros_like(dual) if tangent is None else tangent.clone()


@dataclass(frozen=True)
class Splats:
    """Gaussians as one camera sees them."""

    centres: Float[Tensor, "n 2"]
    """Pixels."""
    conics: Float[Tensor, "n 3"]
    """Inverse covariance xx, xy, yy; 1 / pixels squared."""
    opacities: Float[Tensor, " n"]
    colours: Float[Tensor, "n 3"]
    depths: Float[Tensor, " n"]
    """Camera z, scene units."""
    radii: Float[Tensor, "n 2"]
    """Half the size of the rectangle in which the Gaussian is drawn, whole pixels."""
    visible: Bool[Tensor, " n"]


def project(
    gaussians: Gaussians, viewmat: Tensor, K: Tensor, size: tuple[int, int], settings: RasterSettings
) -> Splats:
    """Gaussians on the image plane of one camera.

    Args:
        gaussians: Unactivated scene.
        viewmat: ``[4, 4]`` camera from world.
        K: ``[3, 3]`` intrinsics, pixels.
        size: Width and height of the image, pixels.
    """
    width, height = size
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    rotation, translation = viewmat[:3, :3], viewmat[:3, 3]
    x, y, z = (gaussians.means @ rotation.mT + translation).unbind(1)

    axes = rotation @ _rotations(gaussians.quats) * gaussians.scales.exp()[:, None]
    slope_x = _limited(x / z, cx / fx, (width - cx) / fx, 0.15 * width / fx)
    slope_y = _limited(y / z, cy / fy, (height - cy) / fy, 0.15 * height / fy)
    rows = torch.stack(
        [
            (fx / z)[:, None] * (axes[:, 0] - slope_x[:, None] * axes[:, 2]),
            (fy / z)[:, None] * (axes[:, 1] - slope_y[:, None] * axes[:, 2]),
        ],
        dim=1,
    )
    covariance = rows @ rows.mT
    xx, xy, yy = covariance[:, 0, 0], covariance[:, 0, 1], covariance[:, 1, 1]
    sharp_determinant = xx * yy - xy * xy
    xx, yy = xx + settings.eps2d, yy + settings.eps2d
    determinant = xx * yy - xy * xy
    opacities = gaussians.opacities[:, 0].sigmoid()
    if settings.rasterize_mode == "antialiased":
        opacities = opacities * _compensation(sharp_determinant / determinant, settings)

    centres = torch.stack([fx * x / z + cx, fy * y / z + cy], dim=1)
    conics = torch.stack([yy, -xy, xx], dim=1) / determinant[:, None]
    raw_colours = _raw_colours(gaussians, viewmat, settings)
    radii = _radii(xx, yy, determinant, opacities, settings)
    lower, upper = centres - radii, centres + radii
    values = torch.cat([centres, conics, raw_colours, torch.stack([opacities, z, determinant], dim=1)], dim=1)
    visible = (
        (z >= settings.near)
        & (z <= settings.far)
        & (determinant > 0)
        & (radii > 0).all(1)
        & (upper > 0).all(1)
        & (lower < lower.new_tensor([width, height])).all(1)
        & values.isfinite().all(1)
    )
    return Splats(centres, conics, opacities, raw_colours.clamp(min=0), z, radii, visible)


def _rotations(quats: Float[Tensor, "n 4"]) -> Float[Tensor, "n 3 3"]:
    """Rotation matrices of quaternions w, x, y, z of any length but 0."""
    w, x, y, z = (quats / quats.norm(dim=1, keepdim=True)).unbind(1)
    entries = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(entries, dim=1).unflatten(1, (3, 3))


def _limited(slope: Float[Tensor, " n"], left: Tensor, right: Tensor, margin: Tensor) -> Float[Tensor, " n"]:
    """Slopes kept within the field of view and a margin; further out the affine projection explodes."""
    return torch.minimum(torch.maximum(slope, -left - margin), right + margin)


def _compensation(ratio: Float[Tensor, " n"], settings: RasterSettings) -> Float[Tensor, " n"]:
    """Factor on the opacity that keeps the total of a blurred Gaussian (Mip-Splatting, arXiv 2311.16493, eq. 9)."""
    floor = 0.005 if settings.image_rules == "1.6" else 0.0
    above = ratio > floor**2
    return torch.where(above, torch.where(above, ratio, 1).sqrt(), floor)


def _raw_colours(gaussians: Gaussians, viewmat: Tensor, settings: RasterSettings) -> Float[Tensor, "n 3"]:
    """Colour of every Gaussian towards the camera, before it is cut off below 0."""
    directions = gaussians.means - torch.linalg.inv(viewmat)[:3, 3]
    directions = directions / directions.norm(dim=1, keepdim=True)
    basis = sh_basis(directions, settings.drawn_degree(gaussians.sh_degree))
    return 0.5 + (basis[:, :, None] * gaussians.sh[:, : basis.shape[1]]).sum(1)


@torch.no_grad()
def _radii(xx: Tensor, yy: Tensor, determinant: Tensor, opacities: Tensor, settings: RasterSettings) -> Tensor:
    """Rectangle half sizes ``[n, 2]``: three sigma of the long axis (1.4), or just what can be seen (1.5 and later)."""
    if settings.image_rules == "1.4":
        middle = (xx + yy) / 2
        largest = middle + (middle * middle - determinant).clamp(min=0.01).sqrt()
        return (3 * largest.sqrt()).ceil()[:, None].expand(-1, 2)
    extent = (2 * (255 * opacities).clamp(min=1).log()).sqrt().clamp(max=3.33)
    return (extent[:, None] * torch.stack([xx, yy], dim=1).sqrt()).ceil()


def _render_view(gaussians: Gaussians, cameras: PinholeCameras, view: int, settings: RasterSettings) -> Tensor:
    """Accumulated colour, depth and alpha of one view, ``[h, w, 5]``."""
    viewmat, K, size = cameras.viewmats[view], cameras.Ks[view], (cameras.width, cameras.height)
    # What is not visible is left out before anything is differentiated: its values may be infinite, and 0 * inf is NaN.
    with torch.no_grad():
        splats = project(gaussians, viewmat, K, size, settings)
        visible = splats.visible.nonzero()[:, 0]
        visible = visible[splats.depths[visible].argsort(stable=True)]
    return composite(project(gaussians[visible], viewmat, K, size, settings), size, settings)


def composite(splats: Splats, size: tuple[int, int], settings: RasterSettings) -> Float[Tensor, "h w 5"]:
    """Accumulated colour, depth and alpha of one view.

    Args:
        splats: Visible ones alone, front to back.
        size: Width and height of the image, pixels.
        settings: What changes the image; its background is not drawn.
    """
    with torch.no_grad():
        pairs, counts = _tile_pairs(splats.centres, splats.radii, size)
    columns = [splats.centres, splats.conics, splats.opacities[:, None], splats.colours, splats.depths[:, None]]
    tiles = torch.cat(columns, dim=1)[pairs].split(counts)

    tiles_x, tiles_y = -(-size[0] // TILE), -(-size[1] // TILE)
    offsets = torch.arange(TILE, device=splats.depths.device, dtype=splats.depths.dtype) + 0.5
    alpha_limit = 0.99 if settings.image_rules == "1.6" else 0.999
    images = []
    for index, rows in enumerate(tiles):
        tile_y, tile_x = divmod(index, tiles_x)
        pixels = torch.cartesian_prod(tile_y * TILE + offsets, tile_x * TILE + offsets).flip(1)
        images.append(_composite(rows, pixels, alpha_limit))
    blocks = torch.stack(images).unflatten(1, (TILE, TILE)).unflatten(0, (tiles_y, tiles_x))
    image = blocks.transpose(1, 2).flatten(2, 3).flatten(0, 1)
    return image[: size[1], : size[0]]


def _tile_pairs(
    centres: Float[Tensor, "n 2"], radii: Float[Tensor, "n 2"], size: tuple[int, int]
) -> tuple[Int[Tensor, " p"], list[int]]:
    """Which Gaussians are drawn in which tile.

    Returns:
        Gaussian indices tile after tile (row-major), in the given order within a tile, and how many each tile has.
    """
    limits = torch.tensor([-(-size[0] // TILE), -(-size[1] // TILE)], device=centres.device)
    first = ((centres - radii) / TILE).floor().clamp(min=0).minimum(limits).long()
    last = ((centres + radii) / TILE).ceil().clamp(min=0).minimum(limits).long()
    spans = last - first
    counts = spans.prod(1)
    owners = torch.repeat_interleave(torch.arange(len(centres), device=centres.device), counts)
    within = torch.arange(len(owners), device=centres.device) - (counts.cumsum(0) - counts)[owners]
    tile_x = first[owners, 0] + within % spans[owners, 0]
    tile_y = first[owners, 1] + within // spans[owners, 0]
    tiles = tile_y * limits[0] + tile_x
    return owners[tiles.argsort(stable=True)], tiles.bincount(minlength=int(limits.prod())).tolist()


def _composite(rows: Float[Tensor, "n 10"], pixels: Float[Tensor, "p 2"], alpha_limit: float) -> Float[Tensor, "p 5"]:
    """Accumulated colour, depth and alpha at ``pixels`` of Gaussians sorted front to back."""
    light = pixels.new_ones(len(pixels))
    total = pixels.new_zeros((len(pixels), 5))
    for chunk in rows.split(CHUNK):
        arguments = chunk, pixels, light, total, alpha_limit
        if torch.is_grad_enabled() and chunk.requires_grad:
            # Recomputed in the backward pass: the [p, n] intermediates of all tiles together would fill the memory.
            light, total = checkpoint(_composite_chunk, *arguments, use_reentrant=False, preserve_rng_state=False)
        else:
            light, total = _composite_chunk(*arguments)
    return total


def _composite_chunk(rows: Tensor, pixels: Tensor, light: Tensor, total: Tensor, alpha_limit: float):
    """Draw ``rows`` behind what is there.

    Args:
        light: ``[p]`` light that would pass what is there if no pixel were ever finished.
        total: ``[p, 5]`` accumulated colour, depth and alpha.

    Returns:
        Both after drawing.
    """
    centres, conics, opacities, colours = rows.split([2, 3, 1, 4], dim=1)
    dx, dy = (centres - pixels[:, None]).unbind(2)
    exponents = (conics[:, 0] * dx * dx + conics[:, 2] * dy * dy) / 2 + conics[:, 1] * dx * dy
    alphas = (opacities[:, 0] * (-exponents).exp()).clamp(max=alpha_limit)
    alphas = torch.where((exponents >= 0) & (alphas >= 1 / 255), alphas, 0)
    logs = torch.log1p(-alphas)
    sums = logs.cumsum(1)
    before = light[:, None] * (sums - logs).exp()
    # The light never grows, so this also leaves out whatever follows the Gaussian that would leave too little.
    weights = torch.where(before * (1 - alphas) > 1e-4, before * alphas, 0)
    values = torch.cat([colours, torch.ones_like(opacities)], dim=1)
    return light * logs.sum(1).exp(), total + weights @ values
