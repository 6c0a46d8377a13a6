"""Convolutional features of each view at three resolutions."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

RELEASED_WIDTHS = (64, 96, 128)
"""Channels of the three feature maps of all released weights, fine to coarse."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def imagenet_normalised(images: Float[Tensor, "v 3 h w"]) -> Float[Tensor, "v 3 h w"]:
    """Images of 0 to 1 as networks trained on ImageNet expect them."""
    return (images - images.new_tensor(IMAGENET_MEAN)[:, None, None]) / images.new_tensor(IMAGENET_STD)[:, None, None]


class ResidualBlock(nn.Module):
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
    """Residual network of ReSplat's depth branch (after RAFT, arXiv 2003.12039).

    Args:
        downsample: Image pixels per pixel of the coarsest map, 8 or 4.
        widths: Channels of the three feature maps, fine to coarse.
    """

    def __init__(self, downsample: int, widths: tuple[int, int, int] = RELEASED_WIDTHS) -> None:
        super().__init__()
        fine, middle, coarse = widths
        self.conv1 = nn.Conv2d(3, fine, 7, 2, 3, bias=False)
        self.layer1 = nn.Sequential(ResidualBlock(fine, fine, 1), ResidualBlock(fine, fine, 1))
        middle_stride = {8: 2, 4: 1}[downsample]
        self.layer2 = nn.Sequential(ResidualBlock(fine, middle, middle_stride), ResidualBlock(middle, middle, 1))
        self.layer3 = nn.Sequential(ResidualBlock(middle, coarse, 2), ResidualBlock(coarse, coarse, 1))
        self.conv2 = nn.Conv2d(coarse, coarse, 1)

    def forward(self, images: Float[Tensor, "v 3 h w"]) -> list[Float[Tensor, "v c h2 w2"]]:
        """Maps of ``widths`` channels at 1/2, 1/4 and 1/8 (or 1/2, 1/2 and 1/4) of ImageNet-normalised images."""
        fine = self.layer1(F.relu(F.instance_norm(self.conv1(images))))
        middle = self.layer2(fine)
        return [fine, middle, self.conv2(self.layer3(middle))]
