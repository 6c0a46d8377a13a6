"""Attention among points, one per cell of the latent grids: to neighbours in space, and to all views."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from l2o_splat.nets.point_transformer import Block
from l2o_splat.nets.recompute import run_block
from l2o_splat.nets.resplat.cameras import ContextCameras
from l2o_splat.nets.resplat.encoder import TransformerBlock

PATCH = 4
"""Side of a patch, cells."""
ROWS_AT_ONCE = 1 << 14
"""Points whose candidates are compared together, to bound the memory."""


def attention_heads(width: int) -> int:
    """Number of attention heads for a width."""
    if width in (48, 3):
        return 1
    return 2 if width % 32 and width % 16 == 0 else 4


class GlobalAttention(nn.Module):
    """Attention of every 4 x 4 patch of cells to all patches of all views (arXiv 2510.08575, section 3.1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        patch_width = PATCH**2 * width
        self.proj1 = nn.Linear(patch_width, width)
        self.norm1 = nn.LayerNorm(width)
        self.attn = TransformerBlock(width, attention_heads(width))
        self.proj2 = nn.Linear(width, patch_width)
        self.norm2 = nn.LayerNorm(patch_width)
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, maps: Float[Tensor, "v c h w"]) -> Float[Tensor, "v c h w"]:
        """Maps of the same size; height and width must be multiples of 4."""
        patches = F.pixel_unshuffle(maps, PATCH).permute(0, 2, 3, 1)
        tokens = self.norm1(self.proj1(patches)).flatten(0, 2)
        patches = self.norm2(self.proj2(self.attn(tokens[None])[0])).view(*patches.shape[:3], -1)
        return maps + self.conv(F.pixel_shuffle(patches.permute(0, 3, 1, 2), PATCH))


def rows_from_maps(maps: Float[Tensor, "v c h w"]) -> Float[Tensor, "n c"]:
    """One row per cell, view by view and row by row."""
    return maps.permute(0, 2, 3, 1).flatten(0, 2)


def maps_from_rows(rows: Float[Tensor, "n c"], grid: tuple[int, int]) -> Float[Tensor, "v c h w"]:
    """The inverse of :func:`rows_from_maps` for maps of a height and width."""
    return rows.view(-1, *grid, rows.shape[1]).permute(0, 3, 1, 2)


class PointNetwork(nn.Module):
    """Alternates attention to the nearest points and to all views (arXiv 2510.08575, section 3.1)."""

    def __init__(self, width: int, attention_width: int, num_blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, attention_width, 4 * width) for _ in range(num_blocks))
        self.mv_blocks = nn.ModuleList(GlobalAttention(width) for _ in range(num_blocks))

    def forward(
        self, x: Float[Tensor, "n c"], neighbours: Int[Tensor, "n k"], grid: tuple[int, int]
    ) -> Float[Tensor, "n c"]:
        """New features of the points.

        Args:
            x: One row per cell of the latent maps, view by view and row by row.
            neighbours: Rows that each row attends to, including itself.
            grid: Height and width of a latent map.
        """
        for near, everywhere in zip(self.blocks, self.mv_blocks, strict=True):
            x = run_block(near, x, neighbours)
            x = rows_from_maps(run_block(everywhere, maps_from_rows(x, grid)))
        return x


def local_neighbours(
    points: Float[Tensor, "n 3"],
    cameras: ContextCameras,
    grid: tuple[int, int],
    k: int,
    radius: int = 3,
    cross_radius: int = 3,
    num_views: int = 32,
) -> Int[Tensor, "n k"]:
    """The nearest of those points that are close in the grid of the own view or of a nearby view.

    For scenes with too many points to search through all of them.

    Args:
        points: One per cell of a grid over each view, view by view and row by row; world frame.
        cameras: Cameras of the views, in the same frame.
        grid: Height and width of the grid.
        k: Neighbours per point.
        radius: Candidates in the own view are up to this many cells away; the point itself is excluded.
        cross_radius: The same in another view, around the cell that the point projects to.
        num_views: Number of other views that are searched, the nearest ones.

    Returns:
        Row indices (int64), filled up with the point itself if there are fewer than ``k`` candidates.
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
            candidates = [_rows_around(view, part // width, part % width, row_step, column_step, grid)]
            for other in others[view].tolist():
                in_camera = points[own] @ from_world[other, :3, :3].T + from_world[other, :3, 3]
                pixel = in_camera @ cameras.intrinsics[other].T
                pixel = (pixel[:, :2] / pixel[:, 2:] * pixel.new_tensor([width, height]) - 0.5).round()
                # Points behind the camera, or without a projection, get a cell far from all others.
                seen = (in_camera[:, 2] > 0) & pixel.isfinite().all(dim=1)
                pixel = torch.where(seen[:, None], pixel, pixel.new_tensor(-1e6)).clamp(-1e6, 1e6).long()
                steps = _window(cross_radius, device)
                candidates.append(_rows_around(other, pixel[:, 1], pixel[:, 0], *steps, grid))
            rows = torch.cat(candidates, dim=1)
            squared = (points[rows.clamp(min=0)] - points[own, None]).square().sum(dim=2)
            best, columns = squared.masked_fill(rows < 0, torch.inf).topk(k, dim=1, largest=False)
            found.append(torch.where(best.isfinite(), rows.gather(1, columns), own[:, None]))
    return torch.cat(found)


def _window(radius: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Offsets in rows and columns of the cells in a square around a cell."""
    step = torch.arange(-radius, radius + 1, device=device)
    rows, columns = torch.meshgrid(step, step, indexing="ij")
    return rows.flatten(), columns.flatten()


def _rows_around(
    view: int, row: Tensor, column: Tensor, row_step: Tensor, column_step: Tensor, grid: tuple[int, int]
) -> Int[Tensor, "n m"]:
    """Indices of the points around given cells of a view; -1 outside the grid."""
    height, width = grid
    row, column = row[:, None] + row_step, column[:, None] + column_step
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return torch.where(inside, (view * height + row) * width + column, -1)
