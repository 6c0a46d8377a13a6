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

ABREAST = 64
"""Gaussians side by side; hidden values of one layer then fit into the smallest cache."""
TILE = 4
"""Outputs of a matrix product that are summed at the same time; weights come in groups of so many."""
VECTOR = 16
"""Lanes that are summed at the same time: one register of AVX-512, two of AVX2."""
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
        for lane in range(0, ABREAST, VECTOR):
            _add_tile(weights, output * inputs, x, lane, out, output * ABREAST + lane, inputs)


@intrinsic
def _add_tile(typing_context, weights, first_weight, x, first_x, out, first_out, inputs):
    """Add the products for ``TILE`` outputs and ``VECTOR`` lanes, with the sums in registers.

    numba has no way to say that sums of several loops stay in registers, and with sums in memory a product takes ten
    times as long.
    """
    del typing_context

    def generate(context, builder, signature, arguments):
        weights, x, out = (_place(context, builder, signature, arguments, index) for index in (0, 2, 4))
        rows = [_vector_at(builder, out, output * ABREAST) for output in range(TILE)]
        sums = [cgutils.alloca_once_value(builder, builder.load(row, align=4)) for row in rows]
        with cgutils.for_range(builder, arguments[6]) as loop:
            row = builder.gep(x, [builder.mul(loop.index, _INTEGER(ABREAST))])
            values = builder.load(_vector_at(builder, row, 0), align=4)
            column = builder.gep(weights, [builder.mul(loop.index, _INTEGER(TILE))])
            for output, total in enumerate(sums):
                weight = _everywhere(builder, builder.load(builder.gep(column, [_INTEGER(output)])))
                builder.store(_multiply_add(builder, weight, values, builder.load(total)), total)
        for row, total in zip(rows, sums, strict=True):
            builder.store(builder.load(total), row, align=4)
        return context.get_dummy_value()

    return types.void(weights, first_weight, x, first_x, out, first_out, inputs), generate


@intrinsic
def row_product(typing_context, a, first_a, b, first_b, vectors):
    """Scalar product of two runs of ``vectors`` times ``VECTOR`` numbers, in the same order of sums everywhere."""
    del typing_context

    def generate(context, builder, signature, arguments):
        a, b = (_place(context, builder, signature, arguments, index) for index in (0, 2))
        total = cgutils.alloca_once_value(builder, ir.Constant(_VECTOR, None))
        with cgutils.for_range(builder, arguments[4]) as loop:
            offset = builder.mul(loop.index, _INTEGER(VECTOR))
            x, y = (builder.load(_vector_at(builder, builder.gep(run, [offset]), 0), align=4) for run in (a, b))
            builder.store(_multiply_add(builder, x, y, builder.load(total)), total)
        rest, width = builder.load(total), VECTOR
        while width > 1:
            width //= 2
            nothing, kind = ir.Constant(rest.type, ir.Undefined), ir.VectorType(_INDEX, width)
            halves = (ir.Constant(kind, list(range(first, first + width))) for first in (0, width))
            rest = builder.fadd(*(builder.shuffle_vector(rest, nothing, half) for half in halves))
        return builder.extract_element(rest, _INDEX(0))

    return types.float32(a, first_a, b, first_b, vectors), generate


@intrinsic
def add_multiple(typing_context, factor, x, first_x, out, first_out, vectors):
    """Add a multiple of one run of ``vectors`` times ``VECTOR`` numbers to another."""
    del typing_context

    def generate(context, builder, signature, arguments):
        x, out = (_place(context, builder, signature, arguments, index) for index in (1, 3))
        factor = _everywhere(builder, arguments[0])
        with cgutils.for_range(builder, arguments[5]) as loop:
            offset = builder.mul(loop.index, _INTEGER(VECTOR))
            here, there = (_vector_at(builder, builder.gep(run, [offset]), 0) for run in (x, out))
            values, total = (builder.load(place, align=4) for place in (here, there))
            builder.store(_multiply_add(builder, factor, values, total), there, align=4)
        return context.get_dummy_value()

    return types.void(factor, x, first_x, out, first_out, vectors), generate


@intrinsic
def fetch(typing_context, array, first):
    """Ask for the line of the cache that holds an element, long before it is read."""
    del typing_context

    def generate(context, builder, signature, arguments):
        place = builder.bitcast(_place(context, builder, signature, arguments, 0), ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [place.type, _INDEX, _INDEX, _INDEX])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(prefetch, [place, _INDEX(0), _INDEX(3), _INDEX(1)])
        return context.get_dummy_value()

    return types.void(array, first), generate


_INTEGER, _INDEX = ir.IntType(64), ir.IntType(32)
_VECTOR = ir.VectorType(ir.FloatType(), VECTOR)


def _place(context, builder, signature, arguments, index):
    """Address of an element of an array: the argument at ``index`` is the array, the next one the element."""
    array = cgutils.create_struct_proxy(signature.args[index])(context, builder, arguments[index])
    return builder.gep(array.data, [arguments[index + 1]])


def _vector_at(builder, place, offset: int):
    return builder.bitcast(builder.gep(place, [_INTEGER(offset)]), _VECTOR.as_pointer())


def _everywhere(builder, number):
    """A vector that holds one number in all its lanes."""
    nothing = ir.Constant(_VECTOR, ir.Undefined)
    first = ir.Constant(ir.VectorType(_INDEX, VECTOR), [0] * VECTOR)
    return builder.shuffle_vector(builder.insert_element(nothing, number, _INDEX(0)), nothing, first)


def _multiply_add(builder, a, b, c):
    function = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
    return builder.call(
        cgutils.get_or_insert_function(builder.module, function, f"llvm.fmuladd.v{VECTOR}f32"), [a, b, c]
    )


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
