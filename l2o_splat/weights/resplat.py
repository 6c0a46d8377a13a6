"""From weights of ReSplat to its networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from l2o_splat.nets.resplat import loading
from l2o_splat.nets.resplat.depth_network import DepthNetwork
from l2o_splat.weights.format import Weights
from l2o_splat.weights.resplat_original import PREFIX


def read_tensors(weights: Weights, options: Mapping[str, Any]) -> loading.ReadTensors:
    """Tensors, widths and behaviour of weights.

    Args:
        weights: Of the resplat system.
        options: Fields of :class:`ReSplatConfig` that replace those of the weights.

    Raises:
        ValueError: If the weights are of another method or architecture, or an option is unknown.
    """
    card = weights.card
    return loading.ReadTensors.read(_network_tensors(weights), card.behaviour, options, card.source)


def load_depth(network: DepthNetwork, weights: Weights) -> list[str]:
    """Start a depth network from weights, see :func:`l2o_splat.nets.resplat.loading.load_depth`.

    Raises:
        ValueError: If the weights are of another method, or do not fit the network.
    """
    return loading.load_depth(network, _network_tensors(weights), weights.card.source)


def _network_tensors(weights: Weights) -> dict[str, Tensor]:
    """Tensors named as in the networks, in single precision; weights of this package are stored in half."""
    return {
        name.removeprefix(PREFIX): tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in weights.require("resplat").tensors.items()
    }
