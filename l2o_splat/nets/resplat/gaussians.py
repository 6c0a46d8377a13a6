"""Gaussians as ReSplat's networks predict and read them, in the axes of their source views.

Also the cells of the context views as units of scales and of update steps, which are ours (the original uses scene
units): networks then need not know how large a scene is, nor how far away. A cell belongs to a grid over one view.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from l2o_splat.devices import numbers_like
from l2o_splat.gaussians import SH_C0, Gaussians
from l2o_splat.nets.resplat.cameras import ContextCameras
from l2o_splat.nets.resplat.config import NUMBERS_PER_GAUSSIAN, ReSplatConfig
from l2o_splat.nets.resplat.encoder import resize
from l2o_splat.rotations import conjugate, quaternion_product
from l2o_splat.views import PinholeCameras

OPACITY_EPS = 1e-6
"""Opacities are kept this far from 0 and 1."""
WIDTHS = (4, 3, 1, 2, 48)
"""Numbers per Gaussian in the head's output: rotation, scale, opacity, offset in the image, spherical harmonics."""
NEAREST = 1e-2
"""Smaller depths are clamped to this, in units of the median depth."""
WIDEST = 3.0
"""Tangents of the angle to the optical axis are clamped to plus and minus this."""
FRONT_TOLERANCE = 1.1
"""A Gaussian counts as in front up to this multiple of the depth of the nearest one in its cell."""
LONGEST_STEP = 3.0
"""Bound of a step: of positions in cells, of log-scales."""


@dataclass(frozen=True)
class CameraGaussians:
    """N Gaussians, each from a pixel of one view, its source view; means in the frame of the networks."""

    means: Float[Tensor, "n 3"]
    scales: Float[Tensor, "n 3"]
    """Standard deviations, in units of the means."""
    rotations: Float[Tensor, "n 4"]
    """Camera-from-Gaussian rotation x, y, z, w in the source view's camera, any length."""
    opacity_logits: Float[Tensor, "n 1"]
    harmonics: Float[Tensor, "n 3 k"]
    """SH coefficients of R, G and B, in the frame of the means."""

    def pack(self) -> Float[Tensor, "n d"]:
        """One row per Gaussian with the fields in this order; d = 11 + 3 k."""
        fields = (self.means, self.scales, self.rotations, self.opacity_logits, self.harmonics.flatten(1))
        return torch.cat(fields, dim=1)

    @classmethod
    def unpack(cls, rows: Float[Tensor, "n d"]) -> CameraGaussians:
        """The inverse of :meth:`pack`."""
        *fields, harmonics = rows.split((3, 3, 4, 1, rows.shape[1] - 11), dim=1)
        return cls(*fields, harmonics.unflatten(1, (3, -1)))

    def to_gaussians(self, view_quats: Float[Tensor, "n 4"]) -> Gaussians:
        """Convert to the package's parametrisation.

        Args:
            view_quats: World-from-camera rotation w, x, y, z of each Gaussian's source view.
        """
        harmonics = self.harmonics.mT
        return Gaussians(
            means=self.means,
            scales=self.scales.log(),
            quats=quaternion_product(view_quats, self.rotations.roll(1, dims=1)),
            opacities=self.opacity_logits,
            features_dc=harmonics[:, 0],
            features_rest=harmonics[:, 1:],
        )

    @classmethod
    def from_gaussians(cls, gaussians: Gaussians, view_quats: Float[Tensor, "n 4"]) -> CameraGaussians:
        """The inverse of :meth:`to_gaussians`."""
        return cls(
            means=gaussians.means,
            scales=gaussians.scales.exp(),
            rotations=quaternion_product(conjugate(view_quats), gaussians.quats).roll(-1, dims=1),
            opacity_logits=gaussians.opacities,
            harmonics=gaussians.sh.mT,
        )


