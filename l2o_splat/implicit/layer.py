"""The differentiable optimization layer: refine Gaussians on context views, and differentiate through the result.

After DIFF3R (arXiv 2604.01030), written from its published formulas; ``docs/diff3r.md`` tells what is not the paper's.

At a minimum x of E (see :mod:`l2o_splat.implicit.problem`) the gradient of E vanishes. By the implicit function
theorem, a loss with gradient g at x has, with ``(J^T J + diag(precision)) v = g``, the gradients ``precision * v`` to
the anchor and ``-(x - anchor) * v`` to the precision, however x was found.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from l2o_splat.gaussians import Gaussians
from l2o_splat.implicit.backward_mode import BackwardMode
from l2o_splat.implicit.linearized_views import ContextViews
from l2o_splat.implicit.pcg import PCG, LinearStatus, solve
from l2o_splat.implicit.problem import InnerProblem, damped_curvature
from l2o_splat.implicit.solvers import AdamSolver, Solution
from l2o_splat.optim.precision import check_precision, per_channel


class InnerSolver(Protocol):
    """Minimises the inner problem from its anchor: :class:`AdamSolver`, :class:`LevenbergMarquardt`."""

    def run(self, problem: InnerProblem) -> Solution: ...


STATIONARY = 1e-2
"""Share of the gradient of E at which the inner problem counts as solved."""


@dataclass
class LayerStatus:
    """How one refinement went. Nothing is printed; check it before trusting a gradient."""

    steps: int = 0
    """Inner steps taken."""
    energy_before: float = math.nan
    """E at the anchor."""
    energy_after: float = math.nan
    """E of the refined Gaussians."""
    gradient_ratio: float = math.nan
    """Norm of the gradient of E at the refined Gaussians by that at the anchor."""
    linear: LinearStatus | None = field(default=None)
    """The linear solve of the backward pass; None before it, and in modes that have none."""

    @property
    def converged(self) -> bool:
        """Whether the inner problem is solved, as ``implicit`` assumes."""
        return self.gradient_ratio <= STATIONARY

    @property
    def failure(self) -> str | None:
        """Why a training step should skip this scene; None if it need not."""
        if not (math.isfinite(self.energy_after) and math.isfinite(self.gradient_ratio)):
            return "the refined Gaussians or their gradient are not finite"
        if self.energy_after > self.energy_before:
            return f"the inner energy rose from {self.energy_before:.6g} to {self.energy_after:.6g}"
        if self.linear is not None and not math.isfinite(self.linear.residual):
            return "the gradient is not finite"
        if self.linear is not None and self.linear.reason == "not_positive_definite" and self.linear.iterations == 0:
            return "the curvature is not positive definite along the first direction"
        return None


def proximal_refine(
    anchor: Gaussians,
    precision: Float[Tensor, "n 5"],
    views: ContextViews,
    inner: InnerSolver | None = None,
    backward: BackwardMode = BackwardMode.IMPLICIT_DAMPED,
    linear: PCG | None = None,
) -> tuple[Gaussians, LayerStatus]:
    """Gaussians that fit the context views and stay near ``anchor`` where ``precision`` is large.

    Differentiable once to ``anchor`` and ``precision``. Except with ``unroll``, the memory does not depend on the
    number of inner steps: the backward pass linearizes the views anew at the refined Gaussians.

    Args:
        anchor: Predicted scene, unactivated; also the start.
        precision: How strongly each group of parameters is held, per squared unactivated unit; see
            :mod:`l2o_splat.optim.precision`.
        views: What to fit; squared differences of sRGB are summed over all pixels.
        inner: How to minimise; None is :class:`AdamSolver` with its defaults.
        backward: How gradients pass.
        linear: How the linear system of the implicit modes is solved.

    Returns:
        The refined scene, and a status to which the backward pass adds how its linear system was solved.

    Raises:
        ValueError: If the precision is not positive and finite everywhere or has another number of Gaussians, or
            solver, backward mode and renderer do not go together.
    """
    inner, linear, backward = inner or AdamSolver(), linear or PCG(), BackwardMode(backward)
    check_precision(anchor, precision)
    if not isinstance(inner, AdamSolver) and backward in (BackwardMode.IMPLICIT_DAMPED, BackwardMode.UNROLL):
        raise ValueError(
            f"The backward mode {backward.value!r} needs the Adam solver, but the inner solver is a "
            f"{type(inner).__name__}; use 'implicit', which suits a solver that converges."
        )
    status = LayerStatus()
    rows, channels = anchor.pack(), per_channel(precision, anchor.features_rest.shape[1])
    with torch.autocast(anchor.device.type, enabled=False):
        if backward is BackwardMode.UNROLL:
            views.check_twice_differentiable(anchor)
            keep_graph = torch.is_grad_enabled() and (rows.requires_grad or channels.requires_grad)
            start = rows.detach().requires_grad_() if keep_graph and not rows.requires_grad else rows
            refined = _solved(inner.run(InnerProblem(views, start, channels), keep_graph), status)
        else:
            refined = _Refinement.apply(_Task(views, inner, backward, linear, status), rows, channels)
    return Gaussians.unpack(refined), status


@dataclass(frozen=True)
class _Task:
    views: ContextViews
    inner: InnerSolver
    backward: BackwardMode
    linear: PCG
    status: LayerStatus


class _Refinement(torch.autograd.Function):
    @staticmethod
    def forward(ctx, task: _Task, anchor: Tensor, precision: Tensor) -> Tensor:
        solution = task.inner.run(InnerProblem(task.views, anchor.detach(), precision.detach()))
        rows = _solved(solution, task.status)
        ctx.task = task
        damping = solution.early_stopping if task.backward is BackwardMode.IMPLICIT_DAMPED else None
        if task.backward is not BackwardMode.FIRST_ORDER:
            ctx.save_for_backward(anchor, precision, rows, damping)
        return rows

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[None, Tensor, Tensor | None]:
        task = ctx.task
        if task.backward is BackwardMode.FIRST_ORDER:
            return None, gradient, None
        anchor, precision, rows, early_stopping = ctx.saved_tensors
        damping = precision if early_stopping is None else precision + early_stopping
        with torch.autocast(gradient.device.type, enabled=False):
            linearized = task.views.linearize(Gaussians.unpack(rows))
            diagonal = linearized.view_diagonals(task.linear.probes, task.linear.seed).sum(dim=0) + damping
            adjoint, task.status.linear = solve(damped_curvature(linearized, damping), gradient, diagonal, task.linear)
        # Not gradient - J^T J v: equal in exact arithmetic, but it would cancel where the precision is small.
        return None, damping * adjoint, -(rows - anchor) * adjoint


def _solved(solution: Solution, status: LayerStatus) -> Tensor:
    """The rows of a solution, and its story into ``status``."""
    status.steps = solution.steps
    status.energy_before, status.energy_after = (float(energy) for energy in solution.energies)
    before, after = (float(norm) for norm in solution.gradient_norms)
    status.gradient_ratio = after / before if before > 0 else after
    return solution.rows
