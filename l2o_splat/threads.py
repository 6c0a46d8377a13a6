"""A thread pool for kernels that release the global interpreter lock.

numba's own parallel loops are not used: one of its threading layers aborts the process when two threads render at
once (the viewer and the trainer), another kills forked children (data loader workers).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")

_num_threads: int | None = None
_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


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


def run(function: Callable[[int], T], count: int) -> list[T]:
    """Call ``function(0)`` to ``function(count - 1)`` from this thread and those of the pool; return the results.

    Raises:
        BaseException: Whatever ``function`` raises, raised again here.
    """
    jobs = iter(range(count))
    results: list[T] = [None] * count

    def work() -> None:
        for job in jobs:
            results[job] = function(job)

    helpers = min(get_num_threads(), count) - 1
    pending = [_pool(get_num_threads()).submit(work) for _ in range(helpers)]
    try:
        work()
    finally:
        # A helper that has not started by now (the pool is busy with another call) is no longer needed.
        started = [future for future in pending if not future.cancel()]
        for future in started:
            future.result()
    return results


def _pool(count: int) -> ThreadPoolExecutor:
    # Threads do not survive a fork, so a forked child makes its own pool.
    key = (os.getpid(), count)
    if key not in _pools:
        _pools.setdefault(key, ThreadPoolExecutor(max_workers=max(count - 1, 1), thread_name_prefix="l2o-render"))
    return _pools[key]
