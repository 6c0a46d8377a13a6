"""The seconds of the parts of one step."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise

import torch

from l2o_splat.bench.clock import PARTS


class StepTimer:
    """Splits a step into parts, by CUDA events on a GPU (synchronised before and after), else by ``now``."""

    def __init__(self, device: torch.device | str, now: Callable[[], float] = time.perf_counter) -> None:
        self._host_now = now
        self._on_gpu = torch.device(device).type == "cuda"
        self._marks: list[tuple[str | None, float | torch.cuda.Event]] = []

    def start(self, part: str) -> None:
        """Begin a step, with this part."""
        if self._on_gpu:
            torch.cuda.synchronize()
        self._marks = [(part, self._now())]

    def mark(self, part: str | None) -> None:
        """Count time for another part from here on; None stops the clock. Has no effect between steps."""
        if self._marks:
            self._marks.append((part, self._now()))

    @property
    def part(self) -> str | None:
        """The part that is timed now; None if the clock is stopped."""
        return self._marks[-1][0] if self._marks else None

    def stop(self) -> dict[str, float]:
        """End the step and return the seconds of each part."""
        marks, self._marks = [*self._marks, (None, self._now())], []
        if self._on_gpu:
            torch.cuda.synchronize()
        seconds = dict.fromkeys(PARTS, 0.0)
        for (part, begin), (_, end) in pairwise(marks):
            if part is not None:
                seconds[part] += begin.elapsed_time(end) / 1000 if self._on_gpu else end - begin
        return seconds

    def _now(self) -> float | torch.cuda.Event:
        if not self._on_gpu:
            return self._host_now()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
