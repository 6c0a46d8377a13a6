"""Whether kernels can be compiled on this machine; asked before the modules that hold kernels are imported."""

from __future__ import annotations

import functools
import warnings


@functools.cache
def numba_works() -> bool:
    """Whether numba can be imported; a warning says so once if not, since torch's operations are many times slower."""
    try:
        import numba  # noqa: F401
    except ImportError as error:
        warnings.warn(f"numba cannot be imported ({error}); work on the CPU will be slow.", stacklevel=3)
        return False
    return True
