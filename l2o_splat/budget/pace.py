"""Which share of its budget a run has spent before each step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

LEAST_SHARE = 1e-6
"""Share of the budget that a step spends at least, so that every run comes to its end."""


def share_of_rest(progress: float, begun: float) -> float:
    """Share spent of what a budget still held when ``begun`` of it was spent."""
    return (progress - begun) / (1 - begun) if begun < 1 else 1.0


class Pace(ABC):
    """The share of the budget spent before each step, 0 to 1: a pure function of the step between revisions."""

    @abstractmethod
    def progress(self, step: int) -> float:
        """Share spent before ``step``, counted from 0; never smaller for a later step."""

    @abstractmethod
    def state(self) -> dict[str, float]:
        """Plain numbers from which :func:`restored` makes the same pace."""


class CountedPace(Pace):
    """A budget of steps.

    Args:
        steps: From ``step`` to the end of the budget.
        step: From which on this holds.
        progress: Share spent before that step.

    Raises:
        ValueError: If there are no steps.
    """

    def __init__(self, steps: int, step: int = 0, progress: float = 0.0) -> None:
        if steps < 1:
            raise ValueError(f"The budget is {steps} steps; at least 1 is needed.")
        self.steps, self.first_step, self.first_progress = steps, step, progress

    def progress(self, step: int) -> float:
        taken = min((step - self.first_step) / self.steps, 1.0)
        return self.first_progress + (1 - self.first_progress) * taken

    def state(self) -> dict[str, float]:
        return {"steps": self.steps, "step": self.first_step, "progress": self.first_progress}


class TimedPace(Pace):
    """A budget of seconds.

    A step spends ``share * cost(progress)``: ``cost`` knows how much dearer a step is at full resolution, say, than
    early in the run, and ``share`` is revised by what steps have taken so far. A revision changes nothing about the
    steps before it, and progress never jumps: the pace is set so that it reaches 1 when the time is up.

    Args:
        cost: Relative cost of a step by the share of the budget spent, above 0.
        share: What a step of cost 1 spends.
        step: From which on this holds.
        progress: Share spent before that step.
    """

    def __init__(self, cost: Callable[[float], float], share: float, step: int = 0, progress: float = 0.0) -> None:
        self.cost = cost
        self._anchor(step, progress, share)

    def _anchor(self, step: int, progress: float, share: float) -> None:
        self.first_step, self.first_progress, self.share = step, min(progress, 1.0), max(share, LEAST_SHARE)
        self._known = [self.first_progress]

    def progress(self, step: int) -> float:
        """Share spent before ``step``.

        Raises:
            ValueError: For a step before the last revision.
        """
        if step < self.first_step:
            raise ValueError(f"The pace is known from step {self.first_step} on, not for step {step}.")
        while len(self._known) <= step - self.first_step and self._known[-1] < 1:
            last = self._known[-1]
            self._known.append(min(last + self.share * self.cost(last), 1.0))
        return self._known[min(step - self.first_step, len(self._known) - 1)]

    def revise(self, step: int, seconds_left: float, seconds_per_cost: float) -> None:
        """Reach the end when the time is up.

        Args:
            step: The step to come.
            seconds_left: Of the budget.
            seconds_per_cost: What a step of cost 1 takes.
        """
        progress = self.progress(step)
        share = seconds_per_cost * (1 - progress) / seconds_left if seconds_left > 0 else 1.0
        self._anchor(step, progress, share)

    def steps_left(self, step: int) -> int:
        """Steps from ``step`` to the end of the budget."""
        first = step
        while self.progress(step) < 1:
            step += 1
        return step - first

    def state(self) -> dict[str, float]:
        return {"share": self.share, "step": self.first_step, "progress": self.first_progress}


def restored(state: Mapping[str, float], cost: Callable[[float], float]) -> Pace:
    """The pace that gave this state."""
    if "steps" in state:
        return CountedPace(int(state["steps"]), int(state["step"]), state["progress"])
    return TimedPace(cost, state["share"], int(state["step"]), state["progress"])
