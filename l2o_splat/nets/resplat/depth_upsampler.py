"""Brings depth to the resolution of the images (a dense prediction transformer's decoder, arXiv 2103.13413)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from l2o_splat.nets.resplat.resize import resize

DECODER_WIDTHS = {
    "mini": ((24, 24, 32, 48), 16),
    "vits": ((48, 96, 192, 384), 32),
    "vitb": ((96, 192, 384, 768), 48),
    "vitl": ((128, 256, 512, 1024), 64),
}
"""For each image transformer: channels of the four levels, and of the fusion."""


class ResidualUnit(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Float[Tensor, "v c h w"]) -> Float[Tensor, "v c h w"]:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class FusionBlock(nn.Module):
    """Adds a finer level to a coarser one and enlarges the result."""

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
    """What is to be added to enlarged log-depths, from features of the image transformer and of the views.

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
        # At the level of the low-resolution log-depth, it and the features of the views enter as well.
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
