"""DINOv2 image transformer (arXiv 2304.07193) without registers, for images of any size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from l2o_splat.nets.resplat.resize import resize
from l2o_splat.nets.resplat.transformer_block import TransformerBlock

PATCH = 14
"""Side of a patch, pixels."""
TRAINED_GRID = 37
"""Patches per side of the image that the position embedding was trained on (518 pixels)."""
MAX_WIDTH = 560
"""Wider images are shown to the transformer at this width, pixels."""
VARIANTS = {
    "mini": (48, 4, 3, (0, 1, 2, 3)),
    "vits": (384, 12, 6, (2, 5, 8, 11)),
    "vitb": (768, 12, 12, (2, 5, 8, 11)),
    "vitl": (1024, 24, 16, (4, 11, 17, 23)),
}
"""Width, blocks, heads, and the blocks whose outputs are used (counted from 0); "mini" is ours."""


class _PatchEmbed(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH, PATCH)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images)


def input_size(height: int, width: int) -> tuple[int, int]:
    """Height and width at which an image is shown to the transformer: multiples of the patch side."""
    if width > MAX_WIDTH:
        height, width = int(height / width * MAX_WIDTH), MAX_WIDTH
    return height // PATCH * PATCH, width // PATCH * PATCH


class VisionTransformer(nn.Module):
    """Features of single images from four depths of the network.

    Args:
        variant: A key of ``VARIANTS``.
    """

    def __init__(self, variant: str) -> None:
        super().__init__()
        width, depth, heads, self.taps = VARIANTS[variant]
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + TRAINED_GRID**2, width))
        self.patch_embed = _PatchEmbed(width)
        self.blocks = nn.ModuleList(
            TransformerBlock(width, heads, qkv_bias=True, layer_scale=True, norm_eps=1e-6) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, images: Float[Tensor, "v 3 h w"]) -> list[Float[Tensor, "v c p q"]]:
        """Normalised outputs of the tapped blocks on the patch grid, of ImageNet-normalised images."""
        images = resize(images, input_size(*images.shape[2:]))
        patches = self.patch_embed(images)
        rows, columns = patches.shape[2:]
        tokens = patches.flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        x = x + self._positions(rows, columns).to(x.dtype)
        outputs = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.taps:
                outputs.append(self.norm(x)[:, 1:].transpose(1, 2).unflatten(2, (rows, columns)))
        return outputs

    def _positions(self, rows: int, columns: int) -> Float[Tensor, "1 n c"]:
        """The position embedding on another grid of patches."""
        if rows == columns == TRAINED_GRID:
            return self.pos_embed
        grid = self.pos_embed[:, 1:].float().transpose(1, 2).unflatten(2, (TRAINED_GRID, TRAINED_GRID))
        # The factors are passed instead of the size, with the offset of the original: the samples lie where they lay.
        factors = ((rows + 0.1) / TRAINED_GRID, (columns + 0.1) / TRAINED_GRID)
        grid = F.interpolate(grid, scale_factor=factors, mode="bicubic")
        return torch.cat([self.pos_embed[:, :1].float(), grid.flatten(2).transpose(1, 2)], dim=1)
