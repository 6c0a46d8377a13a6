"""The objective: what a controller makes of whole runs on procedural captures."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float

from l2o_splat.evolution.budgeted_run import BudgetedRun, ReducedPhotographs
from l2o_splat.evolution.options import RunOptions
from l2o_splat.initializers.dense import DenseOptions, dense_gaussians
from l2o_splat.initializers.points import PointInitOptions
from l2o_splat.meta.evaluation import Evaluation
from l2o_splat.meta.starts import start_from_points
from l2o_splat.scene import SceneStart
from l2o_splat.scenes.capture import Points
from l2o_splat.scenes.imperfections import Imperfections, softened
from l2o_splat.scenes.procedural import ProceduralCapture
from l2o_splat.scenes.split import split_views
from l2o_splat.schedule.controller import Controller
from l2o_splat.training.errors import UnusableCaptureError
from l2o_splat.training.sources import TRAINING_SEEDS, ProceduralSource
from l2o_splat.views import Views

Run = TypeVar("Run", bound=BudgetedRun)

FEW_VIEWS = (4, 12)
"""Fewest and most photographs of a scene that has few."""
DB = 10 / math.log(10)
"""Decibels of a unit of log error."""


@dataclass(frozen=True)
class Begun:
    """A scene before its first step."""

    start: SceneStart
    photographs: ReducedPhotographs
    held_out: Views
    budget: float
    """Steps at full size."""


@dataclass(frozen=True)
class WholeRuns:
    """Runs under a controller, one per scene, from their start to the end of their budgets. All of it follows from the
    options, so that every process can make any run by its index."""

    options: RunOptions
    seed: int
    """Seed of the scenes."""
    scenes: int
    """Scenes that are run together; their budgets are spread evenly over the range."""
    seeds: range = TRAINING_SEEDS
    """Generator seeds of the scenes."""

    def log_errors(self, controller: Controller, index: int) -> list[float]:
        """Log (natural) of the held-out squared error of a scene at each share of its budget that runs are read at.

        Args:
            controller: Of the run.
            index: Of the scene.

        Returns:
            NaN if the run diverged.

        Raises:
            UnusableCaptureError: If no run can start from the scene.
        """
        run = self.run(controller, index)
        try:
            return [-psnr / DB for psnr in run.psnr_at(self.options.read_at)]
        except FloatingPointError:
            return [math.nan] * len(self.options.read_at)

    def run(self, controller: Controller, index: int, kind: type[Run] = BudgetedRun) -> Run:
        """The run of a scene before its first step.

        Args:
            controller: Of the run.
            index: Of the scene.
            kind: What runs it; a kind of run of one's own changes its steps.

        Raises:
            UnusableCaptureError: If no run can start from the scene.
        """
        begun = _begun(self, index)
        return kind(
            *(begun.start.gaussians, begun.photographs, begun.held_out, begun.budget),
            *(self.options.views_per_step, controller, index, self.options.stand_for),
        )

    def capture(self, index: int) -> ProceduralCapture:
        """The capture of an index, every photograph of it sharp and perfect."""
        return ProceduralSource(self.seed, self.options.ranges, self.seeds, self.options.trajectories).capture(index)

    def begin(self, index: int) -> Begun:
        """The scene of an index, with its start and budget.

        Raises:
            UnusableCaptureError: If the capture lacks what the start needs.
        """
        options, drawn = self.options, np.random.default_rng([self.seed, index, 1])
        is_dense, strength, place = drawn.random() < options.dense_share, drawn.random() ** 2, drawn.random()
        few = int(drawn.integers(*FEW_VIEWS, endpoint=True)) if drawn.random() < options.few_share else None
        capture = softened(self.capture(index), options.softness * drawn.random())
        training, _ = split_views(capture.views.cameras.centres.numpy(), "all")
        capture = Imperfections().times(options.imperfection * strength).spoil(capture, training, index)
        start = start_from_surfaces if is_dense else start_from_points
        evaluation = Evaluation((), (), options.views_per_step, 3, self.seed, few, start)
        begun, context, held_out = evaluation.begin(capture, torch.device("cpu"))
        least, most = map(math.log, options.budgets)
        budget = math.exp(least + (most - least) * (index % self.scenes + place) / self.scenes)
        return Begun(begun, ReducedPhotographs.of(context), held_out, budget)


def start_from_surfaces(context: Views, points: Points, options: PointInitOptions) -> SceneStart:
    """Gaussians on the surfaces that the views agree on."""
    try:
        gaussians = dense_gaussians([context], points.xyz, points.rgb, DenseOptions(sh_degree=options.sh_degree))
    except ValueError as error:
        raise UnusableCaptureError(str(error)) from error
    return SceneStart(gaussians)


@functools.lru_cache(maxsize=16)
def _begun(runs: WholeRuns, index: int) -> Begun:
    """Remembered, since a process runs many controllers on a scene."""
    return runs.begin(index)


def log_errors_of(runs: WholeRuns, numbers: Float[np.ndarray, " d"], index: int) -> list[float] | None:
    """:meth:`WholeRuns.log_errors` of the numbers of a controller; None for a scene that no run can start from."""
    try:
        return runs.log_errors(Controller(numbers), index)
    except UnusableCaptureError:
        return None
