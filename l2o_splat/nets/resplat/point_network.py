"""Alternates attention over neighbouring points with attention over all views."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor, nn

from l2o_splat.nets.point_transformer import Block
from l2o_splat.nets.resplat.global_attention import GlobalAttention, maps_from_rows, rows_from_maps


class PointNetwork(nn.Module):
    """Rounds of one block over the nearest points and one over all views (arXiv 2510.08575, section 3.1)."""

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
            neighbours: Rows each row attends to, itself among them.
            grid: Height and width of a latent map.
        """
        for near, everywhere in zip(self.blocks, self.mv_blocks, strict=True):
            x = near(x, neighbours)
            x = rows_from_maps(everywhere(maps_from_rows(x, grid)))
        return x
