"""The closed form of :mod:`colour_step` on the CPU, Gaussian by Gaussian."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from l2o_splat import threads
from l2o_splat.kernel import helper, kernel

GAUSSIANS_PER_JOB = 4096
_Y0, _Y1 = 0.28209479177387814, 0.4886025119029199
"""Factors of the spherical harmonics of degree 0 and 1."""


def solve(
    means: Float[Tensor, "n 3"],
    gradients: Float[Tensor, "v n 3"],
    curvature: Float[Tensor, "v n"],
    visibility: Float[Tensor, " n"],
    centres: Float[Tensor, "v 3"],
    degree: int,
    damping: float,
    least_visibility: float,
    largest_step: float,
) -> Float[Tensor, "n k 3"]:
    """The steps of the spherical harmonics up to ``degree``, 0 or 1, see :func:`colour_step.colour_step`."""
    steps = np.empty((len(means), (degree + 1) ** 2, 3), np.float32)
    tensors = (means, gradients, curvature, visibility, centres.to(torch.float32).contiguous())
    arrays = [tensor.detach().numpy() for tensor in tensors]

    def work(job: int) -> None:
        begin = job * GAUSSIANS_PER_JOB
        end = min(begin + GAUSSIANS_PER_JOB, len(means))
        _solve(begin, end, *arrays, damping, least_visibility, largest_step, steps)

    threads.run(work, -(-len(means) // GAUSSIANS_PER_JOB))
    return torch.from_numpy(steps)


@kernel
def _solve(
    begin, end, means, gradients, curvature, visibility, centres, damping, least_visibility, largest_step, steps
):  # fmt: skip
    """Steps of Gaussians ``begin`` to ``end``."""
    bands = steps.shape[1]
    matrix, wanted, basis = np.empty((4, 4)), np.empty((4, 3)), np.empty(4)
    for g in range(begin, end):
        largest = 0.0
        matrix[:], wanted[:] = 0, 0
        if visibility[g] >= least_visibility:
            for v in range(len(centres)):
                weight = float(curvature[v, g])
                if not weight > 0:
                    continue
                largest = max(largest, weight)
                basis[0] = _Y0
                if bands > 1:
                    x, y, z = means[g, 0] - centres[v, 0], means[g, 1] - centres[v, 1], means[g, 2] - centres[v, 2]
                    factor = _Y1 / np.sqrt(x * x + y * y + z * z)
                    basis[1], basis[2], basis[3] = -factor * y, factor * z, -factor * x
                for i in range(bands):
                    for j in range(i + 1):
                        matrix[i, j] += weight * basis[i] * basis[j]
                    for c in range(3):
                        wanted[i, c] -= gradients[v, g, c] * basis[i]
        if not largest > 0:
            for i in range(bands):
                for c in range(3):
                    steps[g, i, c] = 0
            continue
        for i in range(bands):
            matrix[i, i] += damping * largest
        _divide(matrix, wanted, bands)
        for i in range(bands):
            for c in range(3):
                steps[g, i, c] = min(max(wanted[i, c], -largest_step), largest_step)


@helper
def _divide(matrix, columns, size):
    """Replace ``columns`` by the solution of ``matrix x = columns``, by Cholesky's method on the lower triangle."""
    for i in range(size):
        for j in range(i + 1):
            value = matrix[i, j]
            for k in range(j):
                value -= matrix[i, k] * matrix[j, k]
            matrix[i, j] = np.sqrt(value) if i == j else value / matrix[j, j]
    for c in range(3):
        for i in range(size):
            for k in range(i):
                columns[i, c] -= matrix[i, k] * columns[k, c]
            columns[i, c] /= matrix[i, i]
        for i in range(size - 1, -1, -1):
            for k in range(i + 1, size):
                columns[i, c] -= matrix[k, i] * columns[k, c]
            columns[i, c] /= matrix[i, i]
