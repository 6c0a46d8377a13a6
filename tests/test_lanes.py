"""Vectors in kernels, against numpy."""

import numba
import numpy as np
import pytest

from l2o_splat.lanes import LANES, filled, load, magnitude, store, total, transpose, with_sign_of


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
