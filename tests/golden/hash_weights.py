"""Weights that a formula gives for every name, so that fixtures of whole models need not hold them."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

GOLDEN_GAMMA = 0x9E3779B97F4A7C15
MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def uniform(name: str, count: int) -> np.ndarray:
    """Numbers of -1 to 1 from the splitmix64 generator, seeded with a name; float32."""
    with np.errstate(over="ignore"):
        x = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GOLDEN_GAMMA)
        x += np.uint64(zlib.crc32(name.encode()))
        for shift, multiplier in zip((30, 27), MULTIPLIERS, strict=True):
            x ^= x >> np.uint64(shift)
            x *= np.uint64(multiplier)
        x ^= x >> np.uint64(31)
    return (2 * (x >> np.uint64(40)).astype(np.float64) / 2**24 - 1).astype(np.float32)


def hash_tensor(name: str, shape: Sequence[int], integer: bool) -> Tensor:
    """The tensor of a full name (prefix ``encoder.`` included) and shape."""
    numel = math.prod(shape)
    if integer:
        return torch.zeros(tuple(shape), dtype=torch.int64)
    last = name.split(".")[-1]
    u = uniform(name, numel)
    if last == "running_var":
        values = 1 + 0.2 * u
    elif last == "running_mean":
        values = 0.1 * u
    elif last == "gamma":
        values = 0.5 + 0.25 * u
    elif last in ("cls_token", "pos_embed"):
        values = 0.1 * u
    elif len(shape) >= 2:
        values = u * np.float32(math.sqrt(3 / (numel // shape[0])))
    elif last == "weight":
        values = 1 + 0.1 * u
    else:
        values = 0.05 * u
    if name.endswith(("update_head.6.weight", "gaussian_head.2.weight")):
        values = values * np.float32(0.1)
    elif name.endswith("output_conv.4.weight"):
        values = values * np.float32(0.01)
    return torch.from_numpy(values.astype(np.float32)).view(tuple(shape))


def hash_weights(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """All tensors of a state dict; batch counters are the only integers."""
    return {name: hash_tensor(name, shape, name.endswith("num_batches_tracked")) for name, shape in shapes.items()}
