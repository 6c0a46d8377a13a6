"""Steps of training on a scene of any size, without nerfstudio: render, loss, backward, update."""

from __future__ import annotations

import os
import time
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from l2o_splat.scenes.procedural import ProceduralCapture
    from l2o_splat.views import Views

RULES = ("adam", "gain-mini")
"""Adam with gsplat's rates, and the gain rule with the weights of the package."""

MOST_POINTS = 139_000
"""Points of a procedural capture; more Gaussians are copies of them nearby."""


def photographed(views: int, width: int, height: int, points: int) -> ProceduralCapture:
    """A procedural capture."""
    from l2o_splat.scenes.procedural import ProceduralOptions, generate

    options = ProceduralOptions(num_views=views, width=width, height=height, num_points=min(points, MOST_POINTS))
    return generate(0, options, threads=os.cpu_count() or 1)


class TrainingSteps:
    """A scene of N Gaussians and the rule that moves it.

    Args:
        rule: One of ``RULES``.
        gaussians: N.
        capture: Photographs, all of which are drawn in every step, and points.
        device: Where it trains.
    """

    def __init__(self, rule: str, gaussians: int, capture: ProceduralCapture, device: str) -> None:
        import torch
        from torch.nn import Parameter

        from l2o_splat.initializers.points import PointInitOptions, gaussians_from_points
        from l2o_splat.optim.joint_optimizer import JointOptimizer
        from l2o_splat.optim.registry import RuleOptions, rule_entry, weights_of
        from l2o_splat.raster_settings import RasterSettings
        from l2o_splat.scene import SceneKnowledge

        xyz, rgb = capture.points.xyz, capture.points.rgb
        generator = torch.Generator().manual_seed(0)
        rows = torch.arange(gaussians) % len(xyz)
        nearby = 0.002 * xyz.std() * torch.randn(gaussians, 3, generator=generator)
        nearby[: len(xyz)] = 0
        start = gaussians_from_points(xyz[rows] + nearby, rgb[rows], PointInitOptions())
        self.parameters = {name: Parameter(value) for name, value in start.to(device).items()}
        name = "adam" if rule == "adam" else "learn2splat"
        weights = None if rule == "adam" else weights_of(name, rule)
        self.optimizer = JointOptimizer(self.parameters, rule_entry(name).build(RuleOptions(weights)).to(device))
        self.optimizer.bind(SceneKnowledge(capture.views.cameras.centres.to(device)))
        self.views: Views = capture.views.to(device)
        self.settings = RasterSettings()

    def step(self) -> None:
        """One step."""
        from l2o_splat.gaussians import Gaussians
        from l2o_splat.rendering.rendered_loss import rendered_loss

        loss = rendered_loss(Gaussians.from_mapping(self.parameters), self.views, self.settings).loss
        loss.backward()
        self.optimizer.loss = loss.detach()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def milliseconds(self, steps: int) -> list[float]:
        """What each of some steps takes: between CUDA events on a card, by the host's clock elsewhere."""
        import torch

        if self.views.images.device.type != "cuda":
            marks = [time.perf_counter()]
            for _ in range(steps):
                self.step()
                marks.append(time.perf_counter())
            return [1000 * (end - begin) for begin, end in pairwise(marks)]
        events = [torch.cuda.Event(enable_timing=True) for _ in range(steps + 1)]
        torch.cuda.synchronize()
        events[0].record()
        for event in events[1:]:
            self.step()
            event.record()
        torch.cuda.synchronize()
        return [begin.elapsed_time(end) for begin, end in pairwise(events)]

    def finite(self) -> bool:
        """Whether every number of the scene is finite."""
        return all(bool(parameter.isfinite().all()) for parameter in self.parameters.values())
