"""A tiny problem whose inner solution is known to machine precision, and exact derivatives by dense algebra."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from l2o_splat.gaussians import Gaussians
from l2o_splat.implicit.linearized_views import ContextViews, FrozenViews, LinearizedViews
from l2o_splat.implicit.problem import InnerProblem
from l2o_splat.optim.precision import per_channel
from l2o_splat.rendering import RasterSettings, render
from l2o_splat.views import PinholeCameras, Views

SETTINGS = RasterSettings(background=(0.1, 0.2, 0.3))


def blobs(n: int, seed: int, degree: int = 0) -> Gaussians:
    """Large overlapping Gaussians in front of the cameras, bright enough that no colour is cut off."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return Gaussians(
        means=normal(n, 3) * torch.tensor([0.5, 0.5, 0.4]) + torch.tensor([0.0, 0.0, 3.0]),
        scales=0.3 * normal(n, 3) - 1.0,
        quats=normal(n, 4),
        opacities=0.7 * normal(n, 1),
        features_dc=0.4 * normal(n, 3) + 0.6,
        features_rest=0.05 * normal(n, (degree + 1) ** 2 - 1, 3),
    )


def cameras(angles: list[float], size: int) -> PinholeCameras:
    """Cameras that look at (0, 0, 3) from a circle around it."""
    viewmats = torch.eye(4, dtype=torch.float64).repeat(len(angles), 1, 1)
    for viewmat, angle in zip(viewmats, angles, strict=True):
        rotation = torch.tensor(
            [[math.cos(angle), 0, -math.sin(angle)], [0, 1, 0], [math.sin(angle), 0, math.cos(angle)]]
        )
        viewmat[:3, :3] = rotation
        viewmat[:3, 3] = torch.tensor([0.0, 0.0, 3.0]) - rotation.double() @ torch.tensor(
            [0.0, 0.0, 3.0], dtype=torch.float64
        )
    K = torch.tensor([[1.2 * size, 0, size / 2], [0, 1.2 * size, size / 2], [0, 0, 1]], dtype=torch.float64)
    return PinholeCameras(viewmats, K.repeat(len(angles), 1, 1), size, size)


def disturbed(gaussians: Gaussians, amount: float, seed: int) -> Gaussians:
    generator = torch.Generator().manual_seed(seed)
    return gaussians.map(lambda x: x + amount * torch.randn(x.shape, generator=generator, dtype=x.dtype))


@dataclass
class Toy:
    """An inner problem (context) and an outer loss (targets)."""

    anchor: Gaussians
    precision: torch.Tensor
    context: ContextViews
    targets: ContextViews

    @property
    def rows(self) -> torch.Tensor:
        return self.anchor.pack()

    def channels(self, precision: torch.Tensor | None = None) -> torch.Tensor:
        return per_channel(self.precision if precision is None else precision, self.anchor.features_rest.shape[1])

    def problem(self, anchor=None, precision=None) -> InnerProblem:
        return InnerProblem(self.context, self.rows if anchor is None else anchor, self.channels(precision))

    def outer_loss(self, gaussians: Gaussians) -> torch.Tensor:
        return self.targets.residual(gaussians).square().sum()

    def outer_gradient(self, rows: torch.Tensor) -> torch.Tensor:
        leaf = rows.detach().requires_grad_()
        return torch.autograd.grad(self.outer_loss(Gaussians.unpack(leaf)), leaf)[0]


def toy(n=6, size=10, noise=0.02, seed=0, offset=0.05, strength=0.05, degree=0) -> Toy:
    """A scene seen by two context and two target cameras; the anchor is ``offset`` away from it.

    What is drawn where is frozen at the anchor, so that the inner problem is smooth. The context photographs are
    disturbed by ``noise``, and the precision is log-normal around ``strength``.
    """
    truth = blobs(n, seed, degree)
    anchor = disturbed(truth, offset, seed + 100)
    generator = torch.Generator().manual_seed(seed + 200)
    views = []
    for angles, level in (([-0.25, 0.25], noise), ([-0.1, 0.1], 0.0)):
        seen = cameras(angles, size)
        images = render(truth, seen, SETTINGS).rgb
        images = images + level * torch.randn(images.shape, generator=generator, dtype=images.dtype)
        views.append(FrozenViews(Views(seen, images), SETTINGS, anchor))
    precision = strength * torch.randn(n, 5, generator=generator, dtype=torch.float64).exp()
    return Toy(anchor, precision, *views)


