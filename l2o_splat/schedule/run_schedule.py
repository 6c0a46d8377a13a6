"""What a run does in each step: pace, size of the photographs, SH degree; and when its time is up."""

from __future__ import annotations

import math
import statistics
import sys
from bisect import bisect
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from l2o_splat.budget import BudgetClock, CountedPace, Pace, TimedPace
from l2o_splat.budget.pace import restored, share_of_rest
from l2o_splat.errors import L2OError
from l2o_splat.growth.adc import AdcOptions, adc_event_is_due
from l2o_splat.growth.budget import LATEST_SHARE, GrowthOptions, event_shares, growth_by_pixels, views_looked_at
from l2o_splat.schedule.controller import Controller, Gains, RunStatistics
from l2o_splat.schedule.presets import Preset, Stages, dropout_of, highest_sh_degree, value_at
from l2o_splat.schedule.resolution import LEAST_PIXELS, changed_from, image_stages, relative_cost

FIRST_STEPS = 40
"""Steps of full cost that a budget is taken to hold, until one has been measured."""
SHARE_BETWEEN_REVISIONS = 0.1
"""Share of the budget after which the pace is revised."""
STEPS_OF_A_STAGE = 2
"""Steps after a change of the images' size that are measured before the pace is revised."""
RECENT_STEPS = 10
"""Steps that tell the present speed."""
EVALUATED = (0.1, 0.25, 0.5, 0.75)
"""Shares of a time budget after which held-out photographs are measured, off the clock, beside the end."""
RECENT, LONGER = 0.8, 0.95
"""Decays of the two running averages of the log loss, whose difference is its slope: over 4 and 19 steps."""
LARGEST_DROPOUT = 0.6
"""Largest share of the Gaussians that a controller may have steps leave out."""
SHARE_OF_SAVES = 0.02
"""Share of the time that checkpoints may take. The pace is revised with a checkpoint alone."""


class BudgetError(L2OError, ValueError):
    """A time budget is spent before the first step."""


@dataclass
class Measured:
    """What the clock has shown of the steps so far, in seconds; a run that is resumed must know it, too."""

    costs: list[float] = field(default_factory=list)
    """Seconds of each of the last steps at the present size of the images, divided by its relative cost."""
    step_seconds: float = 0.0
    """Seconds of the last step."""
    save_seconds: float = 0.0
    """Seconds that the last checkpoint took."""
    stage_steps: int = 0
    """Steps at the present size of the images."""
    revised_at: float = 0.0
    """Time of the last revision of the pace, with which a checkpoint was written."""


