"""Adam on the CPU in one pass over the memory of a scene, with the very roundings of torch's operations.

torch's ``lerp`` and ``addcmul`` round once where they multiply and add, as its builds for AVX2, AVX-512 and ARM do.
Its square root is not always correctly rounded and belongs to the library that torch was built with, so that torch
takes it, of some Gaussians at a time that stay in the cache between the two kernels of a step.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from l2o_splat import threads
from l2o_splat.kernel import exact_helper, exact_kernel, fused_multiply_add
from l2o_splat.optim.in_place import flat

LIMIT = 1e12
"""Gradients and first moments up to this, and second moments up to its square, make finite steps."""
OWN_SCALE_LIMIT = 1e6
"""The same for the unit of each Gaussian's position steps."""
_SMALLEST_EPS, _LARGEST_STEP = 1e-37, 1e38
"""Those that float32 holds at full precision."""

_NUMBERS_AT_ONCE = 30_000
"""Parameters that pass through a step together. torch keeps fewer than 32768 numbers on the calling thread."""
_CHECKED_AT_ONCE = 1 << 20
"""Parameters that one thread checks at a time."""


class Ages(NamedTuple):
    """What depends on how many steps each Gaussian has taken."""

    entries: Tensor
    """``[n]`` (int64), where each of them stands in the tables; ``[0]`` if all stand in the first entry."""
    steps: Tensor
    """``[6, ages]``, what ``exp_avg`` of each field is multiplied by: minus the rate over the first bias correction."""
    root_corrections: Tensor
    """``[ages]``, square roots of second bias corrections."""


