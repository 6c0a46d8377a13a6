"""The plan of a sweep: one spec for every combination of scene, method, horizon and seed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

from l2o_splat.bench.errors import BenchError
from l2o_splat.bench.methods import Method, with_horizon
from l2o_splat.bench.ply import PlyScene
from l2o_splat.budget.clock import ClockKind
from l2o_splat.scenes.capture_names import CaptureSource
from l2o_splat.scenes.split import ViewChoice

PROTOCOL = 3
"""Number of the protocol; raise it whenever clock, split or measures change, so that old runs are not taken for new."""

REPORTED_STEPS = (0, 1, 2, 4, 10, 20, 50, 100, 200, 500, 1000, 2000)
"""Steps whose quality the report lists."""
STEPS_BETWEEN = (30, 70, 150, 300, 400, 700, 1400)
"""Further steps that are evaluated, so that the last evaluation before any moment is never far from it."""
REPORTED_SECONDS = (1, 2, 5, 10, 20, 30, 60, 120, 240)
"""Clock times whose quality the report lists."""


@dataclass(frozen=True)
class RunSpec:
    """Everything that the numbers of one run depend on."""

    scene: str
    dataparser: tuple[str, ...]
    """Name of nerfstudio's dataparser and its options, as ``ns-train`` takes them."""
    data: str | None
    """Folder of the capture; None if the dataparser needs none."""
    method: str
    """Name under which nerfstudio knows the method."""
    options: tuple[str, ...]
    """Options of the method, as ``ns-train`` takes them."""
    label: str
    """Name in the report, with the horizon if several are compared."""
    horizon: int | None
    """Steps over which decaying rates decay; None leaves what the method says."""
    seed: int
    steps: int | None
    """Training steps; None lets the clock alone end the run."""
    seconds: float | None
    """Clock time at which the run ends. Without steps, methods with a time budget of their own get this one."""
    clock: ClockKind
    """What seconds are on the CPU."""
    views: ViewChoice
    scale: float
    protocol: int = PROTOCOL
    evaluated_every: float | None = None
    """Seconds on the clock between further evaluations; None makes none."""
    ply: PlyScene | None = None
    """The scene to measure instead of a run, whose steps are 0 then; None trains."""

    @property
    def folder_name(self) -> str:
        """Readable name of a folder, different for every spec."""
        values = asdict(self)
        if self.evaluated_every is None:
            # Folders of runs from before there was a choice keep their names.
            del values["evaluated_every"]
        digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:10]
        words = (self.scene, self.label, f"seed{self.seed}", digest)
        # Most file systems allow 255 characters.
        return "--".join(re.sub(r"[^\w.@-]+", "_", word)[:100] for word in words)

    @property
    def reported_steps(self) -> tuple[int, ...]:
        """Steps of ``REPORTED_STEPS`` that the run can reach, and its last step."""
        if self.steps is None:
            return REPORTED_STEPS
        return (*(step for step in REPORTED_STEPS if step < self.steps), self.steps)

    @property
    def evaluated_steps(self) -> frozenset[int]:
        """Steps after which held-out quality is measured, apart from clock times."""
        planned = (*self.reported_steps, *STEPS_BETWEEN)
        return frozenset(step for step in planned if self.steps is None or step <= self.steps)

    @property
    def evaluated_seconds(self) -> tuple[float, ...]:
        """Clock times before which held-out quality is measured: the reported ones, those between, and the end."""
        limit = max(REPORTED_SECONDS) if self.seconds is None else self.seconds
        between = [] if self.evaluated_every is None else range(1, 1 + int(limit / self.evaluated_every))
        times = {*map(float, REPORTED_SECONDS), *(self.evaluated_every * count for count in between)}
        if self.seconds is not None:
            times = {second for second in times if second < limit} | {limit}
        return tuple(sorted(times))

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=2))

    @classmethod
    def read(cls, path: Path) -> RunSpec:
        values = json.loads(path.read_text())
        values |= {name: tuple(values[name]) for name in ("dataparser", "options")}
        return cls(**values | {"ply": values["ply"] and PlyScene(**values["ply"])})


