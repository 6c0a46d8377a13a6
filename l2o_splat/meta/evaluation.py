"""Evaluation of a rule on captures it was not trained on: held-out PSNR after some steps, as ``l2o bench`` splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from l2o_splat.initializers.context_views import choose_context
from l2o_splat.initializers.points import PointInitOptions
from l2o_splat.meta.episode import Episode
from l2o_splat.meta.options import InnerLoop
from l2o_splat.meta.starts import Start, start_from_points
from l2o_splat.meta.unroll import roll_out
from l2o_splat.optim.rule import UpdateRule
from l2o_splat.scene import SceneKnowledge, SceneStart
from l2o_splat.scenes.capture import Capture
from l2o_splat.scenes.split import split_views
from l2o_splat.training.errors import TrainingError, UnusableCaptureError
from l2o_splat.training.evaluation import mean_psnr
from l2o_splat.training.sources import Source
from l2o_splat.view_sampling import ViewSampler
from l2o_splat.views import Views

MAX_UNUSABLE = 50
"""Captures for validation that may be left out."""


def captures_for(source: Source, count: int, evaluation: Evaluation, device: torch.device) -> list[Capture]:
    """The first captures of a source that an evaluation can start from.

    Args:
        source: Of captures for validation.
        count: Captures wanted.
        evaluation: Its own captures do not matter.
        device: Where the start is made.

    Raises:
        TrainingError: If there are too few among the first ones, with what was wrong with the last.
    """
    found, reason = [], ""
    for index in range(count + MAX_UNUSABLE):
        capture = source.capture(index)
        try:
            evaluation.begin(capture, device)
            found.append(capture)
        except UnusableCaptureError as error:
            reason = str(error)
        if len(found) == count:
            return found
    raise TrainingError(f"Only {len(found)} of {count} validation captures can be used. The last other one: {reason}")


@dataclass(frozen=True)
class Evaluation:
    """Optimizes each capture from its start, without every 8th view, which is held out."""

    captures: Sequence[Capture]
    """Captures for validation."""
    steps: tuple[int, ...] = (10, 20, 50, 100, 200)
    """Inner steps after which quality is measured, ascending."""
    views_per_step: int = 8
    """Views of an inner step."""
    sh_degree: int = 3
    """Degree of the spherical harmonics."""
    seed: int = 0
    """Seed of the order of views."""
    context_views: int | None = None
    """Number of training views that the scene starts from and that inner steps see, those farthest from each other;
    None takes all."""
    start: Start = start_from_points
    """Makes the scene."""

    def run(self, rule: UpdateRule, loop: InnerLoop, device: torch.device) -> Float[Tensor, "captures steps"]:
        """Mean held-out PSNR (dB) of each capture after each number of steps."""
        return torch.tensor([self._one(rule, loop, device, capture) for capture in self.captures])

    def begin(self, capture: Capture, device: torch.device) -> tuple[SceneStart, Views, Views]:
        """Start of a capture, the views that train it, and those held out.

        Raises:
            UnusableCaptureError: If the capture lacks what the start needs.
        """
        centres = capture.views.cameras.centres
        training, held_out = split_views(centres.numpy(), "all")
        if self.context_views is not None:
            training = [training[i] for i in choose_context(centres[training], self.context_views)]
        context, target = (capture.views[part].to(device) for part in (training, held_out))
        with torch.no_grad():
            start = self.start(context, capture.points.to(device), PointInitOptions(sh_degree=self.sh_degree))
        return start, context, target

    def _one(self, rule: UpdateRule, loop: InnerLoop, device: torch.device, capture: Capture) -> list[float]:
        start, context, target = self.begin(capture, device)
        centres = context.cameras.centres
        sampler = ViewSampler(centres.cpu().numpy(), self.views_per_step, "fps", self.seed)
        scene = SceneKnowledge(centres)
        rule = rule.bind(scene)
        with torch.no_grad():
            state = rule.init_state(rule.needs.select(start))
        episode = Episode(0, context, target, sampler, scene, start.gaussians, state)
        values = []
        for step in self.steps:
            episode = roll_out(rule, episode, step - episode.step, loop)
            values.append(held_out_psnr(episode, loop))
        return values


def held_out_psnr(episode: Episode, loop: InnerLoop) -> float:
    """Mean PSNR (dB) over target views."""
    return mean_psnr(episode.gaussians, episode.target, loop.raster)
