"""Attention over the latent maps of all views together, on patches of 4 x 4 cells."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from l2o_splat.nets.resplat.transformer_block import TransformerBlock

PATCH = 4
"""Side of a patch, cells."""


def attention_heads(width: int) -> int:
    """Number of heads for a width."""
    if width in (48, 3):
        return 1
    return 2 if width % 32 and width % 16 == 0 else 4


class GlobalAttention(nn.Module):
    """Every patch of every view attends to all patches of all views (ReSplat, arXiv 2510.08575, section 3.1)."""

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
        """The maps and what the attention adds to them; height and width are multiples of 4."""
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
