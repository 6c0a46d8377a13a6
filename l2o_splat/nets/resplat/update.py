"""ReSplat's recurrent update (arXiv 2510.08575, section 3.2): Gaussians, state and render error in, a step out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from l2o_splat.nets.point_transformer import InputProjection, PointTransformer, by_rows
from l2o_splat.nets.resplat.config import PARAMETER_WIDTH, RELEASED_ERROR_WIDTHS, ReSplatShape, full_precision
from l2o_splat.nets.resplat.encoder import imagenet_normalised, resize
from l2o_splat.nets.resplat.points import GlobalAttention, maps_from_rows, rows_from_maps


class _BasicBlock(nn.Module):
    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None
        if stride != 1 or in_width != width:
            self.downsample = nn.Sequential(nn.Conv2d(in_width, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Float[Tensor, "v c h w"]) -> Float[Tensor, "v width h2 w2"]:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ErrorFeatures(nn.Module):
    """Features in which renders and photographs are compared: the first half of ResNet-18 (arXiv 1512.03385).

    Names are torchvision's, and the module is always in eval mode. The released weights are ImageNet's and were not
    trained further, so that parameters start without gradients.

    Args:
        widths: Channels of the first two maps, and of the third.
    """

    def __init__(self, widths: tuple[int, int] = RELEASED_ERROR_WIDTHS) -> None:
        super().__init__()
        fine, coarse = widths
        self.conv1 = nn.Conv2d(3, fine, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(fine)
        self.layer1 = nn.Sequential(_BasicBlock(fine, fine, 1), _BasicBlock(fine, fine, 1))
        self.layer2 = nn.Sequential(_BasicBlock(fine, coarse, 2), _BasicBlock(coarse, coarse, 1))
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> ErrorFeatures:
        """Do nothing: the module stays in eval mode, because the statistics belong to the weights."""
        return super().train(False)

    def forward(self, images: Float[Tensor, "v 3 h w"], grid: tuple[int, int]) -> Float[Tensor, "v c gh gw"]:
        """Features of sRGB images (0 to 1), resized to a grid."""
        stem = self.conv1(imagenet_normalised(images))
        quarter = self.layer1(F.max_pool2d(F.relu(self.bn1(stem)), 3, 2, 1))
        return torch.cat([resize(maps, grid) for maps in (stem, quarter, self.layer2(quarter))], dim=1)


class ReSplatUpdateNetwork(nn.Module):
    """Makes one step for every Gaussian; all steps use the same weights.

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
                InputProjection(PARAMETER_WIDTH + width + shape.update.shown_width, width),
                PointTransformer(width, shape.update.attention_width, 4 * width, shape.update.num_blocks),
            ]
        )
        hidden = [layer for _ in range(3) for layer in (nn.Linear(width, width), nn.GELU())]
        self.update_head = nn.Sequential(*hidden, nn.Linear(width, PARAMETER_WIDTH))

    def state_from_features(self, features: Float[Tensor, "n c"]) -> Float[Tensor, "n s"]:
        """The state at the start of a scene, from the initial model's features of each Gaussian."""
        projection = self.update_proj
        return F.linear(features.to(projection.weight.dtype), projection.weight[:, :, 0, 0], projection.bias)

    def image_error(
        self, rendered: Float[Tensor, "v 3 h w"], images: Float[Tensor, "v 3 h w"]
    ) -> Float[Tensor, "cells e"]:
        """Render error, one row per cell of the grids that the Gaussians come from.

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
        """What to add to the parameters, and the new state.

        Args:
            parameters: Packed :class:`CameraGaussians`.
            state: After the previous step.
            error: Error of each Gaussian's own cell, see :meth:`image_error`; with ``front_error`` followed by that
                of the cells in which it is in front.
            neighbours: Rows that each row attends to, including itself.
        """
        project, transformer = self.update_module
        x = by_rows(lambda *parts: project(torch.cat(parts, dim=1)), parameters, state, error)
        state = transformer(x, neighbours) + state
        return by_rows(self.update_head, state).float(), state
