"""Derived numbers: medians and spreads over seeds, means over scenes, equal wall-clock, ratios.

A failed run counts: a cell with one has no number but says how many failed. A value that not every run of the cell has
reached stays blank, instead of being the median of those that have.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from l2o_splat.bench.methods import split_horizon
from l2o_splat.bench.run import CLOCK_FIELDS, ClockField, Run
from l2o_splat.bench.spec import REPORTED_SECONDS
from l2o_splat.budget.clock import ClockKind

Measure = Callable[[Run], float | None]

ALL_SCENES = "all scenes"

QUALITIES = ("psnr", "ssim", "lpips")

MEASURED = (*QUALITIES, "num_gaussians")
"""What evaluations measure, and tables and curves show over steps and seconds."""


@dataclass(frozen=True)
class Cell:
    """One number of a table."""

    value: float | None
    """Median over seeds; in the tables of the suite ``rules``, their mean."""
    spread: float | None = None
    """Largest minus smallest over seeds; None with one seed."""
    low: float | None = None
    high: float | None = None
    note: str = ""
    """Why there is no number: ``failed 1/2``, ``unavailable``, ``pending 1/2``; empty for a blank cell."""


@dataclass
class Results:
    """All runs of a sweep."""

    environment: dict[str, Any]
    runs: list[Run]
    scenes: list[str] = field(init=False)
    methods: list[str] = field(init=False)
    """Labels in the order in which they were named; the first one is the baseline."""
    seeds: list[int] = field(init=False)
    _by_place: dict[tuple[str, str], list[Run]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.scenes, self.methods = (
            list(dict.fromkeys(getattr(run, name) for run in self.runs)) for name in ("scene", "method")
        )
        self.seeds = sorted({run.seed for run in self.runs})
        self._by_place = defaultdict(list)
        for run in self.runs:
            for scene in (run.scene, ALL_SCENES):
                self._by_place[scene, run.method].append(run)

    @property
    def baseline(self) -> str:
        """Label of the method that others are compared with: the first one, with the longest of its horizons."""
        name, _ = split_horizon(self.methods[0])
        return max(
            (one for one in self.methods if split_horizon(one)[0] == name), key=lambda one: split_horizon(one)[1]
        )

    @property
    def clock(self) -> ClockKind:
        """What seconds are, on a CPU; a sweep has one clock."""
        return self.runs[0].clock if self.runs else "wall"

    def shows(self, name: str) -> bool:
        """Whether there is anything to show of an entry of ``MEASURED``: numbers of Gaussians only if one changes."""
        values = [[getattr(point, name) for point in run.curve] for run in self.runs]
        if name == "num_gaussians":
            return any(len({value for value in of_run if value is not None}) > 1 for of_run in values)
        return any(value is not None for of_run in values for value in of_run)

    @property
    def scene_groups(self) -> list[str]:
        """All scenes together if there are several, then each scene."""
        return [ALL_SCENES, *self.scenes] if len(self.scenes) > 1 else self.scenes

    def of(self, scene: str, method: str) -> list[Run]:
        """Return the runs of one method on one scene, or on all scenes; none if it was left out of some of them."""
        runs = self._by_place[scene, method]
        left_out = scene == ALL_SCENES and len({run.scene for run in runs}) < len(self.scenes)
        return [] if left_out else runs

    def cell(self, scene: str, method: str, measure: Measure) -> Cell:
        """Return median and spread over seeds; for all scenes, those of the mean over scenes."""
        return over_seeds(self.of(scene, method), measure)

    def step_ratio(self, scene: str, method: str) -> Cell:
        """Return the step time relative to the baseline's on the same scene; geometric mean over scenes."""
        scenes = self.scenes if scene == ALL_SCENES else [scene]
        runs = self.of(scene, method)
        cells = [(self.cell(one, method, step_time), self.cell(one, self.baseline, step_time)) for one in scenes]
        if any(cell.value is None or base.value is None for cell, base in cells):
            return Cell(None, note=shortfall(runs))
        return Cell(math.exp(statistics.fmean(math.log(cell.value / base.value) for cell, base in cells)))

    @cached_property
    def _budgets(self) -> dict[tuple[str, int], float]:
        of_baseline = self._by_place[ALL_SCENES, self.baseline]
        return {(run.scene, run.seed): run.seconds for run in of_baseline if run.ok and run.steps}

    def budget(self, run: Run) -> float | None:
        """Return the seconds that the baseline took on the same scene with the same seed (equal wall-clock).

        None of a scene from a PLY.
        """
        return self._budgets.get((run.scene, run.seed)) if run.steps else None

    def in_budget(self, scene: str, method: str, measure: Measure) -> Cell:
        """Return the same as :meth:`cell` for runs that end when their budget is used up."""

        def measured(run: Run) -> float | None:
            budget = self.budget(run)
            return None if budget is None else measure(run.within(budget))

        return over_seeds(self.of(scene, method), measured)


