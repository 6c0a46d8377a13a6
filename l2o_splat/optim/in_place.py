"""What steps need that change tensors where they lie."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from l2o_splat.compiler import numba_works


def kernels_can_use(*tensors: Tensor) -> bool:
    """Whether tensors are contiguous float32 numbers in the memory of the CPU, no graph is recorded and numba works."""
    plain = all(
        tensor.dtype == torch.float32 and tensor.device.type == "cpu" and tensor.is_contiguous() for tensor in tensors
    )
    return plain and not torch.is_grad_enabled() and numba_works()


def flat(tensors: Sequence[Tensor]) -> tuple[np.ndarray, ...]:
    """The numbers of each tensor as a flat array, in the same memory."""
    return tuple(tensor.view(-1).numpy() for tensor in tensors)
