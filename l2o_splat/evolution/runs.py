"""The objective: what a controller makes of whole runs on procedural captures."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from l2o_splat.evolution.options import RunOptions
from l2o_splat.initializers.dense import DenseOptions, dense_gaussians
from l2o_splat.initializers.points import PointInitOptions
from l2o_splat.meta.evaluation import Evaluation
from l2o_splat.meta.starts import start_from_points
from l2o_splat.meta.unroll import DivergedEpisodeError
from l2o_splat.optim.adam import adam_options
from l2o_splat.optim.controlled import ControlledRule
from l2o_splat.optim.controller import Controller
from l2o_splat.scene import SceneStart
from l2o_splat.scenes.capture import Capture, Points
from l2o_splat.training.errors import UnusableCaptureError
from l2o_splat.training.sources import TRAINING_SEEDS, ProceduralSource
from l2o_splat.views import Views

_CPU = torch.device("cpu")
DB = 10 / math.log(10)
"""Decibels of a unit of log error."""


@dataclass(frozen=True)
class WholeRuns:
    """Runs of Adam under a controller, from their start to the end of each budget. All of it follows from the options,
    so that every process can make any run by its index."""

    options: RunOptions
    seed: int
    """Seed of the scenes."""
    seeds: range = TRAINING_SEEDS
    """Generator seeds of the scenes."""

    def log_error(self, controller: Controller, index: int) -> float:
        """Mean log (natural) of the held-out squared error of a scene at the ends of its runs.

        Args:
            controller: Its gains.
            index: Of the scene.

        Returns:
            NaN if a run diverged.

        Raises:
            UnusableCaptureError: If no run can start from the scene.
        """
        capture, start = _started(self, index)
        errors = []
        for budget in self.options.budgets:
            rule = ControlledRule(adam_options("own-scale", budget), controller)
            evaluation = self._evaluation((capture,), (budget,), lambda *_: start)
            try:
                psnr = float(evaluation.run(rule, self.options.loop, _CPU))
            except DivergedEpisodeError:
                return math.nan
            errors.append(-psnr / DB)
        return float(np.mean(errors))

    def start(self, index: int) -> tuple[Capture, SceneStart]:
        """The scene of an index, and where it starts.

        Raises:
            UnusableCaptureError: If the capture lacks what the start needs.
        """
        capture = ProceduralSource(self.seed, self.options.ranges, self.seeds).capture(index)
        is_dense = np.random.default_rng([self.seed, index, 1]).random() < self.options.dense_share
        evaluation = self._evaluation((), (), start_from_surfaces if is_dense else start_from_points)
        return capture, evaluation.begin(capture, _CPU)[0]

    def _evaluation(self, captures: tuple[Capture, ...], steps: tuple[int, ...], start) -> Evaluation:
        options = self.options
        return Evaluation(captures, steps, options.views_per_step, options.sh_degree, self.seed, start=start)


def start_from_surfaces(context: Views, points: Points, options: PointInitOptions) -> SceneStart:
    """Gaussians on the surfaces that the views agree on."""
    try:
        gaussians = dense_gaussians([context], points.xyz, points.rgb, DenseOptions(sh_degree=options.sh_degree))
    except ValueError as error:
        raise UnusableCaptureError(str(error)) from error
    return SceneStart(gaussians)


@functools.lru_cache(maxsize=4)
def _started(runs: WholeRuns, index: int) -> tuple[Capture, SceneStart]:
    """Remembered, since a process runs many controllers on a scene."""
    return runs.start(index)


def log_error_of(runs: WholeRuns, numbers: Float[np.ndarray, " d"], index: int) -> float | None:
    """:meth:`WholeRuns.log_error` of the numbers of a controller; None for a scene that no run can start from."""
    try:
        return runs.log_error(Controller.of_vector(numbers), index)
    except UnusableCaptureError:
        return None
