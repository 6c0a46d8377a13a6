"""Growth against a fixed number of Gaussians, at equal processor time: ``python benchmarks/growth.py [--help]``.

Every run starts from the points of a capture and is taken by Adam at the rates of ``own-scale``, which decay over the
share of the time spent; children take over age and moments of their parent. The clock counts the processor time of one
thread in steps and events; held-out views (every 8th) are drawn outside of it. Prints a markdown table. A dip is what
held-out views lose between an event and three steps after it.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from l2o_splat.gaussians import FIELDS, Gaussians
from l2o_splat.growth.adc import AdcOptions, adc_event_shares, collect_screen_gradient, control_density
from l2o_splat.growth.budget import GrowthOptions, event_shares
from l2o_splat.growth.event import Grown, event_generator, grow
from l2o_splat.growth.needles import bound_elongation, share_of_needles
from l2o_splat.initializers.points import gaussians_from_points
from l2o_splat.optim.adam import adam_options
from l2o_splat.optim.adam_moments import adam_direction, zero_moments
from l2o_splat.raster_settings import RasterSettings
from l2o_splat.rendering import render, set_num_threads
from l2o_splat.rendering.rendered_loss import rendered_loss, squared_errors
from l2o_splat.scene import scene_extent
from l2o_splat.scenes.capture import Points, read_capture
from l2o_splat.view_sampling import ViewSampler
from l2o_splat.views import PinholeCameras, Views

SETTINGS = RasterSettings()
DIP_STEPS = 3
"""Steps after an event at which its harm is read."""
EVENT_VIEWS = 16
"""Views whose error is looked at in an event."""
RATES = adam_options("own-scale", horizon=1)


@dataclass(frozen=True)
class Growth:
    """One way to grow: when, and what happens."""

    shares: tuple[float, ...]
    event: Callable[[Gaussians, int], Grown]


@dataclass(frozen=True)
class Reading:
    """What a run has reached at some time."""

    seconds: float
    step: int
    gaussians: int
    psnr: float


@dataclass(frozen=True)
class Run:
    """What a run came to."""

    readings: list[Reading]
    gaussians: Gaussians
    dips: list[float]
    """Held-out PSNR lost between each event and ``DIP_STEPS`` steps after it, dB; negative if it rose."""


def reduced(views: Views, scale: float) -> Views:
    """Views at a share of their size, by area averages."""
    cameras = views.cameras
    height, width = round(cameras.height * scale), round(cameras.width * scale)
    images = F.interpolate(views.images.permute(0, 3, 1, 2), size=(height, width), mode="area").permute(0, 2, 3, 1)
    Ks = cameras.Ks * torch.tensor([[width / cameras.width], [height / cameras.height], [1.0]])
    return Views(PinholeCameras(cameras.viewmats, Ks, width, height), images.contiguous())


def load(folder: Path, scale: float) -> tuple[Views, Views, Points]:
    """Training views, held-out views and points of a capture."""
    capture = read_capture(folder)
    views = reduced(capture.views, scale)
    held_out = [view for view in range(len(views)) if view % 8 == 0]
    training = [view for view in range(len(views)) if view % 8]
    return views[training], views[held_out], capture.points


@torch.no_grad()
def psnr(gaussians: Gaussians, views: Views) -> float:
    """Mean PSNR of some views, dB."""
    images = render(gaussians, views.cameras, SETTINGS).rgb.clamp(0, 1)
    return float((-10 * squared_errors(images, views).log10()).mean())


class Adam:
    """Adam with the rates of ``own-scale`` as a function of the share of the time."""

    def __init__(self, gaussians: Gaussians) -> None:
        self.gaussians = gaussians
        self._moments = zero_moments(*gaussians.pack().shape, device=gaussians.device)

    def step(self, gradients: Gaussians, share: float) -> None:
        """Move the Gaussians."""
        direction, self._moments = adam_direction(gradients.pack(), self._moments)
        own_scales = self.gaussians.scales.exp().mean(dim=1, keepdim=True)
        for name, towards in Gaussians.unpack(direction).items():
            rate = getattr(RATES.rates, name) * getattr(RATES.final_factor, name) ** share
            getattr(self.gaussians, name).sub_(towards * (rate * own_scales if name == "means" else rate))

    def resize(self, grown: Grown) -> None:
        """Go on with other Gaussians. A child sees about half of its parent's gradient, so it has half of the mean."""
        self.gaussians = grown.gaussians
        self._moments = {name: rows[grown.source] for name, rows in self._moments.items()}
        self._moments["adam_m"][grown.fresh] /= 2
        self._moments["adam_v"][grown.fresh] /= 4


