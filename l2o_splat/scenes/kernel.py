"""How the functions of the ray caster are compiled."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numba

_FOLDER = Path(__file__).parent
_SOURCES = hashlib.sha256(
    b"".join((_FOLDER / f"{name}.py").read_bytes() for name in ("kernel", "scene", "solids", "textures", "raycast"))
)

_FASTMATH = {"contract", "reassoc", "arcp", "nsz"}
"""NaN and infinities stay as they are: rays along an axis divide by zero."""


def kernel(function: Callable) -> Callable:
    """Compile ``function`` on first use, free of the interpreter lock, and keep the machine code on disk."""
    # numba looks for changes in the file of the called kernel alone. Constants and helpers come from other files
    # too, so the name under which the code is kept says which version of all of them it belongs to.
    function.__qualname__ = f"{function.__qualname__}_{_SOURCES.hexdigest()[:8]}"
    return numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=_FASTMATH)(function)


def inline(function: Callable) -> Callable:
    """Compile a helper into the kernels that call it, so that scenes are not copied at every call."""
    return numba.njit(forceinline=True, error_model="numpy", fastmath=_FASTMATH)(function)
