"""Gradients through the minimum of a small smooth problem, against finite differences, unrolling and dense algebra.

The problem is solved to a gradient of 1e-12 in float64; "exact" is the implicit function theorem with the full Hessian.
"""

import pytest
import torch

from l2o_splat.gaussians import Gaussians
from l2o_splat.implicit.backward_mode import BackwardMode
from l2o_splat.implicit.layer import proximal_refine
from l2o_splat.implicit.linearized_views import FrozenViews
from l2o_splat.implicit.pcg import PCG, solve
from l2o_splat.implicit.problem import InnerProblem, damped_curvature
from l2o_splat.implicit.solvers import Solution
from l2o_splat.optim.precision import per_channel
from l2o_splat.views import Views
from tests.implicit.scenes import (
    SETTINGS,
    ExactViews,
    cosine,
    dense_hessian,
    gauss_newton_matrix,
    minimise,
    relative,
    toy,
    with_images_of,
)

TO_THE_END = PCG(max_iterations=500, tolerance=1e-13, probes=16)


class Solved:
    """A toy with its minimum, the outer gradient there and both matrices."""

    def __init__(self, problem):
        self.toy = problem
        self.problem = problem.problem()
        self.minimum = minimise(self.problem, problem.rows)
        self.hessian = dense_hessian(self.problem, self.minimum)
        self.gradient = problem.outer_gradient(self.minimum)

    def hypergradients(self, matrix):
        """To the anchor, and to the precision of every parameter."""
        adjoint = torch.linalg.solve(matrix, self.gradient.flatten()).view_as(self.minimum)
        return self.problem.precision * adjoint, -(self.minimum - self.problem.anchor) * adjoint

    @property
    def exact(self):
        return self.hypergradients(self.hessian)

    def outer_loss_of(self, anchor, precision):
        """Solve again, from the minimum, and never from the anchor: another minimum would be compared."""
        problem = InnerProblem(self.problem.views, anchor, precision)
        rows = minimise(problem, self.minimum, torch.linalg.cholesky(self.hessian))
        return self.toy.outer_loss(Gaussians.unpack(rows)).item()


@pytest.fixture(scope="module")
def solved():
    torch.set_num_threads(1)
    return Solved(toy(n=4))


class ToTheEnd:
    """An inner solver that starts at a known minimum nearby and goes on to machine precision."""

    def __init__(self, start, hessian):
        self.start, self.factor = start, torch.linalg.cholesky(hessian)

    def run(self, problem):
        rows = minimise(problem, self.start, self.factor)
        (before, gradient), (after, left) = problem.gradient(problem.anchor), problem.gradient(rows)
        return Solution(rows, 1, (before, after), (gradient.norm(), left.norm()))


def layer_gradients(solved, views, linear=TO_THE_END):
    """What the layer gives to anchor and precision [n, 5]."""
    anchor = solved.toy.anchor.map(lambda x: x.clone().requires_grad_())
    precision = solved.toy.precision.clone().requires_grad_()
    solver = ToTheEnd(solved.minimum, solved.hessian)
    refined, status = proximal_refine(anchor, precision, views, solver, BackwardMode.IMPLICIT, linear)
    leaves = [leaf for _, leaf in anchor.items()]
    *fields, to_precision = torch.autograd.grad(solved.toy.outer_loss(refined), [*leaves, precision])
    return Gaussians(*fields).pack(), to_precision, status


def exact_views(solved):
    context = solved.toy.context
    return ExactViews(Views(context.cameras, context.images), SETTINGS, solved.toy.anchor)


def directional_errors(solved):
    """|finite difference - gradient . direction| / (|gradient| |direction|), 4 directions each."""
    step, generator = 1e-4, torch.Generator().manual_seed(0)
    to_anchor, to_precision = solved.exact
    anchor, precision = solved.problem.anchor, solved.problem.precision
    errors = {"anchor": [], "precision": []}
    for _ in range(4):
        direction = torch.randn(anchor.shape, generator=generator, dtype=anchor.dtype)
        ahead, behind = (solved.outer_loss_of(anchor + sign * step * direction, precision) for sign in (1, -1))
        expected = (to_anchor * direction).sum()
        errors["anchor"].append(
            ((ahead - behind) / (2 * step) - expected).abs() / (to_anchor.norm() * direction.norm())
        )
        direction = direction * precision  # Relative, so that it stays positive.
        ahead, behind = (solved.outer_loss_of(anchor, precision + sign * step * direction) for sign in (1, -1))
        expected = (to_precision * direction).sum()
        errors["precision"].append(
            ((ahead - behind) / (2 * step) - expected).abs() / (to_precision.norm() * direction.norm())
        )
    return {name: max(found).item() for name, found in errors.items()}


