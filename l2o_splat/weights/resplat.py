"""Loads weights of ReSplat into its networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from l2o_splat.nets.resplat.config import ReSplatConfig, ReSplatShape
from l2o_splat.nets.resplat.depth import DepthNetwork
from l2o_splat.weights.format import Weights
from l2o_splat.weights.resplat_original import PREFIX

DEPTH = "depth_predictor."
"""Prefix of the names of the depth network's tensors in a whole model."""
_LAYOUT_DEPENDENT = "upsampler.concat_projects."
"""Prefix of tensors whose shapes differ between the layouts for DL3DV and RE10K."""
_GUIDE = "guide."
"""Prefix of tensors that only networks with sparse points have."""


@dataclass(frozen=True)
class ReadTensors:
    """Tensors of a whole model, with its widths and behaviour."""

    tensors: dict[str, Tensor]
    """Named as in the networks."""
    shape: ReSplatShape
    config: ReSplatConfig
    source: str
    """Origin of the tensors, for messages."""

    def load_into(self, module: nn.Module) -> None:
        """Give a module that was built on the meta device its tensors; they are shared, not copied.

        Raises:
            ValueError: If one is missing or has another shape; it names the first.
        """
        expected = module.state_dict()
        found = {name: self.tensors[name] for name in expected if name in self.tensors}
        for name, tensor in expected.items():
            shape = tuple(found[name].shape) if name in found else "none (it is missing)"
            if shape != tuple(tensor.shape):
                raise ValueError(
                    f"Tensor {name!r} from {self.source} has shape {shape}; a ReSplat model of the widths "
                    f"{self.shape} has {tuple(tensor.shape)}."
                )
        module.load_state_dict(found, assign=True)


def read_tensors(weights: Weights, options: Mapping[str, Any]) -> ReadTensors:
    """Find the widths and the behaviour of weights.

    Args:
        weights: Weights of the system resplat.
        options: Fields of :class:`ReSplatConfig` that replace those of the weights.

    Raises:
        ValueError: If the weights are of another method or architecture, or an option is unknown.
    """
    tensors, card = _network_tensors(weights), weights.card
    behaviour = weights.behaviour(ReSplatConfig, options)
    if tensors and all(name.startswith(DEPTH) for name in tensors):
        raise ValueError(
            f"The weights from {card.source} are of the depth network alone, from which training starts; use "
            "those of a whole model ('l2o weights list' names some)."
        )
    return ReadTensors(tensors, ReSplatShape.of(tensors), ReSplatConfig(**behaviour), card.source)


def load_depth(network: DepthNetwork, weights: Weights) -> list[str]:
    """Copy weights into a depth network, those of a depth network alone or of a whole model.

    One released file serves the layouts for DL3DV and for RE10K, which differ in a few shapes.

    Returns:
        Names of the tensors that stayed as they were because their shapes are of another layout.

    Raises:
        ValueError: If the weights are of another method, or any other tensor is missing or has another shape; it names
            the first.
    """
    given = {name.removeprefix(DEPTH): tensor for name, tensor in _network_tensors(weights).items()}
    own = network.state_dict()
    differing = [name for name, tensor in own.items() if name not in given or given[name].shape != tensor.shape]
    for name in differing:
        if not name.startswith(_GUIDE) and (name not in given or not name.startswith(_LAYOUT_DEPENDENT)):
            found = tuple(given[name].shape) if name in given else "none (it is missing)"
            raise ValueError(
                f"Tensor {name!r} from {weights.card.source} has shape {found}; this depth network has "
                f"{tuple(own[name].shape)}: use weights of the same image transformer."
            )
    network.load_state_dict({name: tensor if name in differing else given[name] for name, tensor in own.items()})
    return differing


def _network_tensors(weights: Weights) -> dict[str, Tensor]:
    """Tensors named as in the networks, in float32; weights of this package are stored in half precision."""
    return {
        name.removeprefix(PREFIX): tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in weights.require("resplat").tensors.items()
    }
