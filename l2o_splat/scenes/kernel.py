"""How the functions of the ray caster are compiled."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numba

from l2o_splat import kernel as usual

_FASTMATH = {"contract", "reassoc", "arcp", "nsz"}
"""NaN and infinities stay as they are: rays along an axis divide by zero."""

kernel = functools.partial(usual.kernel, fastmath=_FASTMATH)


def inline(function: Callable) -> Callable:
    """Compile a helper into the kernels that call it, so that scenes are not copied at every call."""
    return numba.njit(forceinline=True, error_model="numpy", fastmath=_FASTMATH)(function)