def test_exact_gradient_against_finite_differences(solved):
    errors = directional_errors(solved)
    assert max(errors.values()) < 1e-5, errors


def test_the_layer_with_the_exact_curvature_is_the_dense_formula(solved):
    to_anchor, to_precision, status = layer_gradients(solved, exact_views(solved))
    expected_anchor, expected_precision = solved.exact
    groups = torch.autograd.functional.vjp(
        lambda precision: per_channel(precision, 0), solved.toy.precision, expected_precision
    )[1]
    assert status.linear.converged and status.converged
    assert relative(to_anchor, expected_anchor) < 1e-9
    assert relative(to_precision, groups) < 1e-9


def test_the_layer_is_the_dense_gauss_newton_formula(solved):
    to_anchor, to_precision, _ = layer_gradients(solved, solved.toy.context)
    expected = solved.hypergradients(gauss_newton_matrix(solved.problem, solved.minimum))
    assert relative(to_anchor, expected[0]) < 1e-9
    assert to_precision.shape == (4, 5)


def gauss_newton_cosines(solved):
    found, exact = solved.hypergradients(gauss_newton_matrix(solved.problem, solved.minimum)), solved.exact
    return [cosine(a, b) for a, b in zip(found, exact, strict=True)]


def test_gauss_newton_is_close_where_the_residual_is_small(solved):
    residual = solved.toy.context.residual(Gaussians.unpack(solved.minimum))
    assert residual.square().mean().sqrt() < 0.03
    assert min(gauss_newton_cosines(solved)) > 0.95


def zero_residual_errors():
    """Photographs that the anchor shows exactly: nothing is left to fit."""
    problem = toy(n=4)
    problem = with_images_of(problem, problem.anchor)
    solved = Solved(problem)
    assert torch.equal(solved.minimum, solved.problem.anchor)
    exact, found = solved.exact[0], solved.hypergradients(gauss_newton_matrix(solved.problem, solved.minimum))[0]
    return relative(found, exact)


def test_gauss_newton_is_exact_at_zero_residual():
    assert zero_residual_errors() < 1e-9


def unrolled_from_the_minimum(solved, steps):
    """Gradients through preconditioned gradient descent that starts, detached, at the minimum."""
    diagonal = solved.hessian.diagonal()
    scaled = solved.hessian / (diagonal[:, None] * diagonal).sqrt()
    step = 1.9 / torch.linalg.eigvalsh(scaled).max() / diagonal.view_as(solved.minimum)
    anchor = solved.problem.anchor.clone().requires_grad_()
    precision = solved.problem.precision.clone().requires_grad_()
    problem = InnerProblem(solved.problem.views, anchor, precision)
    rows = solved.minimum.detach() + 0 * anchor
    for _ in range(steps):
        rows = rows - step * problem.gradient(rows, create_graph=True)[1]
    return torch.autograd.grad((rows * solved.gradient).sum(), [anchor, precision])


def unrolled_errors(solved, steps):
    found = unrolled_from_the_minimum(solved, steps)
    return [relative(a, b) for a, b in zip(found, solved.exact, strict=True)]


@pytest.fixture(scope="module")
def firmly_held():
    """More precision, so that plain descent gets there in a few hundred steps."""
    torch.set_num_threads(1)
    return Solved(toy(n=3, size=8, strength=0.5))


def test_exact_gradient_against_unrolling_at_the_minimum(firmly_held):
    errors = [unrolled_errors(firmly_held, steps) for steps in (10, 40, 120)]
    assert max(errors[-1]) < 1e-4, errors
    assert errors[0] > errors[1] > errors[2]


