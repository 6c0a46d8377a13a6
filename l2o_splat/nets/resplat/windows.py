"""Attention inside the windows of a map, which every other layer shifts (Swin, arXiv 2103.14030)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

MASKED = -100.0
"""Added to the logit of a pair of tokens that only the roll has brought into one window."""


@dataclass(frozen=True)
class Windows:
    """A map cut into ``splits`` x ``splits`` windows, shifted by half a window or not."""

    height: int
    width: int
    """Size of the map."""
    splits: int
    shifted: bool

    def __post_init__(self) -> None:
        if self.height % self.splits or self.width % self.splits:
            raise ValueError(
                f"A feature map of {self.width} x {self.height} cannot be cut into {self.splits} x {self.splits} "
                "windows; use images whose sides are multiples of 64 pixels."
            )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a window."""
        return self.height // self.splits, self.width // self.splits

    @property
    def shift(self) -> tuple[int, int]:
        return (self.size[0] // 2, self.size[1] // 2) if self.shifted else (0, 0)

    def cut(self, maps: Float[Tensor, "*views h w c"]) -> Float[Tensor, "*views windows n c"]:
        """Tokens of every window."""
        if self.shifted:
            maps = maps.roll([-step for step in self.shift], dims=(-3, -2))
        rows, columns = self.size
        maps = maps.unflatten(-2, (self.splits, columns)).unflatten(-4, (self.splits, rows))
        return maps.transpose(-3, -4).flatten(-3, -2).flatten(-4, -3)

    def join(self, tokens: Float[Tensor, "*views windows n c"]) -> Float[Tensor, "*views h w c"]:
        """The inverse of :meth:`cut`."""
        maps = tokens.unflatten(-2, self.size).unflatten(-4, (self.splits, self.splits)).transpose(-3, -4)
        maps = maps.flatten(-3, -2).flatten(-4, -3)
        return maps.roll(self.shift, dims=(-3, -2)) if self.shifted else maps

    def mask(self, device: torch.device) -> Float[Tensor, "windows n n"] | None:
        """``MASKED`` for pairs of tokens from different regions of a rolled map; None where nothing is rolled."""
        if not self.shifted:
            return None
        regions = []
        for length, window, step in zip((self.height, self.width), self.size, self.shift, strict=True):
            position = torch.arange(length, device=device)
            regions.append((position >= length - window).long() + (position >= length - step).long())
        region = 3 * regions[0][:, None] + regions[1]
        tokens = Windows(self.height, self.width, self.splits, False).cut(region[..., None])[..., 0]
        return (tokens[:, :, None] != tokens[:, None]) * MASKED


def attend(
    query: Float[Tensor, "v windows n c"],
    key: Float[Tensor, "v windows m c"],
    value: Float[Tensor, "v windows m c"],
    mask: Float[Tensor, "windows n m"] | None,
) -> Float[Tensor, "v windows n c"]:
    """One head of scaled dot-product attention in every window."""
    mask = None if mask is None else mask.to(query.dtype)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
