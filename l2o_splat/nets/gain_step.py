"""The step of the gain rule on the CPU, in one pass: moments, Adam direction, gains, corrections and limits.

:mod:`l2o_splat.optim.gain` says what is computed; here it is computed for 64 Gaussians at a time, while their numbers
are in the cache. The tensors of a field are flat arrays, those of packed rows ``[n, d]`` are arrays of rows.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from l2o_splat.kernel import helper, inlined, kernel
from l2o_splat.nets.lanes import exponential

WIDTHS = (3, 3, 4, 1, 3)
"""Columns of the fields before SH of degree 1 and above."""
BASE = sum(WIDTHS)
SCALES, OPACITY, HARMONICS = 3, 10, 11
"""First columns of log-scales, opacity logit and SH."""
GAINS, LENGTHS = len(WIDTHS) + 1, len(WIDTHS)
"""Columns of an answer: logarithms of gains, then of the lengths of corrections, then corrections."""
LIMIT = 1e12
"""Gradients and first moments up to this, and second moments up to its square, make finite steps."""
_ANSWER_LIMIT, _PARAMETER_LIMIT = 1e5, 1e30
"""The same for an answer of the network and for parameters."""
_ROWS = 64
"""Gaussians that pass through a step together."""


class Moments(NamedTuple):
    """What an Adam direction is made of."""

    first: np.ndarray
    """``[n, d]``"""
    second: np.ndarray
    """``[n, d]``"""
    counts: np.ndarray
    """``[n]``, steps taken so far."""
    least_count: int
    """The least of them, to which the following tables belong in their first entry."""
    first_corrections: np.ndarray
    """Bias correction of the first moment in the step to come, by count."""
    second_corrections: np.ndarray
    """The same of the second moment."""
    beta1: np.float32
    rest1: np.float32
    """1 - beta1"""
    beta2: np.float32
    rest2: np.float32
    eps: np.float32


class Limits(NamedTuple):
    """To what parameters are limited."""

    scale_origin: np.float32
    """Log-scale from which log-scales are counted."""
    least_scale: np.float32
    largest_scale: np.float32
    opacity: np.float32
    """Largest absolute value of a logit before a step."""
    harmonics: np.float32
    """Largest absolute value of an SH coefficient after a step."""


@kernel
def are_bounded(parameters, gradients, moments, begin, end):
    """Whether all numbers of Gaussians ``[begin, end)`` are so small that a step is finite; NaN is not."""
    limit, square_limit = np.float32(LIMIT), np.float32(LIMIT**2)
    outside, count = 0, len(moments.first)
    for field in range(len(parameters)):
        width = len(parameters[field]) // count
        p, g = parameters[field][begin * width : end * width], gradients[field][begin * width : end * width]
        for i in range(len(p)):
            outside |= not ((abs(p[i]) <= np.float32(_PARAMETER_LIMIT)) & (abs(g[i]) <= limit))
    width = moments.first.shape[1]
    m = moments.first.reshape(-1)[begin * width : end * width]
    v = moments.second.reshape(-1)[begin * width : end * width]
    for i in range(len(m)):
        outside |= not ((abs(m[i]) <= limit) & (v[i] >= 0) & (v[i] <= square_limit))
    return outside == 0


@kernel
def is_bounded_answer(answer):
    """Whether all numbers of an answer are so small that a step is finite; NaN is not."""
    outside = 0
    for i in range(len(answer)):
        outside |= not abs(answer[i]) <= np.float32(_ANSWER_LIMIT)
    return outside == 0


@inlined
def _limited(x, least, largest):
    return min(max(x, least), largest)


@inlined
def _first(m, g, moments):
    return m * moments.beta1 + g * moments.rest1


@inlined
def _second(v, g, moments):
    return v * moments.beta2 + g * g * moments.rest2


@inlined
def _direction(m, v, factor1, factor2, eps):
    return m * factor1 / (math.sqrt(v * factor2) + eps)


@helper
def _pack(fields, first, rows, out):
    """Copy some rows of all fields to packed rows one after the other."""
    width = len(out) // _ROWS
    rest = fields[len(WIDTHS)][first * (width - BASE) : (first + rows) * (width - BASE)]
    for row in range(rows):
        column = row * width
        for field in range(len(WIDTHS)):
            for i in range((first + row) * WIDTHS[field], (first + row + 1) * WIDTHS[field]):
                out[column] = fields[field][i]
                column += 1
        out[column : column + width - BASE] = rest[row * (width - BASE) : (row + 1) * (width - BASE)]


@helper
def _unpack(rows_packed, fields, first, rows, add):
    """Copy packed rows to some rows of all fields, or add them to these."""
    width = len(rows_packed) // _ROWS
    rest = fields[len(WIDTHS)][first * (width - BASE) : (first + rows) * (width - BASE)]
    for row in range(rows):
        column = row * width
        for field in range(len(WIDTHS)):
            for i in range((first + row) * WIDTHS[field], (first + row + 1) * WIDTHS[field]):
                fields[field][i] = rows_packed[column] + (fields[field][i] if add else np.float32(0))
                column += 1
        here = rest[row * (width - BASE) : (row + 1) * (width - BASE)]
        values = rows_packed[column : column + width - BASE]
        if add:
            for i in range(len(here)):
                here[i] += values[i]
        else:
            here[:] = values


@kernel
def look(parameters, gradients, moments, limits, seen, directions, begin, end):
    """What the network looks at: parameters ``[n, 14]`` and the directions of a step that is not taken yet."""
    for row in range(begin, end):
        index = moments.counts[row] - moments.least_count
        factor1 = np.float32(1) / moments.first_corrections[index]
        factor2 = np.float32(1) / moments.second_corrections[index]
        column = 0
        for field in range(len(WIDTHS)):
            for i in range(row * WIDTHS[field], (row + 1) * WIDTHS[field]):
                seen[row, column] = _seen(parameters[field][i], column, limits)
                g = gradients[field][i]
                m = _first(moments.first[row, column], g, moments)
                v = _second(moments.second[row, column], g, moments)
                directions[row, column] = _direction(m, v, factor1, factor2, moments.eps)
                column += 1


@inlined
def _seen(parameter, column, limits):
    """A parameter as the network sees it."""
    if SCALES <= column < SCALES + 3:
        return _limited(parameter - limits.scale_origin, limits.least_scale, limits.largest_scale)
    if column == OPACITY:
        return _limited(parameter, -limits.opacity, limits.opacity)
    return parameter


@helper
def _advance(g, moments, decays, first, rows, directions):
    """Update the moments of some rows, and set their directions times the decay of their steps."""
    width = moments.first.shape[1]
    start = 0
    while start < rows:
        # Nearly always all rows have taken the same number of steps.
        count = moments.counts[first + start]
        stop = start + 1
        while stop < rows and moments.counts[first + stop] == count:
            stop += 1
        index = count - moments.least_count
        factor1 = np.float32(1) / moments.first_corrections[index]
        factor2 = np.float32(1) / moments.second_corrections[index]
        m = moments.first.reshape(-1)[(first + start) * width : (first + stop) * width]
        v = moments.second.reshape(-1)[(first + start) * width : (first + stop) * width]
        gradients, out = g[start * width : stop * width], directions[start * width : stop * width]
        for i in range(len(m)):
            m[i] = _first(m[i], gradients[i], moments)
            v[i] = _second(v[i], gradients[i], moments)
            out[i] = _direction(m[i], v[i], factor1, factor2, moments.eps) * decays[index]
        start = stop


@helper
def _set_factors(answer, rates, blend, first, rows, factors):
    """What directions and corrections of each field are multiplied by, ``[rows, gains and lengths]``."""
    width = GAINS + LENGTHS
    for row in range(rows):
        for column in range(width):
            factors[row * width + column] = answer[first + row, column] * (blend if column < GAINS else np.float32(1))
    for i in range(rows * width):
        # exp(3 tanh(x / 3)), see GainNetwork.step
        tanh = np.float32(1) - np.float32(2) / (exponential(factors[i] * np.float32(2 / 3)) + np.float32(1))
        factors[i] = exponential(np.float32(3) * tanh)
    for row in range(rows):
        for column in range(GAINS):
            factors[row * width + column] *= -rates[column]
        for column in range(LENGTHS):
            factors[row * width + GAINS + column] *= -blend * rates[column]


@helper
def _set_own_scales(p, limits, rows, logarithms, own_scales):
    """Mean scale of each of some packed rows."""
    width = len(p) // _ROWS
    for row in range(rows):
        for axis in range(3):
            logarithms[3 * row + axis] = _seen(p[row * width + SCALES + axis], SCALES, limits) + limits.scale_origin
    for i in range(3 * rows):
        logarithms[i] = exponential(logarithms[i])
    for row in range(rows):
        sum_of_scales = logarithms[3 * row] + logarithms[3 * row + 1] + logarithms[3 * row + 2]
        own_scales[row] = sum_of_scales * np.float32(1 / 3)


@kernel
def step(parameters, gradients, out, in_place, moments, decays, answer, rates, blend, limits, begin, end):
    """Update the moments of Gaussians ``[begin, end)`` and add their steps to ``out``, or set it to them.

    Args:
        out: The parameters themselves if ``in_place``, else where the differences are written.
        decays: Factor of a whole step, by count.
        answer: Of the network, ``[n, 25]``.
    """
    width = moments.first.shape[1]
    g, p = np.empty(_ROWS * width, np.float32), np.empty(_ROWS * width, np.float32)
    change, directions = np.empty(_ROWS * width, np.float32), np.empty(_ROWS * width, np.float32)
    factors = np.empty(_ROWS * (GAINS + LENGTHS), np.float32)
    logarithms, own_scales = np.empty(3 * _ROWS, np.float32), np.empty(_ROWS, np.float32)
    for first in range(begin, end, _ROWS):
        rows = min(_ROWS, end - first)
        _pack(gradients, first, rows, g)
        _pack(parameters, first, rows, p)
        _advance(g, moments, decays, first, rows, directions)
        _set_factors(answer, rates, blend, first, rows, factors)
        _set_own_scales(p, limits, rows, logarithms, own_scales)
        for row in range(rows):
            decay = decays[moments.counts[first + row] - moments.least_count]
            gains = factors[row * (GAINS + LENGTHS) : (row + 1) * (GAINS + LENGTHS)]
            here, there = row * width, (row + 1) * width
            column = 0
            for field in range(len(WIDTHS)):
                for _ in range(WIDTHS[field]):
                    correction = answer[first + row, GAINS + LENGTHS + column] * decay
                    moved = gains[field] * directions[here + column] + gains[GAINS + field] * correction
                    old = p[here + column]
                    if column < SCALES:
                        new = old + own_scales[row] * moved
                    else:
                        new = _seen(old, column, limits) + moved
                        if column < SCALES + 3:
                            new = _limited(new, limits.least_scale, limits.largest_scale) + limits.scale_origin
                        elif column >= HARMONICS:
                            new = _limited(new, -limits.harmonics, limits.harmonics)
                    change[here + column] = new - old
                    column += 1
            before, ahead, difference = (
                p[here + BASE : there],
                directions[here + BASE : there],
                change[here + BASE : there],
            )
            gain = gains[len(WIDTHS)]
            for i in range(len(before)):
                new = _limited(before[i] + gain * ahead[i], -limits.harmonics, limits.harmonics)
                difference[i] = new - before[i]
        _unpack(change, out, first, rows, in_place)
