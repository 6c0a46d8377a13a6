"""Small matrix products and functions of 64 Gaussians side by side, for kernels on the CPU.

A buffer holds one row of 64 numbers per feature, one number per Gaussian, so that every operation on a feature is an
operation on whole vector registers, whatever the widths of the network.
"""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from l2o_splat.kernel import helper, inlined
from l2o_splat.lanes import LANES, filled, load, store, total

U = np.uint64
STEP = U(LANES)

ABREAST = 64
"""Gaussians side by side; hidden values of one layer then fit into the smallest cache."""
TILE = 4
"""Outputs of a matrix product that are summed at the same time; weights come in groups of so many."""
WHOLE = 16
"""Rows of queries, keys and values are filled up to a multiple of so many numbers: whole vectors of any machine."""
_ALIGNMENT = 16
"""Numbers from one line of the cache to the next."""


@helper
def buffer(rows):
    """Memory for some features of all lanes, which begins where a line of the cache begins."""
    raw = np.zeros(rows * ABREAST + _ALIGNMENT, np.float32)
    start = (_ALIGNMENT - (raw.ctypes.data // 4) % _ALIGNMENT) % _ALIGNMENT
    return raw[start : start + rows * ABREAST]


@helper
def linear(weights, bias, x, out):
    """``out = weights x + bias``; for the order of the weights see :func:`l2o_splat.nets.gain_kernel.packed`."""
    for output in range(len(bias)):
        out[output * ABREAST : (output + 1) * ABREAST] = bias[output]
    _add_product(weights, x, out, len(bias))


@helper
def add_linear(weights, bias, x, out):
    """``out += weights x + bias``"""
    for output in range(len(bias)):
        row = out[output * ABREAST : (output + 1) * ABREAST]
        for lane in range(ABREAST):
            row[lane] += bias[output]
    _add_product(weights, x, out, len(bias))


@helper
def _add_product(weights, x, out, outputs):
    inputs = len(weights) // outputs
    for output in range(0, outputs, TILE):
        for lane in range(0, ABREAST, 2 * LANES):
            _add_tile(weights, output * inputs, x, lane, out, output * ABREAST + lane, inputs)


@helper
def _add_tile(weights, first_weight, x, first_x, out, first_out, inputs):
    """Add the products for ``TILE`` outputs and two vectors of lanes, with the sums in registers."""
    weight, p, row = U(first_weight), U(first_x), U(first_out)
    row1, row2, row3 = row + U(ABREAST), row + U(2 * ABREAST), row + U(3 * ABREAST)
    a0, a1, a2, a3 = load(out, row), load(out, row1), load(out, row2), load(out, row3)
    b0, b1, b2, b3 = load(out, row + STEP), load(out, row1 + STEP), load(out, row2 + STEP), load(out, row3 + STEP)
    for _ in range(inputs):
        a, b = load(x, p), load(x, p + STEP)
        w0, w1, w2, w3 = weights[weight], weights[weight + U(1)], weights[weight + U(2)], weights[weight + U(3)]
        a0, a1, a2, a3 = a0 + a * w0, a1 + a * w1, a2 + a * w2, a3 + a * w3
        b0, b1, b2, b3 = b0 + b * w0, b1 + b * w1, b2 + b * w2, b3 + b * w3
        weight += U(TILE)
        p += U(ABREAST)
    for place, sums in ((row, a0), (row1, a1), (row2, a2), (row3, a3)):
        store(out, place, sums)
    for place, sums in ((row, b0), (row1, b1), (row2, b2), (row3, b3)):
        store(out, place + STEP, sums)


@helper
def row_product(a, first_a, b, first_b, width):
    """Scalar product of two runs of numbers, a multiple of ``WHOLE`` of them."""
    products = filled(np.float32(0))
    for i in range(U(0), U(width), STEP):
        products = products + load(a, U(first_a) + i) * load(b, U(first_b) + i)
    return total(products)


@helper
def add_multiple(factor, x, first_x, out, first_out, width):
    """Add a multiple of one run of numbers to another, a multiple of ``WHOLE`` of them."""
    for i in range(U(0), U(width), STEP):
        place = U(first_out) + i
        store(out, place, load(out, place) + load(x, U(first_x) + i) * factor)


@intrinsic
def fetch(typing_context, array, first):
    """Ask for the line of the cache that holds an element, long before it is read."""
    del typing_context

    def generate(context, builder, signature, arguments):
        start = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0]).data
        place = builder.bitcast(builder.gep(start, [arguments[1]]), ir.IntType(8).as_pointer())
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [place.type, number, number, number])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(prefetch, [place, number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(array, first), generate


@helper
def layer_norm(weight, bias, eps, x, out, mean, scale):
    """LayerNorm over the features; ``mean`` and ``scale`` are memory for one row each."""
    width = len(weight)
    mean[:] = 0
    for feature in range(width):
        row = x[feature * ABREAST : (feature + 1) * ABREAST]
        for lane in range(ABREAST):
            mean[lane] += row[lane]
    share = np.float32(1 / width)
    for lane in range(ABREAST):
        mean[lane] *= share
    scale[:] = 0
    for feature in range(width):
        row = x[feature * ABREAST : (feature + 1) * ABREAST]
        for lane in range(ABREAST):
            away = row[lane] - mean[lane]
            scale[lane] += away * away
    for lane in range(ABREAST):
        scale[lane] = np.float32(1) / math.sqrt(scale[lane] * share + eps)
    for feature in range(width):
        row = x[feature * ABREAST : (feature + 1) * ABREAST]
        normalised = out[feature * ABREAST : (feature + 1) * ABREAST]
        factor, shift = weight[feature], bias[feature]
        for lane in range(ABREAST):
            normalised[lane] = (row[lane] - mean[lane]) * scale[lane] * factor + shift


@helper
def gelu(x):
    """Exact GELU in place: ``x (1 + erf(x / sqrt 2)) / 2``."""
    for i in range(len(x)):
        x[i] = np.float32(0.5) * x[i] * (np.float32(1) + erf(x[i] * np.float32(math.sqrt(0.5))))


@helper
def softmax(x, highest, total):
    """Softmax over the features, in place; ``highest`` and ``total`` are memory for one row each."""
    features = len(x) // ABREAST
    highest[:] = x[:ABREAST]
    for feature in range(1, features):
        row = x[feature * ABREAST : (feature + 1) * ABREAST]
        for lane in range(ABREAST):
            highest[lane] = max(highest[lane], row[lane])
    total[:] = 0
    for feature in range(features):
        row = x[feature * ABREAST : (feature + 1) * ABREAST]
        for lane in range(ABREAST):
            row[lane] = exponential(row[lane] - highest[lane])
            total[lane] += row[lane]
    for lane in range(ABREAST):
        total[lane] = np.float32(1) / total[lane]
    for feature in range(features):
        row = x[feature * ABREAST : (feature + 1) * ABREAST]
        for lane in range(ABREAST):
            row[lane] *= total[lane]


@intrinsic
def _float_of_bits(typing_context, bits):
    """The float32 number with these 32 bits."""
    del typing_context

    def generate(context, builder, signature, arguments):
        del context, signature
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


_LOG2_E = np.float32(1.4426950408889634)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_EXP = tuple(
    np.float32(c) for c in (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1)
)
"""Coefficients of Cephes' expf."""


@inlined
def exponential(x):
    """exp of a float32 number, relative error below 2e-7; arguments are limited to plus and minus 87."""
    x = min(max(x, np.float32(-87)), np.float32(87))
    whole = np.float32(math.floor(x * _LOG2_E + np.float32(0.5)))
    rest = x - whole * _LN2_HIGH - whole * _LN2_LOW
    series = _EXP[0] * rest + _EXP[1]
    series = series * rest + _EXP[2]
    series = series * rest + _EXP[3]
    series = series * rest + _EXP[4]
    series = series * rest + np.float32(0.5)
    series = series * rest * rest + rest + np.float32(1)
    return series * _float_of_bits(np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)))


_NUMERATOR = tuple(
    np.float32(c)
    for c in (
        *(-2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05),
        *(-7.34990630326855e-04, -2.95459980854025e-03, -1.60960333262415e-02),
    )
)
_DENOMINATOR = tuple(
    np.float32(c)
    for c in (
        *(-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03),
        -1.42647390514189e-02,
    )
)


@inlined
def erf(x):
    """Error function of a float32 number by Eigen's quotient of polynomials, error below 5e-7."""
    x = min(max(x, np.float32(-4)), np.float32(4))
    square = x * x
    top = _NUMERATOR[0] * square + _NUMERATOR[1]
    top = top * square + _NUMERATOR[2]
    top = top * square + _NUMERATOR[3]
    top = top * square + _NUMERATOR[4]
    top = top * square + _NUMERATOR[5]
    top = top * square + _NUMERATOR[6]
    bottom = _DENOMINATOR[0] * square + _DENOMINATOR[1]
    bottom = bottom * square + _DENOMINATOR[2]
    bottom = bottom * square + _DENOMINATOR[3]
    bottom = bottom * square + _DENOMINATOR[4]
    return x * top / bottom
