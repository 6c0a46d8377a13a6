"""Image features in which ReSplat compares renders with photographs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from l2o_splat.nets.resplat.image_encoder import imagenet_normalised
from l2o_splat.nets.resplat.resize import resize

RELEASED_WIDTHS = (64, 128)
"""Channels of the first two maps and of the third one in all released weights."""


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
    """The first half of ResNet-18 (arXiv 1512.03385) with torchvision's names, always in eval mode.

    The released ones are ImageNet's and never trained, so that parameters start without gradients.

    Args:
        widths: Channels of the first two maps, and of the third one.
    """

    def __init__(self, widths: tuple[int, int] = RELEASED_WIDTHS) -> None:
        super().__init__()
        fine, coarse = widths
        self.conv1 = nn.Conv2d(3, fine, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(fine)
        self.layer1 = nn.Sequential(_BasicBlock(fine, fine, 1), _BasicBlock(fine, fine, 1))
        self.layer2 = nn.Sequential(_BasicBlock(fine, coarse, 2), _BasicBlock(coarse, coarse, 1))
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> ErrorFeatures:
        """Stays in eval mode: the statistics belong to the weights."""
        return super().train(False)

    def forward(self, images: Float[Tensor, "v 3 h w"], grid: tuple[int, int]) -> Float[Tensor, "v c gh gw"]:
        """Features of sRGB images (0 to 1) on a grid of another resolution."""
        stem = self.conv1(imagenet_normalised(images))
        quarter = self.layer1(F.max_pool2d(F.relu(self.bn1(stem)), 3, 2, 1))
        return torch.cat([resize(maps, grid) for maps in (stem, quarter, self.layer2(quarter))], dim=1)
