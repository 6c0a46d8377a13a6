"""Cells of the context views as units: of scales and of the update's steps (ours; the original has scene units).

A Gaussian belongs to a cell of a grid over one view. What it changes by is then told in the axes of that view's camera
and in the size of a cell at its depth, so that networks need not know how large a scene is, nor how far away.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from l2o_splat.gaussians import Gaussians
from l2o_splat.nets.resplat.camera_gaussians import CameraGaussians
from l2o_splat.views import PinholeCameras

NEAREST = 1e-2
"""Depths are taken as at least this, in units of the median depth."""
WIDEST = 3.0
"""Tangents of the angle to the optical axis are cut off here."""
FRONT_TOLERANCE = 1.1
"""Gaussians up to so many times as deep as the nearest one of their cell count as being in front."""
LONGEST_STEP = 3.0
"""Bound of a step: of positions in cells, of scales in logarithms."""


def cells_of_points(means: Float[Tensor, "n 3"], cameras: PinholeCameras, grid: tuple[int, int]) -> Int[Tensor, " n"]:
    """The cell of the nearest camera that sees each point; what is hidden behind something counts as seen.

    Points that no camera sees go to the nearest camera, to the cell at the border of its image.

    Args:
        means: World frame.
        cameras: Of the context views.
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
    """The cell of every view that each point projects to, and whether it is among the nearest ones there.

    Args:
        means: World frame.
        cameras: Of the context views.
        grid: Height and width of the grid over each view.

    Returns:
        Cells counted view by view and row by row, those at the border for points outside of an image, which are never
        in front.
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
    """Camera z of points in every view, where they project to, x and y in units of the image size, and whether that is
    in front of the camera and inside of its image."""
    pixels, depth = cameras.project(means)
    return depth, pixels / pixels.new_tensor([cameras.width, cameras.height]), cameras.inside(pixels, depth)


def _cells(place: Float[Tensor, "*n 2"], grid: tuple[int, int]) -> Int[Tensor, "*n"]:
    """Cells of one view, row by row; places outside of the image go to the border."""
    column, row = (place * place.new_tensor([grid[1], grid[0]])).nan_to_num().long().unbind(-1)
    return row.clamp(0, grid[0] - 1) * grid[1] + column.clamp(0, grid[1] - 1)


@dataclass(frozen=True)
class CellUnits:
    """Camera and unit of length of every Gaussian."""

    rotations: Float[Tensor, "n 3 3"]
    """Camera-from-world, of each one's view."""
    in_camera: Float[Tensor, "n 3"]
    """Means in the camera of that view."""
    depth: Float[Tensor, " n"]
    """Camera z, never 0 or below."""
    unit: Float[Tensor, " n"]
    """Size of a cell at that depth."""
    turn: Float[Tensor, "n 1"]
    """Length of each quaternion, negative where its real part is: both signs mean the same rotation."""

    @classmethod
    def of(
        cls,
        gaussians: CameraGaussians,
        cameras: PinholeCameras,
        cell: Int[Tensor, " n"],
        grid: tuple[int, int],
    ) -> CellUnits:
        """Units of Gaussians that belong to cells; means and cameras are in one frame."""
        view = cell // (grid[0] * grid[1])
        viewmats = cameras.viewmats[view]
        in_camera = torch.einsum("nij,nj->ni", viewmats[:, :3, :3], gaussians.means) + viewmats[:, :3, 3]
        depth = in_camera[:, 2]
        # Sums of many numbers would depend on their order; the median does not.
        usual = depth[depth > 0].median() if (depth > 0).any() else depth.new_ones(())
        depth = depth.clamp(min=float(NEAREST * usual))
        length = gaussians.rotations.norm(dim=1, keepdim=True).clamp(min=1e-8)
        turn = torch.where(gaussians.rotations[:, 3:] < 0, -length, length)
        return cls(viewmats[:, :3, :3], in_camera, depth, depth / cell_focal(cameras, grid)[view], turn)

    def pack(self, gaussians: CameraGaussians) -> Float[Tensor, "n d"]:
        """Rows for a network: position as tangents and logarithm of depth, scales as logarithms in cells."""
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
        """Deltas in the frame of the cameras' world from a network's rows.

        Args:
            rows: Positions along the axes of the camera in cells, scales as logarithms, the others as they are.
            view_quats: World-from-camera rotation of each one's view.
        """
        delta = CameraGaussians.unpack(rows)
        bounded = LONGEST_STEP * (delta.means / LONGEST_STEP).tanh() * self.unit[:, None]
        ratio = (LONGEST_STEP * (delta.scales / LONGEST_STEP).tanh()).exp()
        means = torch.einsum("nji,nj->ni", self.rotations, bounded)
        turned = replace(delta, means=means, scales=ratio, rotations=delta.rotations * self.turn)
        return turned.to_gaussians(view_quats)


def cell_focal(cameras: PinholeCameras, grid: tuple[int, int]) -> Float[Tensor, " v"]:
    """Focal length of each view in cells, geometric mean of both directions."""
    focal_x = cameras.Ks[:, 0, 0] * (grid[1] / cameras.width)
    focal_y = cameras.Ks[:, 1, 1] * (grid[0] / cameras.height)
    return (focal_x * focal_y).sqrt()
