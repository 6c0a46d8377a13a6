"""How the functions that run as machine code on the CPU are compiled."""

from __future__ import annotations

from collections.abc import Callable

import numba
from numba import types
from numba.extending import intrinsic

from l2o_splat.kernel_cache import keep_machine_code

# "contract" fuses multiplications and additions; unlike all of fastmath it leaves infinities and NaN as they are.
_OPTIONS = {"fastmath": {"contract"}, "error_model": "numpy"}
_EXACT = {"fastmath": False}


def kernel(function: Callable, **options: object) -> Callable:
    """Compile ``function`` on first use and keep the machine code on disk, see :mod:`l2o_splat.kernel_cache`.

    Kernels release the global interpreter lock, so that :mod:`l2o_splat.threads` can run several at a time.
    Helpers and constants of a kernel belong in its own folder: an edit there compiles the kernel again.

    Args:
        function: The function.
        options: Those of ``numba.njit`` that differ from the usual ones.
    """
    return keep_machine_code(function, nogil=True, **_OPTIONS | options)


def exact_kernel(function: Callable) -> Callable:
    """A :func:`kernel` that rounds after every operation as it is written, for numbers that must not differ in a bit.

    Where a multiplication and an addition are to be rounded once, it calls :func:`fused_multiply_add`.
    """
    return kernel(function, **_EXACT)


def exact_helper(function: Callable) -> Callable:
    """Compile ``function`` for use in exact kernels."""
    return numba.njit(**_OPTIONS | _EXACT)(function)


@intrinsic
def fused_multiply_add(typing_context, a, b, c):
    """``a * b + c`` of three float32 numbers, rounded once; in kernels alone."""
    del typing_context
    if not a == b == c == types.float32:
        raise numba.TypingError(f"fused_multiply_add takes three float32 numbers, not {a}, {b}, {c}.")

    def generate(context, builder, signature, arguments):
        del context, signature
        return builder.fma(*arguments)

    return types.float32(a, b, c), generate


def helper(function: Callable) -> Callable:
    """Compile ``function`` for use in kernels; the compiler may copy it into them."""
    return numba.njit(**_OPTIONS)(function)


def inlined(function: Callable) -> Callable:
    """Compile ``function`` for use in kernels, and always copy it into them: needed where every instruction counts."""
    return numba.njit(inline="always", **_OPTIONS)(function)
