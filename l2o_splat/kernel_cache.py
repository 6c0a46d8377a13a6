"""Machine code on disk: compiled once per machine and user, whichever environment or checkout the sources are in.

numba's own cache belongs to the path of a source file, and looks for edits in that file alone. Ours belongs to what
the machine code is made from: every source in the folder of the kernel, :mod:`l2o_splat.lanes`, the versions of numba,
LLVM and Python, and the processor. It is in ``NUMBA_CACHE_DIR`` if that is set, else in the user's cache folder
(``~/.cache/l2o_splat`` on Linux), one folder for each state of a room's sources. A folder that was not used for a month
is deleted when a new one is made.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import llvmlite
import numba
from llvmlite import binding

DAYS_KEPT = 30
"""Machine code that was not used for so many days is deleted."""


def keep_machine_code(function: Callable, **options: object) -> Callable:
    """Compile ``function`` with ``numba.njit(**options)`` on first use, unless its machine code is on disk already."""
    dispatcher = numba.njit(**options)(function)
    folder = machine_code_folder(function)
    if folder is not None and _redirect_cache(dispatcher, folder):
        return dispatcher
    # numba's own cache, beside the sources: here the name says which version of all of them the code was made from.
    function.__qualname__ += f"_{version_of(_folder_of(function))}"
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:
        warn_that_nothing_is_kept()
        return numba.njit(**options)(function)


def machine_code_folder(function: Callable) -> Path | None:
    """The folder that keeps the machine code of kernels whose sources are beside that of ``function``.

    Returns:
        A folder that can be written to; None if there is none.
    """
    root, sources = _root(), _folder_of(function)
    # Machine code names the module that it belongs to.
    package = function.__module__.rpartition(".")[0] or sources.name
    return None if root is None else _claim(root / f"{package}-{version_of(sources)}")


@functools.cache
def version_of(folder: Path) -> str:
    """A short hash of everything that the machine code of kernels in ``folder`` depends on."""
    config = numba.config
    digest = hashlib.sha256()
    for part in (
        numba.__version__,
        llvmlite.__version__,
        sys.implementation.cache_tag,
        config.CPU_NAME or binding.get_host_cpu_name(),
        config.CPU_FEATURES or binding.get_host_cpu_features().flatten(),
    ):
        digest.update(part.encode() + b"\0")
    shared = [Path(__file__).with_name(name) for name in ("kernel.py", "lanes.py")]
    for path in (*shared, *sorted(folder.glob("*.py"))):
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _folder_of(function: Callable) -> Path:
    return Path(function.__code__.co_filename).parent


def _redirect_cache(dispatcher: Callable, folder: Path) -> bool:
    """Let ``dispatcher`` keep its machine code in ``folder``; False if this version of numba has no way to do so."""
    try:
        from l2o_splat.numba_cache import KernelCache
    except ImportError:
        return False
    if not hasattr(dispatcher, "_cache"):
        return False
    dispatcher._cache = KernelCache(dispatcher.py_func, folder)
    return True


def _root() -> Path | None:
    """Where the folders are; None if the user has no home."""
    if numba.config.CACHE_DIR:
        return Path(numba.config.CACHE_DIR) / "l2o_splat"
    usual = {"darwin": "~/Library/Caches", "win32": "~/AppData/Local"}.get(sys.platform, "~/.cache")
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or usual).expanduser() / "l2o_splat" / "kernels"
    except RuntimeError:
        return None


@functools.cache
def _claim(folder: Path) -> Path | None:
    """Make ``folder`` and mark it as used; None if it cannot be written to."""
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        os.utime(folder)
    except OSError:
        return None
    if is_new:
        _delete_unused(folder.parent)
    return folder


def _delete_unused(root: Path) -> None:
    oldest = time.time() - DAYS_KEPT * 24 * 3600
    for folder in root.iterdir():
        # Another process may delete it at the same time.
        try:
            if folder.stat().st_mtime < oldest:
                shutil.rmtree(folder, ignore_errors=True)
        except FileNotFoundError:
            continue


def warn_that_nothing_is_kept() -> None:
    """Say what it costs that machine code cannot be written to disk."""
    warnings.warn(
        "No folder can be written to keep compiled kernels in, so every process will compile them again for about "
        "20 seconds; set NUMBA_CACHE_DIR to a folder that can.",
        stacklevel=4,
    )
