"""Solvers of the inner problem.

The paper's is described as gradient descent; its rates and numbers of steps are not known, so those here are ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from l2o_splat.gaussians import FIELDS, Gaussians
from l2o_splat.implicit.linearized_views import LinearizedViews
from l2o_splat.implicit.pcg import PCG, solve
from l2o_splat.implicit.problem import InnerProblem, damped_curvature
from l2o_splat.optim.adam import AdamOptions, AdamRule, Rates, adam_options
from l2o_splat.optim.rule import Feedback, RuleState

SPLATFACTO = replace(adam_options("gsplat", horizon=1), final_factor=Rates(1.0, 1.0, 1.0, 1.0, 1.0, 1.0))
"""Splatfacto's rates, constant."""


LONG_STEP = PCG(max_iterations=8, tolerance=5e-2)
"""Linear solve of a Levenberg-Marquardt step, which need not be exact."""


@dataclass(frozen=True)
class Solution:
    """Where a solver ended and how it got there."""

    rows: Float[Tensor, "n d"]
    steps: int
    energies: tuple[Float[Tensor, ""], Float[Tensor, ""]]
    """E at the anchor and at ``rows``."""
    gradient_norms: tuple[Float[Tensor, ""], Float[Tensor, ""]]
    """Norm of the gradient of E at the anchor and at ``rows``."""
    early_stopping: Float[Tensor, "n d"] | None = None
    """Precision that stands for stopping early; see :meth:`AdamSolver.run`. None where the solver has no such thing."""


@dataclass(frozen=True)
class AdamSolver:
    """A fixed number of Adam steps, each on all context views."""

    steps: int = 50
    options: AdamOptions = SPLATFACTO
    scene_extent: float = 1.0
    """What the rate of the means is multiplied by; see :class:`l2o_splat.optim.rule.Feedback`."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"The inner solver got {self.steps} steps; at least 1 is needed.")

    def run(self, problem: InnerProblem, keep_graph: bool = False) -> Solution:
        """Start at the anchor and minimise.

        Stopping after T steps holds parameters near their anchor as a precision would. For gradient descent of rate
        eta that precision is about 1 / (eta T); Adam's rate is lr / sqrt(v), so that it is sqrt(v) / (lr T), with the
        bias-corrected second moment v after the last step and lr T the sum of all rates.

        Args:
            problem: What to minimise.
            keep_graph: Whether the end point can be differentiated to anchor and precision through all steps.
        """
        rule = AdamRule(self.options)
        advance = _differentiable_step if keep_graph else AdamRule.forward
        rows = problem.anchor
        state = rule.init_state(Gaussians.unpack(rows))
        energies, norms = [], []
        for step in range(self.steps):
            energy, gradient = problem.gradient(rows, create_graph=keep_graph)
            energies.append(energy)
            norms.append(_norm(gradient))
            feedback = Feedback(Gaussians.unpack(gradient), step, self.scene_extent)
            delta, state = advance(rule, Gaussians.unpack(rows), feedback, state)
            rows = rows + delta.pack()
        energy, gradient = problem.gradient(rows.detach())
        damping = self._early_stopping(rule, Gaussians.unpack(rows), state)
        return Solution(rows, self.steps, (energies[0], energy), (norms[0], _norm(gradient)), damping)

    @torch.no_grad()
    def _early_stopping(self, rule: AdamRule, gaussians: Gaussians, state: RuleState) -> Float[Tensor, "n d"]:
        correction = 1 - self.options.beta2**self.steps
        moments = Gaussians(**{name: (state[f"exp_avg_sq.{name}"] / correction).sqrt() for name in FIELDS})
        path = {name: sum(rule.rate(name, step) for step in range(self.steps)) for name in FIELDS}
        damping = Gaussians(**{name: moment / path[name] for name, moment in moments.items()})
        if self.options.means_unit == "own_scale":
            unit = gaussians.scales.exp().mean(dim=1, keepdim=True)
        else:
            unit = self.scene_extent
        return replace(damping, means=damping.means / unit).pack()


def _differentiable_step(
    rule: AdamRule, gaussians: Gaussians, feedback: Feedback, state: RuleState
) -> tuple[Gaussians, RuleState]:
    """One step of ``rule`` in which parameters that never had a gradient stay put, derivatives included.

    The derivative of Adam's step is infinite there, and 0 * infinity is NaN.
    """
    touched = {
        name: (gradient != 0) | (state[f"exp_avg_sq.{name}"] != 0) for name, gradient in feedback.gradients.items()
    }
    safe = {name: torch.where(touched[name], gradient, 1) for name, gradient in feedback.gradients.items()}
    delta, new_state = rule(gaussians, replace(feedback, gradients=Gaussians(**safe)), state)
    moments = {key: torch.where(touched[key.split(".", 1)[1]], value, 0) for key, value in new_state.items()}
    return Gaussians(**{name: torch.where(touched[name], value, 0) for name, value in delta.items()}), moments


@dataclass(frozen=True)
class LevenbergMarquardt:
    """Few, long steps: each solves the linearized problem, damped until E falls (Marquardt 1963)."""

    steps: int = 6
    """Steps tried, refused ones included."""
    linear: PCG = LONG_STEP
    """How the linear system of each step is solved."""
    damping: float = 1e-3
    """Of the first step, in units of the system's diagonal; divided by 3 after a success, times 4 otherwise."""
    tolerance: float = 1e-6
    """The gradient has vanished when its norm has fallen to this share of that at the anchor."""

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.damping > 0:
            raise ValueError(
                f"Levenberg-Marquardt got {self.steps} steps and damping {self.damping}; at least 1 step and a "
                "positive damping are needed."
            )

    @torch.no_grad()
    def run(self, problem: InnerProblem) -> Solution:
        """Start at the anchor and minimise."""
        rows, damping, steps = problem.anchor, self.damping, 0
        linearized, energy, gradient = problem.linearize(rows)
        diagonal = self._diagonal(linearized, problem)
        start = energy, _norm(gradient)
        while steps < self.steps and _norm(gradient) > self.tolerance * start[1]:
            steps += 1
            damped = problem.precision + damping * diagonal
            move, _ = solve(damped_curvature(linearized, damped), -gradient, diagonal * (1 + damping), self.linear)
            reached = problem.energy(rows + move)
            if not reached < energy:
                damping *= 4
                continue
            rows, damping = rows + move, damping / 3
            linearized, energy, gradient = problem.linearize(rows)
            diagonal = self._diagonal(linearized, problem)
        return Solution(rows, steps, (start[0], energy), (start[1], _norm(gradient)))

    def _diagonal(self, linearized: LinearizedViews, problem: InnerProblem) -> Float[Tensor, "n d"]:
        return linearized.view_diagonals(self.linear.probes, self.linear.seed).sum(dim=0) + problem.precision


def _norm(rows: Tensor) -> Float[Tensor, ""]:
    return rows.detach().double().norm()
