"""The update stage: trains updates of a frozen initial model's scenes, or of points, by renders after each update."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from l2o_splat.initializer_training.batches import Batch
from l2o_splat.initializer_training.initial_stage import RASTER, shared_error
from l2o_splat.initializer_training.options import Losses, Start
from l2o_splat.initializers.points import PointInitOptions, gaussians_from_points, random_points
from l2o_splat.initializers.resplat import ReSplatInitializer
from l2o_splat.nets.resplat.update import ReSplatUpdateNetwork
from l2o_splat.optim.resplat import ReSplatRule
from l2o_splat.optim.rule import Feedback, RenderedViews
from l2o_splat.rendering import RasterSettings, render
from l2o_splat.scene import SceneStart
from l2o_splat.training.evaluation import mean_psnr
from l2o_splat.training.objective import Objective
from l2o_splat.training.statistics import Statistics
from l2o_splat.weights.format import System

RANDOM_POINTS = 3000
"""Number of Gaussians of a random start."""


@dataclass(frozen=True)
class UpdateTerms(Statistics):
    """Errors of rendered views in one training step."""

    image_error: float
    """Error after the last update."""
    first_error: float
    """Error after the first update."""


@dataclass
class UpdateStage:
    """Trains the update; the initial model stays as it is.

    Args:
        network: The update network.
        initializer: Initializer with the frozen initial model.
        losses: Error of rendered views.
        starts: Kinds of scenes to update, drawn with equal probability; repeat one to draw it more often.
        steps: Fewest and most updates of a training step.
        step_decay: See :class:`ReSplatConfig`.
    """

    system: ClassVar[System] = "resplat"
    raster: ClassVar[RasterSettings] = RASTER
    network: ReSplatUpdateNetwork
    initializer: ReSplatInitializer
    losses: Losses
    starts: tuple[Start, ...]
    steps: tuple[int, int]
    step_decay: float = 1.0

    @property
    def objective(self) -> Objective:
        return self.losses.images

    def backbone(self) -> Iterable[nn.Parameter]:
        """None: the update has no image transformer."""
        return ()

    def heaviest(self) -> UpdateStage:
        """With the most updates in every step."""
        return replace(self, steps=(self.steps[1], self.steps[1]))

    def loss(self, batch: Batch, rng: np.random.Generator) -> tuple[Tensor, UpdateTerms]:
        """Loss with a graph to the update network, also along the latent state, and its terms."""
        start = self.starts[rng.integers(len(self.starts))]
        num_steps = int(rng.integers(self.steps[0], self.steps[1], endpoint=True))
        scene = self.begin(start, batch, seed=int(rng.integers(1 << 31)))
        loss, errors = torch.zeros((), device=scene.gaussians.device), []
        for gaussians in self._updates(self.network, scene, num_steps):
            term = shared_error(gaussians, batch.target, scene.context, self.losses)
            loss = self.losses.growth * loss + term
            errors.append(float(term.detach()))
        divisor = num_steps if self.losses.mean_over_updates else 1
        return loss / divisor, UpdateTerms(image_error=errors[-1], first_error=errors[0])

    @torch.no_grad()
    def begin(self, start: Start, batch: Batch, seed: int) -> SceneStart:
        """A scene of one kind, before its first update."""
        if start == "resplat":
            return self.initializer(batch.context, 1.0, batch.depth_range, points=batch.shown_points)
        context = self.initializer.show(batch.context, 1.0, batch.depth_range).views
        xyz, rgb = batch.points.xyz, batch.points.rgb
        if start == "random":
            xyz, rgb = random_points(context.cameras, RANDOM_POINTS, seed)
        return SceneStart(gaussians_from_points(xyz, rgb, PointInitOptions(seed=seed)), context=context)

    @torch.no_grad()
    def evaluate(self, network: nn.Module, batches: Sequence[Batch]) -> dict[str, float]:
        """PSNR of target and context views from each kind of start, before the first update and after each."""
        numbers: dict[str, float] = {}
        for start in sorted(set(self.starts)):
            found = []
            for batch in batches:
                scene = self.begin(start, batch, seed=0)
                scenes = [scene.gaussians, *self._updates(network, scene, self.steps[1])]
                views = (batch.target, scene.context)
                found.append([[mean_psnr(gaussians, part, RASTER) for part in views] for gaussians in scenes])
            for step, (target, context) in enumerate(np.mean(found, axis=0)):
                numbers[f"psnr_{start}_{step}"] = float(target)
                numbers[f"psnr_context_{start}_{step}"] = float(context)
        last = [numbers[f"psnr_{start}_{self.steps[1]}"] for start in self.starts]
        return {"psnr": float(np.mean(last))} | numbers

    def tensors(self, network: nn.Module) -> dict[str, Tensor]:
        """Tensors of initial model and update, without the prefix of the released names."""
        return self.initializer.model.state_dict() | network.state_dict()

    def _updates(self, network: nn.Module, scene: SceneStart, count: int):
        """The scene after each update, with a graph to the network and along the latent state."""
        config = replace(self.initializer.config, update_starts="any", step_decay=self.step_decay)
        rule = ReSplatRule(network, config)
        gaussians, state = scene.gaussians, rule.init_state(scene)
        for step in range(count):
            with torch.no_grad():
                images = render(gaussians, scene.context.cameras, RASTER).rgb
            delta, state = rule(gaussians, Feedback(None, step, 1.0, RenderedViews(scene.context, images)), state)
            gaussians = gaussians.zip_map(torch.add, delta)
            yield gaussians
