"""A run of tuned Adam under the preset fast, on a clock that counts what steps cost instead of measuring it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from torch import Tensor

from l2o_splat.budget import BudgetClock
from l2o_splat.gaussians import Gaussians
from l2o_splat.growth.event import event_generator
from l2o_splat.growth.needles import bound_elongation
from l2o_splat.meta.unroll import DivergedEpisodeError
from l2o_splat.optim.adam import AdamRule, adam_options
from l2o_splat.optim.joint_optimizer import JointOptimizer
from l2o_splat.optim.scene_growth import grow_scene
from l2o_splat.raster_settings import RasterSettings
from l2o_splat.reduction import reduced_cameras, reduced_photograph, reduced_size, usable_scale
from l2o_splat.rendering.dropout import dropped
from l2o_splat.rendering.rendered_loss import rendered_loss
from l2o_splat.scene import SceneKnowledge, SceneStart
from l2o_splat.schedule.controller import Controller
from l2o_splat.schedule.presets import PRESETS
from l2o_splat.schedule.run_schedule import RunSchedule
from l2o_splat.training.evaluation import mean_psnr
from l2o_splat.view_sampling import ViewSampler
from l2o_splat.views import StoredPhotographs, Views

PIXELS_OF_A_SPLAT = 1.0
"""What a Gaussian costs in each view, in pixels that are drawn, compared and differentiated."""
PIXELS_OF_AN_UPDATE = 6.5
"""What a Gaussian costs in each step, however many views there are."""


@dataclass(frozen=True)
class ReducedPhotographs:
    """Training photographs of one size, reduced as a run asks for them and kept."""

    views: Views
    _kept: dict[tuple[int, int], UInt8[Tensor, "h w 3"]]

    @classmethod
    def of(cls, views: Views) -> ReducedPhotographs:
        """The photographs of some views, 8 bits a channel."""
        pixels = (views.images.clamp(0, 1) * 255 + 0.5).to(torch.uint8)
        return cls(views, {(index, views.cameras.width): image for index, image in enumerate(pixels)})

    def photographs(self, indices: Sequence[int], scale: float) -> StoredPhotographs:
        """Some of the photographs, their sides multiplied by a scale."""
        cameras, stored = self.views.cameras, []
        width, height = reduced_size(scale, cameras.width, cameras.height)
        for index in indices:
            if (index, width) not in self._kept:
                whole = self._kept[index, cameras.width]
                self._kept[index, width] = reduced_photograph(whole, None, width, height)[0]
            stored.append(self._kept[index, width])
        chosen = reduced_cameras(cameras[list(indices)], width, height)
        return StoredPhotographs(chosen, stored, None, torch.zeros(3))


class BudgetedRun:
    """What ``ns-train l2o-adam-tuned --preset fast --seconds S`` does, without nerfstudio.

    It gives the same numbers on any machine: its clock counts the pixels and Gaussians of each view, and the Gaussians
    of each step. An event of growth costs what a step with the views that it looks at would.

    Args:
        start: Where the scene begins; it is not changed.
        photographs: Training views.
        held_out: Views that no step sees.
        budget: Steps at full size, with all views and the Gaussians of the start, that the time would suffice for.
        views_per_step: Views of a step, before the controller.
        controller: Changes the schedule.
        seed: Another one gives another order of views and other choices of growth.
        stand_for: How many times as many pixels the photographs have that these stand for: the smallest size of a
            photograph is so many times as small.
    """

    def __init__(
        self,
        start: Gaussians,
        photographs: ReducedPhotographs,
        held_out: Views,
        budget: float,
        views_per_step: int,
        controller: Controller,
        seed: int = 0,
        stand_for: float = 1.0,
    ) -> None:
        self._photographs, self._held_out, self._seed = photographs, held_out, seed
        self.views_per_step = views_per_step
        cameras = photographs.views.cameras
        self._pixels = float(cameras.width * cameras.height)
        self._spent = 0.0
        self._whole_step = self._cost(views_per_step, 1.0, len(start))
        preset = PRESETS["fast"]
        clock = BudgetClock(now=lambda: self._spent)
        self.schedule = RunSchedule(preset, budget, 1, clock, controller=controller)
        self.schedule.least_pixels /= stand_for
        self.schedule.set_capture(len(cameras), self._pixels, len(start))
        self.schedule.last_count = round(self.schedule.growth_factor * len(start))
        rule = AdamRule(adam_options("own-scale", 1, preset.rates))
        parameters = {name: torch.nn.Parameter(value.clone()) for name, value in start.items()}
        self.optimizer = JointOptimizer(parameters, rule)
        self.optimizer.bind(SceneKnowledge(cameras.centres), SceneStart(start))
        self.optimizer.keep_average()
        self.sampler = ViewSampler(cameras.centres.numpy(), views_per_step, "fps", seed)
        self.step = 0

    def psnr_at(self, shares: Sequence[float]) -> list[float]:
        """Held-out PSNR (dB), mean over views, when these shares of the budget are spent, ascending.

        Raises:
            DivergedEpisodeError: If a number of the scene is not finite any more.
        """
        schedule, found, left = self.schedule, [], list(shares)
        schedule.clock.start()
        schedule.begin(0)
        while not schedule.is_over:
            self._take_step()
            schedule.end_step(self.step)
            while left and left[0] < 1 and schedule.clock.spent >= left[0] * schedule.seconds:
                found.append(self._psnr())
                left.pop(0)
            if self.step == 0 or schedule.checkpoint_is_due:
                schedule.revise(self.step + 1)
            self.step += 1
        return [*found, *[self._psnr()] * len(left)]

    def _take_step(self) -> None:
        schedule, optimizer, step = self.schedule, self.optimizer, self.step
        cameras = self._photographs.views.cameras
        scale = usable_scale(schedule.image_scale(step), cameras.width, cameras.height)
        drawn = RasterSettings(sh_degree=schedule.sh_degree(step)).reduced(scale)
        self.sampler.change(step, schedule.views(step, self.views_per_step))
        self._grow_if_due(scale, drawn)
        indices = self.sampler.views(step)
        optimizer.progress = schedule.progress(step)
        leaves = optimizer.gaussians.map(lambda value: value.requires_grad_())
        seen = dropped(leaves, schedule.dropout(step), self._seed, step)
        found = rendered_loss(seen, self._photographs.photographs(indices, scale), drawn)
        found.loss.backward()
        for group, (_, leaf) in zip(optimizer.param_groups, leaves.items(), strict=True):
            group["params"][0].grad = leaf.grad
        optimizer.loss = found.loss.detach() / len(indices)
        if schedule.controller.watches_loss:
            schedule.observe(float(optimizer.loss))
        optimizer.gains = schedule.gains(step)
        self._move()
        longest = schedule.preset.max_elongation
        if longest is not None:
            bound_elongation(optimizer.gaussians, longest)
        optimizer.follow_average(schedule.averages(step))
        self._spent += self._cost(len(indices), scale, len(optimizer.gaussians)) / self._whole_step

    def _move(self) -> None:
        """Apply the rule to the gradients of a step."""
        self.optimizer.step()

    def _grow_if_due(self, scale: float, drawn: RasterSettings) -> None:
        schedule, num_gaussians = self.schedule, len(self.optimizer.gaussians)
        event = schedule.event_before(self.step, self.views_per_step)
        if event is None:
            return
        indices = self.sampler.ahead(self.step, schedule.views_looked_at(self.views_per_step))
        photographs, generator = self._photographs.photographs(indices, scale), event_generator(self._seed, event)
        growth, first = schedule.growth_at(self.step), schedule.first_count
        grow_scene(self.optimizer, [photographs], growth, first, event, drawn, generator)
        schedule.events_done += 1
        self._spent += self._cost(len(indices), scale, num_gaussians) / self._whole_step

    def _cost(self, views: int, scale: float, num_gaussians: int) -> float:
        """What a step costs, in pixels."""
        drawn = views * (self._pixels * scale**2 + PIXELS_OF_A_SPLAT * num_gaussians)
        return drawn + PIXELS_OF_AN_UPDATE * num_gaussians

    def _psnr(self) -> float:
        average = self.optimizer.average
        average.show(True)
        gaussians = self.optimizer.gaussians
        if not gaussians.all_finite():
            raise DivergedEpisodeError(f"A number of the scene is not finite after {self.step + 1} steps.")
        psnr = mean_psnr(gaussians, self._held_out, RasterSettings())
        average.show(False)
        return psnr
