"""The inner problem of DIFF3R (arXiv 2604.01030): fit the context views without leaving the anchor for nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from l2o_splat.gaussians import Gaussians
from l2o_splat.implicit.linearized_views import ContextViews, LinearizedViews


@dataclass(frozen=True)
class InnerProblem:
    """E(x) = 1/2 |r(x)|^2 + 1/2 sum_j precision_j (x_j - anchor_j)^2 over packed unactivated parameters x.

    r are the residuals of all context views, summed over pixels, not averaged.
    """

    views: ContextViews
    anchor: Float[Tensor, "n d"]
    precision: Float[Tensor, "n d"]
    """One positive number per parameter."""

    def gradient(
        self, rows: Float[Tensor, "n d"], create_graph: bool = False
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "n d"]]:
        """E in float64 and its gradient; differentiable if ``create_graph``."""
        with torch.enable_grad():
            leaf = rows if create_graph else rows.detach().requires_grad_()
            residual = self.views.residual(Gaussians.unpack(leaf))
            if create_graph:
                (gradient,) = torch.autograd.grad(0.5 * residual.square().sum(), leaf, create_graph=True)
            else:
                (gradient,) = torch.autograd.grad(residual, leaf, residual.detach())
        return self._energy(residual.detach(), rows.detach()), gradient + self._pull(rows)

    @torch.no_grad()
    def energy(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
        """E in float64."""
        return self._energy(self.views.residual(Gaussians.unpack(rows)), rows)

    def linearize(self, rows: Float[Tensor, "n d"]) -> tuple[LinearizedViews, Float[Tensor, ""], Float[Tensor, "n d"]]:
        """Products with the Jacobian of the residuals, E and its gradient."""
        linearized = self.views.linearize(Gaussians.unpack(rows))
        residual = linearized.residual()
        return linearized, self._energy(residual, rows), linearized.vjp(residual) + self._pull(rows)

    def _pull(self, rows: Tensor) -> Tensor:
        return self.precision * (rows - self.anchor)

    @torch.no_grad()
    def _energy(self, residual: Tensor, rows: Tensor) -> Float[Tensor, ""]:
        away = (rows - self.anchor).double().square() * self.precision
        return 0.5 * (residual.double().square().sum() + away.sum())


def damped_curvature(linearized: LinearizedViews, damping: Float[Tensor, "n d"]) -> Callable[[Tensor], Tensor]:
    """The operator ``v -> J^T J v + damping * v``."""
    return lambda tangents: linearized.curvature(tangents) + damping * tangents
