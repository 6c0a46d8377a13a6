"""The clock of a run: the seconds of each step, and how many of them count.

The clock runs from the start of a training iteration to its end (views, render, loss, backward, update, densification)
and stops for evaluation, checkpoints and logging. It starts at the seconds that the initializer took.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

PARTS = ("render", "backward", "update")
"""Parts of a step: views, render and loss; backward; the optimizer (neighbour search, network, Adam) to the end."""

WARM_STEPS = 5
"""Number of steps after the first one of a process whose median estimates the first one without compiling."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step."""

    parts: dict[str, float]
    """Seconds of each part."""
    first: bool = False
    """True for the first step of a process, which compiles kernels and warms caches."""
    other: float = 0.0
    """Seconds of the whole step on the other clock: of the processors if the run counts those of the wall, and the
    other way round."""

    @property
    def total(self) -> float:
        """Seconds of the whole step."""
        return sum(self.parts.values())


@dataclass
class RunClock:
    """Seconds on the clock after each step.

    The first step of a process counts as the median of the up to five steps after it if it took longer; the rest is
    compile time. It counts as zero until a second step is known.
    """

    initializer_seconds: float = 0.0
    steps: list[StepTime] = field(default_factory=list)
    _warm_seconds: float = field(default=0.0, init=False)
    _firsts: list[int] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        steps, self.steps = self.steps, []
        for step in steps:
            self.add(step)

    @classmethod
    def of_other(cls, initializer_seconds: float, steps: Sequence[StepTime]) -> RunClock:
        """The same of the other clock."""
        return cls(initializer_seconds, [StepTime({"step": step.other}, step.first) for step in steps])

    def add(self, step: StepTime) -> None:
        """Add a step."""
        if step.first:
            self._firsts.append(len(self.steps))
        else:
            self._warm_seconds += step.total
        self.steps.append(step)

    @property
    def now(self) -> float:
        """Seconds on the clock."""
        return self.initializer_seconds + self._warm_seconds + sum(self._charge(index) for index in self._firsts)

    @property
    def compile_seconds(self) -> float:
        """Seconds of first steps that do not count."""
        return sum(self.steps[index].total - self._charge(index) for index in self._firsts)

    def after_each_step(self) -> list[float]:
        """Return the seconds on the clock after 0, 1, 2, ... steps, as far as they are known."""
        seconds = [self.initializer_seconds]
        for index, step in enumerate(self.steps):
            seconds.append(seconds[-1] + (self._charge(index) if step.first else step.total))
        return seconds

    def _charge(self, index: int) -> float:
        following = _leading_warm(self.steps[index + 1 : index + 1 + WARM_STEPS])
        return min(self.steps[index].total, statistics.median(following)) if following else 0.0


def _leading_warm(steps: Sequence[StepTime]) -> list[float]:
    """Return the seconds of the steps before the next process began."""
    totals = []
    for step in steps:
        if step.first:
            break
        totals.append(step.total)
    return totals
