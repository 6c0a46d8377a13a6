"""Runs in worker processes of one thread each, in any order; their results do not depend on it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

from typing_extensions import Self

T = TypeVar("T")


class Workers:
    """Calls a function for many arguments; as a context manager it ends its processes.

    Args:
        count: Processes; 0 makes the calls in this one.
    """

    def __init__(self, count: int) -> None:
        self._pool: ProcessPoolExecutor | None = None
        if count:
            # A fork would copy locks that threads of the renderer hold, and deadlock.
            spawn = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(count, mp_context=spawn, initializer=_begin)

    def results(self, function: Callable[..., T], arguments: Sequence[tuple[Any, ...]]) -> list[T]:
        """What the function returns for each tuple of arguments, in their order.

        Args:
            function: At the top of its module, and its arguments picklable, as processes need it.
            arguments: Of each call.

        Raises:
            Exception: Of the first call that raises one.
        """
        if self._pool is None:
            return [function(*each) for each in arguments]
        return list(self._pool.map(function, *zip(*arguments, strict=True)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """Prepare a worker: one thread, Ctrl-C is for the parent, and it ends at once when its parent has ended."""
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
