"""The gain network's query on the CPU: all layers of 64 Gaussians at a time, while they are in the cache.

Only what neighbours need of each other goes to memory between two blocks: queries, keys and values, and the values that
run past the blocks.
"""

from __future__ import annotations

import threading

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from l2o_splat import threads
from l2o_splat.kernel import helper, kernel
from l2o_splat.nets.point_transformer import Block
from l2o_splat.nets.side_by_side import (
    ABREAST,
    TILE,
    WHOLE,
    add_linear,
    add_multiple,
    buffer,
    fetch,
    gelu,
    layer_norm,
    linear,
    row_product,
    softmax,
)

_kept = threading.local()
_AHEAD = 16
"""Gaussians by which the rows of neighbours are asked for before they are read."""
_BLOCKS_AT_ONCE = 16
"""Blocks of ``ABREAST`` Gaussians that a thread works on at a time."""


def query(
    network: nn.Module,
    inputs: Float[Tensor, "n i"],
    latent: Float[Tensor, "n latent"],
    neighbours: Int[Tensor, "n k"],
    num_gains: int,
) -> tuple[Float[Tensor, "n proposal"], Float[Tensor, "n latent"]]:
    """What :meth:`GainNetwork.forward` makes of its inputs, to within 1e-5; without a graph.

    Args:
        network: A :class:`GainNetwork` of float32 numbers on the CPU.
        inputs: Parameters that it reads and Adam direction, the first columns of its first layer's inputs.
        latent: Latent state, the other columns.
        neighbours: Rows that each row attends to.
        num_gains: Columns of the proposal whose mean is subtracted.
    """
    n, blocks = len(neighbours), list(network.transformer.blocks)
    latent_width = network.project.out_features
    portions = -(-n // (ABREAST * _BLOCKS_AT_ONCE))
    widths = [_whole_vectors(block) for block in blocks]
    sizes = [-(-n // ABREAST) * _rounded(latent_width) * ABREAST]
    sizes += [count * width * n for width in widths for count in (1, 2)]
    memory = [part.numpy() for part in _memory(sum(sizes)).split(sizes)]
    # One row of lanes after the other, block by block.
    x = memory[0].reshape(-(-n // ABREAST), -1)
    queries = [rows.reshape(n, width) for rows, width in zip(memory[1::2], widths, strict=True)]
    near = [rows.reshape(n, 2 * width) for rows, width in zip(memory[2::2], widths, strict=True)]
    rows = (inputs.numpy(), latent.numpy())
    neighbours = neighbours.numpy()
    project, head, norm = _packed(network.project), _packed(network.head), _norm(network.norm)
    layers = [
        {
            "query": (*_norm(block.norm1), *_packed_queries(block.attn.qkv, _whole_vectors(block))),
            "mix": (
                _factor(block),
                *_packed(block.attn.proj),
                *_norm(block.norm2),
                *_packed(block.mlp.fc1),
                *_packed(block.mlp.fc2),
            ),
        }
        for block in blocks
    ]
    proposal = np.empty((n, network.head.out_features), np.float32)
    new_latent = np.empty((n, latent_width), np.float32)

    def begin(portion: int) -> None:
        span = _span(portion, n)
        project_inputs(*rows, *project, x, *span)
        project_queries(x, *layers[0]["query"], queries[0], near[0], *span)

    threads.run(begin, portions)
    for index, layer in enumerate(layers):

        def go_on(portion: int, index: int = index, layer: dict = layer) -> None:
            span = _span(portion, n)
            mix(x, queries[index], near[index], neighbours, *layer["mix"], *span)
            if index + 1 < len(layers):
                project_queries(x, *layers[index + 1]["query"], queries[index + 1], near[index + 1], *span)
            else:
                answer(x, *norm, *head, new_latent, proposal, *span)

        threads.run(go_on, portions)
    proposal = torch.from_numpy(proposal)
    proposal[:, :num_gains] -= proposal[:, :num_gains].mean(dim=0)
    return proposal, torch.from_numpy(new_latent)


def _memory(numbers: int) -> Tensor:
    """Memory of this thread for so many numbers, the same as at its last call if there were as many then.

    The system hands out new pages at a price of about as much time as a query takes otherwise.
    """
    if len(getattr(_kept, "memory", ())) != numbers:
        _kept.memory = torch.empty(numbers, dtype=torch.float32)
    return _kept.memory


def _span(portion: int, n: int) -> tuple[int, int]:
    rows = ABREAST * _BLOCKS_AT_ONCE
    return portion * rows, min((portion + 1) * rows, n)


def _rounded(width: int) -> int:
    """The next multiple of the outputs that a product sums at a time."""
    return -(-width // TILE) * TILE


def _whole_vectors(block: Block) -> int:
    """The width of its attention, filled up to whole vectors."""
    return -(-block.attn.proj.in_features // WHOLE) * WHOLE


def _factor(block: Block) -> np.float32:
    return np.float32(block.attn.proj.in_features**-0.5)


def _packed(layer: nn.Linear) -> tuple[np.ndarray, np.ndarray]:
    """Weights and biases of a layer, filled up with outputs of zero that products sum along."""
    outputs, inputs = layer.weight.shape
    weights, biases = layer.weight.new_zeros(_rounded(outputs), inputs), layer.weight.new_zeros(_rounded(outputs))
    weights[:outputs], biases[:outputs] = layer.weight, layer.bias
    return _in_order(weights), biases.numpy()


def _packed_queries(layer: nn.Linear, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights of queries, keys and values, each filled up to a width with outputs of zero; there are no biases."""
    outputs, inputs = layer.weight.shape
    weights = layer.weight.new_zeros(3, width, inputs)
    weights[:, : outputs // 3] = layer.weight.view(3, -1, inputs)
    return _in_order(weights.view(3 * width, inputs)), np.zeros(3 * width, np.float32)


def _in_order(weights: Float[Tensor, "out in"]) -> np.ndarray:
    """Weights in the order in which products read them, ``[out / TILE, in, TILE]``."""
    return weights.view(-1, TILE, weights.shape[1]).transpose(1, 2).reshape(-1).numpy()


def _norm(layer: nn.LayerNorm) -> tuple[np.ndarray, np.ndarray, np.float32]:
    return layer.weight.detach().numpy(), layer.bias.detach().numpy(), np.float32(layer.eps)


@helper
def _spread(rows, first, last, out):
    """Copy rows ``[first, last)`` to the lanes of a buffer, one of its rows per column."""
    for lane in range(last - first):
        row = rows[first + lane]
        for column in range(len(row)):
            out[column * ABREAST + lane] = row[column]


@helper
def _collect(x, first, last, out):
    """Copy lanes of a buffer to rows ``[first, last)``, one column per row of the buffer."""
    for lane in range(last - first):
        row = out[first + lane]
        for column in range(len(row)):
            row[column] = x[column * ABREAST + lane]


@kernel
def project_inputs(inputs, latent, weights, bias, x, begin, end):
    """The first layer, from rows of its inputs to blocks of lanes ``x``."""
    gathered = buffer(inputs.shape[1] + latent.shape[1])
    for first in range(begin, end, ABREAST):
        last = min(first + ABREAST, end)
        _spread(inputs, first, last, gathered)
        _spread(latent, first, last, gathered[inputs.shape[1] * ABREAST :])
        linear(weights, bias, gathered, x[first // ABREAST])


@kernel
def project_queries(x, scale, shift, eps, weights, bias, queries, near, begin, end):
    """Queries, keys and values of a block as rows, from blocks of lanes."""
    width = len(scale)
    normalised, result, work = buffer(width), buffer(len(bias)), buffer(2)
    for first in range(begin, end, ABREAST):
        layer_norm(scale, shift, eps, x[first // ABREAST], normalised, work[:ABREAST], work[ABREAST:])
        linear(weights, bias, normalised, result)
        last = min(first + ABREAST, end)
        _collect(result, first, last, queries)
        _collect(result[queries.shape[1] * ABREAST :], first, last, near)


@helper
def _attend(queries, near, neighbours, factor, first, last, scores, mixed, work):
    """Attention of rows ``[first, last)`` to their neighbours, as lanes of ``mixed``.

    Args:
        queries: One row per Gaussian.
        near: Keys and values of each Gaussian, one row after the other.
    """
    count, width = neighbours.shape[1], queries.shape[1]
    for lane in range(last - first):
        ahead = min(first + lane + _AHEAD, len(neighbours) - 1)
        for neighbour in range(count):
            for start in range(0, 2 * width, WHOLE):
                fetch(near, 2 * width * neighbours[ahead, neighbour] + start)
        own = (first + lane) * width
        for neighbour in range(count):
            keys = 2 * width * neighbours[first + lane, neighbour]
            scores[neighbour * ABREAST + lane] = factor * row_product(queries, own, near, keys, width)
    softmax(scores, work[:ABREAST], work[ABREAST : 2 * ABREAST])
    total = work[2 * ABREAST :]
    for lane in range(last - first):
        total[:width] = 0
        for neighbour in range(count):
            values = 2 * width * neighbours[first + lane, neighbour] + width
            add_multiple(scores[neighbour * ABREAST + lane], near, values, total, 0, width)
        for channel in range(width):
            mixed[channel * ABREAST + lane] = total[channel]


@kernel
def mix(
    x,
    queries,
    near,
    neighbours,
    factor,
    attended_weights,
    attended_bias,
    scale,
    shift,
    eps,
    hidden_weights,
    hidden_bias,
    out_weights,
    out_bias,
    begin,
    end,
):
    """Attention and the two layers after it, added to blocks of lanes ``x``."""
    scores, mixed = buffer(neighbours.shape[1]), buffer(queries.shape[1])
    normalised, hidden = buffer(len(scale)), buffer(len(hidden_bias))
    work = buffer(3 + queries.shape[1] // ABREAST)
    for first in range(begin, end, ABREAST):
        rows = x[first // ABREAST]
        _attend(queries, near, neighbours, factor, first, min(first + ABREAST, end), scores, mixed, work)
        add_linear(attended_weights, attended_bias, mixed, rows)
        layer_norm(scale, shift, eps, rows, normalised, work[:ABREAST], work[ABREAST : 2 * ABREAST])
        linear(hidden_weights, hidden_bias, normalised, hidden)
        gelu(hidden)
        add_linear(out_weights, out_bias, hidden, rows)


@kernel
def answer(x, scale, shift, eps, weights, bias, latent, proposal, begin, end):
    """The new latent state and what the last layer makes of it, as rows."""
    normalised, result, work = buffer(len(scale)), buffer(len(bias)), buffer(2)
    for first in range(begin, end, ABREAST):
        last = min(first + ABREAST, end)
        layer_norm(scale, shift, eps, x[first // ABREAST], normalised, work[:ABREAST], work[ABREAST:])
        linear(weights, bias, normalised, result)
        _collect(normalised, first, last, latent)
        _collect(result, first, last, proposal)
