"""The clock of a time budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

ClockKind = Literal["wall", "processor"]
"""``processor``: seconds of all threads of this process together, which are comparable on a busy machine if there is
one."""

CLOCKS: dict[ClockKind, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}


def other_clock(kind: ClockKind) -> ClockKind:
    """The clock that is shown beside the one that counts."""
    return "processor" if kind == "wall" else "wall"


class BudgetClock:
    """Counts the seconds that a run spends; it stands still at first.

    Args:
        spent: Seconds of the run before this process, for a run that is resumed.
        now: Seconds on any clock.
    """

    def __init__(self, spent: float = 0.0, now: Callable[[], float] = time.perf_counter) -> None:
        self._spent, self._now = spent, now
        self._since: float | None = None

    @property
    def spent(self) -> float:
        """Seconds so far."""
        return self._spent + (0.0 if self._since is None else self._now() - self._since)

    def start(self) -> None:
        """Count from here on."""
        if self._since is None:
            self._since = self._now()

    def stop(self) -> None:
        """Stand still from here on."""
        self._spent, self._since = self.spent, None

    def resume(self, spent: float) -> None:
        """Go on with a run that had spent so many seconds; those of this process so far do not count."""
        self._spent, self._since = spent, None if self._since is None else self._now()

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count what happens inside."""
        self.start()
        try:
            yield
        finally:
            self.stop()

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """Do not count what happens inside."""
        counts = self._since is not None
        self.stop()
        try:
            yield
        finally:
            if counts:
                self.start()
