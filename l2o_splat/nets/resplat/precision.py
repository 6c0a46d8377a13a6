"""Arithmetic of the networks."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch


def autocast(device: torch.device, bfloat16: bool) -> AbstractContextManager:
    """bfloat16 autocast, or none."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bfloat16)


def full_precision(device: torch.device) -> AbstractContextManager:
    """No autocast inside, for the parts that the original computes in float32."""
    return autocast(device, bfloat16=False)
