"""Vectors of float32 for kernels: one instruction computes all their lanes.

The compiler vectorises loops only if they have a very plain form, and keeps no vector in a register from one loop to
the next. Here a kernel says what is a vector: ``load(array, i)`` is one of ``LANES`` numbers. Vectors have the
arithmetic and comparisons of numbers, and the other operand may be a float32 number. Comparisons give a mask for
:func:`select`. Indices are not checked.
"""

from __future__ import annotations

import operator
from collections.abc import Callable

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.registry import cpu_target
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

LANES = 16 if "+avx512f" in cpu_target.target_context.codegen().magic_tuple()[2].split(",") else 8
"""Numbers in a vector: as many as a register of the processor holds."""

_FLOAT = ir.FloatType()
_INDEX = ir.IntType(32)
_FLOATS, _BITS = ir.VectorType(_FLOAT, LANES), ir.VectorType(ir.IntType(1), LANES)
# Multiplications and additions may be fused, as in all kernels.
_FLAGS = ("contract",)


class Lanes(types.Type):
    """A vector of ``LANES`` float32 numbers."""

    def __init__(self) -> None:
        super().__init__(name=f"Lanes{LANES}")


class LaneMask(types.Type):
    """A truth value for each lane."""

    def __init__(self) -> None:
        super().__init__(name=f"LaneMask{LANES}")


_lanes, _mask = Lanes(), LaneMask()


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager, kind) -> None:
        super().__init__(manager, kind, _FLOATS)


@register_model(LaneMask)
class _LaneMaskModel(models.PrimitiveModel):
    def __init__(self, manager, kind) -> None:
        super().__init__(manager, kind, _BITS)


def _constant(values) -> ir.Constant:
    return ir.Constant(_FLOATS, [float(value) for value in values])


def _shuffled(builder: ir.IRBuilder, vector: ir.Value, order: list[int], other: ir.Value | None = None) -> ir.Value:
    """Lanes of a vector, and of another one whose lanes count from ``LANES``, in the order given."""
    places = ir.Constant(ir.VectorType(_INDEX, len(order)), order)
    return builder.shuffle_vector(vector, other or ir.Constant(vector.type, ir.Undefined), places)


def _spread(builder: ir.IRBuilder, number: ir.Value) -> ir.Value:
    first = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), number, ir.Constant(_INDEX, 0))
    return _shuffled(builder, first, [0] * LANES)


def _as_lanes(builder: ir.IRBuilder, kinds, values) -> list[ir.Value]:
    return [
        value if isinstance(kind, Lanes) else _spread(builder, value) for kind, value in zip(kinds, values, strict=True)
    ]


def _operand(kind: types.Type) -> types.Type:
    """What the operand of a function is taken as: a vector, or a number of float32."""
    return kind if isinstance(kind, Lanes) else types.float32


def _define_operator(function: Callable, emit: Callable, result: types.Type) -> None:
    """Give an operator of two vectors, or of a vector and a number, its meaning."""

    @type_callable(function)
    def type_operator(context):
        def result_type(a, b):
            vectors = sum(isinstance(kind, Lanes) for kind in (a, b))
            numbers = sum(kind == types.float32 for kind in (a, b))
            return result if vectors and vectors + numbers == 2 else None

        return result_type

    def lower(context, builder, signature, arguments):
        return emit(builder, *_as_lanes(builder, signature.args, arguments))

    for a, b in ((Lanes, Lanes), (Lanes, types.Float), (types.Float, Lanes)):
        lower_builtin(function, a, b)(lower)


