"""Preconditioned conjugate gradients for symmetric positive definite systems that are known by their products alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

StopReason = Literal["converged", "max_iterations", "not_positive_definite"]


@dataclass(frozen=True)
class PCG:
    """How a linear system is solved. DIFF3R (arXiv 2604.01030) solves by PCG; the numbers are ours."""

    max_iterations: int = 16
    tolerance: float = 1e-2
    """The solution is good enough when the residual's norm has fallen to this share of the right-hand side's."""
    probes: int = 4
    """Random images per view from which the diagonal of J^T J is estimated, for the preconditioner."""
    seed: int = 0
    """Seed of the probes, so that the same system gives the same solution."""

    def __post_init__(self) -> None:
        if self.max_iterations < 1 or self.probes < 1:
            raise ValueError(
                f"PCG got {self.max_iterations} iterations and {self.probes} probes; at least 1 of each is needed."
            )
        if not self.tolerance >= 0:
            raise ValueError(f"PCG got the tolerance {self.tolerance}; 0 or more is needed.")


@dataclass(frozen=True)
class LinearStatus:
    """How a linear solve went."""

    iterations: int
    residual: float
    """Norm of the residual by that of the right-hand side."""
    reason: StopReason
    """Why it stopped. ``not_positive_definite`` also stands for a curvature that is not finite."""

    @property
    def converged(self) -> bool:
        return self.reason == "converged"


def solve(
    operator: Callable[[Float[Tensor, "n d"]], Float[Tensor, "n d"]],
    right: Float[Tensor, "n d"],
    diagonal: Float[Tensor, "n d"],
    options: PCG,
) -> tuple[Float[Tensor, "n d"], LinearStatus]:
    """Solve ``A x = right`` with a diagonal (Jacobi) preconditioner (Shewchuk 1994, algorithm B3).

    Vectors keep their dtype; inner products are taken in float64.

    Args:
        operator: Maps x to A x; A is symmetric positive definite.
        right: Right-hand side.
        diagonal: Positive estimate of A's diagonal.
        options: When to stop.

    Returns:
        The last iterate and how it was reached. Where A turns out not to be positive definite, the iterate before.
    """
    target = options.tolerance * _dot(right, right).sqrt()
    solution = right / diagonal
    residual = right - operator(solution)
    direction = preconditioned = residual / diagonal
    slope = _dot(residual, preconditioned)
    reason: StopReason = "max_iterations"
    iterations = 0
    while True:
        if _dot(residual, residual).sqrt() <= target:
            reason = "converged"
            break
        if iterations == options.max_iterations:
            break
        product = operator(direction)
        curvature = _dot(direction, product)
        if not (curvature > 0 and curvature.isfinite()):
            reason = "not_positive_definite"
            break
        length = slope / curvature
        solution = solution + length * direction
        residual = residual - length * product
        preconditioned = residual / diagonal
        slope, previous = _dot(residual, preconditioned), slope
        direction = preconditioned + (slope / previous) * direction
        iterations += 1
    norm = _dot(right, right).sqrt().clamp(min=torch.finfo(torch.float64).tiny)
    return solution, LinearStatus(iterations, float(_dot(residual, residual).sqrt() / norm), reason)


def _dot(a: Tensor, b: Tensor) -> Float[Tensor, ""]:
    return (a.double() * b.double()).sum()
