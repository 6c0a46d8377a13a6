"""How far learned rules are ahead of the best hand-made one, where they are behind, and what their steps cost."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from l2o_splat.bench.measures import Cell, Measure, Results, over_seeds, shortfall
from l2o_splat.bench.run import Point, Run
from l2o_splat.bench.suites.rules import PROTOCOLS, REFERENCE, Protocol, capture_of, protocol_of

SECONDS_MARKS = (5, 10, 20, 60, 240)
STEP_MARKS = (20, 100, 500, 2000)

ENDED = 0.9
"""Share of the budget after which a run counts as one that has used it: it ends with the step nearest to its end."""

mean_over_seeds = partial(over_seeds, centre=statistics.fmean)


@dataclass(frozen=True)
class Mark:
    """A moment at which rules are compared."""

    value: float
    """Seconds of the clock, or steps."""
    steps: bool = False
    end: bool = False
    """Whether it is the end of the budget of seconds."""

    @property
    def title(self) -> str:
        return f"{self.value:,} steps" if self.steps else f"{self.value:g} s"

    def __str__(self) -> str:
        return f"after {self.title}" if self.steps else f"at {self.title}"

    def point(self, run: Run) -> Point | None:
        """The evaluation that counts there; None if the run had ended, or not begun, by then."""
        if self.steps:
            return run.at_step(self.value)
        if self.end:
            return run.last if run.seconds >= ENDED * self.value else None
        return run.at_seconds(self.value)

    def measure(self, name: str) -> Measure:
        """Make the measure of a quality at this mark."""
        return lambda run: getattr(self.point(run), name, None)


@dataclass(frozen=True)
class Lead:
    """A learned rule beside the best hand-made one at the same mark."""

    protocol: Protocol
    rule: str
    mark: Mark
    rival: str
    """The hand-made rule with the highest PSNR there, mean over captures."""
    cell: Cell
    """PSNR of the rule minus that of the rival, dB: mean over captures, then over seeds."""
    by_capture: dict[str, float]
    """The same on each capture, mean over seeds; empty if there is no mean over all."""

    @property
    def worst(self) -> str | None:
        """Capture with the smallest lead; None without a mean."""
        return min(self.by_capture, key=self.by_capture.__getitem__, default=None)


def marks(results: Results) -> list[Mark]:
    """Times within the budget and its end, then numbers of steps likewise."""
    seconds, steps = (results.environment[name] for name in ("seconds", "steps"))
    return [
        *(Mark(time) for time in SECONDS_MARKS if seconds is None or time < seconds),
        *([] if seconds is None else [Mark(seconds, end=True)]),
        *(Mark(step, steps=True) for step in STEP_MARKS if steps is None or step < steps),
        *([] if steps is None else [Mark(steps, steps=True)]),
    ]


def runs_of(results: Results, protocol: Protocol, rule: str) -> list[Run]:
    """All runs of a rule in a protocol."""
    return [run for run in results.runs if run.method == rule and protocol_of(run.scene) is protocol]


def protocols_of(results: Results) -> dict[Protocol, list[str]]:
    """The rules of each protocol that was run, in their order."""
    found = {protocol: [rule for rule in results.methods if runs_of(results, protocol, rule)] for protocol in PROTOCOLS}
    return {protocol: rules for protocol, rules in found.items() if rules}


def best_hand_made(results: Results, protocol: Protocol, mark: Mark) -> str | None:
    """The hand-made rule with the highest PSNR, of those that reached the mark on every capture; None without any."""
    values = {
        rule: mean_over_seeds(runs_of(results, protocol, rule), mark.measure("psnr")).value
        for rule in results.environment["hand-made"]
    }
    reached = {rule: value for rule, value in values.items() if value is not None}
    return max(reached, key=reached.__getitem__, default=None)


def leads(results: Results) -> list[Lead]:
    """Every learned rule at every mark that it and some hand-made rule reached, by protocol; failed ones included."""
    return [
        lead
        for protocol in protocols_of(results)
        for mark in marks(results)
        for lead in _leads_at(results, protocol, mark)
    ]


def _leads_at(results: Results, protocol: Protocol, mark: Mark) -> Iterator[Lead]:
    rival = best_hand_made(results, protocol, mark)
    if rival is None:
        return
    quality = mark.measure("psnr")
    of_rival = {(run.scene, run.seed): quality(run) for run in runs_of(results, protocol, rival)}

    def ahead(run: Run) -> float | None:
        value = quality(run)
        return None if value is None else value - of_rival[run.scene, run.seed]

    for rule in results.environment["learned"]:
        runs = runs_of(results, protocol, rule)
        cell = mean_over_seeds(runs, ahead)
        if cell.value is None and not cell.note:
            continue
        scenes = dict.fromkeys(run.scene for run in runs) if cell.value is not None else {}
        by_capture = {
            capture_of(scene): mean_over_seeds([run for run in runs if run.scene == scene], ahead).value
            for scene in scenes
        }
        yield Lead(protocol, rule, mark, rival, cell, by_capture)


def losses(found: Sequence[Lead]) -> list[str]:
    """Sentences on where learned rules are behind by 0.01 dB or more, and on those that are behind nowhere."""
    sentences = []
    for protocol, rule in dict.fromkeys((lead.protocol, lead.rule) for lead in found if lead.by_capture):
        of_rule = [lead for lead in found if (lead.protocol, lead.rule) == (protocol, rule) and lead.by_capture]
        who, behind = f"{protocol.title}, {rule}", []
        for capture in of_rule[0].by_capture:
            parts = [
                f"{-lead.by_capture[capture]:.2f} dB behind {lead.rival} {lead.mark}"
                for lead in of_rule
                if round(lead.by_capture[capture], 2) < 0
            ]
            if parts:
                behind.append(f"{who}, on {capture}: {', '.join(parts)}.")
        sentences += behind or [f"{who}: behind nowhere."]
    return sentences


def reference(results: Results) -> str:
    """The rule whose step has the price 1."""
    return REFERENCE if REFERENCE in results.methods else results.baseline


def step_price(run: Run) -> float | None:
    """Processor seconds of a step, mean over the run without its start; None before the first."""
    clock = "seconds" if run.clock == "processor" else "other_seconds"
    if not run.steps or len(run.curve) < 2 or getattr(run.last, clock) is None:
        return None
    first, end = run.curve[0], run.curve[-1]
    return (getattr(end, clock) - getattr(first, clock)) / (end.step - first.step)


def price(results: Results, protocol: Protocol, rule: str) -> Cell:
    """Processor seconds of a step relative to the reference on the same capture; geometric mean over captures."""
    runs, beside = runs_of(results, protocol, rule), runs_of(results, protocol, reference(results))
    ratios = []
    for scene in dict.fromkeys(run.scene for run in runs):
        here, there = (
            mean_over_seeds([run for run in some if run.scene == scene], step_price).value for some in (runs, beside)
        )
        if not here or not there:
            return Cell(None, note=shortfall(runs))
        ratios.append(here / there)
    return Cell(math.exp(statistics.fmean(map(math.log, ratios)))) if ratios else Cell(None)