def unrolled_from_the_anchor(solved, counts):
    """Gradient errors of descent from the anchor, after several numbers of steps."""
    diagonal = solved.hessian.diagonal()
    scaled = solved.hessian / (diagonal[:, None] * diagonal).sqrt()
    step = 1.5 / torch.linalg.eigvalsh(scaled).max() / diagonal.view_as(solved.minimum)
    anchor = solved.problem.anchor.clone().requires_grad_()
    precision = solved.problem.precision.clone().requires_grad_()
    problem = InnerProblem(solved.problem.views, anchor, precision)
    rows, errors = anchor, []
    for count in range(1, max(counts) + 1):
        rows = rows - step * problem.gradient(rows, create_graph=True)[1]
        if count in counts:
            loss = solved.toy.outer_loss(Gaussians.unpack(rows))
            found = torch.autograd.grad(loss, [anchor, precision], retain_graph=True)
            errors.append([relative(a, b) for a, b in zip(found, solved.exact, strict=True)])
    return errors


def test_exact_gradient_against_unrolling_from_the_anchor(firmly_held):
    """The inner run converges to what the theorem assumes."""
    errors = unrolled_from_the_anchor(firmly_held, (10, 25, 60))
    assert max(errors[-1]) < 5e-3, errors
    assert errors[0] > errors[1] > errors[2]


def test_gradcheck_of_the_layer(firmly_held):
    """With the exact curvature and linear solves to the end, the layer is differentiated right to every input."""
    views = exact_views(firmly_held)
    solver = ToTheEnd(firmly_held.minimum, firmly_held.hessian)

    def outer_loss(rows, log_precision):
        refined, _ = proximal_refine(
            Gaussians.unpack(rows), log_precision.exp(), views, solver, BackwardMode.IMPLICIT, TO_THE_END
        )
        return firmly_held.toy.outer_loss(refined)

    inputs = firmly_held.toy.rows.requires_grad_(), firmly_held.toy.precision.log().requires_grad_()
    assert torch.autograd.gradcheck(outer_loss, inputs, eps=1e-5, rtol=1e-4, atol=1e-7)


def image_cotangent_error(solved):
    """dL/d(photograph) = J v, with the exact v."""
    adjoint = torch.linalg.solve(solved.hessian, solved.gradient.flatten()).view_as(solved.minimum)
    context = solved.toy.context
    expected = context.linearize(Gaussians.unpack(solved.minimum)).jvp(adjoint)
    generator, step = torch.Generator().manual_seed(0), 1e-4
    direction = torch.randn(expected.shape, generator=generator, dtype=expected.dtype)
    losses = []
    for sign in (1, -1):
        views = Views(context.cameras, context.images + sign * step * direction)
        moved = InnerProblem(
            FrozenViews(views, SETTINGS, solved.toy.anchor), solved.problem.anchor, solved.problem.precision
        )
        rows = minimise(moved, solved.minimum, torch.linalg.cholesky(solved.hessian))
        losses.append(solved.toy.outer_loss(Gaussians.unpack(rows)).item())
    difference = (losses[0] - losses[1]) / (2 * step)
    return (abs(difference - (expected * direction).sum()) / (expected.norm() * direction.norm())).item()


def test_cotangent_of_the_photographs(solved):
    assert image_cotangent_error(solved) < 1e-4


def truncated_errors(solved, iterations):
    """Error of the gradient to the anchor after so many iterations of the layer's own linear solve."""
    linearized = solved.toy.context.linearize(Gaussians.unpack(solved.minimum))
    precision = solved.problem.precision
    diagonal = linearized.view_diagonals(4, seed=0).sum(dim=0) + precision
    exact = solved.hypergradients(gauss_newton_matrix(solved.problem, solved.minimum))[0]
    errors = []
    for count in iterations:
        options = PCG(max_iterations=count, tolerance=0)
        adjoint, _ = solve(damped_curvature(linearized, precision), solved.gradient, diagonal, options)
        errors.append(relative(precision * adjoint, exact))
    return errors


def test_truncated_conjugate_gradients(solved):
    errors = truncated_errors(solved, (4, 8, 16, 32))
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-2, errors
