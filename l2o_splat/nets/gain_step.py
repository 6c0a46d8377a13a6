"""The step of the gain rule on the CPU, in one pass: moments, Adam direction, gains, corrections and limits.

:mod:`l2o_splat.optim.gain` says what is computed; here it is computed for 64 Gaussians at a time, while their numbers
are in the cache. The tensors of a field are flat arrays, those of packed rows ``[n, d]`` are arrays of rows.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from l2o_splat.kernel import helper, inlined, kernel
from l2o_splat.nets.side_by_side import ABREAST, buffer, exponential, fetch

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
_AHEAD = 16
"""Rows by which a table is asked for before it is read."""


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
def _fields_to_lanes(fields, first, rows, out):
    """Some rows of the fields before SH of degree 1 and above, as lanes of ``out``."""
    means, scales, quats, opacities, features_dc, _ = fields
    _to_lanes(means, 3, first, rows, out[: 3 * ABREAST])
    _to_lanes(scales, 3, first, rows, out[3 * ABREAST : 6 * ABREAST])
    _to_lanes(quats, 4, first, rows, out[6 * ABREAST : 10 * ABREAST])
    _to_lanes(opacities, 1, first, rows, out[10 * ABREAST : 11 * ABREAST])
    _to_lanes(features_dc, 3, first, rows, out[11 * ABREAST :])


@helper
def _to_lanes(values, width, first, rows, out):
    for lane in range(rows):
        for column in range(width):
            out[column * ABREAST + lane] = values[(first + lane) * width + column]


@helper
def _columns_to_lanes(table, columns, first, rows, out):
    """The first columns of some rows of a table, as lanes of ``out``."""
    for lane in range(rows):
        # Columns left out stand between those of two rows, so that the processor does not foresee what comes next.
        ahead = min(first + lane + _AHEAD, len(table) - 1) * table.shape[1]
        fetch(table, ahead)
        fetch(table, ahead + columns - 1)
        row = table[first + lane]
        for column in range(columns):
            out[column * ABREAST + lane] = row[column]


@helper
def _lanes_to_fields(x, fields, first, rows, add):
    """The inverse of :func:`_fields_to_lanes`; with ``add`` the fields are added to."""
    means, scales, quats, opacities, features_dc, _ = fields
    _from_lanes(x[: 3 * ABREAST], means, 3, first, rows, add)
    _from_lanes(x[3 * ABREAST : 6 * ABREAST], scales, 3, first, rows, add)
    _from_lanes(x[6 * ABREAST : 10 * ABREAST], quats, 4, first, rows, add)
    _from_lanes(x[10 * ABREAST : 11 * ABREAST], opacities, 1, first, rows, add)
    _from_lanes(x[11 * ABREAST :], features_dc, 3, first, rows, add)


@helper
def _from_lanes(x, values, width, first, rows, add):
    for lane in range(rows):
        for column in range(width):
            place = (first + lane) * width + column
            values[place] = values[place] + x[column * ABREAST + lane] if add else x[column * ABREAST + lane]


@helper
def _see(x, limits):
    """Limit parameters of all lanes to what the network sees; log-scales count from their origin."""
    for i in range(SCALES * ABREAST, (SCALES + 3) * ABREAST):
        x[i] = _limited(x[i] - limits.scale_origin, limits.least_scale, limits.largest_scale)
    for i in range(OPACITY * ABREAST, (OPACITY + 1) * ABREAST):
        x[i] = _limited(x[i], -limits.opacity, limits.opacity)


@kernel
def look(parameters, gradients, moments, limits, seen, directions, begin, end):
    """What the network looks at: parameters ``[n, 14]`` and the directions of a step that is not taken yet."""
    p, g, m, v = buffer(BASE), buffer(BASE), buffer(BASE), buffer(BASE)
    factor1, factor2 = buffer(1), buffer(1)
    for first in range(begin, end, ABREAST):
        rows = min(ABREAST, end - first)
        _fields_to_lanes(parameters, first, rows, p)
        _fields_to_lanes(gradients, first, rows, g)
        _columns_to_lanes(moments.first, BASE, first, rows, m)
        _columns_to_lanes(moments.second, BASE, first, rows, v)
        for lane in range(rows):
            index = moments.counts[first + lane] - moments.least_count
            factor1[lane] = np.float32(1) / moments.first_corrections[index]
            factor2[lane] = np.float32(1) / moments.second_corrections[index]
        _see(p, limits)
        for start in range(0, BASE * ABREAST, ABREAST):
            gradient, first_moment = g[start : start + ABREAST], m[start : start + ABREAST]
            second_moment = v[start : start + ABREAST]
            for lane in range(ABREAST):
                average = _first(first_moment[lane], gradient[lane], moments)
                square = _second(second_moment[lane], gradient[lane], moments)
                gradient[lane] = _direction(average, square, factor1[lane], factor2[lane], moments.eps)
        for lane in range(rows):
            for column in range(BASE):
                seen[first + lane, column] = p[column * ABREAST + lane]
                directions[first + lane, column] = g[column * ABREAST + lane]


@helper
def _pack(fields, first, rows, width, out):
    """Copy some rows of all fields to packed rows one after the other."""
    means, scales, quats, opacities, features_dc, features_rest = fields
    for row in range(rows):
        here, there = out[row * width : (row + 1) * width], first + row
        for i in range(3):
            here[i] = means[3 * there + i]
            here[3 + i] = scales[3 * there + i]
            here[HARMONICS + i] = features_dc[3 * there + i]
        for i in range(4):
            here[6 + i] = quats[4 * there + i]
        here[OPACITY] = opacities[there]
        rest = features_rest[there * (width - BASE) : (there + 1) * (width - BASE)]
        for i in range(len(rest)):
            here[BASE + i] = rest[i]


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
        factor1 = decays[index] / moments.first_corrections[index]
        factor2 = np.float32(1) / moments.second_corrections[index]
        m = moments.first.reshape(-1)[(first + start) * width : (first + stop) * width]
        v = moments.second.reshape(-1)[(first + start) * width : (first + stop) * width]
        gradients, out = g[start * width : stop * width], directions[start * width : stop * width]
        for i in range(len(m)):
            m[i] = _first(m[i], gradients[i], moments)
            v[i] = _second(v[i], gradients[i], moments)
            out[i] = _direction(m[i], v[i], factor1, factor2, moments.eps)
        start = stop


@helper
def _set_factors(x, rates, blends):
    """Turn logarithms of gains and lengths of all lanes into what directions and corrections are multiplied by."""
    for column in range(GAINS):
        logarithms = x[column * ABREAST : (column + 1) * ABREAST]
        for lane in range(ABREAST):
            logarithms[lane] *= blends[lane]
    for i in range((GAINS + LENGTHS) * ABREAST):
        # exp(3 tanh(x / 3)), see GainNetwork.step
        tanh = np.float32(1) - np.float32(2) / (exponential(x[i] * np.float32(2 / 3)) + np.float32(1))
        x[i] = exponential(np.float32(3) * tanh)
    for column in range(GAINS):
        for i in range(column * ABREAST, (column + 1) * ABREAST):
            x[i] *= -rates[column]
    for column in range(LENGTHS):
        lengths = x[(GAINS + column) * ABREAST : (GAINS + column + 1) * ABREAST]
        for lane in range(ABREAST):
            lengths[lane] *= -blends[lane] * rates[column]


@helper
def _move_base(p, seen, directions, answers, limits, own_scales):
    """Turn parameters of all lanes before SH of degree 1 into what is to be added to them.

    Args:
        p: Parameters.
        seen: The same as the network sees them.
        directions: Their directions.
        answers: Gains, lengths and corrections.
        limits: Of the parameters.
        own_scales: Memory for one row.
    """
    for lane in range(ABREAST):
        total = exponential(seen[SCALES * ABREAST + lane] + limits.scale_origin)
        total += exponential(seen[(SCALES + 1) * ABREAST + lane] + limits.scale_origin)
        total += exponential(seen[(SCALES + 2) * ABREAST + lane] + limits.scale_origin)
        own_scales[lane] = total * np.float32(1 / 3)
    column = 0
    for field in range(len(WIDTHS)):
        gains = answers[field * ABREAST : (field + 1) * ABREAST]
        lengths = answers[(GAINS + field) * ABREAST : (GAINS + field + 1) * ABREAST]
        for _ in range(WIDTHS[field]):
            here, there = column * ABREAST, (column + 1) * ABREAST
            old, new, ahead = p[here:there], seen[here:there], directions[here:there]
            corrections = answers[(GAINS + LENGTHS) * ABREAST + here : (GAINS + LENGTHS) * ABREAST + there]
            for lane in range(ABREAST):
                ahead[lane] = gains[lane] * ahead[lane] + lengths[lane] * corrections[lane]
            if column < SCALES:
                for lane in range(ABREAST):
                    new[lane] = old[lane] + own_scales[lane] * ahead[lane]
            elif column < SCALES + 3:
                for lane in range(ABREAST):
                    moved = _limited(new[lane] + ahead[lane], limits.least_scale, limits.largest_scale)
                    new[lane] = moved + limits.scale_origin
            elif column < HARMONICS:
                for lane in range(ABREAST):
                    new[lane] += ahead[lane]
            else:
                for lane in range(ABREAST):
                    new[lane] = _limited(new[lane] + ahead[lane], -limits.harmonics, limits.harmonics)
            for lane in range(ABREAST):
                old[lane] = new[lane] - old[lane]
            column += 1


@kernel
def step(parameters, gradients, out, in_place, moments, decays, blends, answer, rates, limits, begin, end):
    """Update the moments of Gaussians ``[begin, end)`` and add their steps to ``out``, or set it to them.

    Args:
        out: The parameters themselves if ``in_place``, else where the differences are written.
        decays: Factor of a whole step, by count.
        blends: Share of the answer in a step, by count.
        answer: Of the network, ``[n, 25]``.
    """
    width = moments.first.shape[1]
    g, packed_directions = np.empty(ABREAST * width, np.float32), np.empty(ABREAST * width, np.float32)
    p, seen, directions = buffer(BASE), buffer(BASE), buffer(BASE)
    answers, own_scales, blend = buffer(GAINS + LENGTHS + BASE), buffer(1), buffer(1)
    rest, rest_out = parameters[len(WIDTHS)], out[len(WIDTHS)]
    rest_steps = np.empty(ABREAST * (width - BASE), np.float32)
    for first in range(begin, end, ABREAST):
        rows = min(ABREAST, end - first)
        _pack(gradients, first, rows, width, g)
        _advance(g, moments, decays, first, rows, packed_directions)
        _fields_to_lanes(parameters, first, rows, p)
        _columns_to_lanes(packed_directions.reshape(ABREAST, width), BASE, 0, rows, directions)
        _columns_to_lanes(answer, GAINS + LENGTHS + BASE, first, rows, answers)
        for lane in range(rows):
            blend[lane] = blends[moments.counts[first + lane] - moments.least_count]
        _set_factors(answers, rates, blend)
        for row in range(rows):
            # Directions have the decay in them, corrections have not.
            decay = decays[moments.counts[first + row] - moments.least_count]
            for column in range(GAINS, GAINS + LENGTHS):
                answers[column * ABREAST + row] *= decay
        seen[:] = p
        _see(seen, limits)
        _move_base(p, seen, directions, answers, limits, own_scales)
        _lanes_to_fields(p, out, first, rows, in_place)
        for row in range(rows):
            gain = answers[len(WIDTHS) * ABREAST + row]
            ahead = packed_directions[row * width + BASE : (row + 1) * width]
            step_of_row = rest_steps[row * (width - BASE) : (row + 1) * (width - BASE)]
            for i in range(len(ahead)):
                step_of_row[i] = gain * ahead[i]
        here, there = first * (width - BASE), (first + rows) * (width - BASE)
        _move_rest(rest[here:there], rest_steps, limits.harmonics)
        if in_place:
            _add(rest_steps, rest[here:there])
        else:
            rest_out[here:there] = rest_steps[: there - here]


@helper
def _move_rest(old, steps, limit):
    """Turn steps of SH of degree 1 and above into what is to be added to them."""
    for i in range(len(old)):
        steps[i] = _limited(old[i] + steps[i], -limit, limit) - old[i]


@helper
def _add(differences, out):
    for i in range(len(out)):
        out[i] += differences[i]