_define_operator(operator.add, lambda builder, a, b: builder.fadd(a, b, flags=_FLAGS), _lanes)
_define_operator(operator.iadd, lambda builder, a, b: builder.fadd(a, b, flags=_FLAGS), _lanes)
_define_operator(operator.sub, lambda builder, a, b: builder.fsub(a, b, flags=_FLAGS), _lanes)
_define_operator(operator.mul, lambda builder, a, b: builder.fmul(a, b, flags=_FLAGS), _lanes)
_define_operator(operator.truediv, lambda builder, a, b: builder.fdiv(a, b), _lanes)
_define_operator(operator.gt, lambda builder, a, b: builder.fcmp_ordered(">", a, b), _mask)
_define_operator(operator.ge, lambda builder, a, b: builder.fcmp_ordered(">=", a, b), _mask)
_define_operator(operator.le, lambda builder, a, b: builder.fcmp_ordered("<=", a, b), _mask)


@type_callable(operator.and_)
def _type_and(context):
    return lambda a, b: _mask if isinstance(a, LaneMask) and isinstance(b, LaneMask) else None


@lower_builtin(operator.and_, LaneMask, LaneMask)
def _lower_and(context, builder, signature, arguments):
    return builder.and_(*arguments)


@intrinsic
def filled(typing_context, number):
    """The same number in every lane."""

    def emit(context, builder, signature, arguments):
        return _spread(builder, arguments[0])

    return _lanes(types.float32), emit


def constant(values: list[float]) -> Callable:
    """A function without arguments that returns a vector of known numbers."""

    def make(typing_context):
        return _lanes(), lambda context, builder, signature, arguments: _constant(values)

    return intrinsic(make)


def _pointer(context, builder: ir.IRBuilder, kind, array: ir.Value, index: ir.Value) -> ir.Value:
    start = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(start, [index]), _FLOATS.as_pointer())


@intrinsic
def load(typing_context, array, index):
    """``array[index : index + LANES]`` of a flat float32 array. Nothing checks that the entries exist."""

    def emit(context, builder, signature, arguments):
        return builder.load(_pointer(context, builder, signature.args[0], *arguments), align=4)

    return _lanes(array, types.intp), emit


@intrinsic
def store(typing_context, array, index, vector):
    """``array[index : index + LANES] = vector`` of a flat float32 array. Nothing checks that the entries exist."""

    def emit(context, builder, signature, arguments):
        builder.store(arguments[2], _pointer(context, builder, signature.args[0], *arguments[:2]), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, _lanes), emit


@intrinsic
def select(typing_context, mask, a, b):
    """``a`` in the lanes in which the mask holds, ``b`` in the others."""

    def emit(context, builder, signature, arguments):
        return builder.select(arguments[0], *_as_lanes(builder, signature.args[1:], arguments[1:]))

    return _lanes(_mask, _operand(a), _operand(b)), emit


def _extreme(name: str, relation: str, doc: str) -> Callable:
    def make(typing_context, a, b):
        def emit(context, builder, signature, arguments):
            x, y = _as_lanes(builder, signature.args, arguments)
            return builder.select(builder.fcmp_ordered(relation, x, y), x, y)

        return _lanes(_operand(a), _operand(b)), emit

    make.__name__, make.__doc__ = name, doc
    return intrinsic(make)


least = _extreme("least", "<", "The smaller number of each lane; ``b`` where one is NaN.")
most = _extreme("most", ">", "The larger number of each lane; ``b`` where one is NaN.")


def _unary(name: str, llvm_name: str, doc: str) -> Callable:
    def make(typing_context, vector):
        def emit(context, builder, signature, arguments):
            kind = ir.FunctionType(_FLOATS, [_FLOATS])
            function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{llvm_name}.v{LANES}f32")
            return builder.call(function, arguments)

        return _lanes(_lanes), emit

    make.__name__, make.__doc__ = name, doc
    return intrinsic(make)


root = _unary("root", "sqrt", "Square roots.")
ceiling = _unary("ceiling", "ceil", "The next whole numbers above.")
floor = _unary("floor", "floor", "The next whole numbers below.")
magnitude = _unary("magnitude", "fabs", "Absolute values.")


