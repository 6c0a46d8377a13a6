"""U-Net over cost volumes, after that of latent diffusion (arXiv 2112.10752) without a time embedding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

GROUPS = 8
"""Of every group normalisation."""
HEAD_WIDTH = 32
"""Channels of an attention head."""


class ResidualBlock(nn.Module):
    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, in_width), nn.SiLU(), nn.Conv2d(in_width, width, 3, padding=1)
        )
        # The third place is that of a dropout in the original, so that the convolution keeps its name.
        self.out_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, width), nn.SiLU(), nn.Identity(), nn.Conv2d(width, width, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if in_width == width else nn.Conv2d(in_width, width, 1)

    def forward(self, x: Float[Tensor, "v c h w"]) -> Float[Tensor, "v width h w"]:
        return self.skip_connection(x) + self.out_layers(self.in_layers(x))


class JointAttention(nn.Module):
    """Every pixel attends to all pixels of all views."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, width)
        self.qkv = nn.Conv1d(width, 3 * width, 1)
        self.proj_out = nn.Conv1d(width, width, 1)

    def forward(self, x: Float[Tensor, "v c h w"]) -> Float[Tensor, "v c h w"]:
        v, channels, height, width = x.shape
        qkv = self.qkv(self.norm(x.flatten(2)))
        heads = qkv.view(v, channels // HEAD_WIDTH, 3, HEAD_WIDTH, height * width)
        # Heads first, tokens of all views in a row.
        query, key, value = heads.permute(2, 1, 0, 4, 3).flatten(2, 3)
        attended = F.scaled_dot_product_attention(query[None], key[None], value[None])[0]
        attended = attended.unflatten(1, (v, -1)).permute(1, 0, 3, 2).flatten(1, 2)
        return x + self.proj_out(attended).unflatten(2, (height, width))


class Downsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Float[Tensor, "v c h w"]) -> Float[Tensor, "v c h2 w2"]:
        return self.op(x)


class Upsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Float[Tensor, "v c h w"]) -> Float[Tensor, "v c h2 w2"]:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class UNet(nn.Module):
    """Three levels of one width; attention at the lowest, where a pixel is 4 x 4 pixels of the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        sequence = nn.Sequential
        self.input_blocks = nn.ModuleList(
            [
                sequence(nn.Conv2d(width, width, 3, padding=1)),
                sequence(ResidualBlock(width, width)),
                sequence(Downsample(width)),
                sequence(ResidualBlock(width, width)),
                sequence(Downsample(width)),
                sequence(ResidualBlock(width, width), JointAttention(width)),
            ]
        )
        self.middle_block = sequence(ResidualBlock(width, width), nn.Identity(), ResidualBlock(width, width))
        self.output_blocks = nn.ModuleList(
            [
                sequence(ResidualBlock(2 * width, width), JointAttention(width)),
                sequence(ResidualBlock(2 * width, width), JointAttention(width), Upsample(width)),
                sequence(ResidualBlock(2 * width, width)),
                sequence(ResidualBlock(2 * width, width), Upsample(width)),
                sequence(ResidualBlock(2 * width, width)),
                sequence(ResidualBlock(2 * width, width)),
            ]
        )
        self.out = sequence(nn.GroupNorm(GROUPS, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x: Float[Tensor, "v c h w"]) -> Float[Tensor, "v c h w"]:
        """Maps of the same size; height and width are multiples of 4, all views are of one scene."""
        skips = []
        for block in self.input_blocks:
            x = block(x)
            skips.append(x)
        x = self.middle_block(x)
        for block in self.output_blocks:
            x = block(torch.cat([x, skips.pop()], dim=1))
        return self.out(x)