def train(
    start: Gaussians,
    views: Views,
    held_out: Views,
    growth: Growth,
    seconds: float,
    marks: list[float],
    bound: float | None,
    seed: int,
) -> Run:
    """Train for some processor seconds and look at the held-out views at the marks, and around the events."""
    adam = Adam(start.map(torch.clone))
    sampler = ViewSampler(views.cameras.centres.numpy(), 8, "fps", seed)
    readings, spent, step, event, marks = [], 0.0, 0, 0, sorted(marks)
    dips, before_event = [], {}
    while spent < seconds:
        share = spent / seconds
        due = event < len(growth.shares) and share >= growth.shares[event]
        if due:
            before_event[step + DIP_STEPS] = psnr(adam.gaussians, held_out)
        begun = time.process_time()
        if due:
            adam.resize(growth.event(adam.gaussians, event))
            event += 1
        leaves = adam.gaussians.map(lambda tensor: tensor.detach().requires_grad_())
        loss = rendered_loss(leaves, views[sampler.views(step)], SETTINGS).loss
        gradients = Gaussians(*torch.autograd.grad(loss, [getattr(leaves, name) for name in FIELDS]))
        adam.gaussians = leaves.detach()
        adam.step(gradients, share)
        if bound is not None:
            bound_elongation(adam.gaussians, bound)
        step += 1
        spent += time.process_time() - begun
        if step in before_event:
            dips.append(before_event[step] - psnr(adam.gaussians, held_out))
        while marks and spent >= marks[0]:
            readings.append(Reading(marks.pop(0), step, len(adam.gaussians), psnr(adam.gaussians, held_out)))
    readings.extend(Reading(mark, step, len(adam.gaussians), psnr(adam.gaussians, held_out)) for mark in marks)
    return Run(readings, adam.gaussians, dips)


def by_error(views: Views, start: int, options: GrowthOptions, seed: int) -> Growth:
    """Growth of this package."""
    sampler = ViewSampler(views.cameras.centres.numpy(), EVENT_VIEWS, "fps", seed)

    def event(gaussians: Gaussians, event: int) -> Grown:
        chosen = views[sorted(set(sampler.views(event)))]
        seen = rendered_loss(gaussians, chosen, SETTINGS, evidence=("error",)).evidence
        generator = event_generator(seed, event)
        return grow(gaussians, seen.error, seen.visibility, seen.views, start, options, event, generator)

    return Growth(event_shares(options), event)


def by_adc(views: Views, options: AdcOptions, seed: int) -> Growth:
    """Growth of 3DGS."""
    extent = scene_extent(views.cameras.centres)
    sampler = ViewSampler(views.cameras.centres.numpy(), 8, "fps", seed)

    def event(gaussians: Gaussians, event: int) -> Grown:
        gradient = collect_screen_gradient(gaussians, [views[sampler.views(event)]], SETTINGS)
        return control_density(gaussians, gradient, extent, options, 10 * len(gaussians), event_generator(seed, event))

    return Growth(adc_event_shares(options), event)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("captures", type=Path, nargs="+", help="folders of captures")
    parser.add_argument("--scale", type=float, default=0.25, help="image size, as a share of the photographs'")
    parser.add_argument("--seconds", type=float, default=20.0, help="processor seconds of a run")
    parser.add_argument("--factors", type=float, nargs="+", default=[1.0, 2.0, 3.0], help="final number by the first")
    parser.add_argument("--adc", action="store_true", help="run 3DGS's adaptive density control, too")
    parser.add_argument("--bound", type=float, help="longest axis at most so many times the second")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    set_num_threads(1)
    marks = [arguments.seconds * share for share in (0.125, 0.25, 0.5, 0.75, 1.0)]
    times = [f"{mark:g} s" for mark in marks]
    print("|".join(["", "capture", "growth", *times, "Gaussians", "steps", "needles", "deepest dip", ""]))
    print("|".join(["", *["---"] * (len(times) + 6), ""]))
    for folder in arguments.captures:
        views, held_out, points = load(folder, arguments.scale)
        start = gaussians_from_points(points.xyz, points.rgb)
        growths = {
            f"x {factor:g}": by_error(views, len(start), GrowthOptions(factor), arguments.seed)
            for factor in arguments.factors
            if not math.isclose(factor, 1)
        }
        if any(math.isclose(factor, 1) for factor in arguments.factors):
            growths = {"none": Growth((), lambda gaussians, event: None)} | growths
        if arguments.adc:
            growths["3DGS"] = by_adc(views, AdcOptions(), arguments.seed)
        rendered_loss(start, views[[0]], SETTINGS, evidence=("error",))  # Compiles outside of the clock.
        for name, growth in growths.items():
            run = train(start, views, held_out, growth, arguments.seconds, marks, arguments.bound, arguments.seed)
            quality = [f"{reading.psnr:.2f}" for reading in run.readings]
            needles = f"{100 * share_of_needles(run.gaussians):.1f} %"
            dip = f"{max(run.dips):.2f}" if run.dips else "-"
            numbers = [f"{len(run.gaussians):,}", str(run.readings[-1].step), needles, dip]
            print("|".join(["", folder.name, name, *quality, *numbers, ""]), flush=True)


if __name__ == "__main__":
    main()
