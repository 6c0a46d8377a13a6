"""A transformer over points in which every point attends only to its nearest neighbours."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from l2o_splat.nets.recompute import run_block
from l2o_splat.threads import run

ROWS_ON_CPU = 1024
"""Rows that pass through a layer together on the CPU; its hidden values then stay in the cache."""
ROWS_ON_DEVICE = 1 << 17
"""Rows that pass through a layer together on other devices, to bound the memory for a million points."""


def by_rows(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Compute ``function(*inputs)`` some rows at a time, for a function that treats each row independently.

    On the CPU each thread takes its own portions. Threads that share every operation wait for each other after each,
    which takes most of the time on a machine that runs other programs too.

    While a graph is recorded, all rows go at once, since the graph keeps every intermediate value anyway.
    """
    n = len(inputs[0])
    on_cpu = inputs[0].device.type == "cpu"
    at_once = ROWS_ON_CPU if on_cpu else ROWS_ON_DEVICE
    if torch.is_grad_enabled() or n <= at_once:
        return function(*inputs)
    if on_cpu:
        at_once = min(at_once, math.ceil(n / torch.get_num_threads()))
    portions = list(zip(*(rows.split(at_once) for rows in inputs), strict=True))
    return torch.cat(_on_threads(function, portions) if on_cpu else [function(*portion) for portion in portions])


def _on_threads(function: Callable[..., Tensor], portions: list[tuple[Tensor, ...]]) -> list[Tensor]:
    """Compute ``function`` of every portion, each on one thread, with the autocast of the calling thread."""
    num_threads, autocast = torch.get_num_threads(), torch.is_autocast_enabled("cpu")

    def compute(index: int) -> Tensor:
        # These settings are per thread, and the threads of the pool do not have them yet.
        torch.set_num_threads(1)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return function(*portions[index])

    try:
        return run(compute, len(portions))
    finally:
        torch.set_num_threads(num_threads)


class NeighbourAttention(nn.Module):
    """One head of scaled dot-product attention over given neighbours, computed in float32."""

    def __init__(self, width: int, attention_width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * attention_width, bias=False)
        self.proj = nn.Linear(attention_width, width)

    def gather(self, own: Float[Tensor, "c 3a"], all_rows: Float[Tensor, "n 3a"], neighbours: Int[Tensor, "c k"]):
        """Attention of some points to their neighbours among all points, projected back: ``"c width"``."""
        width = own.shape[1] // 3
        query = own[:, None, :width].float()
        # index_select copies whole rows, three times as fast as indexing with a two-dimensional tensor.
        near = all_rows[:, width:].index_select(0, neighbours.flatten()).unflatten(0, neighbours.shape).float()
        weights = ((query * near[..., :width]).sum(dim=2, keepdim=True) * width**-0.5).softmax(dim=1)
        return self.proj((weights * near[..., width:]).sum(dim=1))


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, width: int, hidden_width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden_width)
        self.fc2 = nn.Linear(hidden_width, width)

    def forward(self, rows: Float[Tensor, "n width"]) -> Float[Tensor, "n width"]:
        return self.fc2(F.gelu(self.fc1(rows)))


class Block(nn.Module):
    """Pre-norm transformer block without position encoding (arXiv 2605.15760)."""

    def __init__(self, width: int, attention_width: int, hidden_width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.attn = NeighbourAttention(width, attention_width)
        self.mlp = Mlp(width, hidden_width)

    def forward(self, x: Float[Tensor, "n width"], neighbours: Int[Tensor, "n k"]) -> Float[Tensor, "n width"]:
        projected = by_rows(lambda rows: self.attn.qkv(self.norm1(rows)), x)

        def after_attention(rows: Tensor, own: Tensor, near: Tensor) -> Tensor:
            rows = rows + self.attn.gather(own, projected, near)
            return rows + self.mlp(self.norm2(rows))

        return by_rows(after_attention, x, projected, neighbours)


class PointTransformer(nn.Module):
    """A sequence of blocks without a final norm."""

    def __init__(self, width: int, attention_width: int, hidden_width: int, num_blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, attention_width, hidden_width) for _ in range(num_blocks))

    def forward(self, x: Float[Tensor, "n width"], neighbours: Int[Tensor, "n k"]) -> Float[Tensor, "n width"]:
        for block in self.blocks:
            x = run_block(block, x, neighbours)
        return x


class InputProjection(nn.Module):
    """A linear layer under the name that the released weights have for it."""

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_width, width)

    def forward(self, rows: Tensor) -> Tensor:
        return self.linear(rows)
