"""Features of the context views: of each image alone (convolutions, DINOv2), and across views (windowed attention)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from l2o_splat.devices import numbers_like
from l2o_splat.nets.point_transformer import Mlp
from l2o_splat.nets.recompute import run_block
from l2o_splat.nets.resplat.config import RELEASED_CNN_WIDTHS, VARIANTS

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VIT_PATCH = 14
"""Side of a patch, pixels."""
TRAINED_GRID = 37
"""Patches per side of the image that the position embedding was trained on (518 pixels)."""
MAX_WIDTH = 560
"""Wider images are reduced to this width for the image transformer, pixels."""
MASKED = -100.0
"""Added to the attention logit of two tokens that are in one window only because the map was rolled."""
POSITION_SPLITS = 2
"""Windows per side of the position encoding, however the attention cuts the map."""
TEMPERATURE = 10000.0
"""Base of the wavelengths of the sine position encoding."""


def imagenet_normalised(images: Float[Tensor, "v 3 h w"]) -> Float[Tensor, "v 3 h w"]:
    """Normalise images of 0 to 1 as networks trained on ImageNet expect it."""
    mean, std = (numbers_like(images, numbers)[:, None, None] for numbers in (IMAGENET_MEAN, IMAGENET_STD))
    return (images - mean) / std


def resize(maps: Float[Tensor, "v c h w"], size: tuple[int, int]) -> Float[Tensor, "v c h2 w2"]:
    """Resize bilinearly, with aligned corner pixels and no anti-aliasing."""
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=True)


class EncoderBlock(nn.Module):
    """Two 3x3 convolutions with instance normalisation (no affine parameters) around a skip connection."""

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.downsample = None
        if stride != 1 or in_width != width:
            self.downsample = nn.Sequential(nn.Conv2d(in_width, width, 1, stride), nn.InstanceNorm2d(width))

    def forward(self, x: Float[Tensor, "v c h w"]) -> Float[Tensor, "v width h2 w2"]:
        y = F.relu(F.instance_norm(self.conv1(x)))
        y = F.relu(F.instance_norm(self.conv2(y)))
        return F.relu((x if self.downsample is None else self.downsample(x)) + y)


class ImageEncoder(nn.Module):
    """The convolutional encoder of the depth network (after RAFT, arXiv 2003.12039).

    Args:
        downsample: Image pixels per pixel of the coarsest map, 8 or 4.
        widths: Channels of the three feature maps, fine to coarse.
    """

    def __init__(self, downsample: int, widths: tuple[int, int, int] = RELEASED_CNN_WIDTHS) -> None:
        super().__init__()
        fine, middle, coarse = widths
        self.conv1 = nn.Conv2d(3, fine, 7, 2, 3, bias=False)
        self.layer1 = nn.Sequential(EncoderBlock(fine, fine, 1), EncoderBlock(fine, fine, 1))
        middle_stride = {8: 2, 4: 1}[downsample]
        self.layer2 = nn.Sequential(EncoderBlock(fine, middle, middle_stride), EncoderBlock(middle, middle, 1))
        self.layer3 = nn.Sequential(EncoderBlock(middle, coarse, 2), EncoderBlock(coarse, coarse, 1))
        self.conv2 = nn.Conv2d(coarse, coarse, 1)

    def forward(self, images: Float[Tensor, "v 3 h w"]) -> list[Float[Tensor, "v c h2 w2"]]:
        """Maps of ImageNet-normalised images, at 1/2, 1/4 and 1/8 of their size (or 1/2, 1/2 and 1/4)."""
        fine = self.layer1(F.relu(F.instance_norm(self.conv1(images))))
        middle = self.layer2(fine)
        return [fine, middle, self.conv2(self.layer3(middle))]


class TokenAttention(nn.Module):
    """Scaled dot-product attention of every token to all tokens."""

    def __init__(self, width: int, heads: int, qkv_bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "b n width"]) -> Float[Tensor, "b n width"]:
        query, key, value = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class LayerScale(nn.Module):
    """One learned factor per channel (arXiv 2103.17239)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "b n width"]) -> Float[Tensor, "b n width"]:
        return x * self.gamma


class TransformerBlock(nn.Module):
    """Pre-norm transformer block: attention to all tokens, and an MLP that is four times wider.

    Args:
        width: Channels of a token.
        heads: Attention heads.
        qkv_bias: Whether the projection to queries, keys and values has a bias.
        layer_scale: Whether learned factors scale the two residuals.
        norm_eps: Epsilon of the layer normalisations.
    """

    def __init__(
        self, width: int, heads: int, qkv_bias: bool = False, layer_scale: bool = False, norm_eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=norm_eps)
        self.attn = TokenAttention(width, heads, qkv_bias)
        self.ls1 = LayerScale(width) if layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = Mlp(width, 4 * width)
        self.ls2 = LayerScale(width) if layer_scale else nn.Identity()

    def forward(self, x: Float[Tensor, "b n width"]) -> Float[Tensor, "b n width"]:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class _PatchEmbed(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, VIT_PATCH, VIT_PATCH)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images)


def input_size(height: int, width: int) -> tuple[int, int]:
    """Height and width that an image is resized to for the image transformer: multiples of the patch side."""
    if width > MAX_WIDTH:
        height, width = int(height / width * MAX_WIDTH), MAX_WIDTH
    return height // VIT_PATCH * VIT_PATCH, width // VIT_PATCH * VIT_PATCH


