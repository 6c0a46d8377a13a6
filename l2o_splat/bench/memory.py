"""Peak memory of a run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from l2o_splat.system import peak_memory


class PeakMemory:
    """Peak of what torch allocated in training on a GPU; of the resident memory of the process on a CPU."""

    def __init__(self, device: torch.device | str) -> None:
        self._on_gpu = torch.device(device).type == "cuda"
        self._before = 0

    @contextlib.contextmanager
    def left_out(self) -> Iterator[None]:
        """Leave out what is allocated inside; not possible on a CPU, where the system keeps one peak per process."""
        if self._on_gpu:
            self._before = max(self._before, torch.cuda.max_memory_allocated())
        yield
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats()

    @property
    def mib(self) -> float:
        """The peak so far, MiB; 0 if the system does not say."""
        if self._on_gpu:
            return max(self._before, torch.cuda.max_memory_allocated()) / 2**20
        return (peak_memory() or 0) / 2**20
