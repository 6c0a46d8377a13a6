"""Activation checkpointing: blocks that keep their inputs alone while a graph is recorded, and run again backwards.

Chen et al. 2016, "Training deep nets with sublinear memory cost". Memory falls from what all operations of a block keep
to what enters it, and the forward pass of these blocks is paid twice. The same operations run in the same order, so
that gradients are those of the plain pass, bit for bit on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_recomputes = False


@contextmanager
def recomputing(enabled: bool = True) -> Iterator[None]:
    """Within it, networks recompute their blocks in the backward pass, which may lie outside of it."""
    global _recomputes
    before, _recomputes = _recomputes, enabled
    try:
        yield
    finally:
        _recomputes = before


def run_block(block: nn.Module, *inputs: Any) -> Tensor:
    """What a block makes of its inputs; within :func:`recomputing` its graph keeps no more than these."""
    if not (_recomputes and torch.is_grad_enabled()):
        return block(*inputs)
    from torch.utils.checkpoint import checkpoint

    # The networks have no dropout, so that no random numbers need to be drawn again.
    return checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)
