"""How long a run will take, from the first of its own steps."""

from __future__ import annotations

import statistics
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

MEASURED_STEPS = 10
"""Steps after the first one that are measured before the estimate is printed."""
ENOUGH_SECONDS = 20.0
"""Measured time after which the estimate is printed even with fewer steps."""
CHANGE = 1.5
"""Factor by which the estimate must change to be printed again before or after a tenth of the run."""
RECENT_STEPS = 50
"""Steps of a kind that count, since the cost changes with the scene."""
OUTLIER = 3.0
"""Steps that took longer than this many times the median do not count: a neighbour search, another process."""
SHARE_OF_RULE = 0.5
"""Share of the rule's time that a kind of step without any measurement is taken to need."""


class RunEstimate:
    """Tells the time of a whole run: views, render, loss, backward, rule, logging and viewer.

    A step begins where the one before it ended. The first step, which compiles, counts as it is, but says nothing
    about others. Evaluations and saves are left out (:meth:`left_out`).

    Args:
        kinds: Kind of every step, as :meth:`l2o_splat.optim.rule.UpdateRule.work_at` says. Steps of a kind cost alike.
        tell: Called with a sentence.
        now: Seconds on a clock.
    """

    def __init__(
        self, kinds: Sequence[str], tell: Callable[[str], None], now: Callable[[], float] = time.perf_counter
    ) -> None:
        self.kinds, self.tell, self.now = kinds, tell, now
        self.spent = 0.0
        """Seconds of the steps so far."""
        self.told: list[float] = []
        """Estimates that were printed: seconds of the whole run."""
        self._done, self._measured_seconds = 0, 0.0
        self._left = Counter(kinds)
        self._seconds: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=RECENT_STEPS))
        self._rule_seconds: deque[float] = deque(maxlen=RECENT_STEPS)
        self._begin: float | None = None
        self._rule_begin = self._in_rule = 0.0

    def begin(self) -> None:
        """The first step begins; later ones begin where the one before ended."""
        if self._begin is None:
            self._begin = self.now()

    def rule_begins(self) -> None:
        """The update of the scene begins."""
        self._rule_begin = self.now()

    def rule_ends(self) -> None:
        """The update of the scene is done."""
        self._in_rule = self.now() - self._rule_begin

    @property
    def is_young(self) -> bool:
        """Whether the run is in its first steps, whose times of the rule do where it costs time to take them."""
        return self._done <= 2 * MEASURED_STEPS

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """What happens inside does not count."""
        begin = self.now()
        try:
            yield
        finally:
            if self._begin is not None:
                self._begin += self.now() - begin

    def end_step(self) -> None:
        """A step is done."""
        if self._begin is None or self._done >= len(self.kinds):
            return
        now = self.now()
        seconds, self._begin = now - self._begin, now
        kind = self.kinds[self._done]
        self.spent += seconds
        self._done += 1
        self._left[kind] -= 1
        if self._done > 1:
            self._seconds[kind].append(seconds)
            self._rule_seconds.append(self._in_rule)
            self._measured_seconds += seconds
            self._tell_if_new()

    @property
    def seconds_left(self) -> float | None:
        """Seconds of the steps that are left; None before two steps have been taken."""
        if not self._seconds:
            return None
        means = {kind: _robust_mean(values) for kind, values in self._seconds.items()}
        known = statistics.fmean(means[kind] for kind in means)
        unknown = known - (1 - SHARE_OF_RULE) * statistics.median(self._rule_seconds)
        return sum(count * means.get(kind, unknown) for kind, count in self._left.items())

    def _tell_if_new(self) -> None:
        measured, total = self._done - 1, len(self.kinds)
        if total <= 2 * MEASURED_STEPS or self._done == total:
            return
        if measured < MEASURED_STEPS and self._measured_seconds < ENOUGH_SECONDS:
            return
        left = self.seconds_left
        whole = self.spent + left
        if not self.told:
            self.tell(
                f"This run takes about {spoken(whole)} for {total} steps, judging by the first {self._done} of them; "
                "evaluations and saves come on top."
            )
        elif not 1 / CHANGE < whole / self.told[-1] < CHANGE or self._is_a_tenth():
            self.tell(
                f"After {self._done} of {total} steps: about {spoken(left)} left, {spoken(whole)} for the whole run; "
                "evaluations and saves come on top."
            )
        else:
            return
        self.told.append(whole)

    def _is_a_tenth(self) -> bool:
        return self._done == max(len(self.kinds) // 10, 2 * MEASURED_STEPS)


def spoken(seconds: float) -> str:
    """A duration as people say it: 45 s, 12 min, 3.5 h."""
    if seconds < 99.5:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 99.5 * 60 else f"{seconds / 3600:.1f} h"


def _robust_mean(values: Sequence[float]) -> float:
    """Mean without outliers; the mean rather than the median, since views of a capture differ in what they cost."""
    limit = OUTLIER * statistics.median(values)
    return statistics.fmean(value for value in values if value <= limit)
