"""Conjugate gradients against dense linear algebra."""

import pytest
import torch

from l2o_splat.implicit.pcg import PCG, solve


def system(size=30, condition=1e3, seed=0):
    """A symmetric positive definite matrix with logarithmic eigenvalues, and a right-hand side as [n, d] rows."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
    values = torch.logspace(0, torch.tensor(condition).log10(), size, dtype=torch.float64)
    return (basis * values) @ basis.mT, torch.randn(size // 3, 3, generator=generator, dtype=torch.float64)


def apply(matrix):
    return lambda rows: (matrix @ rows.flatten()).view_as(rows)


def exact(matrix, right):
    return torch.linalg.solve(matrix, right.flatten()).view_as(right)


def test_solves_to_machine_precision():
    matrix, right = system()
    diagonal = matrix.diagonal().view_as(right)
    solution, status = solve(apply(matrix), right, diagonal, PCG(max_iterations=200, tolerance=1e-13))
    assert status.converged and status.residual <= 1e-13
    torch.testing.assert_close(solution, exact(matrix, right), rtol=1e-10, atol=1e-12)


def test_as_many_iterations_as_distinct_eigenvalues():
    """The defining property of conjugate gradients."""
    basis = torch.linalg.qr(system()[0])[0]
    values = torch.tensor([1.0, 5.0, 40.0], dtype=torch.float64).repeat_interleave(10)
    matrix, right = (basis * values) @ basis.mT, system()[1]
    _, status = solve(apply(matrix), right, 2 * torch.ones_like(right), PCG(max_iterations=30, tolerance=1e-10))
    assert status.iterations == 3


def test_a_diagonal_system_needs_no_iteration():
    right = torch.randn(4, 3)
    diagonal = torch.rand(4, 3) + 0.1
    solution, status = solve(lambda rows: diagonal * rows, right, diagonal, PCG())
    assert status.converged and status.iterations == 0
    torch.testing.assert_close(solution, right / diagonal)


def test_the_limit_is_reported():
    matrix, right = system(condition=1e6)
    _, status = solve(apply(matrix), right, torch.ones_like(right), PCG(max_iterations=5, tolerance=1e-8))
    assert (status.iterations, status.reason, status.converged) == (5, "max_iterations", False)
    assert 1e-8 < status.residual < float("inf")


@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_a_matrix_that_is_not_positive_definite_is_reported(value):
    diagonal = torch.tensor([[1.0, 2.0, value]])
    solution, status = solve(
        lambda rows: diagonal * rows, torch.ones(1, 3), torch.tensor([[1.0, 1.0, 1.0]]), PCG(tolerance=1e-10)
    )
    assert status.reason == "not_positive_definite" and not status.converged
    assert solution.isfinite().all()


def test_zero_right_hand_side():
    solution, status = solve(lambda rows: rows, torch.zeros(2, 3), torch.ones(2, 3), PCG())
    assert status.converged and status.residual == 0 and not solution.any()


@pytest.mark.parametrize("options", [{"max_iterations": 0}, {"probes": 0}, {"tolerance": -1.0}])
def test_refusals(options):
    with pytest.raises(ValueError, match="needed"):
        PCG(**options)