@intrinsic
def with_sign_of(typing_context, number, vector):
    """``number`` where the vector is positive, ``-number`` where it is negative, 0 where it is 0 or NaN."""

    def emit(context, builder, signature, arguments):
        number, vector = _spread(builder, arguments[0]), arguments[1]
        zero = _constant([0] * LANES)
        negative = builder.select(builder.fcmp_ordered("<", vector, zero), builder.fneg(number), zero)
        return builder.select(builder.fcmp_ordered(">", vector, zero), number, negative)

    return _lanes(types.float32, _lanes), emit


@intrinsic
def total(typing_context, vector):
    """Sum of all lanes, always in the same order: halves are added until one number is left."""

    def emit(context, builder, signature, arguments):
        (part,), width = arguments, LANES
        while width > 1:
            width //= 2
            low, high = (_shuffled(builder, part, list(range(first, first + width))) for first in (0, width))
            part = builder.fadd(low, high)
        return builder.extract_element(part, ir.Constant(_INDEX, 0))

    return types.float32(_lanes), emit


@intrinsic
def store_totals(typing_context, array, index, vectors):
    """Store the sums of up to 16 vectors, one after the other and zeros up to 16, always summed in the same order."""

    def emit(context, builder, signature, arguments):
        array_value, start, packed = arguments
        given = cgutils.unpack_tuple(builder, packed)
        rows = [*given, *[ir.Constant(_FLOATS, None)] * (_SUMS - len(given))]
        groups = [rows[first : first + LANES] for first in range(0, _SUMS, LANES)]
        for number, group in enumerate(groups):
            place = builder.add(start, ir.Constant(start.type, number * LANES))
            pointer = _pointer(context, builder, signature.args[0], array_value, place)
            builder.store(_totals(builder, group), pointer, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, vectors), emit


_SUMS = 16


def _totals(builder: ir.IRBuilder, vectors: list[ir.Value]) -> ir.Value:
    """One vector whose lane i is the sum of ``vectors[i]``: in each step two vectors fold into one."""
    distance = LANES
    while len(vectors) > 1:
        half, distance = len(vectors) // 2, distance // 2
        # Of every 2 distance lanes, the first of a vector and of its partner, and the last of both.
        blocks = range(0, LANES, 2 * distance)
        order = [block + source + lane for block in blocks for source in (0, LANES) for lane in range(distance)]
        vectors = [
            builder.fadd(
                _shuffled(builder, vectors[i], order, vectors[i + half]),
                _shuffled(builder, vectors[i], [lane + distance for lane in order], vectors[i + half]),
            )
            for i in range(half)
        ]
    return vectors[0]


@intrinsic
def any_lane(typing_context, mask):
    """Whether the mask holds in any lane."""

    def emit(context, builder, signature, arguments):
        bits = ir.IntType(LANES)
        return builder.icmp_unsigned("!=", builder.bitcast(arguments[0], bits), ir.Constant(bits, 0))

    return types.boolean(_mask), emit


def of_groups(function_name: str, relation: str, size: int) -> Callable:
    """A function that gives every lane the least (``<``) or most (``>``) of its group of ``size`` lanes."""

    def make(typing_context, vector):
        def emit(context, builder, signature, arguments):
            (result,), distance = arguments, 1
            while distance < size:
                other = _shuffled(builder, result, [lane ^ distance for lane in range(LANES)])
                result = builder.select(builder.fcmp_ordered(relation, result, other), result, other)
                distance *= 2
            return result

        return _lanes(_lanes), emit

    make.__name__ = function_name
    return intrinsic(make)


@intrinsic
def transpose(typing_context, source, start, step, target, target_start, target_step):
    """Read ``LANES`` vectors, ``step`` apart, and write vector k of the transposed block ``k target_step`` further."""

    def emit(context, builder, signature, arguments):
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
                    rows[k], rows[k + block] = (_shuffled(builder, first, order, second) for order in (upper, lower))
            block //= 2
        for row in rows:
            builder.store(row, _pointer(context, builder, signature.args[3], target, target_start), align=4)
            target_start = builder.add(target_start, target_step)
        return context.get_dummy_value()

    return types.void(source, types.intp, types.intp, target, types.intp, types.intp), emit
