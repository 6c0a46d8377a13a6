"""Checks named tensors against a network before they are loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn


def require_shapes(tensors: Mapping[str, Tensor], build: Callable[[], nn.Module], network: str) -> None:
    """Require that names and shapes of tensors are those of a network's state dict.

    Args:
        tensors: By name.
        build: Makes the network; it is called on the meta device and allocates nothing.
        network: Description of the network for the message.

    Raises:
        ValueError: If they differ; it names the first difference.
    """
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in build().state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ValueError(
                f"Tensor {name!r} has shape {found.get(name, 'none (it is missing)')}; {network} has "
                f"{expected.get(name, 'no such tensor')}."
            )