class VisionTransformer(nn.Module):
    """DINOv2 image transformer (arXiv 2304.07193) without registers, for images of any size.

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
        """Normalised outputs of four blocks on the patch grid, from ImageNet-normalised images."""
        images = resize(images, input_size(*images.shape[2:]))
        patches = self.patch_embed(images)
        rows, columns = patches.shape[2:]
        tokens = patches.flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        x = x + self._positions(rows, columns).to(x.dtype)
        outputs = []
        for index, block in enumerate(self.blocks):
            x = run_block(block, x)
            if index in self.taps:
                outputs.append(self.norm(x)[:, 1:].transpose(1, 2).unflatten(2, (rows, columns)))
        return outputs

    def _positions(self, rows: int, columns: int) -> Float[Tensor, "1 n c"]:
        """Interpolate the position embedding to another grid of patches."""
        if rows == columns == TRAINED_GRID:
            return self.pos_embed
        grid = self.pos_embed[:, 1:].float().transpose(1, 2).unflatten(2, (TRAINED_GRID, TRAINED_GRID))
        # Factors instead of the size, with the offset of the original, so that the sampling positions are the same.
        factors = ((rows + 0.1) / TRAINED_GRID, (columns + 0.1) / TRAINED_GRID)
        grid = F.interpolate(grid, scale_factor=factors, mode="bicubic")
        return torch.cat([self.pos_embed[:, :1].float(), grid.flatten(2).transpose(1, 2)], dim=1)


@dataclass(frozen=True)
class Windows:
    """Cuts a map into ``splits`` x ``splits`` windows, optionally shifted by half a window (Swin, arXiv 2103.14030)."""

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
        """``MASKED`` for pairs of tokens from different regions of a rolled map; None without a shift."""
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
    """Scaled dot-product attention inside every window, with one head."""
    mask = None if mask is None else mask.to(query.dtype)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def window_splits(width: int) -> int:
    """Windows per side for attention on maps of a width: wider maps are cut into more windows."""
    return 8 if width > 192 else 4 if width > 96 else 2


def sine_positions(height: int, width: int, channels: int, device: torch.device) -> Float[Tensor, "c h w"]:
    """Sine position encoding (DETR, arXiv 2005.12872): first half of the channels for rows, second for columns."""
    half = channels // 2
    frequency = TEMPERATURE ** (2 * (torch.arange(half, device=device) // 2) / half)

    def encode(length: int) -> Tensor:
        position = torch.arange(1, length + 1, device=device, dtype=torch.float32)
        angle = (position / (length + 1e-6) * (2 * math.pi))[:, None] / frequency
        return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], dim=2).flatten(1).T

    rows, columns = encode(height)[:, :, None], encode(width)[:, None, :]
    return torch.cat([rows.expand(-1, -1, width), columns.expand(-1, height, -1)])


def add_positions(features: Float[Tensor, "v c h w"]) -> Float[Tensor, "v c h w"]:
    """Add the encoding of the position inside each of 2 x 2 windows."""
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


class WindowSelfAttention(_WindowAttention):
    """Every view attends to itself."""

    def forward(self, x: Float[Tensor, "v h w c"], windows: Windows) -> Float[Tensor, "v h w c"]:
        query, key, value = (windows.cut(project(x)) for project in (self.q_proj, self.k_proj, self.v_proj))
        attended = attend(query, key, value, windows.mask(x.device))
        return x + self.norm1(self.merge(windows.join(attended)))


class WindowCrossAttention(_WindowAttention):
    """Every view attends to all its reference views together, followed by an MLP."""

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
        # Position by position; the tokens of all reference views at one position are adjacent.
        key, value = (
            windows.cut(project(others))[reference_views].permute(0, 2, 3, 1, 4).flatten(2, 3)
            for project in (self.k_proj, self.v_proj)
        )
        mask = windows.mask(x.device)
        if mask is not None:
            # The released weights were trained with the whole mask repeated view by view. With several reference views
            # this does not match the order of the tokens, but it is part of what these weights compute.
            mask = mask.repeat(1, 1, reference_views.shape[1])
        message = self.norm1(self.merge(windows.join(attend(query, key, value, mask))))
        return x + self.norm2(self.mlp(torch.cat([x, message], dim=-1)))


class _Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.self_attn = WindowSelfAttention(width)
        self.cross_attn_ffn = WindowCrossAttention(width)

    def forward(
        self, x: Float[Tensor, "v h w c"], reference_views: Int[Tensor, "v m"], windows: Windows
    ) -> Float[Tensor, "v h w c"]:
        return self.cross_attn_ffn(self.self_attn(x, windows), x, reference_views, windows)


class MultiViewTransformer(nn.Module):
    """Self- and cross-attention in windows that are shifted in every other layer (UniMatch, arXiv 2211.05783)."""

    def __init__(self, width: int, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(width) for _ in range(num_layers))

    def forward(
        self, features: Float[Tensor, "v c h w"], reference_views: Int[Tensor, "v m"]
    ) -> Float[Tensor, "v c h w"]:
        """Update the features of all views together.

        Args:
            features: With their position encoding added.
            reference_views: Views that each view attends to.

        Raises:
            ValueError: If the map cannot be cut into windows.
        """
        x = features.permute(0, 2, 3, 1)
        height, width = x.shape[1:3]
        for index, layer in enumerate(self.layers):
            windows = Windows(height, width, window_splits(width), shifted=index % 2 == 1)
            x = run_block(layer, x, reference_views, windows)
        return x.permute(0, 3, 1, 2)