@dataclass(frozen=True)
class SweepOptions:
    """Options that all runs of a sweep share."""

    steps: int | None
    seconds: float | None
    clock: ClockKind
    views: ViewChoice
    scale: float
    seeds: int
    horizons: tuple[int, ...]
    """Horizons to compare; if empty, each method runs once, with rates that decay over ``steps``."""

    def __post_init__(self) -> None:
        if self.steps is None and self.seconds is None:
            raise BenchError("Neither --steps nor --seconds is given; one of them must end the runs.")
        if self.steps is not None and self.steps < 1:
            raise BenchError(f"--steps is {self.steps}; at least 1 is needed.")
        if self.seconds is not None and not self.seconds > 0:
            raise BenchError(f"--seconds is {self.seconds}; a positive time is needed, or none.")
        if self.views not in ("all", "own") and self.views < 2:
            raise BenchError(f"--views is {self.views}; at least 2 context views are needed, or `all` or `own`.")
        if not 0 < self.scale <= 1:
            raise BenchError(f"--scale is {self.scale}; images can be made smaller only: give a number in (0, 1].")
        if self.seeds < 1:
            raise BenchError(f"--seeds is {self.seeds}; at least 1 run per method is needed.")
        if any(horizon < 1 for horizon in self.horizons):
            raise BenchError(f"--horizons are {self.horizons}; each must be at least 1 step.")
        if len(set(self.horizons)) < len(self.horizons):
            raise BenchError(f"--horizons {self.horizons} names one twice.")


def check_names(captures: Sequence[CaptureSource], methods: Sequence[Method], plys: Mapping[str, PlyScene]) -> None:
    """Refuse what no table could tell apart.

    Raises:
        BenchError: If two captures, or two methods, have the same name, or there are PLYs and several captures.
    """
    if plys and len(captures) > 1:
        raise BenchError(
            f"--ply {next(iter(plys))} is a scene of one capture, and --data names {len(captures)}; give the capture "
            "that it shows alone."
        )
    for what, names in (
        ("captures", [capture.scene for capture in captures]),
        ("methods", [*(method.label for method in methods), *plys]),
    ):
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise BenchError(f"Two {what} are called {twice[0]}; every one needs a name of its own.")


def plan_runs(
    captures: Sequence[CaptureSource],
    methods: Sequence[Method],
    has_horizon: Mapping[str, bool],
    options: SweepOptions,
    plys: Mapping[str, PlyScene] = MappingProxyType({}),
) -> list[RunSpec]:
    """Plan all runs of a sweep in the order in which they start: by scene, then seed, then method; PLYs come last.

    Args:
        captures: Captures with distinct names.
        methods: Methods with distinct labels, the baseline first.
        has_horizon: By label, True if rates of the method decay over a horizon.
        options: Options of all runs.
        plys: Scenes to measure on the only capture, by label.

    Raises:
        BenchError: As :func:`check_names` says.
    """
    check_names(captures, methods, plys)
    variants = [
        (method, label, horizon)
        for method in methods
        for label, horizon in (
            [(with_horizon(method.label, horizon), horizon) for horizon in options.horizons]
            if options.horizons and has_horizon[method.label]
            else [(method.label, method.steps or options.steps)]
        )
    ]
    trained = [
        RunSpec(
            scene=capture.scene,
            dataparser=capture.dataparser,
            data=capture.data,
            method=method.name,
            options=method.options,
            label=label,
            horizon=horizon,
            seed=seed,
            steps=method.steps or options.steps,
            seconds=options.seconds,
            clock=options.clock,
            views=options.views if capture.views is None else capture.views,
            scale=options.scale,
        )
        for capture in captures
        for seed in range(options.seeds)
        for method, label, horizon in variants
    ]
    # The config of the method holds the views and draws the scene.
    shared = {"options": (), "horizon": None, "seed": 0, "steps": 0, "seconds": None, "method": "l2o-adam"}
    measured = [
        RunSpec(
            scene=capture.scene,
            dataparser=capture.dataparser,
            data=capture.data,
            label=label,
            clock=options.clock,
            views=options.views if capture.views is None else capture.views,
            scale=options.scale,
            ply=ply,
            **shared,
        )
        for capture in captures
        for label, ply in plys.items()
    ]
    return trained + measured
