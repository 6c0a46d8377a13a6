"""The networks of LPIPS (Zhang et al. 2018, version 0.1): convolutions of AlexNet or VGG-16, and a weight per channel.

A distance of two images compares what the convolutions make of them after the compared layers: each pixel's features
are scaled to length 1, and the squared differences are weighted per channel, averaged over the pixels and added.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from l2o_splat.nets.shapes import require_shapes

Architecture = Literal["alexnet", "vgg16"]

MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
"""Of the photographs that the convolutions were trained on, in 0..1; LPIPS states the same for -1..1."""


@dataclass(frozen=True)
class ConvolutionLayer:
    """A convolution with bias, followed by a ReLU."""

    channels: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    pool: int | None = None
    """Side of the pooling before it, which halves the image; None for no pooling."""
    compared: bool = True
    """Whether a distance compares what comes out of it."""


LAYERS: dict[Architecture, tuple[ConvolutionLayer, ...]] = {
    "alexnet": (
        ConvolutionLayer(64, kernel=11, stride=4, padding=2),
        ConvolutionLayer(192, kernel=5, padding=2, pool=3),
        ConvolutionLayer(384, pool=3),
        ConvolutionLayer(256),
        ConvolutionLayer(256),
    ),
    "vgg16": (
        ConvolutionLayer(64, compared=False),
        ConvolutionLayer(64),
        ConvolutionLayer(128, pool=2, compared=False),
        ConvolutionLayer(128),
        ConvolutionLayer(256, pool=2, compared=False),
        ConvolutionLayer(256, compared=False),
        ConvolutionLayer(256),
        ConvolutionLayer(512, pool=2, compared=False),
        ConvolutionLayer(512, compared=False),
        ConvolutionLayer(512),
        ConvolutionLayer(512, pool=2, compared=False),
        ConvolutionLayer(512, compared=False),
        ConvolutionLayer(512),
    ),
}


class LpipsNetwork(nn.Module):
    """Distance of images, and the features that it is made from."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.layers = LAYERS[architecture]
        inputs = [3, *(layer.channels for layer in self.layers)]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(channels, layer.channels, layer.kernel, layer.stride, layer.padding)
            for channels, layer in zip(inputs, self.layers, strict=False)
        )
        self.channels = nn.ParameterList(torch.zeros(layer.channels) for layer in self.layers if layer.compared)

    @classmethod
    def of_tensors(cls, architecture: Architecture, tensors: Mapping[str, Tensor]) -> LpipsNetwork:
        """The network with given tensors, which are not trained.

        Raises:
            ValueError: If a tensor is missing, unknown or of another shape.
        """
        require_shapes(tensors, lambda: cls(architecture), f"LPIPS with {architecture}")
        with torch.device("meta"):
            network = cls(architecture)
        network.load_state_dict(dict(tensors), assign=True)
        return network.eval().requires_grad_(False)

    def features(self, images: Float[Tensor, "v h w 3"]) -> list[Float[Tensor, "v c _ _"]]:
        """What the convolutions make of images in 0..1, after each compared layer."""
        values = ((images - images.new_tensor(MEAN)) / images.new_tensor(DEVIATION)).movedim(-1, 1)
        compared = []
        for layer, convolution in zip(self.layers, self.convolutions, strict=True):
            if layer.pool is not None:
                values = F.max_pool2d(values, layer.pool, stride=2)
            values = F.relu(convolution(values))
            if layer.compared:
                compared.append(values)
        return compared

    def forward(self, first: Float[Tensor, "v h w 3"], second: Float[Tensor, "v h w 3"]) -> Float[Tensor, " v"]:
        """LPIPS of every pair of images in 0..1; differentiable."""
        distance = first.new_zeros(len(first))
        for one, other, weights in zip(self.features(first), self.features(second), self.channels, strict=True):
            difference = (_unit(one) - _unit(other)).square()
            distance = distance + (difference * weights[:, None, None]).sum(dim=1).mean(dim=(1, 2))
        return distance


def _unit(features: Float[Tensor, "v c h w"]) -> Float[Tensor, "v c h w"]:
    """Features of length 1 at each pixel; 0 where all are 0, with a gradient of 0."""
    return features * (features.square().sum(dim=1, keepdim=True) + 1e-20).rsqrt()