def step_in_place(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    exp_avg: Sequence[Tensor],
    exp_avg_sq: Sequence[Tensor],
    own_scales: Tensor,
    ages: Ages,
    betas: tuple[float, float],
    eps: float,
    drawn: Tensor,
) -> bool:
    """Move all fields once.

    Args:
        parameters: Of each field, n rows; they are changed, as are the moments.
        gradients: Of each field, shaped alike.
        exp_avg: First moments.
        exp_avg_sq: Second moments.
        own_scales: ``[n]``, a factor of the steps of the first field, or ``[0]`` for none.
        ages: Of the Gaussians.
        betas: Of the first and the second moments; the first is above 0.5.
        eps: Added to the denominator.
        drawn: ``[n]`` (bool), set to whether each Gaussian has a gradient; those without keep parameters and moments.
            ``[0]`` moves all.

    Returns:
        False if some number cannot be shown to stay finite; nothing has changed then.
    """
    n = len(parameters[0])
    fields = [flat(tensors) for tensors in (parameters, gradients, exp_avg, exp_avg_sq)]
    widths = tuple(tensor.numel() // max(n, 1) for tensor in parameters)
    moved, gradients, exp_avg, exp_avg_sq = fields
    own_scales = own_scales.numpy()
    if not _bounded(gradients, exp_avg, exp_avg_sq, own_scales, widths, n):
        return False
    at_once = max(_NUMBERS_AT_ONCE // sum(widths), 1)
    first_weight, second_weight = np.float32(1 - betas[0]), np.float32(1 - betas[1])
    entries, steps, root_corrections = (tensor.numpy() for tensor in ages)
    drawn_only, drawn = len(drawn) > 0, drawn.numpy()

    def work(portion: int) -> None:
        begin, end = portion * at_once, min((portion + 1) * at_once, n)
        roots = torch.empty((end - begin) * sum(widths), dtype=torch.float32)
        here = drawn[begin:end] if drawn_only else np.ones(end - begin, dtype=np.bool_)
        update_moments(
            *(gradients, exp_avg, exp_avg_sq, widths, begin, end),
            *(first_weight, np.float32(betas[1]), second_weight, drawn_only, here, roots.numpy()),
        )
        roots.sqrt_()
        move(
            *(moved, exp_avg, roots.numpy(), own_scales, widths, begin, end),
            *(entries, steps, root_corrections, np.float32(eps), here),
        )

    threads.run(work, -(-n // at_once))
    return True


def can_step(betas: tuple[float, float], longest: float, eps: float) -> bool:
    """Whether :func:`step_in_place` knows these betas and ``steps`` up to ``longest``: torch has other formulas for a
    short memory, and without ``eps`` nothing bounds a step."""
    return (
        0.5 < betas[0] < 1
        and 0 <= betas[1] < 1
        and eps >= _SMALLEST_EPS
        and longest * LIMIT * OWN_SCALE_LIMIT / eps < _LARGEST_STEP
        and rounds_as_torch()
    )


@functools.cache
def rounds_as_torch() -> bool:
    """Whether the kernels and the operations of this build of torch agree in every bit, by a trial."""
    generator = torch.Generator().manual_seed(0)
    parameters, gradients, exp_avg, roots = (torch.randn(1500, generator=generator) for _ in range(4))
    gradients = gradients * torch.randn(1500, generator=generator).mul(3).exp()
    exp_avg_sq = roots.square()
    beta1, beta2, step, correction, eps = 0.9, 0.999, -0.0123, 0.0447, 1e-15
    expected_avg = exp_avg.lerp(gradients, 1 - beta1)
    expected_sq = (exp_avg_sq * beta2).addcmul_(gradients, gradients, value=1 - beta2)
    expected = parameters + expected_avg * step / (expected_sq.sqrt() / correction).add_(eps)
    step_in_place(
        *([parameters], [gradients], [exp_avg], [exp_avg_sq]),
        torch.empty(0),
        Ages(torch.empty(0, dtype=torch.int64), torch.tensor([[step]]), torch.tensor([correction])),
        *((beta1, beta2), eps, torch.empty(0, dtype=torch.bool)),
    )
    pairs = ((parameters, expected), (exp_avg, expected_avg), (exp_avg_sq, expected_sq))
    return all(torch.equal(ours, theirs) for ours, theirs in pairs)


def _bounded(gradients, exp_avg, exp_avg_sq, own_scales, widths, n: int) -> bool:
    at_once = max(_CHECKED_AT_ONCE // sum(widths), 1)

    def work(portion: int) -> bool:
        begin, end = portion * at_once, min((portion + 1) * at_once, n)
        return are_bounded(gradients, exp_avg, exp_avg_sq, own_scales, widths, begin, end)

    return all(threads.run(work, -(-n // at_once)))


@exact_kernel
def are_bounded(gradients, exp_avg, exp_avg_sq, own_scales, widths, begin, end):
    """Whether all numbers of Gaussians ``[begin, end)`` are within their limits; NaN is not."""
    limit, square_limit, own_limit = np.float32(LIMIT), np.float32(LIMIT**2), np.float32(OWN_SCALE_LIMIT)
    outside = 0
    for field in range(len(widths)):
        first, last = begin * widths[field], end * widths[field]
        g, m, v = gradients[field][first:last], exp_avg[field][first:last], exp_avg_sq[field][first:last]
        for i in range(len(g)):
            inside = (abs(g[i]) <= limit) & (abs(m[i]) <= limit) & (v[i] >= 0) & (v[i] <= square_limit)
            outside |= not inside
    if len(own_scales):
        for row in range(begin, end):
            outside |= not own_scales[row] <= own_limit
    return outside == 0


@exact_helper
def next_run(drawn, start):
    """The next run of drawn Gaussians at or after ``start``: its first row and the row after it."""
    while start < len(drawn) and not drawn[start]:
        start += 1
    stop = start
    while stop < len(drawn) and drawn[stop]:
        stop += 1
    return start, stop


@exact_kernel
def update_moments(
    gradients, exp_avg, exp_avg_sq, widths, begin, end, first_weight, beta2, second_weight, drawn_only, drawn, squares
):
    """Update the moments of Gaussians ``[begin, end)``; their second moments are copied to ``squares``, field by field.

    With ``drawn_only``, ``drawn`` is set to whether each of them has a gradient, and the others stay as they are.
    """
    if drawn_only:
        drawn[:] = False
        for field in range(len(widths)):
            g, width = gradients[field], widths[field]
            for row in range(end - begin):
                for i in range((begin + row) * width, (begin + row + 1) * width):
                    drawn[row] |= g[i] != 0
    start, stop = next_run(drawn, 0)
    while start < stop:
        offset = 0
        for field in range(len(widths)):
            width = widths[field]
            first, last = (begin + start) * width, (begin + stop) * width
            g, m, v = gradients[field][first:last], exp_avg[field][first:last], exp_avg_sq[field][first:last]
            square = squares[offset + start * width : offset + stop * width]
            for i in range(len(g)):
                m[i] = fused_multiply_add(first_weight, g[i] - m[i], m[i])
                v[i] = fused_multiply_add(second_weight * g[i], g[i], v[i] * beta2)
                square[i] = v[i]
            offset += (end - begin) * width
        start, stop = next_run(drawn, stop)


@exact_kernel
def move(parameters, exp_avg, roots, own_scales, widths, begin, end, entries, steps, root_corrections, eps, drawn):
    """Add the steps of the drawn among Gaussians ``[begin, end)``; ``roots`` of their second moments as copied."""
    start, stop = next_run(drawn, 0)
    while start < stop:
        entry, beyond = 0, stop
        if len(entries):
            # Gaussians of the same age lie together nearly always.
            entry = entries[begin + start]
            stop = start + 1
            while stop < beyond and entries[begin + stop] == entry:
                stop += 1
        root_correction = root_corrections[entry]
        offset = 0
        for field in range(len(widths)):
            width, factor = widths[field], steps[field, entry]
            first, last = (begin + start) * width, (begin + stop) * width
            p, m = parameters[field][first:last], exp_avg[field][first:last]
            root = roots[offset + start * width : offset + stop * width]
            if field == 0 and len(own_scales):
                for i in range(len(p)):
                    step = m[i] * factor / (root[i] / root_correction + eps)
                    p[i] += step * own_scales[begin + start + i // width]
            else:
                for i in range(len(p)):
                    p[i] += m[i] * factor / (root[i] / root_correction + eps)
            offset += (end - begin) * width
        start, stop = next_run(drawn, stop)
