"""Depth of each context view by a plane sweep (DepthSplat, arXiv 2410.13862, with log-depth candidates).

A matching cost between views, a U-Net that regularises it, and a decoder that upsamples the depth.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from l2o_splat.nets.resplat.cameras import ContextCameras
from l2o_splat.nets.resplat.config import DECODER_WIDTHS, ReSplatShape, full_precision
from l2o_splat.nets.resplat.encoder import (
    ImageEncoder,
    MultiViewTransformer,
    VisionTransformer,
    add_positions,
    imagenet_normalised,
    resize,
)
from l2o_splat.nets.resplat.guide import DepthGuide

SAMPLES_AT_ONCE = 1 << 26
"""Size of one block of warped feature maps, to bound the memory (256 MB in float32)."""
SMALLEST_DEPTH = 1e-3
"""Smaller and negative depths are clamped to this before the division, scene units."""
GROUPS = 8
"""Groups of every group normalisation."""
HEAD_WIDTH = 32
"""Channels of an attention head."""


def log_depth_candidates(near: Float[Tensor, " v"], far: Float[Tensor, " v"], count: int) -> Float[Tensor, "v d"]:
    """Logarithms of depths, evenly spaced from near to far inclusive; scene units."""
    steps = torch.linspace(0, 1, count, device=near.device)
    return near.log()[:, None] + steps * (far / near).log()[:, None]


def matching_cost(
    features: Float[Tensor, "v c h w"],
    cameras: ContextCameras,
    reference_views: Int[Tensor, "v m"],
    depths: Float[Tensor, "v d"],
) -> Float[Tensor, "v d h w"]:
    """Correlation of each view's features with those that its reference views have at every candidate depth.

    A pixel with whole-number coordinates (x, y) is unprojected to each depth and projected to the reference view. Both
    use the intrinsics of the view itself, as the released weights were trained; this is exact if all are the same.

    Args:
        features: One map per view.
        cameras: Poses and intrinsics of the views.
        reference_views: Views that each view is compared with; their costs are averaged.
        depths: Depth candidates of each view (camera z), scene units.

    Returns:
        Dot products over the channels, divided by the root of their number; 0 outside the images.
    """
    features = features.float()
    channels, height, width = features.shape[1:]
    scale = features.new_tensor([width, height, 1.0])[:, None]
    intrinsics = cameras.intrinsics * scale
    y, x = torch.meshgrid(
        torch.arange(height, device=features.device), torch.arange(width, device=features.device), indexing="ij"
    )
    pixels = torch.stack([x, y, torch.ones_like(x)]).to(features.dtype).flatten(1)
    rays = torch.linalg.inv(intrinsics) @ pixels
    from_world = torch.linalg.inv(cameras.poses)
    at_once = max(1, SAMPLES_AT_ONCE // features[0].numel())
    costs = []
    for view, references in enumerate(reference_views.tolist()):
        total = 0
        for reference in references:
            relative = from_world[reference] @ cameras.poses[view]
            parts = [
                _correlate(features[view], features[reference], intrinsics[view], relative, rays[view], part)
                for part in depths[view].split(at_once)
            ]
            total = total + torch.cat(parts)
        costs.append(total / len(references))
    return torch.stack(costs) / channels**0.5


def _correlate(
    own: Float[Tensor, "c h w"],
    other: Float[Tensor, "c h w"],
    intrinsics: Float[Tensor, "3 3"],
    relative: Float[Tensor, "4 4"],
    rays: Float[Tensor, "3 n"],
    depths: Float[Tensor, " d"],
) -> Float[Tensor, "d h w"]:
    """Dot products of one view's features with those sampled from another view."""
    height, width = own.shape[1:]
    points = (relative[:3, :3] @ rays)[None] * depths[:, None, None] + relative[:3, 3:]
    projected = intrinsics @ points
    pixels = projected[:, :2] / projected[:, 2:].clamp(min=SMALLEST_DEPTH)
    last = pixels.new_tensor([width - 1, height - 1])[:, None]
    grid = (2 * pixels / last - 1).transpose(1, 2)
    own = own.flatten(1)
    if height * width <= len(own) * len(depths):
        # Sampling and summing over channels commute; products of all pairs of pixels are fewer numbers here.
        products = (own.T @ other.flatten(1)).view(-1, 1, height, width)
        grid = grid.transpose(0, 1)[:, :, None]
        found = F.grid_sample(products, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
        return found[:, 0, :, 0].T.unflatten(1, (height, width))
    found = F.grid_sample(other[None], grid[None], mode="bilinear", padding_mode="zeros", align_corners=True)[0]
    return (own[:, None] * found).sum(dim=0).unflatten(1, (height, width))


class UNetBlock(nn.Module):
    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, in_width), nn.SiLU(), nn.Conv2d(in_width, width, 3, padding=1)
        )
        # The original has a dropout in third place; the identity keeps the name of the convolution.
        self.out_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, width), nn.SiLU(), nn.Identity(), nn.Conv2d(width, width, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if in_width == width else nn.Conv2d(in_width, width, 1)

    def forward(self, x: Float[Tensor, "v c h w"]) -> Float[Tensor, "v width h w"]:
        return self.skip_connection(x) + self.out_layers(self.in_layers(x))


class JointAttention(nn.Module):
    """Attention of every pixel to all pixels of all views."""

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
    """Three levels of one width, after latent diffusion (arXiv 2112.10752) without a time embedding.

    The lowest level, at a quarter of the resolution, has attention.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        sequence = nn.Sequential
        self.input_blocks = nn.ModuleList(
            [
                sequence(nn.Conv2d(width, width, 3, padding=1)),
                sequence(UNetBlock(width, width)),
                sequence(Downsample(width)),
                sequence(UNetBlock(width, width)),
                sequence(Downsample(width)),
                sequence(UNetBlock(width, width), JointAttention(width)),
            ]
        )
        self.middle_block = sequence(UNetBlock(width, width), nn.Identity(), UNetBlock(width, width))
        self.output_blocks = nn.ModuleList(
            [
                sequence(UNetBlock(2 * width, width), JointAttention(width)),
                sequence(UNetBlock(2 * width, width), JointAttention(width), Upsample(width)),
                sequence(UNetBlock(2 * width, width)),
                sequence(UNetBlock(2 * width, width), Upsample(width)),
                sequence(UNetBlock(2 * width, width)),
                sequence(UNetBlock(2 * width, width)),
            ]
        )
        self.out = sequence(nn.GroupNorm(GROUPS, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x: Float[Tensor, "v c h w"]) -> Float[Tensor, "v c h w"]:
        """Maps of the same size. Height and width must be multiples of 4; all views are of one scene."""
        skips = []
        for block in self.input_blocks:
            x = block(x)
            skips.append(x)
        x = self.middle_block(x)
        for block in self.output_blocks:
            x = block(torch.cat([x, skips.pop()], dim=1))
        return self.out(x)


class ResidualUnit(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Float[Tensor, "v c h w"]) -> Float[Tensor, "v c h w"]:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class FusionBlock(nn.Module):
    """Adds a finer level to a coarser one and upsamples the result."""

    def __init__(self, width: int, coarsest: bool) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(width, width, 1)
        if not coarsest:
            self.resConfUnit1 = ResidualUnit(width)
        self.resConfUnit2 = ResidualUnit(width)

    def forward(
        self, x: Float[Tensor, "v c h w"], finer: Float[Tensor, "v c h w"] | None, size: tuple[int, int]
    ) -> Float[Tensor, "v c h2 w2"]:
        if finer is not None:
            x = x + self.resConfUnit1(finer)
        return self.out_conv(resize(self.resConfUnit2(x), size))


class _Scratch(nn.Module):
    def __init__(self, widths: tuple[int, ...], width: int) -> None:
        super().__init__()
        for level, level_width in enumerate(widths, start=1):
            self.add_module(f"layer{level}_rn", nn.Conv2d(level_width, width, 3, padding=1, bias=False))
            self.add_module(f"refinenet{level}", FusionBlock(width, coarsest=level == len(widths)))
        self.output_conv = nn.Sequential(
            nn.Conv2d(width, width // 2, 3, padding=1, padding_mode="replicate"),
            nn.GELU(),
            nn.Conv2d(width // 2, 16, 3, padding=1, padding_mode="replicate"),
            nn.GELU(),
            nn.Conv2d(16, 1, 1),
        )


class DepthUpsampler(nn.Module):
    """Residual to the upsampled log-depth: a dense prediction transformer's decoder (arXiv 2103.13413).

    Args:
        variant: Image transformer, a key of ``DECODER_WIDTHS``.
        vit_width: Its channels.
        cnn_widths: Channels of the maps of :class:`ImageEncoder`.
        downsample: Image pixels per pixel of the low-resolution log-depth, 8 or 4.
    """

    def __init__(self, variant: str, vit_width: int, cnn_widths: tuple[int, int, int], downsample: int) -> None:
        super().__init__()
        self.downsample = downsample
        widths, width = DECODER_WIDTHS[variant]
        fine, middle, coarse = cnn_widths
        # The low-resolution log-depth and the multi-view features enter at their own level.
        extra = [fine, middle, coarse + coarse + 1] if downsample == 8 else [fine + middle, coarse + coarse + 1, 0]
        self.concat_projects = nn.ModuleList(
            nn.Conv2d(level_width + more, level_width, 1) for level_width, more in zip(widths, extra, strict=False)
        )
        self.projects = nn.ModuleList(nn.Conv2d(vit_width, level_width, 1) for level_width in widths)
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(widths[0], widths[0], 4, 4),
                nn.ConvTranspose2d(widths[1], widths[1], 2, 2),
                nn.Identity(),
                nn.Conv2d(widths[3], widths[3], 3, 2, 1),
            ]
        )
        self.scratch = _Scratch(widths, width)

    def forward(
        self,
        mono: list[Float[Tensor, "v c h8 w8"]],
        cnn: list[Float[Tensor, "v c h w"]],
        multiview: Float[Tensor, "v c h w"],
        log_depth: Float[Tensor, "v 1 h w"],
    ) -> Float[Tensor, "v 1 height width"]:
        """Residual of the log-depth at the resolution of the images.

        Args:
            mono: Four outputs of the image transformer at 1/8 of the image size.
            cnn: Maps of :class:`ImageEncoder`.
            multiview: Maps of :class:`MultiViewTransformer`.
            log_depth: Low-resolution log-depth.
        """
        levels = [
            layer(project(maps)) for layer, project, maps in zip(self.resize_layers, self.projects, mono, strict=True)
        ]
        fine, middle, coarse = cnn
        if self.downsample == 8:
            parts = [[fine, levels[0]], [middle, levels[1]], [coarse, levels[2], multiview, log_depth]]
        else:
            parts = [[fine, middle, levels[0]], [coarse, levels[1], multiview, log_depth], [levels[2]]]
        for level, (project, maps) in enumerate(zip(self.concat_projects, parts, strict=True)):
            levels[level] = project(torch.cat(maps, dim=1))
        scratch = self.scratch
        levels = [getattr(scratch, f"layer{level}_rn")(maps) for level, maps in enumerate(levels, start=1)]
        sizes = [tuple(maps.shape[2:]) for maps in levels]
        x = scratch.refinenet4(levels[3], None, sizes[2])
        x = scratch.refinenet3(x, levels[2], sizes[1])
        x = scratch.refinenet2(x, levels[1], sizes[0])
        x = scratch.refinenet1(x, levels[0], (2 * sizes[0][0], 2 * sizes[0][1]))
        return scratch.output_conv(x)


@dataclass(frozen=True)
class DepthFeatures:
    """Depth, and intermediate results that the initial model uses."""

    depth: Float[Tensor, "v 1 h w"]
    """Camera z at the resolution of the images, in units of the poses."""
    mono: list[Float[Tensor, "v c p q"]]
    """Four outputs of the image transformer on its patch grid."""
    cnn: list[Float[Tensor, "v c h2 w2"]]
    """Maps of the image encoder, fine to coarse."""
    multiview: Float[Tensor, "v c h8 w8"]
    """Maps of the multi-view transformer."""
    probability: Float[Tensor, "v d h8 w8"]
    """Probability of each depth candidate."""


class DepthNetwork(nn.Module):
    """Features of all views, a plane sweep, and the depth of every pixel."""

    def __init__(self, shape: ReSplatShape) -> None:
        super().__init__()
        self.shape = shape
        width, d = shape.unet_width, shape.num_depths
        self.backbone = ImageEncoder(shape.feature_downsample, shape.cnn_widths)
        self.transformer = MultiViewTransformer(shape.view_width, shape.num_transformer_layers)
        self.pretrained = VisionTransformer(shape.vit)
        in_width = d + 2 * shape.view_width + shape.vit_width
        self.regressor = nn.ModuleList(
            [
                nn.Sequential(
                    nn.Conv2d(in_width, width, 3, padding=1),
                    nn.GroupNorm(8, width),
                    nn.GELU(),
                    UNet(width),
                    nn.Conv2d(width, width, 3, padding=1),
                )
            ]
        )
        self.regressor_residual = nn.ModuleList([nn.Conv2d(in_width, width, 1)])
        self.depth_head = nn.ModuleList(
            [
                nn.Sequential(
                    nn.Conv2d(width, 2 * width, 3, padding=1, padding_mode="replicate"),
                    nn.GELU(),
                    nn.Conv2d(2 * width, d, 3, padding=1, padding_mode="replicate"),
                )
            ]
        )
        self.upsampler = DepthUpsampler(shape.vit, shape.vit_width, shape.cnn_widths, shape.feature_downsample)
        if shape.guide_width:
            self.guide = DepthGuide(shape.guide_width)

    def forward(
        self,
        images: Float[Tensor, "v 3 h w"],
        cameras: ContextCameras,
        reference_views: int,
        guide: Float[Tensor, "v 3 h w"] | None = None,
    ) -> DepthFeatures:
        """Depth of every pixel of the views of one scene.

        Args:
            images: sRGB, 0 to 1; no higher than wide.
            cameras: Cameras of the views.
            reference_views: Number of nearest views that each view is compared with.
            guide: Depths of the sparse points, see :data:`GUIDE_CHANNELS`; None without points, and for networks that
                have no such input.
        """
        height, width = images.shape[2:]
        normalised = imagenet_normalised(images)
        others = cameras.nearest_views(reference_views)
        cnn = self.backbone(normalised)
        multiview = self.transformer(add_positions(cnn[-1]), others)
        mono = self.pretrained(normalised)
        eighth = [resize(maps, (height // 8, width // 8)) for maps in mono]
        candidates = log_depth_candidates(cameras.near, cameras.far, self.shape.num_depths)
        with full_precision(images.device):
            cost = matching_cost(multiview, cameras, others, candidates.exp())
        x = torch.cat([cost, cnn[-1], multiview, resize(eighth[-1], cost.shape[2:])], dim=1)
        x = self.regressor[0](x) + self.regressor_residual[0](x)
        with full_precision(images.device):
            probability = self.depth_head[0](x.float()).softmax(dim=1)
            log_depth = (probability * candidates[:, :, None, None]).sum(dim=1, keepdim=True)
        residual = self.upsampler(eighth, cnn, multiview, log_depth)
        nearest, farthest = (limit.log()[:, None, None, None] for limit in (cameras.near, cameras.far))
        fine = resize(log_depth, (height, width)) + residual.float()
        if guide is not None:
            with full_precision(images.device):
                fine = self.guide(fine, guide, images, nearest, farthest)
        depth = fine.clamp(nearest, farthest).exp()
        return DepthFeatures(depth, mono, cnn, multiview, probability)
