"""Transformer in which the feature map of each view attends to itself and to those of nearby views."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from l2o_splat.nets.resplat.windows import Windows, attend

POSITION_SPLITS = 2
"""Windows per side for the position encoding, whatever the attention uses."""
TEMPERATURE = 10000.0


def window_splits(width: int) -> int:
    """Windows per side for the attention on maps of a width: wider maps are cut more finely."""
    return 8 if width > 192 else 4 if width > 96 else 2


def sine_positions(height: int, width: int, channels: int, device: torch.device) -> Float[Tensor, "c h w"]:
    """Sines and cosines of row (first half of the channels) and column, each up to 2 pi (DETR, arXiv 2005.12872)."""
    half = channels // 2
    frequency = TEMPERATURE ** (2 * (torch.arange(half, device=device) // 2) / half)

    def encode(length: int) -> Tensor:
        position = torch.arange(1, length + 1, device=device, dtype=torch.float32)
        angle = (position / (length + 1e-6) * (2 * math.pi))[:, None] / frequency
        return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], dim=2).flatten(1).T

    rows, columns = encode(height)[:, :, None], encode(width)[:, None, :]
    return torch.cat([rows.expand(-1, -1, width), columns.expand(-1, height, -1)])


def add_positions(features: Float[Tensor, "v c h w"]) -> Float[Tensor, "v c h w"]:
    """Adds the position inside each of 2 x 2 windows."""
    _, channels, height, width = features.shape
    window = Windows(height, width, POSITION_SPLITS, False).size
    return features + sine_positions(*window, channels, features.device).repeat(1, POSITION_SPLITS, POSITION_SPLITS)


class _WindowAttention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.merge = nn.Linear(width, width, bias=False)
        self.norm1 = nn.LayerNorm(width)


class SelfAttention(_WindowAttention):
    """Every view attends to itself."""

    def forward(self, x: Float[Tensor, "v h w c"], windows: Windows) -> Float[Tensor, "v h w c"]:
        query, key, value = (windows.cut(project(x)) for project in (self.q_proj, self.k_proj, self.v_proj))
        attended = attend(query, key, value, windows.mask(x.device))
        return x + self.norm1(self.merge(windows.join(attended)))


class CrossAttention(_WindowAttention):
    """Every view attends to its reference views, jointly, and an MLP follows."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.mlp = nn.Sequential(
            nn.Linear(2 * width, 8 * width, bias=False), nn.GELU(), nn.Linear(8 * width, width, bias=False)
        )
        self.norm2 = nn.LayerNorm(width)

    def forward(
        self,
        x: Float[Tensor, "v h w c"],
        others: Float[Tensor, "v h w c"],
        reference_views: Int[Tensor, "v m"],
        windows: Windows,
    ) -> Float[Tensor, "v h w c"]:
        query = windows.cut(self.q_proj(x))
        # Tokens of all reference views of one position lie together, position by position.
        key, value = (
            windows.cut(project(others))[reference_views].permute(0, 2, 3, 1, 4).flatten(2, 3)
            for project in (self.k_proj, self.v_proj)
        )
        mask = windows.mask(x.device)
        if mask is not None:
            # The released weights were trained with the mask repeated as a whole, view by view. That does not suit
            # the order of the tokens with more than one reference view, but is part of what they compute.
            mask = mask.repeat(1, 1, reference_views.shape[1])
        message = self.norm1(self.merge(windows.join(attend(query, key, value, mask))))
        return x + self.norm2(self.mlp(torch.cat([x, message], dim=-1)))


class _Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.self_attn = SelfAttention(width)
        self.cross_attn_ffn = CrossAttention(width)


class MultiViewTransformer(nn.Module):
    """Self- and cross-attention in windows, shifted in every other layer (UniMatch, arXiv 2211.05783)."""

    def __init__(self, width: int, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(width) for _ in range(num_layers))

    def forward(
        self, features: Float[Tensor, "v c h w"], reference_views: Int[Tensor, "v m"]
    ) -> Float[Tensor, "v c h w"]:
        """Features of all views, updated together.

        Args:
            features: With positions added.
            reference_views: Views that each view attends to.

        Raises:
            ValueError: If the map cannot be cut into windows.
        """
        x = features.permute(0, 2, 3, 1)
        height, width = x.shape[1:3]
        for index, layer in enumerate(self.layers):
            windows = Windows(height, width, window_splits(width), shifted=index % 2 == 1)
            x = layer.cross_attn_ffn(layer.self_attn(x, windows), x, reference_views, windows)
        return x.permute(0, 3, 1, 2)