class RunSchedule:
    """The schedule of one run: a pure function of the step, as long as no checkpoint is written.

    Args:
        preset: What changes during the run.
        seconds: Time budget; None counts steps.
        steps: Budget in steps, if there is no time budget.
        clock: Counts the seconds of the run.
        fixed_steps: First steps in which the scene does not grow; what is left of the budget is that of growth.
        controller: Changes what the preset says; None leaves it as it is.
    """

    def __init__(
        self,
        preset: Preset,
        seconds: float | None,
        steps: int,
        clock: BudgetClock,
        fixed_steps: int = 0,
        controller: Controller | None = None,
    ) -> None:
        self.preset, self.seconds, self.clock, self.controller = preset, seconds, clock, controller
        self.pace: Pace = CountedPace(steps) if seconds is None else TimedPace(self.cost, 1 / FIRST_STEPS)
        self.events_done = 0
        """Events of growth so far."""
        self.fixed_steps, self.fixed_share = fixed_steps, 0.0
        """First steps in which the scene does not grow, and the share of the budget that they have spent."""
        self.first_count = self.last_count = 0
        """Gaussians at the start, and at the end of growth; with adaptive density control the most there may be."""
        self.num_views = sys.maxsize
        """Training views that colours by direction are learnt from."""
        self.photographs = 0
        """Training views."""
        self.pixels = 0.0
        """Mean number of pixels of a training photograph."""
        self.least_pixels = float(LEAST_PIXELS)
        """Photographs are not reduced to fewer."""
        self.stages: Stages = ((0.0, 1.0),)
        """Size of the photographs, as a factor of their own, by the share of the budget spent."""
        self._measured = Measured()
        self._log_losses: tuple[float, float] | None = None
        """A recent and a longer running average of the log loss; None before the first step."""
        self._ended: float | None = None
        self._evaluations = 0

    def cost(self, progress: float) -> float:
        """What a step costs at a share of the budget, full resolution 1."""
        return relative_cost(value_at(self.stages, progress), self.pixels, self.last_count)

    def progress(self, step: int) -> float | None:
        """Share of the budget spent before a step, for rules; None if the preset lets them count steps."""
        follows = self.preset.by_share == "always" or (self.preset.by_share == "timed" and self.seconds is not None)
        return self.pace.progress(step) if follows else None

    def image_scale(self, step: int) -> float:
        """Size of the photographs in a step, as a factor of their own."""
        return value_at(self.stages, self.pace.progress(step))

    def known(self, step: int) -> RunStatistics:
        """What a controller is told before a step."""
        slope = None if self._log_losses is None else self._log_losses[0] - self._log_losses[1]
        return replace(
            self._known_at_start, share=self.pace.progress(step), slope=slope, budget=math.log(self._whole_steps)
        )

    @property
    def _known_at_start(self) -> RunStatistics:
        density = math.log(self.first_count / self.pixels) if self.first_count and self.pixels else None
        return RunStatistics(0.0, density=density, views=math.log(self.photographs) if self.photographs else None)

    def _factor(self, output: str) -> float:
        """Factor of what is decided once for a run."""
        return 1.0 if self.controller is None else self.controller.factor(output, self._known_at_start)

    def gains(self, step: int) -> Gains | None:
        """Factors of the rates of a step; None without a controller."""
        return None if self.controller is None else self.controller.gains(self.known(step))

    def views(self, step: int, views_per_step: int) -> int:
        """Views of a step of a run that would have ``views_per_step`` throughout."""
        if self.controller is None:
            return views_per_step
        return max(round(views_per_step * self.controller.factor("views", self.known(step))), 1)

    def averages(self, step: int) -> float | None:
        """Earlier scenes that the average after a step reaches over; None if none is kept."""
        usual = self.preset.averages
        if usual is None or self.controller is None:
            return usual
        return usual * self.controller.factor("averages", self.known(step))

    def dropout(self, step: int) -> float:
        """Share of the Gaussians that a step leaves out."""
        usual = self.preset.dropout
        if usual is None:
            usual = dropout_of(self.photographs)
        if usual and self.controller is not None:
            usual = min(usual * self.controller.factor("dropout", self.known(step)), LARGEST_DROPOUT)
        return usual * self.pace.progress(step)

    def sh_degree(self, step: int) -> int:
        """Highest SH degree that a step draws."""
        highest = highest_sh_degree(self.num_views, self.preset.views_per_coefficient)
        return min(int(value_at(self.preset.sh_degrees, self.pace.progress(step))), highest)

    @property
    def growth(self) -> GrowthOptions:
        """How far the scene grows, and when."""
        usual = GrowthOptions()
        last = min(usual.last_share * self._factor("last_event"), LATEST_SHARE)
        first = min(usual.first_share * self._factor("first_event"), last)
        return GrowthOptions(final_count=self.last_count, first_share=first, last_share=last)

    def event_before(self, step: int, views_per_step: int) -> int | None:
        """The event of growth that is due before a step, counted from 0; None if there is none."""
        if self.last_count == self.first_count or step < self.fixed_steps:
            return None
        if self.preset.adaptive:
            progress, images = self.pace.progress(step), step * views_per_step
            return self.events_done if adc_event_is_due(self.events_done, images, progress, AdcOptions()) else None
        shares = event_shares(self.growth)
        progress = share_of_rest(self.pace.progress(step), self.fixed_share)
        due = self.events_done < len(shares) and progress >= shares[self.events_done]
        return self.events_done if due else None

    def views_looked_at(self, views_per_step: int) -> int:
        """Views that an event of growth looks at."""
        return views_looked_at(self._whole_steps * views_per_step)

    def set_capture(self, photographs: int, pixels: float, num_gaussians: int, has_directions: bool = False) -> None:
        """What the schedule must know of the capture and of the start.

        Args:
            photographs: Training views.
            pixels: Of a training photograph, their mean.
            num_gaussians: At the start.
            has_directions: Whether its colours depend on the direction already, which need not be learnt then.
        """
        self.photographs, self.pixels = photographs, pixels
        self.num_views = sys.maxsize if has_directions else photographs
        self.first_count = self.last_count = num_gaussians
        if self.preset.coarse_to_fine:
            self.stages = self._planned_stages()

    def _planned_stages(self) -> Stages:
        return image_stages(self.pixels, self._whole_steps, self._factor("sharpness"), self.least_pixels)

    def growth_at(self, step: int) -> GrowthOptions:
        """The same, with what the Gaussians are split by in an event before a step."""
        if self.controller is None:
            return self.growth
        return replace(self.growth, preference=self.controller.split_preference(self.known(step)))

    @property
    def growth_factor(self) -> float:
        """How many times as many Gaussians there are to be at the end."""
        if self.preset.growth is not None:
            return self.preset.growth
        return max(growth_by_pixels(self.pixels, self.first_count) * self._factor("growth"), 1.0)

    @property
    def _whole_steps(self) -> float:
        """Steps at full size that the whole budget would hold."""
        return self.pace.steps if isinstance(self.pace, CountedPace) else 1 / self.pace.share

    def begin(self, step: int) -> None:
        """The start is made, the first step of this process comes next.

        Raises:
            BudgetError: If the start has taken the whole budget, or a run that has spent its budget is resumed.
        """
        if self.seconds is None:
            return
        left = self.seconds - self.clock.spent
        if left <= 0:
            took = "the start alone took" if step == 0 else "the run that is resumed has taken"
            raise BudgetError(
                f"--seconds is {self.seconds:g}, and {took} {self.clock.spent:.1f} s; give more seconds"
                + (", or start from the points with --pipeline.initialization.source sfm." if step == 0 else ".")
            )
        if step == 0:
            spent = min(self.clock.spent / self.seconds, 1.0)
            self.pace = TimedPace(self.cost, (1 - spent) / FIRST_STEPS, 0, spent)
            self._measured.revised_at = self.clock.spent
        self._ended = self.clock.spent

    def observe(self, loss: float) -> None:
        """Take the loss of a step into account, mean over pixels and views; only a number above 0 tells something."""
        if not 0 < loss < math.inf:
            return
        now = math.log(loss)
        recent, longer = self._log_losses or (now, now)
        self._log_losses = RECENT * recent + (1 - RECENT) * now, LONGER * longer + (1 - LONGER) * now

    def end_step(self, step: int) -> None:
        """A step is done."""
        if step + 1 == self.fixed_steps:
            self.fixed_share = self.pace.progress(step + 1)
        if self.seconds is None:
            return
        measured, now, before = self._measured, self.clock.spent, self._ended
        self._ended, measured.step_seconds = now, now - before
        measured.costs = [*measured.costs, measured.step_seconds / self.cost(self.pace.progress(step))][-RECENT_STEPS:]
        measured.stage_steps += 1
        if self.image_scale(step) != self.image_scale(step + 1):
            measured.stage_steps, measured.costs = 0, []

    @property
    def is_over(self) -> bool:
        """Whether one more step would end further from the end of the budget than now."""
        return self.seconds is not None and self.clock.spent + self._measured.step_seconds / 2 > self.seconds

    def next_evaluation(self) -> bool:
        """Whether another of the shares is spent after which held-out photographs are measured."""
        if self.seconds is None:
            return False
        before, self._evaluations = self._evaluations, bisect(EVALUATED, self.clock.spent / self.seconds)
        return self._evaluations > before

    @property
    def checkpoint_is_due(self) -> bool:
        """Whether the pace should be revised, for which a checkpoint must be written."""
        measured = self._measured
        if self.seconds is None or not measured.costs or self.is_over:
            return False
        since, interval = self.clock.spent - measured.revised_at, SHARE_BETWEEN_REVISIONS * self.seconds
        due = measured.stage_steps == STEPS_OF_A_STAGE or since > interval
        return due and measured.save_seconds <= SHARE_OF_SAVES * max(since, interval)

    def revise(self, step: int) -> None:
        """Set the pace by what steps have taken; ``step`` is the one to come, and a checkpoint holds what is set."""
        measured, spent = self._measured, self.clock.spent
        if self.seconds is None or not measured.costs:
            return
        self.pace.revise(step, self.seconds - spent, statistics.median(measured.costs))
        if self.preset.coarse_to_fine:
            self.stages = changed_from(self.stages, self._planned_stages(), self.pace.progress(step))
        measured.revised_at = spent

    def saved(self, seconds: float) -> None:
        """A checkpoint was written in so many seconds."""
        self._measured.save_seconds = seconds
        if self._ended is not None:
            self._ended += seconds

    def steps_left(self, step: int) -> int | None:
        """Steps from ``step`` on that fit into the time; None in a run that counts them."""
        return None if self.seconds is None else self.pace.steps_left(step)

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold, as plain numbers."""
        return {
            "pace": self.pace.state(),
            "stages": [list(stage) for stage in self.stages],
            "spent": self.clock.spent,
            "seconds": self.seconds,
            "events_done": self.events_done,
            "fixed_share": self.fixed_share,
            "first_count": self.first_count,
            "last_count": self.last_count,
            "measured": asdict(self._measured),
            "log_losses": self._log_losses,
            "controller": None if self.controller is None else self.controller.digest,
        }

    def load(self, state: Mapping[str, Any], step: int, steps: int) -> None:
        """Go on as the checkpoint says, with the budget of this run.

        Args:
            state: What :meth:`state` gave.
            step: The step to come.
            steps: Those of this process, if it counts them.
        """
        saved = restored(state["pace"], self.cost)
        # Checkpoints of versions whose stages were fixed hold none.
        self.stages = tuple((share, scale) for share, scale in state.get("stages", self.stages))
        self.events_done = state["events_done"]
        # Checkpoints of versions that always grew from the start hold none.
        self.fixed_share = state.get("fixed_share", 0.0)
        self.first_count, self.last_count = state["first_count"], state["last_count"]
        # Checkpoints of versions without controllers hold none.
        self._log_losses = tuple(state["log_losses"]) if state.get("log_losses") else None
        if self.seconds is None:
            same = isinstance(saved, CountedPace)
            self.pace = saved if same else CountedPace(steps, step, saved.progress(step))
            return
        self.clock.resume(state["spent"])
        self._measured = Measured(**state["measured"])
        self.next_evaluation()
        left = self.seconds - state["spent"]
        if isinstance(saved, CountedPace) or left <= 0:
            self.pace = TimedPace(self.cost, 1 / FIRST_STEPS, step, saved.progress(step))
        elif state["seconds"] == self.seconds:
            self.pace = saved
        else:
            # Another budget: the same speed, over what is left of it.
            share = saved.share * max(state["seconds"] - state["spent"], 0.0) / left
            self.pace = TimedPace(self.cost, share, step, saved.progress(step))
