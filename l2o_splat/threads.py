"""A thread pool for kernels that release the global interpreter lock.

numba's own parallel loops are not used: one of its threading layers aborts the process when two threads render at
once (the viewer and the trainer), another kills forked children (data loader workers).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")

_num_threads: int | None = None
_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}
_local = threading.local()
_lock = threading.Lock()
_working = 0
"""Threads inside of :func:`run`."""


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
    others = _working - getattr(_local, "counted", False)
    return max(get_num_threads() - others, 1)


def run(function: Callable[[int], T], count: int) -> list[T]:
    """Call ``function(0)`` to ``function(count - 1)`` from this thread and those of the pool; return the results.

    ``function`` may call this function again; it then works with threads that have nothing else to do.

    Raises:
        BaseException: Whatever ``function`` raises, raised again here.
    """
    results: list[T] = [None] * count
    jobs = iter(range(count))

    def work() -> None:
        with _counted():
            for job in jobs:
                results[job] = function(job)

    with _counted():
        helpers = min(get_free_threads(), count) - 1
        if helpers <= 0:
            work()
            return results
        pending = [_pool(get_num_threads()).submit(work) for _ in range(helpers)]
        try:
            work()
        finally:
            # A helper that has not started by now (the pool is busy with another call) is no longer needed.
            started = [future for future in pending if not future.cancel()]
            for future in started:
                future.result()
    return results


@contextmanager
def _counted() -> Iterator[None]:
    """Count this thread among those that work, once however deep it is in calls of :func:`run`."""
    global _working
    if getattr(_local, "counted", False):
        yield
        return
    _local.counted = True
    with _lock:
        _working += 1
    try:
        yield
    finally:
        _local.counted = False
        with _lock:
            _working -= 1


def _pool(count: int) -> ThreadPoolExecutor:
    # Threads do not survive a fork, so a forked child makes its own pool.
    key = (os.getpid(), count)
    if key not in _pools:
        _pools.setdefault(key, ThreadPoolExecutor(max_workers=max(count - 1, 1), thread_name_prefix="l2o-render"))
    return _pools[key]


def _forget_threads() -> None:
    """A forked child has none of its parent's threads, and none of them will release the lock."""
    global _lock, _working
    _lock, _working = threading.Lock(), 0
    _local.counted = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)