def decode_gaussians(
    outputs: Float[Tensor, "cells d"],
    depth: Float[Tensor, "v 1 h w"],
    images: Float[Tensor, "v 3 height width"],
    grid: tuple[int, int],
    cameras: ContextCameras,
    config: ReSplatConfig,
) -> CameraGaussians:
    """Gaussians from the outputs of the Gaussian head, one or a square number per cell of the latent grid.

    Args:
        outputs: d = 58 m numbers per cell with m Gaussians; the channels of each quantity are ordered by row and
            column inside the cell.
        depth: Camera z, units of the poses, at any resolution.
        images: sRGB, 0 to 1; their colours are added to those of the outputs.
        grid: Height and width of the latent grid.
        cameras: Cameras of the views.
        config: Range and units of the scales.

    Returns:
        Gaussians ordered by view, row and column on a grid that is finer by the root of m.
    """
    side = math.isqrt(outputs.shape[1] // NUMBERS_PER_GAUSSIAN)
    fine = (grid[0] * side, grid[1] * side)
    cells = outputs.float().view(-1, *grid, outputs.shape[1])
    rotations, scales, opacities, offsets, harmonics = (
        _spread(group, side) for group in cells.split([width * side**2 for width in WIDTHS], dim=3)
    )
    offsets = (offsets.sigmoid() - 0.5) / offsets.new_tensor([fine[1], fine[0]])
    depth = resize(depth, fine)[:, 0]
    means = cameras.unproject(depth, offsets)
    colours = F.interpolate(images, size=fine, mode="area").permute(0, 2, 3, 1)
    harmonics = harmonics.unflatten(3, (3, -1)).flatten(0, 2)
    colours = F.pad(((colours - 0.5) / SH_C0).flatten(0, 2)[..., None], (0, harmonics.shape[2] - 1))
    scales = F.softplus(scales - config.scale_bias).clamp(config.scale_min, config.scale_max)
    if config.gaussian_units == "cells":
        focal = cameras.intrinsics.diagonal(dim1=1, dim2=2)[:, :2] * scales.new_tensor([fine[1], fine[0]])
        scales = scales * (depth / focal.prod(dim=1).sqrt()[:, None, None])[..., None]
    return CameraGaussians(
        means=means.flatten(0, 2),
        scales=scales.flatten(0, 2),
        rotations=rotations.flatten(0, 2),
        opacity_logits=opacities.sigmoid().logit(OPACITY_EPS).flatten(0, 2),
        harmonics=harmonics + colours,
    )


def _spread(cells: Float[Tensor, "v h w c_m"], side: int) -> Float[Tensor, "v h_side w_side c"]:
    """Move the side x side values of each cell to their places on the finer grid."""
    v, height, width, channels = cells.shape
    values = cells.view(v, height, width, channels // side**2, side, side)
    return values.permute(0, 1, 4, 2, 5, 3).reshape(v, height * side, width * side, -1)


def cells_of_points(means: Float[Tensor, "n 3"], cameras: PinholeCameras, grid: tuple[int, int]) -> Int[Tensor, " n"]:
    """For each point its cell in the nearest camera that has it in the image, occluded or not.

    Points that are in no image get a cell at the border of the nearest camera's image.

    Args:
        means: World frame.
        cameras: Cameras of the context views.
        grid: Height and width of the grid over each view.

    Returns:
        Cells counted view by view and row by row.
    """
    _, place, seen = _places(means, cameras)
    distance = (means - cameras.centres[:, None]).norm(dim=2)
    unseen = ~seen.any(dim=0)
    view = torch.where(seen | unseen, distance, torch.inf).argmin(dim=0)
    own = place[view, torch.arange(len(means), device=means.device)]
    return view * (grid[0] * grid[1]) + _cells(own, grid)


def cells_in_front(
    means: Float[Tensor, "n 3"], cameras: PinholeCameras, grid: tuple[int, int]
) -> tuple[Int[Tensor, "v n"], Bool[Tensor, "v n"]]:
    """For each view the cell that each point projects to, and whether the point is among the nearest ones there.

    Args:
        means: World frame.
        cameras: Cameras of the context views.
        grid: Height and width of the grid over each view.

    Returns:
        Cells counted view by view and row by row, and whether the point is in front. Points outside an image get a
        cell at its border and are never in front.
    """
    depth, place, inside = _places(means, cameras)
    cell = _cells(place, grid)
    depth = torch.where(inside, depth, torch.inf)
    nearest = depth.new_full((len(cameras), grid[0] * grid[1]), torch.inf).scatter_reduce(1, cell, depth, "amin")
    front = inside & (depth <= FRONT_TOLERANCE * nearest.gather(1, cell))
    first = torch.arange(len(cameras), device=cell.device)[:, None] * (grid[0] * grid[1])
    return first + cell, front


def _places(
    means: Float[Tensor, "n 3"], cameras: PinholeCameras
) -> tuple[Float[Tensor, "v n"], Float[Tensor, "v n 2"], Bool[Tensor, "v n"]]:
    """Camera z of points in every view, their pixel (x and y in units of the image size), and whether they are in front
    of the camera and inside the image."""
    pixels, depth = cameras.project(means)
    return depth, pixels / numbers_like(pixels, (cameras.width, cameras.height)), cameras.inside(pixels, depth)


def _cells(place: Float[Tensor, "*n 2"], grid: tuple[int, int]) -> Int[Tensor, "*n"]:
    """Cells of one view, counted row by row; places outside the image get a cell at the border."""
    column, row = (place * numbers_like(place, (grid[1], grid[0]))).nan_to_num().long().unbind(-1)
    return row.clamp(0, grid[0] - 1) * grid[1] + column.clamp(0, grid[1] - 1)


@dataclass(frozen=True)
class CellUnits:
    """For every Gaussian the camera of its view, and the size of a cell at its depth as unit of length."""

    rotations: Float[Tensor, "n 3 3"]
    """Camera-from-world rotation of each Gaussian's view."""
    in_camera: Float[Tensor, "n 3"]
    """Means in that camera's coordinates."""
    depth: Float[Tensor, " n"]
    """Camera z, clamped above 0."""
    unit: Float[Tensor, " n"]
    """Size of a cell at that depth."""
    turn: Float[Tensor, "n 1"]
    """Length of each quaternion with the sign of its real part, since both signs mean the same rotation."""

    @classmethod
    def of(
        cls,
        gaussians: CameraGaussians,
        cameras: PinholeCameras,
        cell: Int[Tensor, " n"],
        grid: tuple[int, int],
    ) -> CellUnits:
        """Units of Gaussians that belong to given cells; means and cameras are in the same frame."""
        view = cell // (grid[0] * grid[1])
        viewmats = cameras.viewmats[view]
        in_camera = torch.einsum("nij,nj->ni", viewmats[:, :3, :3], gaussians.means) + viewmats[:, :3, 3]
        depth = in_camera[:, 2]
        # The median, because a mean would depend on the order of summation.
        usual = torch.where(depth > 0, depth, torch.nan).nanmedian().nan_to_num(nan=1.0).detach()
        depth = depth.clamp(min=NEAREST * usual)
        length = gaussians.rotations.norm(dim=1, keepdim=True).clamp(min=1e-8)
        turn = torch.where(gaussians.rotations[:, 3:] < 0, -length, length)
        return cls(viewmats[:, :3, :3], in_camera, depth, depth / cell_focal(cameras, grid)[view], turn)

    def pack(self, gaussians: CameraGaussians) -> Float[Tensor, "n d"]:
        """Rows for a network: positions as tangents and log-depths, scales as logarithms in units of cells."""
        tangents = (self.in_camera[:, :2] / self.depth[:, None]).clamp(-WIDEST, WIDEST)
        log_depth = (self.depth / self.depth.median()).log()[:, None]
        rows = replace(
            gaussians,
            means=torch.cat([tangents, log_depth], dim=1),
            scales=(gaussians.scales / self.unit[:, None]).log(),
            rotations=gaussians.rotations / self.turn,
        )
        return rows.pack()

    def step(self, rows: Float[Tensor, "n d"], view_quats: Float[Tensor, "n 4"]) -> Gaussians:
        """Deltas in the world frame of the cameras from a network's rows.

        Args:
            rows: Positions along the camera axes in cells, scales as logarithms, the others unchanged.
            view_quats: World-from-camera rotation of each Gaussian's view.
        """
        delta = CameraGaussians.unpack(rows)
        bounded = LONGEST_STEP * (delta.means / LONGEST_STEP).tanh() * self.unit[:, None]
        ratio = (LONGEST_STEP * (delta.scales / LONGEST_STEP).tanh()).exp()
        means = torch.einsum("nji,nj->ni", self.rotations, bounded)
        turned = replace(delta, means=means, scales=ratio, rotations=delta.rotations * self.turn)
        return turned.to_gaussians(view_quats)


def cell_focal(cameras: PinholeCameras, grid: tuple[int, int]) -> Float[Tensor, " v"]:
    """Focal length of each view in cells, the geometric mean of both directions."""
    focal_x = cameras.Ks[:, 0, 0] * (grid[1] / cameras.width)
    focal_y = cameras.Ks[:, 1, 1] * (grid[0] / cameras.height)
    return (focal_x * focal_y).sqrt()