def with_images_of(toy: Toy, gaussians: Gaussians) -> Toy:
    """The same with context photographs that show ``gaussians`` exactly."""
    views = Views(toy.context.cameras, toy.context.draw(gaussians).detach())
    return Toy(toy.anchor, toy.precision, FrozenViews(views, SETTINGS, toy.anchor), toy.targets)


def dense_jacobian(views: ContextViews, rows: torch.Tensor) -> torch.Tensor:
    """[residuals, parameters]."""
    jacobian = torch.autograd.functional.jacobian(
        lambda found: views.residual(Gaussians.unpack(found)).flatten(), rows, vectorize=True
    )
    return jacobian.flatten(1)


def dense_hessian(problem: InnerProblem, rows: torch.Tensor) -> torch.Tensor:
    """Exact second derivative of E."""

    def energy(flat):
        found = flat.view_as(rows)
        residual = problem.views.residual(Gaussians.unpack(found))
        return 0.5 * (residual.square().sum() + (problem.precision * (found - problem.anchor).square()).sum())

    return torch.autograd.functional.hessian(energy, rows.flatten(), vectorize=True)


def gauss_newton_matrix(problem: InnerProblem, rows: torch.Tensor) -> torch.Tensor:
    jacobian = dense_jacobian(problem.views, rows)
    return jacobian.mT @ jacobian + problem.precision.flatten().diag()


def minimise(problem: InnerProblem, start: torch.Tensor, factor: torch.Tensor | None = None) -> torch.Tensor:
    """Minimum of E near ``start``, to a gradient of 1e-12.

    Newton's method with a line search; with ``factor``, a Cholesky factor of the Hessian at a minimum close by, steps
    with that fixed matrix.
    """
    rows = start.clone()
    for _ in range(300):
        energy, gradient = problem.gradient(rows)
        if gradient.norm() < 1e-12:
            return rows
        if factor is not None:
            rows = rows - torch.cholesky_solve(gradient.flatten()[:, None], factor).view_as(rows)
            continue
        values, vectors = torch.linalg.eigh(dense_hessian(problem, rows))
        step = (vectors * values.abs().clamp(min=1e-6).reciprocal()) @ (vectors.mT @ gradient.flatten())
        length = 1.0
        allowed = energy * (1 + 1e-12)  # Close to the minimum, the difference drowns in rounding.
        while problem.energy(rows - length * step.view_as(rows)) > allowed and length > 1e-4:
            length /= 2
        rows = rows - length * step.view_as(rows)
    raise AssertionError(f"the gradient is still {gradient.norm():.2e}")


class ExactLinearizedViews(LinearizedViews):
    """Products with the exact second derivative of 1/2 |r|^2 in place of J^T J."""

    def expand_at(self, views: ContextViews, rows: torch.Tensor) -> ExactLinearizedViews:
        with torch.enable_grad():
            self._leaf = rows.detach().requires_grad_()
            energy = 0.5 * views.residual(Gaussians.unpack(self._leaf)).square().sum()
            (self._gradient,) = torch.autograd.grad(energy, self._leaf, create_graph=True)
        return self

    def curvature(self, tangents):
        return torch.autograd.grad(self._gradient, self._leaf, tangents, retain_graph=True)[0]


class ExactViews(FrozenViews):
    """Frozen views whose linearization has the exact curvature."""

    def linearize(self, gaussians):
        linearized = super().linearize(gaussians)
        linearized.__class__ = ExactLinearizedViews
        return linearized.expand_at(self, gaussians.pack())


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return (torch.dot(a.flatten(), b.flatten()) / (a.norm() * b.norm())).item()
