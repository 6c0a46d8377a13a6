"""CMA-ES on functions whose minimum is known."""

from __future__ import annotations

import numpy as np
import pytest

from l2o_splat.evolution.cma_es import Distribution

CURVATURES = 10 ** np.linspace(0, 4, 8)
AIM = np.linspace(-2.0, 3.0, 8)


def sphere(x: np.ndarray) -> np.ndarray:
    return ((x - AIM) ** 2).sum(axis=-1)


def ellipsoid(x: np.ndarray) -> np.ndarray:
    """A quadratic with a condition number of 10,000."""
    return (CURVATURES * (x - AIM) ** 2).sum(axis=-1)


def minimise(function, generations: int, population: int = 10, seed: int = 0, start=None) -> Distribution:
    distribution = Distribution.around(np.zeros(8), 0.5) if start is None else start
    while distribution.generation < generations:
        candidates = distribution.draw(population, seed)
        distribution = distribution.updated(candidates, function(candidates))
    return distribution


def test_it_finds_the_minimum_of_a_quadratic():
    assert sphere(minimise(sphere, 150).mean) < 1e-8


def test_it_learns_how_far_each_number_may_move():
    found = minimise(ellipsoid, 150)
    assert ellipsoid(found.mean) < 1e-4 < ellipsoid(np.zeros(8))
    # Those of the inverse Hessian.
    expected = 1 / CURVATURES
    assert np.corrcoef(np.log(found.variances), np.log(expected))[0, 1] > 0.95


def test_only_the_order_of_losses_counts_and_those_that_are_no_numbers_come_last():
    candidates = Distribution.around(np.zeros(8), 0.5).draw(10, seed=3)
    losses = sphere(candidates)
    start = Distribution.around(np.zeros(8), 0.5)
    expected, worst = start.updated(candidates, losses), np.argsort(losses)[-3:]
    broken = losses.copy()
    broken[worst] = np.nan
    for same in (np.log(losses), 1e6 * losses - 3, broken):
        moved = start.updated(candidates, same)
        assert all(np.array_equal(value, expected.arrays()[name]) for name, value in moved.arrays().items())


def test_the_spread_has_no_bias_where_all_is_noise():
    noise = np.random.default_rng(2)
    spreads = [minimise(lambda x: noise.standard_normal(len(x)), 8, seed=seed).spread for seed in range(30)]
    assert abs(np.log(np.array(spreads) / 0.5).mean()) < 0.2


def test_a_distribution_goes_on_from_its_arrays_in_the_same_numbers():
    whole, half = minimise(ellipsoid, 20), minimise(ellipsoid, 9)
    rest = minimise(ellipsoid, 20, start=Distribution.of_arrays(half.arrays()))
    assert all(np.array_equal(value, whole.arrays()[name]) for name, value in rest.arrays().items())
    other = minimise(ellipsoid, 20, seed=1)
    assert not np.array_equal(other.mean, whole.mean)


def test_too_few_candidates_are_refused():
    distribution = Distribution.around(np.zeros(8), 0.5)
    with pytest.raises(ValueError, match="There are 3 candidates .* at least four"):
        distribution.updated(np.zeros((3, 8)), np.zeros(3))