def step_time(run: Run) -> float | None:
    """Return the median seconds of a step; None before the second step."""
    return run.step_seconds.get("total")


def last(name: str) -> Measure:
    """Make the measure of a quality at the end."""
    return lambda run: getattr(run.last, name, None)


def best(name: str) -> Measure:
    """Make the measure of a quality at the evaluation with the highest PSNR."""
    return lambda run: getattr(run.best, name, None)


def at_step(name: str, step: int) -> Measure:
    """Make the measure of a quality after ``step`` steps."""
    return lambda run: getattr(run.at_step(step), name, None)


def at_seconds(name: str, seconds: float, clock: ClockField = "seconds") -> Measure:
    """Make the measure of a quality at a time on one of the clocks."""
    return lambda run: getattr(run.at_seconds(seconds, clock), name, None)


def spent(clock: ClockField) -> Measure:
    """Make the measure of a time at the last evaluation; None of a scene from a PLY."""
    return lambda run: getattr(run.last, clock, None) if run.steps else None


def degradation(run: Run) -> float | None:
    """Return the PSNR lost between the best evaluation and the last, dB."""
    return run.best.psnr - run.last.psnr if run.last else None


def shortfall(runs: Sequence[Run]) -> str:
    """Say how many of these runs did not finish; empty if all did."""
    for statuses, word in ((("failed", "out_of_memory"), "failed"), (("unavailable",), "unavailable")):
        count = sum(run.status in statuses for run in runs)
        if count:
            return word if count == len(runs) == 1 or word == "unavailable" else f"{word} {count}/{len(runs)}"
    pending = sum(not run.ok for run in runs)
    return f"pending {pending}/{len(runs)}" if pending else ""


def over_seeds(
    runs: Sequence[Run], measure: Measure, centre: Callable[[Sequence[float]], float] = statistics.median
) -> Cell:
    """Return the median (or another ``centre``) over seeds of the mean over scenes."""
    note = shortfall(runs)
    if note or not runs:
        return Cell(None, note=note)
    values: dict[int, list[float | None]] = {}
    for run in runs:
        values.setdefault(run.seed, []).append(measure(run))
    if any(value is None for scenes in values.values() for value in scenes):
        return Cell(None)
    means = [statistics.fmean(scenes) for scenes in values.values()]
    low, high = min(means), max(means)
    return Cell(centre(means), high - low if len(means) > 1 else None, low, high)


def curve(results: Results, scene: str, method: str, quality: str) -> dict[str, list[list[float]]]:
    """Return the points to draw, ``[x, median, low, high]``, over ``steps``, ``seconds`` and ``other_seconds``.

    For one scene, seconds are the median clock at each evaluated step. For all scenes, on each of which a step takes a
    different time, they are the reported clock times.
    """
    runs = results.of(scene, method)
    steps = sorted({point.step for run in runs for point in run.curve})
    curves: dict[str, list[list[float]]] = {"steps": [], **{clock: [] for clock in CLOCK_FIELDS}}
    for step in steps:
        cell = over_seeds(runs, at_step(quality, step))
        if cell.value is None:
            continue
        curves["steps"].append([step, cell.value, cell.low, cell.high])
        for clock in CLOCK_FIELDS if scene != ALL_SCENES else ():
            seconds = over_seeds(runs, at_step(clock, step)).value
            if seconds is not None:
                curves[clock].append([seconds, cell.value, cell.low, cell.high])
    if scene == ALL_SCENES:
        for clock in CLOCK_FIELDS:
            for second in REPORTED_SECONDS:
                cell = over_seeds(runs, at_seconds(quality, second, clock))
                if cell.value is not None:
                    curves[clock].append([second, cell.value, cell.low, cell.high])
    return curves
