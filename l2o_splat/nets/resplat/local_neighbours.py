"""Nearest points among those that project close by, for scenes with too many points to search through all."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from l2o_splat.nets.resplat.cameras import ContextCameras

ROWS_AT_ONCE = 1 << 14
"""Points whose candidates are compared together; bounds the memory."""


def local_neighbours(
    points: Float[Tensor, "n 3"],
    cameras: ContextCameras,
    grid: tuple[int, int],
    k: int,
    radius: int = 3,
    cross_radius: int = 3,
    num_views: int = 32,
) -> Int[Tensor, "n k"]:
    """The nearest of the points that lie near each one in the grid of its view or of a nearby view.

    Args:
        points: One per cell of a grid over each view, view by view and row by row; world frame.
        cameras: Of the views, in the same frame.
        grid: Height and width of the grid.
        k: Neighbours per point.
        radius: Candidates of the own view lie up to so many cells away; the point itself is none.
        cross_radius: The same around the cell that the point projects to in another view.
        num_views: Other views looked into, the nearest ones.

    Returns:
        Row indices (int64); the point itself where there are fewer candidates than ``k``.
    """
    height, width = grid
    v, per_view = len(cameras), height * width
    device = points.device
    row_step, column_step = _window(radius, device)
    kept = (row_step != 0) | (column_step != 0)
    row_step, column_step = row_step[kept], column_step[kept]
    from_world = torch.linalg.inv(cameras.poses)
    others = cameras.nearest_views(min(num_views, v - 1)) if v > 1 else torch.empty(1, 0, dtype=torch.int64)
    cell = torch.arange(per_view, device=device)
    found = []
    for view in range(v):
        for part in cell.split(ROWS_AT_ONCE):
            own = view * per_view + part
            candidates = [_cells(view, part // width, part % width, row_step, column_step, grid)]
            for other in others[view].tolist():
                in_camera = points[own] @ from_world[other, :3, :3].T + from_world[other, :3, 3]
                pixel = in_camera @ cameras.intrinsics[other].T
                pixel = (pixel[:, :2] / pixel[:, 2:] * pixel.new_tensor([width, height]) - 0.5).round()
                # A row that nothing lies near stands for points behind the camera, or that project nowhere.
                seen = (in_camera[:, 2] > 0) & pixel.isfinite().all(dim=1)
                pixel = torch.where(seen[:, None], pixel, pixel.new_tensor(-1e6)).clamp(-1e6, 1e6).long()
                steps = _window(cross_radius, device)
                candidates.append(_cells(other, pixel[:, 1], pixel[:, 0], *steps, grid))
            rows = torch.cat(candidates, dim=1)
            squared = (points[rows.clamp(min=0)] - points[own, None]).square().sum(dim=2)
            best, columns = squared.masked_fill(rows < 0, torch.inf).topk(k, dim=1, largest=False)
            found.append(torch.where(best.isfinite(), rows.gather(1, columns), own[:, None]))
    return torch.cat(found)


def _window(radius: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Steps in rows and columns to the cells of a square around a cell."""
    step = torch.arange(-radius, radius + 1, device=device)
    rows, columns = torch.meshgrid(step, step, indexing="ij")
    return rows.flatten(), columns.flatten()


def _cells(
    view: int, row: Tensor, column: Tensor, row_step: Tensor, column_step: Tensor, grid: tuple[int, int]
) -> Int[Tensor, "n m"]:
    """Rows of the points around given cells of a view; -1 outside the grid."""
    height, width = grid
    row, column = row[:, None] + row_step, column[:, None] + column_step
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return torch.where(inside, (view * height + row) * width + column, -1)
