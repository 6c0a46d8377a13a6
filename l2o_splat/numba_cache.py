"""numba's cache of a function, in a folder of our choice.

Nothing of this is part of numba's public interface. :mod:`l2o_splat.kernel_cache` does without where an import fails.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from numba.core.caching import CompileResultCacheImpl, FunctionCache, IndexDataCacheFile, _CacheLocator

from l2o_splat.kernel_cache import warn_that_nothing_is_kept


class KernelCache(FunctionCache):
    """Machine code of ``function`` in ``folder``, whose name says what it was made from.

    Each signature has an index of its own. With one for all of them, as numba has it, two processes that compile
    different signatures at the same time may take the same file, and one would later run the code of the other.
    """

    def __init__(self, function: Callable, folder: Path) -> None:
        self._impl_class = _in_folder(folder)
        super().__init__(function)

    def load_overload(self, sig: object, target_context: object) -> object:
        self._choose_files(sig)
        return super().load_overload(sig, target_context)

    def save_overload(self, sig: object, data: object) -> None:
        self._choose_files(sig)
        try:
            super().save_overload(sig, data)
        except OSError:  # For example a full disk. This process has the code.
            warn_that_nothing_is_kept()

    def _choose_files(self, sig: object) -> None:
        name = f"{self._impl.filename_base}-{hashlib.sha256(str(sig).encode()).hexdigest()[:16]}"
        self._cache_file = IndexDataCacheFile(self.cache_path, name, self._impl.locator.get_source_stamp())


def _in_folder(folder: Path) -> type[CompileResultCacheImpl]:
    """The class that numba asks how and where to keep machine code."""

    class Locator(_CacheLocator):
        def __init__(self, function: Callable, file: str) -> None:
            self._line = function.__code__.co_firstlineno
            self._py_file = file  # numba reads it.

        @classmethod
        def from_function(cls, py_func: Callable, py_file: str) -> Locator:
            return cls(py_func, py_file)

        def get_cache_path(self) -> str:
            return str(folder)

        def get_source_stamp(self) -> str:
            return folder.name

        def get_disambiguator(self) -> str:
            return str(self._line)

    class Files(CompileResultCacheImpl):
        _locator_classes = (Locator,)

    return Files
