"""Numbers on their way to a device.

A GPU works behind the host, which hands it one operation after the other. Whatever is read from it, and whatever is
sent to it in the usual way (``tensor.to(device)``, ``torch.tensor(..., device=...)``, an index that is a list), makes
the host wait until all of them are done. ``docs/gpu.md`` says where a step may do so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def numbers_like(tensor: Tensor, numbers: Sequence[float]) -> Float[Tensor, " m"]:
    """A few numbers on the device and of the dtype of a tensor, which are written there and not sent."""
    return torch.stack([tensor.new_full((), number) for number in numbers])


def sent_like(small: Tensor, tensor: Tensor) -> Tensor:
    """A few numbers that lie on the host, on the device and of the dtype of a tensor; the host does not wait."""
    return small.to(tensor, non_blocking=True)


def wait_for(device: torch.device | str) -> None:
    """Wait until a device has done all that it was handed."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


class Remembered:
    """What was found out about some tensors, while they are the same ones and nobody has written into them."""

    def __init__(self) -> None:
        self._tensors: tuple[Tensor, ...] = ()
        self._versions: tuple[int, ...] = ()
        self._found: Any = None

    def __call__(self, find: Callable[[], Any], *tensors: Tensor) -> Any:
        """What ``find`` returns, which looks at nothing but these tensors; it is called if they are others.

        Nothing is kept of tensors that a graph leads to.
        """
        if any(tensor.requires_grad or tensor.is_inference() for tensor in tensors):
            return find()
        versions = tuple(tensor._version for tensor in tensors)
        known = len(tensors) == len(self._tensors) and all(map(lambda a, b: a is b, tensors, self._tensors))
        if not known or versions != self._versions:
            self._found = find()
            self._tensors, self._versions = tensors, versions
        return self._found
