"""The networks of perceptual losses: the convolutions of VGG up to the second one of the fifth block, and five taps.

``vgg19`` is that of the papers' losses (Learn2Splat, arXiv 2605.15760, and ReSplat, arXiv 2510.08575, both after
Chen & Koltun 2017): it takes grey levels less their mean, as the weights of MatConvNet do. ``vgg16`` takes images
normalised as torchvision's networks do, and stands in for it. Both average where VGG takes maxima, and both have their
taps after the second convolution of each block: relu1_2, relu2_2, relu3_2, relu4_2 and relu5_2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from l2o_splat.losses.perceptual import GREY_LEVELS
from l2o_splat.nets.lpips_network import DEVIATION, MEAN, ConvolutionLayer
from l2o_splat.nets.shapes import require_shapes

Backbone = Literal["vgg19", "vgg16"]

SMALLEST_SIDE = 16
"""Pixels; four times halved, a smaller image has none left."""

_CHANNELS = (64, 128, 256, 512, 512)
_TAP = 1
"""Index of the tapped convolution in its block."""


def _layers(convolutions: tuple[int, ...]) -> tuple[ConvolutionLayer, ...]:
    """Convolutions of blocks with so many of them each, as far as the last tap."""
    layers = [
        ConvolutionLayer(channels, pool=2 if block and not place else None, compared=place == _TAP)
        for block, (channels, count) in enumerate(zip(_CHANNELS, convolutions, strict=True))
        for place in range(count)
    ]
    last = max(index for index, layer in enumerate(layers) if layer.compared)
    return tuple(layers[: last + 1])


@dataclass(frozen=True)
class BackboneShape:
    """Layers of a network, and what it takes."""

    layers: tuple[ConvolutionLayer, ...]
    mean: tuple[float, float, float]
    """Subtracted from red, green and blue in 0..255."""
    deviation: tuple[float, float, float]
    """What is left is divided by this, grey levels."""
    unit: float
    """Factor of the features: grey levels that one unit of the input stands for. A ReLU network with small biases
    scales with its input, so that the features of both networks compare at the same weights."""


BACKBONES: dict[Backbone, BackboneShape] = {
    "vgg19": BackboneShape(_layers((2, 2, 4, 4, 4)), (123.68, 116.779, 103.939), (1.0, 1.0, 1.0), 1.0),
    "vgg16": BackboneShape(
        _layers((2, 2, 3, 3, 3)),
        tuple(GREY_LEVELS * mean for mean in MEAN),
        tuple(GREY_LEVELS * deviation for deviation in DEVIATION),
        GREY_LEVELS * sum(DEVIATION) / 3,
    ),
}


class PerceptualNetwork(nn.Module):
    """Features of images after five layers, in grey levels; its tensors have the names of ``LpipsNetwork``'s."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.shape = BACKBONES[backbone]
        inputs = [3, *(layer.channels for layer in self.shape.layers)]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(channels, layer.channels, layer.kernel, layer.stride, layer.padding)
            for channels, layer in zip(inputs, self.shape.layers, strict=False)
        )

    @classmethod
    def of_tensors(cls, backbone: Backbone, tensors: Mapping[str, Tensor]) -> PerceptualNetwork:
        """The network with given tensors, which are not trained.

        Raises:
            ValueError: If a tensor is missing, unknown or of another shape.
        """
        require_shapes(tensors, lambda: cls(backbone), f"The perceptual network {backbone}")
        with torch.device("meta"):
            network = cls(backbone)
        network.load_state_dict(dict(tensors), assign=True)
        return network.eval().requires_grad_(False)

    def forward(self, images: Float[Tensor, "v h w 3"]) -> list[Float[Tensor, "v c _ _"]]:
        """Features of sRGB images in 0..1 after each tap.

        Raises:
            ValueError: If a side has fewer than ``SMALLEST_SIDE`` pixels.
        """
        height, width = images.shape[1:3]
        if min(height, width) < SMALLEST_SIDE:
            raise ValueError(
                f"The images are {width} x {height} pixels; the perceptual loss needs at least {SMALLEST_SIDE} a side: "
                "use larger images, a larger perceptual scale, or a perceptual weight of 0."
            )
        shape = self.shape
        values = (GREY_LEVELS * images - images.new_tensor(shape.mean)) / images.new_tensor(shape.deviation)
        values = values.movedim(-1, 1)
        taps = []
        for layer, convolution in zip(shape.layers, self.convolutions, strict=True):
            if layer.pool is not None:
                values = F.avg_pool2d(values, layer.pool)
            values = F.relu(convolution(values))
            if layer.compared:
                taps.append(values * shape.unit)
        return taps
