"""Reads pickles of numpy arrays in nested dictionaries, without calling anything that the file names.

A pickle names the functions that build its objects. Here the three that numpy writes for an array stand for records of
our own, which keep what the file says of an array and check it; every other name ends the reading.
"""

from __future__ import annotations

import io
import math
import pickle
from typing import Any

import numpy as np

from l2o_splat.errors import L2OError

Arrays = dict[str, "np.ndarray | Arrays"]
"""Arrays by name, in folders by name."""


class ArrayPickleError(L2OError, ValueError):
    """The pickle holds something else than arrays by name; the message says what."""


class _Dtype:
    """Stands for ``numpy.dtype``."""

    def __init__(self, code: str, *flags: object) -> None:
        self.code = code
        self.order = "="

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]


class _Array:
    """Stands for ``numpy.ndarray``; what the file says of its content comes with the state."""

    state: tuple | None = None

    def __setstate__(self, state: tuple) -> None:
        self.state = state

    def to_numpy(self, name: str) -> np.ndarray:
        """The array, checked."""
        if self.state is None:
            raise ArrayPickleError(f"array {name} has no content")
        _, shape, dtype, is_fortran, content = self.state
        if not isinstance(dtype, _Dtype) or (dtype.order, dtype.code) != ("<", "f4"):
            raise ArrayPickleError(f"array {name} is not of little-endian float32")
        if is_fortran or not isinstance(content, bytes) or len(content) != 4 * math.prod(shape):
            raise ArrayPickleError(f"array {name} has another size than its shape {shape} says")
        return np.frombuffer(content, dtype="<f4").reshape(shape)


def _reconstruct(kind: type, shape: tuple, code: bytes) -> _Array:
    """Stands for numpy's function of that name, which makes an array without content."""
    return _Array()


_STAND_INS = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    # The module is named as numpy 1 did, or as numpy 2 does.
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise ArrayPickleError(f"it names {module}.{name}, and only arrays are read")
        return _STAND_INS[module, name]

    def persistent_load(self, key: object) -> Any:
        raise ArrayPickleError("it refers to objects outside of it")


def read_arrays(content: bytes) -> Arrays:
    """Read a pickle of dictionaries whose values are little-endian float32 arrays, or such dictionaries again.

    Raises:
        ArrayPickleError: If it holds anything else, or is damaged.
    """
    try:
        return _checked(_Unpickler(io.BytesIO(content)).load(), "")
    except ArrayPickleError:
        raise
    except Exception as error:  # A damaged pickle can raise almost anything.
        raise ArrayPickleError(f"it is damaged ({type(error).__name__}: {error})") from None


def _checked(value: Any, name: str) -> Arrays:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ArrayPickleError(
            f"{name.rstrip('/') or 'it'} holds a {type(value).__name__} where arrays by name are needed"
        )
    return {
        key: entry.to_numpy(f"{name}{key}") if isinstance(entry, _Array) else _checked(entry, f"{name}{key}/")
        for key, entry in value.items()
    }
