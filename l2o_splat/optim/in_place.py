"""Whether tensors can be changed where they lie, by a kernel on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor


def one_memory(*tensors: Tensor) -> bool:
    """Whether tensors are contiguous float32 numbers in the memory of the CPU, and no graph is recorded."""
    return not torch.is_grad_enabled() and all(
        tensor.dtype == torch.float32 and tensor.device.type == "cpu" and tensor.is_contiguous() for tensor in tensors
    )
