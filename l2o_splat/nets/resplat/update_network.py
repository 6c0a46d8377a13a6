"""ReSplat's recurrent update (arXiv 2510.08575, section 3.2): Gaussians, state and render error in, a step out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from l2o_splat.nets.point_transformer import PointTransformer, by_rows
from l2o_splat.nets.resplat.config import PARAMETER_WIDTH, ReSplatShape
from l2o_splat.nets.resplat.error_features import ErrorFeatures
from l2o_splat.nets.resplat.global_attention import GlobalAttention, maps_from_rows, rows_from_maps
from l2o_splat.nets.resplat.precision import full_precision


class _InputProjection(nn.Module):
    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_width, width)

    def forward(self, rows: Tensor) -> Tensor:
        return self.linear(rows)


class ReSplatUpdateNetwork(nn.Module):
    """One step for every Gaussian; the same weights serve all steps.

    Raises:
        ValueError: If the shape has no update.
    """

    def __init__(self, shape: ReSplatShape) -> None:
        super().__init__()
        if shape.update is None:
            raise ValueError(
                "These ReSplat weights have no update network, only the initial model; use weights with an update "
                "('l2o weights list' names some), or another rule."
            )
        self.shape = shape
        width, error_width = shape.update.state_width, shape.update.error_width
        self.update_proj = nn.Conv2d(shape.width, width, 1)
        self.update_feature = ErrorFeatures(shape.update.error_widths)
        self.update_rgb_error_proj = nn.Sequential(
            nn.Linear(3 * shape.gaussian_downsample**2, error_width), nn.LayerNorm(error_width)
        )
        self.update_error_attn = nn.ModuleList(
            GlobalAttention(error_width) for _ in range(shape.update.num_error_blocks)
        )
        self.update_module = nn.ModuleList(
            [
                _InputProjection(PARAMETER_WIDTH + width + shape.update.shown_width, width),
                PointTransformer(width, shape.update.attention_width, 4 * width, shape.update.num_blocks),
            ]
        )
        hidden = [layer for _ in range(3) for layer in (nn.Linear(width, width), nn.GELU())]
        self.update_head = nn.Sequential(*hidden, nn.Linear(width, PARAMETER_WIDTH))

    def state_from_features(self, features: Float[Tensor, "n c"]) -> Float[Tensor, "n s"]:
        """State that the initial model's features of each Gaussian start with."""
        projection = self.update_proj
        return F.linear(features.to(projection.weight.dtype), projection.weight[:, :, 0, 0], projection.bias)

    def image_error(
        self, rendered: Float[Tensor, "v 3 h w"], images: Float[Tensor, "v 3 h w"]
    ) -> Float[Tensor, "cells e"]:
        """What is wrong with the renders, one row per cell of the grids that the Gaussians come from.

        Args:
            rendered: sRGB, not clamped.
            images: Photographs of the same views, sRGB 0 to 1.
        """
        cell = self.shape.gaussian_downsample
        grid = (images.shape[2] // cell, images.shape[3] // cell)
        difference = self.update_feature(rendered, grid) - self.update_feature(images, grid)
        with full_precision(images.device):
            colours = self.update_rgb_error_proj(rows_from_maps(F.pixel_unshuffle(rendered - images, cell)))
        error = rows_from_maps(difference) + colours
        for block in self.update_error_attn:
            error = rows_from_maps(block(maps_from_rows(error, grid)))
        return error

    def forward(
        self,
        parameters: Float[Tensor, "n d"],
        state: Float[Tensor, "n s"],
        error: Float[Tensor, "n e"],
        neighbours: Int[Tensor, "n k"],
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n s"]]:
        """Numbers to add to the parameters, and the new state.

        Args:
            parameters: Packed :class:`CameraGaussians`.
            state: Of the step before.
            error: Of each Gaussian's own cell, see :meth:`image_error`, and behind it, with ``front_error``, that of
                the cells that it is in front of.
            neighbours: Rows each row attends to, itself among them.
        """
        project, transformer = self.update_module
        x = by_rows(lambda *parts: project(torch.cat(parts, dim=1)), parameters, state, error)
        state = transformer(x, neighbours) + state
        return by_rows(self.update_head, state).float(), state
