"""How good a rule is on captures it never saw: held-out PSNR after some steps, by the protocol of ``l2o bench``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from l2o_splat.bench.split import split_views
from l2o_splat.gaussians import Gaussians
from l2o_splat.initializers.points import PointInitOptions, gaussians_from_points
from l2o_splat.meta.episode import Episode
from l2o_splat.meta.unroll import InnerLoop, roll_out
from l2o_splat.metrics import psnr
from l2o_splat.optim.rule import UpdateRule
from l2o_splat.rendering import RasterSettings, render
from l2o_splat.scene import SceneKnowledge
from l2o_splat.scenes.capture import Capture
from l2o_splat.view_sampling import ViewSampler
from l2o_splat.views import Views


@dataclass(frozen=True)
class Evaluation:
    """Captures, each optimized from all its points; every 8th view is held out, 8 others make a step."""

    captures: Sequence[Capture]
    steps: tuple[int, ...] = (10, 20, 50, 100, 200)
    """Inner steps after which quality is measured, ascending."""
    views_per_step: int = 8
    sh_degree: int = 3
    seed: int = 0
    """Seed of the order of views."""

    def run(self, rule: UpdateRule, loop: InnerLoop, device: torch.device) -> Float[Tensor, "captures steps"]:
        """Mean held-out PSNR (dB) of each capture after each number of steps."""
        return torch.tensor([self._one(rule, loop, device, capture) for capture in self.captures])

    def _one(self, rule: UpdateRule, loop: InnerLoop, device: torch.device, capture: Capture) -> list[float]:
        centres = capture.views.cameras.centres
        training, held_out = split_views(centres.numpy(), "all")
        points = PointInitOptions(sh_degree=self.sh_degree)
        gaussians = gaussians_from_points(capture.points.xyz, capture.points.rgb, points).to(device)
        sampler = ViewSampler(centres[training].numpy(), self.views_per_step, "fps", self.seed)
        context, target = (capture.views[part].to(device) for part in (training, held_out))
        scene = SceneKnowledge(centres[training])
        rule = rule.in_scene(scene)
        episode = Episode(0, context, target, sampler, scene, gaussians, rule.init_state(gaussians))
        values = []
        for step in self.steps:
            episode = roll_out(rule, episode, step - episode.step, loop)
            values.append(held_out_psnr(episode, loop))
        return values


@torch.no_grad()
def held_out_psnr(episode: Episode, loop: InnerLoop) -> float:
    """Mean PSNR (dB) of the target views."""
    return mean_psnr(episode.gaussians, episode.target, loop.raster)


def mean_psnr(gaussians: Gaussians, views: Views, raster: RasterSettings) -> float:
    """Mean PSNR (dB) of clamped renders, where masks do not hide them."""
    rendered = render(gaussians, views.cameras, raster).rgb.clamp(0, 1)
    masks = [None] * len(rendered) if views.masks is None else views.masks
    pairs = zip(rendered, views.images, masks, strict=True)
    return sum(psnr(image, photograph, mask) for image, photograph, mask in pairs) / len(rendered)
