"""How the functions that run as machine code on the CPU are compiled."""

from __future__ import annotations

import functools
import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path

import numba
from numba import types
from numba.extending import intrinsic

# "contract" fuses multiplications and additions; unlike all of fastmath it leaves infinities and NaN as they are.
_OPTIONS = {"fastmath": {"contract"}, "error_model": "numpy"}
_EXACT = {"fastmath": False, "error_model": "numpy"}


def kernel(function: Callable) -> Callable:
    """Compile ``function`` on first use and keep the machine code on disk.

    Kernels release the global interpreter lock, so that :mod:`l2o_splat.threads` can run several at a time.
    The code is kept beside the source, or in the user's cache folder where that is read-only, or in
    ``NUMBA_CACHE_DIR``. Helpers and constants of a kernel belong in its own folder.
    """
    return _compiled(function, _OPTIONS)


def exact_kernel(function: Callable) -> Callable:
    """A :func:`kernel` that rounds after every operation as it is written, for numbers that must not differ in a bit.

    Where a multiplication and an addition are to be rounded once, it calls :func:`fused_multiply_add`.
    """
    return _compiled(function, _EXACT)


def exact_helper(function: Callable) -> Callable:
    """Compile ``function`` for use in exact kernels."""
    return numba.njit(**_EXACT)(function)


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


def _compiled(function: Callable, options: dict) -> Callable:
    # numba looks for edits in the file of the kernel alone, yet constants and helpers come from other files. So the
    # name under which the machine code is kept says which version of all of them it was made from.
    version = _version_of(Path(function.__code__.co_filename).parent)
    function.__qualname__ = f"{function.__qualname__}_{version}"
    try:
        return numba.njit(nogil=True, cache=True, **options)(function)
    except RuntimeError:
        warnings.warn(
            "No folder can be written to keep compiled kernels in, so every process will compile them again for about "
            "20 seconds; set NUMBA_CACHE_DIR to a folder that can.",
            stacklevel=2,
        )
        return numba.njit(nogil=True, **options)(function)


def helper(function: Callable) -> Callable:
    """Compile ``function`` for use in kernels; the compiler may copy it into them."""
    return numba.njit(**_OPTIONS)(function)


def inlined(function: Callable) -> Callable:
    """Compile ``function`` for use in kernels, and always copy it into them: needed where every instruction counts."""
    return numba.njit(inline="always", **_OPTIONS)(function)


@functools.cache
def _version_of(folder: Path) -> str:
    """A short hash of this file and of the sources in a folder."""
    sources = [Path(__file__), *sorted(folder.glob("*.py"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:8]
