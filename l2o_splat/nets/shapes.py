"""Do named tensors fit a network? Said before they are loaded, and by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn


def require_shapes(tensors: Mapping[str, Tensor], build: Callable[[], nn.Module], network: str) -> None:
    """Refuse tensors whose names or shapes are not those of a network's state dict.

    Args:
        tensors: By name.
        build: Makes the network; nothing is allocated.
        network: What it is, for the message.

    Raises:
        ValueError: Naming the first difference.
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
