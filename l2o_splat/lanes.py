"""Vectors of float32 for kernels: numbers that one instruction works on together.

numba turns only the simplest loops into vector instructions. Kernels that keep a dozen rows in registers say what they
want instead: ``load(array, i)`` is a vector of ``LANES`` numbers, and ``+``, ``-``, ``*`` and ``/`` take two vectors or
a vector and a number. Indices are not checked.
"""

from __future__ import annotations

import operator

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

LANES = 16 if "+avx512f" in cpu_target.target_context.codegen().magic_tuple()[2] else 8
"""Numbers in a vector: as many as a register of the processor holds."""

_FLOAT, _DOUBLE = ir.FloatType(), ir.DoubleType()
_VECTOR = ir.VectorType(_FLOAT, LANES)


class _Vector(types.Type):
    def __init__(self):
        super().__init__(name=f"float32x{LANES}")


vector = _Vector()


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, numba_type):
        super().__init__(manager, numba_type, _VECTOR)


@intrinsic
def load(typing_context, array, index):
    """The ``LANES`` numbers of a contiguous float32 array from ``index`` on."""

    def generate(context, builder, signature, arguments):
        return builder.load(_pointer(context, builder, signature.args[0], *arguments), align=4)

    return vector(array, types.intp), generate


@intrinsic
def store(typing_context, array, index, values):
    """Write a vector to a contiguous float32 array, from ``index`` on."""

    def generate(context, builder, signature, arguments):
        builder.store(arguments[2], _pointer(context, builder, signature.args[0], *arguments[:2]), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), generate


@intrinsic
def filled(typing_context, value):
    """A vector of equal numbers."""
    return vector(types.float32), lambda context, builder, signature, arguments: _splat(builder, arguments[0])


@intrinsic
def magnitude(typing_context, values):
    """The absolute value of every lane."""

    def generate(context, builder, signature, arguments):
        name = f"llvm.fabs.v{LANES}f32"
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_VECTOR, [_VECTOR]), name)
        return builder.call(function, arguments)

    return vector(vector), generate


@intrinsic
def with_sign_of(typing_context, value, values):
    """``value`` where ``values`` are positive, ``-value`` where they are negative, 0 where they are 0 (or NaN)."""

    def generate(context, builder, signature, arguments):
        value, values = _splat(builder, arguments[0]), arguments[1]
        zero = ir.Constant(_VECTOR, [0.0] * LANES)
        negative = builder.select(builder.fcmp_ordered("<", values, zero), builder.fneg(value), zero)
        return builder.select(builder.fcmp_ordered(">", values, zero), value, negative)

    return vector(types.float32, vector), generate


@intrinsic
def total(typing_context, values):
    """The sum of all lanes as a float64, in the order of the lanes."""

    def generate(context, builder, signature, arguments):
        lanes = [builder.extract_element(arguments[0], ir.Constant(ir.IntType(32), lane)) for lane in range(LANES)]
        result = ir.Constant(_DOUBLE, 0.0)
        for lane in lanes:
            result = builder.fadd(result, builder.fpext(lane, _DOUBLE))
        return result

    return types.float64(vector), generate


@intrinsic
def transpose(typing_context, source, start, step, target, target_start, target_step):
    """Read ``LANES`` vectors, ``step`` apart, and write vector k of the transposed block ``k target_step`` further."""

    def generate(context, builder, signature, arguments):
        source, start, step, target, target_start, target_step = arguments
        rows = []
        for _ in range(LANES):
            rows.append(builder.load(_pointer(context, builder, signature.args[0], source, start), align=4))
            start = builder.add(start, step)
        # Swap the off-diagonal halves of ever smaller blocks (Eklundh 1972).
        block = LANES // 2
        while block:
            lanes = range(LANES)
            upper = [lane if not lane & block else LANES + lane - block for lane in lanes]
            lower = [lane + block if not lane & block else LANES + lane for lane in lanes]
            for k in lanes:
                if not k & block:
                    first, second = rows[k], rows[k + block]
                    rows[k], rows[k + block] = (_shuffle(builder, first, second, order) for order in (upper, lower))
            block //= 2
        for row in rows:
            builder.store(row, _pointer(context, builder, signature.args[3], target, target_start), align=4)
            target_start = builder.add(target_start, target_step)
        return context.get_dummy_value()

    return types.void(source, types.intp, types.intp, target, types.intp, types.intp), generate


def _pointer(context, builder, array_type, array, index):
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), _VECTOR.as_pointer())


def _shuffle(builder, first, second, order):
    mask = ir.Constant(ir.VectorType(ir.IntType(32), LANES), list(order))
    return builder.shuffle_vector(first, second, mask)


def _splat(builder, value):
    single = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    return _shuffle(builder, single, ir.Constant(_VECTOR, ir.Undefined), [0] * LANES)


def _define(function, instruction):
    """Let an operator work on two vectors, and on a vector and a number on either side."""
    cases = [
        signature(vector, *sides) for sides in ((vector, vector), (types.float32, vector), (vector, types.float32))
    ]
    infer_global(function)(type("_Typing", (ConcreteTemplate,), {"key": function, "cases": cases}))
    for case in cases:

        def generate(context, builder, signature, arguments):
            sides = zip(signature.args, arguments, strict=True)
            left, right = (value if side == vector else _splat(builder, value) for side, value in sides)
            return getattr(builder, instruction)(left, right, flags=("contract",))

        lower_builtin(function, *case.args)(generate)


for _function, _instruction in (
    (operator.add, "fadd"),
    (operator.iadd, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _define(_function, _instruction)
