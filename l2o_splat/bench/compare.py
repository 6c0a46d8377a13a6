"""Two reports side by side: the numbers that differ by more than the seed spread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from l2o_splat.bench.measures import Cell, Results, best, last, step_time
from l2o_splat.bench.run import Run


@dataclass(frozen=True)
class Change:
    """One number that differs between two reports."""

    scene: str
    method: str
    measure: str
    before: str
    after: str
    change: str
    spread: str
    """Largest range over seeds in either report; ``one seed`` where it is unknown."""
    better: bool | None
    """None if neither direction is better."""


@dataclass(frozen=True)
class Compared:
    """A measure that is compared, and how it is shown."""

    title: str
    cell: Callable[[Results, str, str], Cell]
    digits: int
    better: int
    factor: float = 1.0


def _median(measure: Callable[[Run], float | None]) -> Callable[[Results, str, str], Cell]:
    return lambda results, scene, method: results.cell(scene, method, measure)


QUALITY_MEASURES = (
    Compared("PSNR, last", _median(last("psnr")), 3, 1),
    Compared("PSNR, best", _median(best("psnr")), 3, 1),
    Compared("SSIM, last", _median(last("ssim")), 5, 1),
    Compared("LPIPS, last", _median(last("lpips")), 5, -1),
    Compared("Gaussians", _median(lambda run: run.num_gaussians), 0, 0),
    Compared("peak MiB", _median(lambda run: run.peak_memory_mib), 0, -1),
)
MS_PER_STEP = Compared("ms per step", _median(step_time), 2, -1, 1000)
STEP_RATIO = Compared("step time ratio to the baseline", Results.step_ratio, 3, -1)


def compare(before: Results, after: Results) -> list[Change]:
    """List the numbers that differ between two reports by more than the seed spread, and runs that only one has.

    Times are compared in ms if both reports come from the same machine, else as ratios to the baseline of their report.
    """
    places = [(scene, method) for scene in before.scenes for method in before.methods if before.of(scene, method)]
    changes = []
    for scene, method in places:
        if not after.of(scene, method):
            changes.append(Change(scene, method, "runs", "there", "missing", "", "", None))
            continue
        changes += _changes(before, after, scene, method)
    for scene in after.scenes:
        for method in after.methods:
            if after.of(scene, method) and (scene, method) not in places:
                changes.append(Change(scene, method, "runs", "missing", "there", "", "", None))
    return changes


def same_machine(before: Results, after: Results) -> bool:
    """True if all runs of both reports were made on the same kind of machine."""
    return len({run.machine for run in (*before.runs, *after.runs) if run.machine}) <= 1


def _changes(before: Results, after: Results, scene: str, method: str) -> Iterator[Change]:
    speed = MS_PER_STEP
    if not same_machine(before, after):
        speed = STEP_RATIO
    for measure in (*QUALITY_MEASURES, speed):
        if measure is STEP_RATIO and (method in (before.baseline, after.baseline) or before.baseline != after.baseline):
            continue  # 1 by definition, or ratios to different things.
        old, new = measure.cell(before, scene, method), measure.cell(after, scene, method)

        def shown(value: float, measure: Compared = measure, sign: str = "") -> str:
            return f"{value * measure.factor:{sign},.{measure.digits}f}"

        if old.value is None or new.value is None:
            if old.note != new.note and measure.title == "PSNR, last":
                states = [cell.note or shown(cell.value) for cell in (old, new)]
                yield Change(scene, method, "outcome", *states, "", "", old.value is None)
            continue
        spreads = [cell.spread for cell in (old, new) if cell.spread is not None]
        difference = new.value - old.value
        # A difference that does not show in the printed digits could not be checked.
        if abs(difference) <= max(spreads, default=0.0) or shown(difference) in (shown(0.0), shown(-0.0)):
            continue
        yield Change(
            scene,
            method,
            measure.title,
            shown(old.value),
            shown(new.value),
            shown(difference, sign="+"),
            shown(max(spreads)) if spreads else "one seed",
            None if measure.better == 0 else difference * measure.better > 0,
        )
