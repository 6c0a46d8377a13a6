"""A thread pool for kernels that release the global interpreter lock.

numba's own parallel loops are not used: one of its threading layers aborts the process when two threads render at
once (the viewer and the trainer), another kills forked children (data loader workers).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")

_num_threads: int | None = None
_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}
_lock = threading.Lock()
_helping = 0
"""Threads of the pools that work."""


def set_num_threads(count: int | None) -> None:
    """Set how many threads work on the CPU; None follows ``torch.get_num_threads()``. Results do not depend on it.

    Raises:
        ValueError: If ``count`` is less than 1.
    """
    global _num_threads
    if count is not None and count < 1:
        raise ValueError(f"{count} threads were asked for; at least 1 is needed.")
    _num_threads = count


def get_num_threads() -> int:
    """Return how many threads work on the CPU."""
    return torch.get_num_threads() if _num_threads is None else _num_threads


def get_free_threads() -> int:
    """Return how many threads a call of :func:`run` would use: this one and those that have nothing to do."""
    return max(get_num_threads() - _helping, 1)


def run(function: Callable[[int], T], count: int) -> list[T]:
    """Call ``function(0)`` to ``function(count - 1)`` from this thread and those of the pool; return the results.

    ``function`` may call this function again; it then works with threads that have nothing else to do.

    Raises:
        BaseException: Whatever ``function`` raises, raised again here.
    """
    results: list[T] = [None] * count
    jobs = iter(range(count))

    def work() -> None:
        for job in jobs:
            results[job] = function(job)

    helpers = min(get_free_threads(), count) - 1
    if helpers <= 0:
        work()
        return results
    pending = [_pool(get_num_threads()).submit(_help, work) for _ in range(helpers)]
    try:
        work()
    finally:
        # A helper that has not started by now (the pool is busy with another call) is no longer needed.
        started = [future for future in pending if not future.cancel()]
        for future in started:
            future.result()
    return results


def _help(work: Callable[[], None]) -> None:
    """Work in a thread of a pool, which counts as busy until it is done.

    Threads that call :func:`run` are not counted: nerfstudio's viewer raises in its own at any line, and a count that
    is not taken back would keep a thread of the pool idle for the rest of the run.
    """
    global _helping
    with _lock:
        _helping += 1
    try:
        work()
    finally:
        with _lock:
            _helping -= 1


def _pool(count: int) -> ThreadPoolExecutor:
    # Threads do not survive a fork, so a forked child makes its own pool.
    key = (os.getpid(), count)
    if key not in _pools:
        _pools.setdefault(key, ThreadPoolExecutor(max_workers=max(count - 1, 1), thread_name_prefix="l2o-render"))
    return _pools[key]


def _forget_threads() -> None:
    """A forked child has none of its parent's threads, and none of them will release the lock."""
    global _lock, _helping
    _lock, _helping = threading.Lock(), 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)
