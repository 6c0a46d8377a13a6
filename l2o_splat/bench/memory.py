"""Peak memory of a run."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import torch


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
        """The peak so far, MiB."""
        if self._on_gpu:
            return max(self._before, torch.cuda.max_memory_allocated()) / 2**20
        # Prefer this to ru_maxrss, which a child inherits from the process that started it.
        status = Path("/proc/self/status")
        if status.exists():
            for line in status.read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) / 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
