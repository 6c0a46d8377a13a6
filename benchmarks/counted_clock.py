"""What steps cost on this machine: ``python benchmarks/counted_clock.py --data FOLDER``.

Runs of tuned Adam under the preset fast are timed step by step, in processor seconds of one thread, and the prices of
:mod:`l2o_splat.evolution.budgeted_run` are fitted to them. The last table says how well its present prices hold: a
controller must not gain by steps that are cheaper on the counted clock than on this machine.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from l2o_splat.environment import command
from l2o_splat.evolution.budgeted_run import (
    PIXELS_OF_A_SPLAT,
    PIXELS_OF_AN_UPDATE,
    BudgetedRun,
    ReducedPhotographs,
)
from l2o_splat.initializers.points import gaussians_from_points
from l2o_splat.plugin.training_captures import read_training_capture
from l2o_splat.scenes.split import split_views
from l2o_splat.schedule.controller import Controller
from l2o_splat.weights import load_weights


@dataclass
class Options:
    """What to time."""

    data: tuple[Path, ...]
    """Folders of captures."""
    controllers: tuple[str, ...] = ("controller-mini",)
    """Weights of controllers, whose runs are timed beside those without one."""
    scale: float = 0.5
    """Factor of the photographs' sides."""
    budget: float = 50.0
    """Length of runs, in steps at full size with all views."""


@dataclass(frozen=True)
class Timed:
    """A step, or an event of growth."""

    views: int
    pixels: float
    """Number of pixels in each view."""
    num_gaussians: int
    seconds: float


class TimedRun(BudgetedRun):
    """A run that keeps what its steps and events took."""

    def psnr_at(self, shares: Sequence[float]) -> list[float]:
        """As it is without timing."""
        self.steps: list[Timed] = []
        self.events: list[Timed] = []
        return super().psnr_at(shares)

    def _take_step(self) -> None:
        self._growth_seconds = 0.0
        begin = time.thread_time()
        super()._take_step()
        seconds = time.thread_time() - begin - self._growth_seconds
        views, scale = len(self.sampler.views(self.step)), self.schedule.image_scale(self.step)
        self.steps.append(Timed(views, self._pixels * scale**2, len(self.optimizer.gaussians), seconds))

    def _grow_if_due(self, scale: float, drawn: object) -> None:
        begin, done, before = time.thread_time(), self.schedule.events_done, len(self.optimizer.gaussians)
        super()._grow_if_due(scale, drawn)
        self._growth_seconds = time.thread_time() - begin
        if self.schedule.events_done > done:
            views = self.schedule.views_looked_at(self.views_per_step)
            self.events.append(Timed(views, self._pixels * scale**2, before, self._growth_seconds))


def columns(timed: Sequence[Timed]) -> np.ndarray:
    """Pixels drawn, Gaussians drawn, and Gaussians, of each."""
    return np.array([(one.views * one.pixels, one.views * one.num_gaussians, one.num_gaussians) for one in timed])


def fitted(timed: Sequence[Timed]) -> np.ndarray:
    """Seconds of each column, by least squares of the relative errors."""
    seconds = np.array([one.seconds for one in timed])
    return np.linalg.lstsq(columns(timed) / seconds[:, None], np.ones(len(timed)), rcond=None)[0]


def main(options: Options) -> None:
    """Time the runs and print the prices."""
    torch.set_num_threads(1)
    controllers = {"no controller": Controller.neutral()}
    controllers |= {name: Controller.from_weights(load_weights(name)) for name in options.controllers}
    runs: dict[tuple[str, str], TimedRun] = {}
    for folder in options.data:
        capture = read_training_capture(folder, ("nerfstudio-data", "--load-3D-points"), options.scale)
        training, held_out = split_views(capture.views.cameras.centres.numpy(), "all")
        photographs = ReducedPhotographs.of(capture.views[training])
        start = gaussians_from_points(capture.points.xyz, capture.points.rgb)
        for name, controller in controllers.items():
            run = TimedRun(start, photographs, capture.views[held_out], options.budget, 8, controller)
            run.psnr_at([1.0])
            runs[folder.name, name] = run
    # The first steps compile kernels.
    of_pixel, of_splat, of_update = fitted([one for run in runs.values() for one in run.steps[2:]])
    print(f"\n`{command()}`\n")
    print(f"A pixel drawn, compared and differentiated takes {of_pixel * 1e9:.0f} ns.")
    print(f"A Gaussian in a view: {of_splat / of_pixel:.2f} pixels; the counted clock has {PIXELS_OF_A_SPLAT:g}.")
    print(f"A Gaussian in a step: {of_update / of_pixel:.2f} pixels; the counted clock has {PIXELS_OF_AN_UPDATE:g}.\n")
    prices = np.array([1.0, PIXELS_OF_A_SPLAT, PIXELS_OF_AN_UPDATE])
    print("| capture | controller | steps: seconds / counted | events of growth | share of events |")
    print("|---|---|---|---|---|")
    for (capture, name), run in runs.items():
        steps, events = run.steps[2:], run.events
        took, looked = (sum(one.seconds for one in timed) for timed in (steps, events))
        counted, counted_looks = ((columns(timed) @ prices).sum() * of_pixel for timed in (steps, events))
        print(
            f"| {capture} | {name} | {took / counted:.2f} | {looked / counted_looks:.2f} | "
            f"{looked / (took + looked):.0%} |"
        )


if __name__ == "__main__":
    main(tyro.cli(Options))
