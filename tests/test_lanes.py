"""Vectors in kernels, against numpy."""

import numba
import numpy as np
import pytest

from l2o_splat.lanes import (
    LANES,
    any_lane,
    ceiling,
    constant,
    filled,
    floor,
    least,
    load,
    magnitude,
    most,
    of_groups,
    root,
    select,
    store,
    store_totals,
    total,
    transpose,
    with_sign_of,
)


@numba.njit
def _arithmetic(left, right, number, out):
    a, b = load(left, 1), load(right, 0)
    c = (a + b) * number - a / b
    c += number - b
    store(out, 2, c)
    store(out, 2 + LANES, magnitude(c))
    store(out, 2 + 2 * LANES, with_sign_of(number, a))
    store(out, 2 + 3 * LANES, filled(number))
    return total(c)


@numba.njit
def _transpose(source, start, step, target, target_start, target_step):
    transpose(source, start, step, target, target_start, target_step)


def test_arithmetic_is_that_of_numpy():
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((2, LANES + 1)).astype(np.float32)
    left[3], left[4] = 0, np.nan
    number, out = np.float32(1.5), np.full(4 * LANES + 3, 7, np.float32)
    result = _arithmetic(left, right, number, out)
    a, b = left[1:], right[:-1]
    c = (a + b) * number - a / b + number - b
    sign = np.where(a > 0, number, np.where(a < 0, -number, 0))
    np.testing.assert_allclose(out[2:-1], np.concatenate([c, np.abs(c), sign, np.full(LANES, number)]), rtol=1e-5)
    assert np.array_equal(out[[0, 1, -1]], [7, 7, 7])
    assert np.isnan(result)
    left[4] = 1
    assert _arithmetic(left, right, number, out) == pytest.approx(out[2 : 2 + LANES].sum(), rel=1e-5)


def test_transposing_a_block():
    step = LANES + 3
    source = np.arange(1 + LANES * step, dtype=np.float32)
    target = np.zeros(5 + 2 * LANES * LANES, np.float32)
    _transpose(source, 1, step, target, 5, 2 * LANES)
    expected = source[1:].reshape(LANES, step)[:, :LANES].T
    assert np.array_equal(target[5:].reshape(LANES, 2 * LANES)[:, :LANES], expected)


countdown = constant(range(LANES, 0, -1))
least_of_four = of_groups("least_of_four", "<", 4)
most_of_two = of_groups("most_of_two", ">", 2)


@numba.njit
def _choices(left, right, out):
    a, b = load(left, 0), load(right, 0)
    store(out, 0, select((a > b) & (a <= np.float32(1)), a, np.float32(7)))
    store(out, LANES, least(a, b))
    store(out, 2 * LANES, most(a, np.float32(0)))
    store(out, 3 * LANES, root(magnitude(a)))
    store(out, 4 * LANES, ceiling(a) - floor(b))
    store(out, 5 * LANES, countdown())
    store(out, 6 * LANES, least_of_four(a))
    store(out, 7 * LANES, most_of_two(a))
    return any_lane(a >= np.float32(5)), any_lane(a <= np.float32(5))


def test_choices_are_those_of_numpy():
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, LANES)).astype(np.float32)
    out = np.empty(8 * LANES, np.float32)
    assert _choices(a, b, out) == (False, True)
    expected = [
        np.where((a > b) & (a <= 1), a, np.float32(7)),
        np.minimum(a, b),
        np.maximum(a, 0),
        np.sqrt(np.abs(a)),
        np.ceil(a) - np.floor(b),
        np.arange(LANES, 0, -1),
        np.repeat(a.reshape(-1, 4).min(axis=1), 4),
        np.repeat(a.reshape(-1, 2).max(axis=1), 2),
    ]
    np.testing.assert_allclose(out.reshape(8, LANES), np.stack(expected), rtol=1e-6)


@numba.njit
def _ten_totals(rows, out):
    sums = (
        load(rows, 0), load(rows, LANES), load(rows, 2 * LANES), load(rows, 3 * LANES), load(rows, 4 * LANES),
        load(rows, 5 * LANES), load(rows, 6 * LANES), load(rows, 7 * LANES), load(rows, 8 * LANES),
        load(rows, 9 * LANES),
    )  # fmt: skip
    store_totals(out, 1, sums)


def test_totals_of_several_vectors():
    rows = np.random.default_rng(2).standard_normal((10, LANES)).astype(np.float32)
    out = np.full(18, 7, np.float32)
    _ten_totals(rows.reshape(-1), out)
    np.testing.assert_allclose(out[1:11], rows.sum(axis=1), rtol=1e-5, atol=1e-6)
    assert np.array_equal(out[11:17], np.zeros(6)) and out[0] == out[17] == 7
