"""One run as its log describes it; the report is computed from runs alone."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from l2o_splat.bench.clock import PARTS, RunClock
from l2o_splat.bench.run_log import LogContents
from l2o_splat.bench.spec import RunSpec
from l2o_splat.budget.clock import ClockKind

Status = Literal["ok", "failed", "out_of_memory", "unavailable", "pending"]
"""``unavailable``: the method cannot run on this machine. ``pending``: not finished. Only numbers of ``ok`` count."""

ClockField = Literal["seconds", "other_seconds"]
"""Where runs and evaluations hold the time on the clock that counts, and on the other one."""

CLOCK_FIELDS: tuple[ClockField, ...] = ("seconds", "other_seconds")

FROM_START = ("initializer_seconds", "loading_seconds", "training_views", "held_out_views", "machine", "commit")
"""Values that a log holds from before the first step, named as in :class:`Run`."""


@dataclass(frozen=True)
class Point:
    """Quality, mean over the held-out views."""

    step: int
    """Steps taken; 0 is after initialization, before any update."""
    seconds: float
    """Seconds on the clock."""
    psnr: float
    """dB."""
    ssim: float | None
    """None where every window touches a masked pixel."""
    lpips: float | None
    """None if its backbone is not on the machine."""
    other_seconds: float | None = None
    """Seconds on the other clock; None in reports of versions that had one clock."""
    num_gaussians: int | None = None
    needles: float | None = None
    """Share of the Gaussians that are over ten times as long as their second axis."""
    cc_psnr: float | None = None
    """dB, after the affine transform of colours that suits each view best; None unless the method asks for it."""


@dataclass(frozen=True)
class Run:
    """One run, as an entry of ``results.json``."""

    scene: str
    method: str
    seed: int
    status: Status
    num_gaussians: int | None
    """Number at the end."""
    peak_memory_mib: float | None
    """Memory that torch allocated on a GPU outside of evaluation; resident memory of the process on a CPU."""
    step_seconds: dict[str, float]
    """Median seconds of a step and of its parts; empty before the second step."""
    curve: tuple[Point, ...]
    reason: str = ""
    """Why the run has no numbers, or no more of them; empty for ``ok``."""
    steps: int = 0
    """Number of steps taken; 0 of a scene that was read from a PLY, whose seconds nobody knows."""
    clock: ClockKind = "wall"
    """What ``seconds`` are, on a CPU."""
    seconds: float = 0.0
    """Seconds on the clock at the end."""
    other_seconds: float | None = None
    """The same on the other clock, see :func:`~l2o_splat.budget.clock.other_clock`."""
    initializer_seconds: float = 0.0
    """Seconds of the initializer, part of ``seconds``."""
    compile_seconds: float = 0.0
    """Seconds of compiling, not part of ``seconds``: the renderer, and the first step beyond a usual one."""
    loading_seconds: float = 0.0
    """Seconds of reading the capture, decoding and scaling its images, not part of ``seconds``."""
    training_views: int = 0
    held_out_views: int = 0
    machine: str = ""
    """Processor or GPU."""
    commit: str = ""
    """Commit of the sources that the run was made with."""

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    @property
    def best(self) -> Point | None:
        """The evaluation with the highest PSNR; None if there is none."""
        return max(self.curve, key=lambda point: point.psnr, default=None)

    @property
    def last(self) -> Point | None:
        """The last evaluation; None if there is none."""
        return self.curve[-1] if self.curve else None

    def at_step(self, step: int) -> Point | None:
        """Return the evaluation after ``step`` steps; None if there is none."""
        return next((point for point in self.curve if point.step == step), None)

    def at_seconds(self, seconds: float, clock: ClockField = "seconds") -> Point | None:
        """Return the last evaluation before a clock time; None if the run had ended, or not begun, by then."""
        end = getattr(self, clock)
        if end is None or end < seconds:
            return None
        return next((point for point in reversed(self.curve) if getattr(point, clock) <= seconds), None)

    def within(self, seconds: float) -> Run:
        """Return the same run, ended at a clock time."""
        curve = tuple(point for point in self.curve if point.seconds <= seconds)
        return Run(**{entry.name: getattr(self, entry.name) for entry in fields(self)} | {"curve": curve})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Run:
        """Read an entry of ``results.json``; numbers that it lacks keep their defaults."""
        known = {entry.name for entry in fields(cls)}
        curve = tuple(Point(**point) for point in values["curve"])
        return cls(**{name: value for name, value in values.items() if name in known} | {"curve": curve})


def run_from_log(spec: RunSpec, log: LogContents) -> Run:
    """Compute a run from its spec and log."""
    start, end = log.start or {}, log.end or {}
    clock = RunClock(start.get("initializer_seconds", 0.0), log.steps)
    seconds = clock.after_each_step()
    other_seconds = RunClock.of_other(start.get("other_initializer_seconds", 0.0), log.steps).after_each_step()
    evaluations = [log.evaluations[step] for step in sorted(log.evaluations)]
    warm = [step for step in log.steps if not step.first]
    step_seconds = {}
    if warm:
        step_seconds["total"] = statistics.median(step.total for step in warm)
        step_seconds |= {part: statistics.median(step.parts[part] for step in warm) for part in PARTS}
    return Run(
        scene=spec.scene,
        method=spec.label,
        seed=spec.seed,
        status=end.get("status", "pending"),
        num_gaussians=evaluations[-1]["num_gaussians"] if evaluations else None,
        peak_memory_mib=end.get("peak_memory_mib"),
        step_seconds=step_seconds,
        curve=tuple(
            Point(seconds=seconds[record["step"]], other_seconds=other_seconds[record["step"]], **record)
            for record in evaluations
            if record["step"] < len(seconds)
        ),
        reason=end.get("reason", "") if end else "not finished yet; the same command goes on with it",
        steps=len(log.steps),
        clock=spec.clock,
        seconds=seconds[-1],
        other_seconds=other_seconds[-1],
        compile_seconds=start.get("kernel_seconds", 0.0) + clock.compile_seconds,
        **{name: start[name] for name in FROM_START if name in start},
    )
