"""Held-out PSNR over seconds, ours against splatfacto; a part for each curve, and one that compares them."""

from __future__ import annotations

import math
from functools import partial

from l2o_splat.bench.spec import RunSpec
from l2o_splat.bench.sweep import read_run
from l2o_splat.prove.errors import UndecidedError
from l2o_splat.prove.part import Judgement, Numbers, Part, Setting, judged, undecided
from l2o_splat.prove.runs import capture_of, numbers_of, run_once, scale_to, spec_of

OURS, THEIRS = ("learn2splat", "l2o-adam-tuned"), "splatfacto"
FIRST, LAST = 5, 120
"""Seconds on the clock between which ours has to be ahead."""
LONGER_SIDE = 1600
"""Of the photographs, pixels: what splatfacto scales them to by itself."""
REACHED = 0.95
"""Share of a time from which on a run has reached it: it ends with the whole step that is closest to its end."""
REHEARSED_STEPS, REHEARSED_SECONDS = 3, 2.0


def part_of(method: str) -> str:
    """The name of the part that draws the curve of a method."""
    return f"curve-{method}"


def curve_claim(method: str) -> str:
    return f"{method} trains for {LAST} seconds on the clock, with a finite PSNR in every one"


def lead_claim(method: str) -> str:
    return f"{method} is ahead of {THEIRS} at every second from {FIRST} to {LAST}"


def missing(setting: Setting) -> str:
    return "" if setting.against == THEIRS else f"--against {THEIRS}"


def spec_for(method: str, setting: Setting) -> RunSpec:
    """The run that draws the curve of a method, evaluated at every second."""
    capture = capture_of(setting)
    return spec_of(
        capture,
        method,
        (),
        steps=REHEARSED_STEPS if setting.rehearsal else None,
        horizon=None,
        scale=scale_to(capture.data, LONGER_SIDE),
        seconds=REHEARSED_SECONDS if setting.rehearsal else float(LAST),
        evaluated_every=1.0,
    )


def measure_curve(method: str, setting: Setting) -> Numbers:
    """The curve of one method.

    Raises:
        UndecidedError: If the method cannot run on this machine.
    """
    run = run_once(spec_for(method, setting), setting.work(part_of(method)))
    if run.status == "unavailable":
        raise UndecidedError(run.reason)
    return numbers_of(run)


def judge_curve(method: str, numbers: Numbers) -> list[Judgement]:
    claim = curve_claim(method)
    if numbers["status"] != "ok":
        return [judged(claim, False, f"{numbers['status'].replace('_', ' ')}: {numbers['reason']}")]
    reached = [psnr for _, _, psnr in numbers["curve"]]
    found = f"{reached[-1]:.2f} dB after {numbers['steps']} steps in {numbers['seconds']:.0f} s"
    if numbers["seconds"] < REACHED * LAST:
        return [undecided(claim, f"{found}: it ended before")]
    return [judged(claim, all(map(math.isfinite, reached)), found)]


def measure_lead(setting: Setting) -> Numbers:
    """PSNR of every method at every second, from the runs that the other parts have made.

    Raises:
        UndecidedError: If one of them is missing or not finished.
    """
    found: Numbers = {}
    for method in (*OURS, THEIRS):
        run = read_run(spec_for(method, setting), setting.work(part_of(method)))
        if not run.ok:
            raise UndecidedError(f"{method} has no finished curve: {run.reason}")
        found[method] = psnr_at_seconds(numbers_of(run))
    return found


def psnr_at_seconds(run: Numbers) -> list[float | None]:
    """The last evaluation before each second from FIRST to LAST; None before the first and after the end."""
    values = []
    for second in range(FIRST, LAST + 1):
        known = [psnr for _, seconds, psnr in run["curve"] if seconds <= second]
        values.append(known[-1] if known and run["seconds"] >= REACHED * second else None)
    return values


def judge_lead(numbers: Numbers) -> list[Judgement]:
    return [_judge_lead(method, numbers[method], numbers[THEIRS]) for method in OURS]


def _judge_lead(method: str, ours: list[float | None], theirs: list[float | None]) -> Judgement:
    claim = lead_claim(method)
    pairs = {FIRST + i: pair for i, pair in enumerate(zip(ours, theirs, strict=True))}
    unknown = [second for second, (mine, their) in pairs.items() if mine is None and their is None]
    # A method that has no image yet is behind one that has.
    behind = [s for s, (mine, their) in pairs.items() if their is not None and not (mine is not None and mine > their)]
    if behind:
        second = behind[0]
        mine, their = pairs[second]
        found = (
            f"behind at {len(behind)} of {len(pairs)} seconds, first at {second} s: {_db(mine)} against {_db(their)}"
        )
        return judged(claim, False, found)
    if unknown:
        return undecided(claim, f"nothing was measured at {unknown[0]} s")
    least = min(mine - (their if their is not None else -math.inf) for mine, their in pairs.values())
    return judged(claim, True, f"by {least:.2f} dB at least" if math.isfinite(least) else "where it has no image yet")


def _db(value: float | None) -> str:
    return "no image" if value is None else f"{value:.2f} dB"


LEAD = (
    *(
        Part(
            part_of(method),
            f"What {method} reaches over seconds, from 5 to 120 (the built-in capture, or --data).",
            (curve_claim(method),),
            6,
            partial(measure_curve, method),
            partial(judge_curve, method),
            missing=missing,
            asks=("data",),
        )
        for method in (*OURS, THEIRS)
    ),
    Part(
        "lead",
        f"Whether ours is ahead of {THEIRS} at every second from {FIRST} to {LAST}, on the same capture.",
        tuple(map(lead_claim, OURS)),
        0.2,
        measure_lead,
        judge_lead,
        missing=missing,
        asks=("data",),
        after=tuple(map(part_of, (*OURS, THEIRS))),
    ),
)
