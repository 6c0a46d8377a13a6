"""One tiny photograph, so that the kernel that reduces is compiled before a run needs it."""

from __future__ import annotations

import torch


def compile_reduction() -> None:
    """Compile the kernel that reduces photographs, or read its machine code from disk."""
    from l2o_splat.reduction import reduced_photograph

    mask = torch.ones(4, 4, 1, dtype=torch.bool)
    reduced_photograph(torch.zeros(4, 4, 3, dtype=torch.uint8), mask, 2, 2)
